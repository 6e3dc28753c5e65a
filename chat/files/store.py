"""Uploaded files: their rows, and their bytes in any Django storage under random keys.

A row is `ready` once its bytes are kept, and `named` once a message names it; others go after a day. Only what is
`ready` can be named.
"""

import base64
import uuid
from collections.abc import Collection
from datetime import timedelta
from typing import BinaryIO

import msgspec
from django.conf import settings
from django.core.files import File as DjangoFile
from django.core.files.storage import Storage, storages
from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils.translation import gettext_noop

from accounts.models import User
from chat.models import File
from flows.context import FileView
from streams.clock import stamp
from streams.database import now
from streams.errors import WireError

STORAGE = "uploads"
FULL = gettext_noop("Your files take up all the room that you have. Remove some, then send this one again.")


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
    """The row first: what a crash leaves behind is a row that is not ready, and goes after a day with its bytes.

    Raises WireError quota_exceeded past `files_bytes_per_user`.
    """
    id_ = uuid.uuid4()
    key = f"{id_.hex[:2]}/{id_.hex}"
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(id=user)  # what he sends at the same time is counted in turn
        held = File.objects.filter(user_id=user).aggregate(held=Sum("bytes"))["held"] or 0
        if held + size > settings.HEADRACE.files_bytes_per_user:
            raise WireError("quota_exceeded", FULL, retryable=False)
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


def unnamed(but: Collection[uuid.UUID] = ()) -> list[uuid.UUID]:
    """Some of the files past their day that no message names, the oldest first."""
    old = now() - timedelta(seconds=settings.HEADRACE.file_unnamed_s)
    rows = File.objects.filter(named=False, created__lt=old).exclude(id__in=but).order_by("created")
    return list(rows.values_list("id", flat=True)[: settings.HEADRACE.purge_rows])


def let_go(id_: uuid.UUID) -> str | None:
    """From now on no message can name it, and its bytes may go: their key. None: one names it by now, or it is gone."""
    if not File.objects.filter(id=id_, named=False).update(ready=False):
        return None
    return File.objects.values_list("key", flat=True).get(id=id_)


def forget(id_: uuid.UUID) -> None:
    """The row, once its bytes are gone."""
    File.objects.filter(id=id_, named=False).delete()


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
