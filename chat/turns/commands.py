"""What people may command of chats and turns, by socket, REST or as operators. Each raises WireError."""

import asyncio
import secrets
import unicodedata
import uuid
from typing import Any

from django.conf import settings

from accounts.tokens import Identity
from chat import protocol
from chat.doors.admission import Admitted
from chat.turns import orders, reads
from chat.turns.control import Control
from chat.turns.runs import Runs
from chat.turns.store import asking, beginning, chats, stopping
from chat.turns.tasks import Tasks
from streams import database
from streams import store as worker_store
from streams.errors import WireError
from streams.hub import Hub
from streams.sentences import Sentence
from streams.sentences import noop as _

TOO_LONG = _("The text has more than {limit} characters. Shorten it, or send it as a file.")
TOO_MANY_FILES = _("A message takes {limit} files at most.")


class Commands:
    """Of one worker. What a command begins runs here where there is room; else a sweep finds who can run it."""

    def __init__(self, worker: str, hub: Hub, runs: Runs, control: Control, tasks: Tasks) -> None:
        self._worker, self._hub, self._runs, self._control, self._tasks = worker, hub, runs, control, tasks
        self._loop = asyncio.get_running_loop()

    async def say(self, admitted: Admitted, command: protocol.Say) -> dict[str, Any]:
        """Accept a message. Returns the reply's fields. Raises WireError."""
        text = _checked_text(command.text)
        bounds = settings.HEADRACE
        if len(command.files) > bounds.files_per_say:
            raise WireError("validation_error", Sentence(TOO_MANY_FILES, limit=bounds.files_per_say), field="files")
        return await self._begin(
            admitted,
            act="say",
            command=command.id,
            text=text,
            params=command.params,
            parent=command.parent,
            files=tuple(command.files),
        )

    async def regenerate(self, admitted: Admitted, command: protocol.Regenerate) -> dict[str, Any]:
        return await self._begin(admitted, act="regenerate", command=command.id, message=command.message)

    async def edit(self, admitted: Admitted, command: protocol.Edit) -> dict[str, Any]:
        text = _checked_text(command.text)
        return await self._begin(admitted, act="edit", command=command.id, message=command.message, text=text)

    async def _begin(self, admitted: Admitted, **act: Any) -> dict[str, Any]:
        begin = orders.Begin(
            chat=admitted.chat,
            user=admitted.identity.user_id,
            user_name=admitted.identity.name,
            flow=admitted.flow.id,
            key=admitted.identity.key,
            kind=admitted.chat_kind,
            graph=admitted.graph,
            version=admitted.version_id,
            skill=admitted.skill,
            locale=admitted.locale,
            worker=self._runs.runner(),
            has_room=self._runs.has_room(),
            **act,
        )
        return await self._runs.transact(begin.chat, beginning.begin_turn, begin)

    async def answer(self, identity: Identity, chat: str, command: protocol.AnswerCommand) -> dict[str, Any]:
        user = identity.user_id
        question, action, value = str(uuid.UUID(command.question)), command.action, command.value
        given = (chat, user, command.id, question, action, value, self._runs.runner(), self._runs.has_room())
        return await self._runs.transact(chat, asking.answer, *given)

    async def stop_turn(self, identity: Identity, chat: str, command: protocol.Stop) -> dict[str, Any]:
        user = identity.user_id
        turn = None if command.turn is None else str(uuid.UUID(command.turn))
        return await self._runs.transact(chat, stopping.stop, chat, user, command.id, turn, self._runs.runner())

    async def stop_as_operator(self, chat: str, turn: str | None = None) -> dict[str, Any]:
        """Stop a turn (default: the running or waiting one) of anybody's chat. Raises WireError turn_not_running."""
        owner = await database.read(reads.owner, chat)
        if owner is None:
            raise WireError("turn_not_running")
        command = secrets.token_urlsafe(16)
        return await self._runs.transact(chat, stopping.stop, chat, owner[0], command, turn, self._runs.runner())

    async def close_session(self, session: str) -> bool:
        """Close a socket of any worker: `session_closed`. False: it has ended already."""
        is_live = await database.write(worker_store.ask_close, session)
        if is_live:
            self._control.send("close_session", session=session)
        return is_live

    async def patch_chat(self, chat: str, user: int, **changes: Any) -> None:
        await self._runs.transact(chat, lambda: chats.patch_chat(chat, user, worker=self._worker, **changes))

    async def delete_chat(self, chat: str, user: int) -> None:
        await self._runs.transact(chat, chats.delete_chat, chat, user, self._worker, is_told=True)
        self._control.send("chat_deleted", chat=chat)

    async def restore_chat(self, chat: str, user: int) -> None:
        await self._runs.transact(chat, chats.restore_chat, chat, user)

    def flow_deleted(self, flow: str) -> None:
        """From any thread: its turns end now."""
        self._loop.call_soon_threadsafe(lambda: self._tasks.spawn(self.end_turns_of_flow(flow)))

    async def end_turns_of_flow(self, flow: str) -> None:
        """Of a deleted flow: at its deletion, and every sweep looks for some."""
        while outcomes := await database.write(stopping.end_turns_of_flow, flow, self._worker):
            for chat, outcome in outcomes:
                async with self._hub.watched(chat) as ring:
                    self._runs.apply(outcome, chat, ring.position.epoch)


def _checked_text(text: str) -> str:
    """Raises WireError empty_text, bad_text, text_too_long."""
    most = settings.HEADRACE.text_chars
    if len(text) > most:
        raise WireError("text_too_long", Sentence(TOO_LONG, limit=most), field="text")
    if "\x00" in text:
        raise WireError("bad_text", field="text")
    if all(char.isspace() or unicodedata.category(char) == "Cf" for char in text):  # Cf: without width
        raise WireError("empty_text", field="text")
    return text
