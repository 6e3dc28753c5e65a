"""Uploaded files: their rows, and their bytes in any Django storage under random keys.

A row is `ready` once its bytes are kept, and `named` once a message names it; others go after a day.
"""

import base64
import uuid
from datetime import timedelta
from typing import BinaryIO

import msgspec
from django.conf import settings
from django.core.files import File as DjangoFile
from django.core.files.storage import Storage, storages
from django.db.models import QuerySet

from chat.models import File
from flows.context import FileView
from streams.clock import stamp
from streams.database import now

STORAGE = "uploads"
PURGED_AT_ONCE = 200


class Shown(msgspec.Struct, frozen=True):
    """A file as REST shows it."""

    id: str
    name: str
    mime: str
    bytes: int
    created: str


def storage() -> Storage:
    return storages[STORAGE]


def keep(user: int, name: str, mime: str, size: int, text: str, content: BinaryIO) -> File:
    """The row first: what a crash leaves behind is a row that is not ready, and goes after a day with its bytes."""
    id_ = uuid.uuid4()
    key = f"{id_.hex[:2]}/{id_.hex}"
    row = File.objects.create(id=id_, user_id=user, name=name, mime=mime, bytes=size, text=text, key=key)
    content.seek(0)
    kept = storage().save(key, DjangoFile(content, name=key))
    File.objects.filter(id=id_).update(key=kept, ready=True)
    row.key, row.ready = kept, True
    return row


def own(user: int) -> QuerySet[File]:
    return File.objects.filter(user_id=user, ready=True)


def shown(row: File) -> Shown:
    return Shown(str(row.id), row.name, row.mime, row.bytes, stamp(row.created))


def remove(row: File) -> None:
    """The bytes first: a crash between leaves a row that can be removed again."""
    storage().delete(row.key)
    row.delete()


def purge() -> None:
    """Files that no message names, after their day."""
    old = now() - timedelta(seconds=settings.HEADRACE.file_unnamed_s)
    for row in File.objects.filter(named=False, created__lt=old)[:PURGED_AT_ONCE]:
        remove(row)


def views(user: int, ids: list[str]) -> dict[str, FileView]:
    """What a run reads of its user's files; those that are gone are left out."""
    rows = own(user).filter(id__in=ids)
    return {str(row.id): FileView(str(row.id), row.name, row.mime, row.text) for row in rows}


def picture(user: int, id_: str) -> str | None:
    """A picture's bytes as base64; null where it is gone."""
    row = own(user).filter(id=id_, mime__startswith="image/").first()
    if row is None:
        return None
    try:
        with storage().open(row.key) as kept:
            return base64.b64encode(kept.read()).decode()
    except FileNotFoundError:
        return None
