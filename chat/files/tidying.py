"""Removes files that no message names. One transaction a step: a message may name one meanwhile, and then it stays."""

import asyncio
import uuid

import structlog
from django.conf import settings

from chat.files import store
from streams import database

log = structlog.get_logger("headrace.files")


async def remove_unnamed() -> None:
    """Each that is past its day, until none is there. One that can't be removed keeps nobody from the others."""
    stuck: list[uuid.UUID] = []
    while len(stuck) < settings.HEADRACE.purge_rows and (found := await database.read(store.unnamed, stuck)):
        for id_ in found:
            try:
                await _remove(id_)
            except Exception:
                log.exception("file_left", file=str(id_))
                stuck.append(id_)


async def _remove(id_: uuid.UUID) -> None:
    key = await database.write(store.let_go, id_, until_done=True)
    if key is not None:
        await asyncio.to_thread(store.storage().delete, key)
        await database.write(store.forget, id_, until_done=True)
