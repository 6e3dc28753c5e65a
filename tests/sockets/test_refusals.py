"""The table of admission, row by row and in its order; handshakes; where tokens come from; the first frames."""

import asyncio
import json
import logging
import struct
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.test import Client
from django.utils.translation import trans_real
from websockets.exceptions import InvalidStatus

from accounts import tokens
from accounts.models import User
from chat.models import Chat, Message
from chat.turns.manager import manager
from flows import build
from flows import store as flow_store
from flows.models import Flow
from streams import database
from streams.errors import CATALOGUE
from streams.models import StreamSession
from tests.conftest import Live
from tests.sockets.conftest import TALK
from tests.sockets.refused import TABLE, check_refusal, refusal
from tests.waiting import until

Online = Callable[..., Awaitable[Flow]]
Bounds = Callable[..., None]
GOOD = "/chat/{online}?chat_id={fresh}"


class House:
    """Anna's flows, two people's chats, and their tokens. `path("/chat/{online}?chat_id={fresh}")` fills names in."""

    def __init__(self, live: Live, flow: Flow, anna: User, ben: User) -> None:
        self.live, self.flow = live, flow
        self.anna, self.ben = anna, ben
        self.token: dict[str | None, str | None] = {None: None}
        self.names: dict[str, Any] = {}

    def path(self, pattern: str) -> str:
        return pattern.format(**self.names, fresh=uuid.uuid4(), nobody=uuid.uuid4())

    def open(self, pattern: str = GOOD, who: str | None = "ben", **options: Any) -> Any:
        return self.live.open(self.path(pattern), self.token[who], **options)

    async def refuses(self, code: str, pattern: str = GOOD, who: str | None = "ben", **options: Any) -> None:
        check_refusal(await refusal(self.open(pattern, who, **options)), code)

    async def admits(self, pattern: str = GOOD, who: str | None = "ben", **options: Any) -> dict[str, Any]:
        """The welcome."""
        async with self.open(pattern, who, **options) as socket:
            welcome = await socket.recv()
        assert welcome["type"] == "welcome", welcome
        return welcome


@pytest.fixture
async def house(live: Live, online: Online, anna: User, ben: User) -> House:
    house = House(live, await online(), anna, ben)
    await database.write(_furnish, house)
    return house


def _furnish(house: House) -> None:
    anna, ben, flow = house.anna, house.ben, house.flow

    def made(name: str, **fields: Any) -> Flow:
        return flow_store.create_flow(anna.pk, name, draft=TALK, **fields)

    def chat(of: User, **fields: Any) -> uuid.UUID:
        return Chat.objects.create(user=of, **{"flow": flow, **fields}).id

    deleted, hidden, other = made("Deleted"), made("Hidden", visibility="owner"), made("Other")
    was_online = made("Was online")
    Flow.objects.filter(id=was_online.id).update(published=flow.published_id)
    flow_store.delete(deleted.id)
    house.token |= {"anna": tokens.mint(anna), "ben": tokens.mint(ben)}
    house.names = {
        "online": flow.id,
        "online_slug": flow.slug,
        "offline": made("Offline").id,
        "was_online": was_online.id,
        "hidden": hidden.id,
        "hidden_slug": hidden.slug,
        "deleted": deleted.id,
        "deleted_slug": deleted.slug,
        "own_chat": chat(ben),
        "own_offline_chat": chat(ben, flow=was_online),
        "own_other_chat": chat(ben, flow=other),
        "own_deleted_chat": chat(ben, deleted=True),
        "own_debug_chat": chat(ben, kind="debug", graph=TALK),
        "foreign_chat": chat(anna),
        "foreign_debug_chat": chat(anna, kind="debug", graph=TALK),
    }


# ------------------------------------------------------------------------------------------- row by row

ROWS = [
    ("unauthorized", None, GOOD),
    ("bad_request", "ben", "/chat/{online}?chat_id=mine"),
    ("not_supported", "ben", "/api/v1/chat/{online}?chat_id={fresh}"),
    ("not_supported", "ben", GOOD + "&dialect=bisheng"),
    ("flow_not_found", "ben", "/chat/{nobody}?chat_id={fresh}"),
    ("flow_not_found", "ben", "/chat/no-such-flow?chat_id={fresh}"),
    ("flow_not_found", "ben", "/chat/{deleted}?chat_id={fresh}"),
    ("flow_not_found", "anna", "/chat/{deleted_slug}?chat_id={fresh}"),
    ("flow_not_found", "ben", "/chat/{hidden}?chat_id={fresh}"),
    ("flow_not_found", "ben", "/chat/{hidden_slug}"),
    ("skill_not_found", "ben", "/chat/{online}/weather?chat_id={fresh}"),
    ("skill_not_found", "anna", "/chat/{online}/weather"),
    ("version_not_found", "anna", "/chat/{online}?version_id=2"),
    ("version_not_found", "anna", GOOD + "&version_id=0"),
    ("version_not_found", "anna", "/chat/{offline}?version_id=1"),
    ("chat_not_found", "ben", "/chat/{online}?chat_id={foreign_chat}"),
    ("chat_not_found", "ben", "/chat/{online}?chat_id={foreign_debug_chat}"),
    ("chat_not_found", "anna", "/chat/{online}?chat_id={own_chat}"),
    ("chat_not_found", "ben", "/chat/{online}?chat_id={own_other_chat}"),
    ("chat_not_found", "ben", "/chat/{online}?chat_id={own_deleted_chat}"),
    ("flow_offline", "ben", "/chat/{offline}?chat_id={fresh}"),
    ("flow_offline", "anna", "/chat/{was_online}?chat_id={fresh}"),
    ("flow_offline", "ben", "/chat/{was_online}?chat_id={own_offline_chat}"),
    ("forbidden", "ben", "/chat/{online}"),
    ("forbidden", "ben", "/chat/{offline}"),
    ("forbidden", "ben", "/chat/{online}?version_id=1"),
    ("forbidden", "ben", GOOD + "&version_id=1"),
    ("forbidden", "ben", "/chat/{online}?chat_id={own_debug_chat}"),
    ("not_built", "anna", "/chat/{offline}"),
]


@pytest.mark.parametrize(("code", "who", "pattern"), ROWS, ids=[f"{row[0]}-{row[2]}" for row in ROWS])
async def test_refusal_is_an_error_frame_then_the_close(house: House, code: str, who: str | None, pattern: str) -> None:
    async with house.open(pattern, who) as socket:
        await socket.send(type="say", id="a", text="Nothing after a refusal runs.")
        await socket.closed()
    assert [frame["type"] for frame in socket.frames] == ["error"]
    await house.refuses(code, pattern, who)
    assert await database.read(Message.objects.count) == 0
    assert await database.read(StreamSession.objects.count) == 0


async def test_forbidden_says_how_to_chat_instead(house: House) -> None:
    refused = await refusal(house.open("/chat/{online}"))
    assert "debug run" in refused.frame["text"]
    assert "?chat_id=" in refused.frame["text"]


async def test_draft_that_was_changed_since_its_build_is_not_built(house: House) -> None:
    flow = house.names["offline"]
    await _ended_build(flow)
    await house.admits("/chat/{offline}", "anna")
    await database.write(lambda: flow_store.save_draft(flow, {**TALK, "title": "changed"}, 1))
    await house.refuses("not_built", "/chat/{offline}", "anna")


async def test_draft_whose_build_failed_is_not_built(house: House) -> None:
    flow = house.names["offline"]
    await database.write(lambda: flow_store.save_draft(flow, {"schema": 1, "nodes": [], "edges": []}, 1))
    assert (await _ended_build(flow)).status != "success"
    await house.refuses("not_built", "/chat/{offline}", "anna")


async def _ended_build(flow: uuid.UUID) -> build.Build:
    await build.start_build(flow, None)

    async def ended() -> build.Build | None:
        found = await build.build_of(flow)
        return found if found is not None and found.has_ended else None

    return await until(ended, what="the build has ended")


async def test_worker_that_drains_sends_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager(), "is_draining", True)
    await house.refuses("going_away")


async def test_too_many_sockets_of_a_user(house: House, bounds: Bounds) -> None:
    bounds(sockets_per_user=2)
    async with house.open() as first, house.open() as second:
        await first.recv()
        await second.recv()
        await house.refuses("too_many_connections")
        await house.admits(who="anna")

    async def is_let_in() -> bool:
        async with house.open() as socket:
            return (await socket.recv())["type"] == "welcome"

    await until(is_let_in, what="the sockets were forgotten")


async def test_too_many_sockets_of_an_address(house: House, bounds: Bounds) -> None:
    bounds(sockets_per_address=1)
    async with house.open(who="anna") as socket:
        await socket.recv()
        await house.refuses("too_many_connections")


async def test_twenty_sockets_are_not_too_many(house: House) -> None:
    bounds = django_settings.HEADRACE
    assert (bounds.sockets_per_user, bounds.sockets_per_address) == (20, 200)


async def test_database_that_does_not_answer_is_unavailable(house: House, bounds: Bounds) -> None:
    bounds(command_hop_s=0.5)
    async with _locked_database():
        await house.refuses("unavailable")
    bounds(command_hop_s=5)
    await house.admits()


@asynccontextmanager
async def _locked_database() -> AsyncIterator[None]:
    """Nobody else can write for as long as this is open."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("LOCK TABLE streams_streamsession")
            held.set()
            done.wait(20)
        connection.close()

    holding = asyncio.create_task(asyncio.to_thread(hold))
    try:
        await until(held.is_set, what="the lock")
        yield
    finally:
        done.set()
        await holding


class Cable:
    """Between the server and Redis; `cut` drops what is open and takes nothing new."""

    def __init__(self, address: str) -> None:
        self.far = urlsplit(address)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()
        self._server: asyncio.Server | None = None

    async def lay(self) -> str:
        """The address of the near end."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        if self.far.scheme == "unix":
            return f"redis://127.0.0.1:{port}/0"
        return self.far._replace(netloc=f"{self.far.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()

    def cut(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.far.scheme == "unix":
            far_reader, far_writer = await asyncio.open_unix_connection(self.far.path)
        else:
            far_reader, far_writer = await asyncio.open_connection(self.far.hostname, self.far.port)
        self._writers |= {writer, far_writer}
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(_copy(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()


@pytest.fixture
async def cable(redis_url: str, settings: Any) -> AsyncIterator[Cable]:
    cable = Cable(redis_url)
    settings.REDIS_URL = await cable.lay()
    yield cable
    cable.cut()


async def test_redis_that_is_away_is_unavailable(cable: Cable, house: House, bounds: Bounds) -> None:
    await house.admits()
    bounds(redis_timeout_s=0.3, command_hop_s=0.5)
    cable.cut()
    await house.refuses("unavailable")


async def test_what_nobody_foresaw_is_internal(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ref: str) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(flow_store, "find_light_flow", broken)
        refused = await refusal(house.open())
    check_refusal(refused, "internal")
    assert "fault of ours" not in refused.raw
    await house.admits()


async def test_every_row_has_its_test() -> None:
    tried = {code for code, _, _ in ROWS} | {"going_away", "too_many_connections", "unavailable", "internal"}
    assert tried == TABLE.keys()


@pytest.fixture
def german(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language that is spoken here, though it has two sentences."""
    sentences = {
        CATALOGUE["flow_not_found"].text: "Diesen Ablauf gibt es nicht.",
        CATALOGUE["bad_request"].text: "Diese Adresse ist falsch.",
    }
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.mo").write_bytes(compiled({"": "Content-Type: text/plain; charset=UTF-8\n", **sentences}))
    monkeypatch.setattr(trans_real, "_translations", {})  # what was read of the languages' own files
    settings.LOCALE_PATHS = [tmp_path]
    settings.LANGUAGES = [("en", "English"), ("de", "German")]


def compiled(sentences: dict[str, str]) -> bytes:
    """A .mo file, by its format: two tables of lengths and offsets, then the texts."""
    pairs = sorted((key.encode() + b"\0", text.encode() + b"\0") for key, text in sentences.items())
    head, count = 28, len(pairs)
    texts, tables = b"", []
    for column in range(2):
        for pair in pairs:
            tables += [len(pair[column]) - 1, head + 16 * count + len(texts)]
            texts += pair[column]
    return struct.pack(f"<7I{len(tables)}I", 0x950412DE, 0, count, head, head + 8 * count, 0, 0, *tables) + texts


@pytest.mark.parametrize("wish", ["query", "setting", "browser"])
async def test_refusal_speaks_the_user_s_language(house: House, german: None, wish: str) -> None:
    query = "&locale=de" if wish == "query" else ""
    headers = {"Accept-Language": "de-CH, en;q=0.5" if wish == "browser" else "en"}
    if wish == "setting":
        await database.write(lambda: User.objects.filter(pk=house.ben.pk).update(locale="de"))
    for pattern, sentence in (
        ("/chat/{nobody}?chat_id={fresh}", "Diesen Ablauf gibt es nicht."),
        ("/chat/{nobody}?chat_id=mine", "Diese Adresse ist falsch."),
    ):
        refused = await refusal(house.open(pattern + query, headers=headers))
        assert refused.frame["text"] == sentence


@pytest.mark.parametrize("locale", ["", "xx", "en-" + "x" * 600, "x" * 600, "../../etc", "%00", "xx&locale=yy"])
async def test_language_that_nobody_speaks_is_passed_over(house: House, locale: str) -> None:
    await house.admits(GOOD + "&locale=" + locale)
    refused = await refusal(house.open("/chat/{nobody}?chat_id={fresh}&locale=" + locale))
    check_refusal(refused, "flow_not_found")
    assert refused.frame["text"] == CATALOGUE["flow_not_found"].text


async def test_traces_differ_and_welcome_and_errors_of_a_socket_share_one(house: House) -> None:
    first, second = await refusal(house.open("/chat/{online}")), await refusal(house.open("/chat/{online}"))
    assert first.frame["trace"] != second.frame["trace"]
    async with house.open() as socket:
        welcome = await socket.recv()
        await socket.send(type="nothing")
        error = await socket.until("error")
    assert error["trace"] == welcome["trace"]


# -------------------------------------------------------------------------------------------- in this order

FLOW_FAULTS = "/chat/{hidden}/weather?version_id=9&chat_id={foreign_chat}"
PAIRS = [  # a socket with the faults of a row and of those after it
    ("bad_request", "/api/v1/chat/{hidden}/weather?version_id=one&chat_id={foreign_chat}"),
    ("not_supported", "/api/v1" + FLOW_FAULTS),
    ("flow_not_found", FLOW_FAULTS),
    ("skill_not_found", "/chat/{was_online}/weather?version_id=9&chat_id={foreign_chat}"),
    ("version_not_found", "/chat/{was_online}?version_id=9&chat_id={foreign_chat}"),
    ("chat_not_found", "/chat/{was_online}?chat_id={foreign_chat}"),
    ("flow_offline", "/chat/{was_online}?chat_id={own_offline_chat}"),
]
EVERY_FAULT = PAIRS[0][1]


@pytest.mark.parametrize(("code", "pattern"), PAIRS, ids=[code for code, _ in PAIRS])
async def test_first_fault_is_told(house: House, code: str, pattern: str) -> None:
    await house.refuses(code, pattern)


async def test_forbidden_is_told_before_not_built(house: House) -> None:
    await house.refuses("forbidden", "/chat/{offline}")


async def test_version_that_is_missing_is_told_before_forbidden(house: House) -> None:
    await house.refuses("version_not_found", "/chat/{online}?version_id=9")


async def test_token_then_drain_then_room_then_form(
    house: House, bounds: Bounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds(sockets_per_user=0)
    await house.refuses("too_many_connections", EVERY_FAULT)
    monkeypatch.setattr(manager(), "is_draining", True)
    await house.refuses("going_away", EVERY_FAULT)
    await house.refuses("unauthorized", EVERY_FAULT, None)


# ------------------------------------------------------------------ what is not there, and what is not yours


@pytest.mark.parametrize("rest", ["?chat_id={fresh}", "", "/weather", "?version_id=1", "?chat_id={own_chat}"])
async def test_flow_of_others_is_refused_in_the_bytes_of_one_that_is_not_there(house: House, rest: str) -> None:
    refused = [
        await refusal(house.open(f"/chat/{{{name}}}{rest}"))
        for name in ("nobody", "hidden", "hidden_slug", "deleted", "deleted_slug")
    ]
    check_refusal(refused[0], "flow_not_found")
    assert {one.raw for one in refused} == {refused[0].raw}
    assert {(one.close, one.reason) for one in refused} == {(1008, "flow_not_found")}


async def test_chat_of_others_is_refused_in_the_bytes_of_one_that_was_deleted(house: House) -> None:
    refused = [
        await refusal(house.open(f"/chat/{{online}}?chat_id={{{name}}}"))
        for name in ("foreign_chat", "foreign_debug_chat", "own_deleted_chat", "own_other_chat")
    ]
    check_refusal(refused[0], "chat_not_found")
    assert {one.raw for one in refused} == {refused[0].raw}


async def test_flow_of_a_group_is_there_for_its_members_only(house: House) -> None:
    from django.contrib.auth.models import Group

    def group() -> str:
        group = Group.objects.create(name="millers")
        flow_store.update_flow(house.flow.id, visibility="groups", group_ids=[group.pk])
        carl = User.objects.create_user("carl")
        carl.groups.add(group)
        return tokens.mint(carl)

    house.token["carl"] = await database.write(group)
    await house.refuses("flow_not_found")
    await house.admits(who="carl")
    await house.refuses("forbidden", "/chat/{online}", "carl")


# ------------------------------------------------------------------------------------------ who is let in


@pytest.mark.parametrize("ref", ["{online}", "{online_slug}", "{bare}", "{upper}"])
async def test_flow_is_named_by_uuid_or_slug(house: House, ref: str) -> None:
    id_ = house.flow.id
    house.names |= {"bare": id_.hex, "upper": str(id_).upper()}
    welcome = await house.admits(f"/chat/{ref}?chat_id={{fresh}}")
    assert welcome["flow"]["id"] == str(id_)


async def test_chat_is_named_in_any_form_and_told_in_one(house: House) -> None:
    chat = house.names["own_chat"]
    for ref in (str(chat), chat.hex, chat.hex.upper()):
        assert (await house.admits(f"/chat/{{online}}?chat_id={ref}"))["chat"] == str(chat)


async def test_editor_debugs_the_built_draft_without_a_chat(house: House) -> None:
    await _ended_build(house.flow.id)
    first, second = await house.admits("/chat/{online}", "anna"), await house.admits("/chat/{online}", "anna")
    assert first["chat"] != second["chat"]
    assert first["flow"]["version"] is None
    assert (await house.admits("/chat/{online}?chat_id={foreign_debug_chat}", "anna"))["flow"]["version"] is None


async def test_staff_may_edit_what_others_own(house: House) -> None:
    def staff() -> str:
        return tokens.mint(User.objects.create_user("sue", is_staff=True))

    house.token["sue"] = await database.write(staff)
    await house.admits("/chat/{online}?version_id=1", "sue")


async def test_version_may_be_chatted_with_though_the_flow_is_offline(house: House) -> None:
    await database.write(flow_store.offline, house.flow.id)
    await house.refuses("flow_offline", who="anna")
    assert (await house.admits(GOOD + "&version_id=1", "anna"))["flow"]["version"] == 1
    assert (await house.admits("/chat/{online}?version_id=1", "anna"))["flow"]["version"] == 1


async def test_own_debug_chat_runs_the_version_that_its_address_names(house: House) -> None:
    built = {**TALK, "nodes": [*TALK["nodes"][:1], {**TALK["nodes"][1], "fields": {}}, *TALK["nodes"][2:]]}
    debug = await database.write(
        lambda: Chat.objects.create(user=house.anna, flow=house.flow, kind="debug", graph=built)
    )
    async with house.open(f"/chat/{{online}}?chat_id={debug.id}&version_id=1", "anna") as socket:
        assert (await socket.until("welcome"))["flow"]["version"] == 1
        await socket.until("snapshot")
        await socket.say("Hello")
        assert (await socket.until("turn_start"))["version"] == 1
        assert (await socket.until("turn_end"))["status"] == "done"


async def test_skill_that_is_known_is_told_in_the_welcome(house: House) -> None:
    assert (await house.admits("/chat/{online}/flow?chat_id={fresh}"))["skill"] == "flow"


async def test_published_flow_needs_no_build_cache(house: House) -> None:
    build._versions.clear()
    from streams import redis

    keys = [key async for key in redis.client().scan_iter(redis.key("*"))]
    if keys:
        await redis.client().delete(*keys)
    await house.admits()


async def test_what_is_sent_before_the_welcome_is_done_after_it(house: House) -> None:
    async with house.open() as socket:
        await socket.send(type="say", id="early", text="Hello")
        await socket.until("turn_end")
    types = [frame["type"] for frame in socket.frames]
    assert types[:2] == ["welcome", "snapshot"]
    assert types.count("ok") == 1


# ---------------------------------------------------------------------------------------- the first frames


async def test_welcome_has_what_the_contract_names(house: House) -> None:
    chat = house.path("{fresh}")
    async with house.open(f"/chat/{{online}}?chat_id={chat}") as socket:
        welcome = await socket.recv()
        snapshot = await socket.recv()
    session = await database.read(StreamSession.objects.get)
    bounds = django_settings.HEADRACE
    assert len(welcome["epoch"]) == 16 and int(welcome["epoch"], 16) >= 0
    assert len(welcome["server"].pop("time")) == len("2026-01-01T00:00:00.000Z")
    assert welcome == {
        "type": "welcome",
        "epoch": welcome["epoch"],
        "seq": 0,
        "session": str(session.id),
        "trace": welcome["trace"],
        "chat": chat,
        "flow": {
            "id": str(house.flow.id),
            "slug": house.flow.slug,
            "name": house.flow.name,
            "version": 1,
            "greeting": "Good day.",
            "suggestions": ["One", "Two"],
            "params": None,
        },
        "user": {"id": str(house.ben.pk), "name": "ben"},
        "skill": "flow",
        "server": {"version": django_settings.HEADRACE_VERSION},
        "limits": {
            "text_chars": 32_000,
            "frame_bytes": bounds.frame_in_bytes,
            "file_bytes": bounds.file_bytes,
            "files_per_say": 10,
        },
        "resumed": False,
    }
    assert snapshot == {
        "type": "snapshot",
        "epoch": welcome["epoch"],
        "seq": 0,
        "chat": {"id": chat, "rev": 0, "title": "", "head": None},
        "messages": [],
        "more": False,
        "turns": [],
    }


async def test_snapshot_shows_a_chat_as_it_was_left(house: House) -> None:
    chat = house.path("/chat/{online}?chat_id={fresh}")
    async with house.live.open(chat, house.token["ben"]) as socket:
        ok = await socket.say("Hello there")
        end = await socket.until("turn_end")
    async with house.live.open(chat, house.token["ben"]) as socket:
        welcome, snapshot = await socket.recv(), await socket.recv()
    assert (welcome["seq"], welcome["resumed"]) == (end["seq"], False)
    assert (snapshot["epoch"], snapshot["seq"]) == (welcome["epoch"], welcome["seq"])
    assert snapshot["chat"]["title"] == "Hello there"
    assert snapshot["chat"]["head"] == ok["answer"]
    said, answer = snapshot["messages"]
    assert answer == end["message"]
    assert (
        said.keys()
        == answer.keys()
        == {*("id", "chat", "role", "parts", "parent", "turn", "status", "client_id", "feedback", "created")}
    )
    assert (said["id"], said["role"], said["parent"], said["turn"]) == (ok["message"], "user", None, ok["turn"])
    assert (answer["role"], answer["parent"], answer["status"]) == ("assistant", ok["message"], "done")
    assert (snapshot["more"], snapshot["turns"]) == (False, [])


# ------------------------------------------------------------------------------------------- handshakes


async def handshake_status(opening: Any) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with opening:
            pass
    return refused.value.response.status_code


@pytest.mark.parametrize(
    "path", ["/", "/chat", "/chats/{online}", "/call", "/ws/neko", "/api/chat/{online}", "/Chat/x"]
)
async def test_unknown_path_is_404(house: House, path: str) -> None:
    assert await handshake_status(house.open(path)) == 404


@pytest.mark.parametrize("offered", [("graphql-ws",), ("v1",), ("headrace.v2",), ("headrace.",), ("HEADRACE.V1",)])
async def test_unknown_subprotocol_alone_is_400(house: House, offered: tuple[str, ...]) -> None:
    assert await handshake_status(house.open(subprotocols=offered)) == 400


async def test_unknown_subprotocol_beside_a_bearer_is_400(house: House) -> None:
    offered = ("graphql-ws", f"bearer.{house.token['ben']}")
    assert await handshake_status(house.open(who=None, subprotocols=offered)) == 400


FOREIGN = [
    "null",
    "https://evil.example",
    "http://{host}.evil.example",
    "https://{host}",
    "http://{name}",
    "HTTP://{host}",
]


@pytest.mark.parametrize("source", ["header", "cookie", "session", "none"])
async def test_foreign_origin_is_403(house: House, source: str) -> None:
    host = house.live.host
    options = await source_options(house, source, origin=None) if source != "none" else {"headers": {}}
    for origin in FOREIGN:
        foreign = {"Origin": origin.format(host=host, name=host.partition(":")[0])}
        assert await handshake_status(house.open(who=None, headers=options["headers"] | foreign)) == 403, origin


@pytest.mark.parametrize("source", ["cookie", "session"])
async def test_cookie_without_an_origin_is_403(house: House, source: str) -> None:
    assert await handshake_status(house.open(who=None, **await source_options(house, source, origin=None))) == 403


async def test_listed_origin_may_use_cookies(house: House, settings: Any) -> None:
    settings.ALLOWED_ORIGINS = ["https://app.example"]
    await house.admits(who=None, **await source_options(house, "cookie", origin="https://app.example"))


async def test_token_that_a_page_gave_needs_no_origin(house: House) -> None:
    for source in ("ticket", "t", "header", "subprotocol"):
        options = await source_options(house, source, origin=None)
        await house.admits(GOOD + options.pop("query", ""), None, **options)


async def test_head_of_ten_kilobytes_is_read(house: House) -> None:
    await house.admits(headers={"Cookie": f"other={'x' * 10_000}", "X-Other": "y" * 10_000})


async def test_head_that_is_too_long_is_refused_at_once(house: House) -> None:
    assert await handshake_status(house.open(f"/chat/{'x' * 70_000}")) == 414
    assert await handshake_status(house.open(headers={"X-Other": "y" * 70_000})) == 431
    assert await handshake_status(house.open(headers={f"X-{number}": "y" for number in range(200)})) == 431
    await house.admits()


# ---------------------------------------------------------------------------------------- where tokens come from

SOURCES = ["ticket", "t", "header", "subprotocol", "cookie", "session"]  # the first one present decides
OWN = "own"
TICKET = "/api/auth/ticket/"


async def source_options(
    house: House, source: str, *, is_good: bool = True, who: str = "ben", origin: str | None = OWN
) -> dict[str, Any]:
    """Options of `open` that bring a credential by `source`; `query` goes on the path."""
    value = await credential(house, source, who) if is_good else "nonsense"
    headers: dict[str, str] = {}
    if origin is not None:
        headers["Origin"] = f"http://{house.live.host}" if origin == OWN else origin
    if source in ("ticket", "t"):
        return {"query": f"&{source}={value}", "headers": headers}
    if source == "subprotocol":
        return {"subprotocols": ("headrace.v1", f"bearer.{value}"), "headers": headers}
    name, text = {
        "header": ("Authorization", f"Bearer {value}"),
        "cookie": ("Cookie", f"access_token_cookie={value}"),
        "session": ("Cookie", f"{django_settings.SESSION_COOKIE_NAME}={value}"),
    }[source]
    return {"headers": headers | {name: text}}


async def credential(house: House, source: str, who: str) -> str:
    if source == "ticket":
        headers = {"Authorization": f"Bearer {house.token[who]}"}
        async with aiohttp.ClientSession(headers=headers) as http, http.post(house.live.url + TICKET) as answer:
            assert answer.status == 201
            return (await answer.json())["ticket"]
    if source == "session":

        def sign_in() -> str:
            client = Client()
            client.force_login(getattr(house, who))
            return client.cookies[django_settings.SESSION_COOKIE_NAME].value

        return await database.write(sign_in)
    return house.token[who]


def together(*options: dict[str, Any]) -> dict[str, Any]:
    """One handshake with all of these."""
    cookies = [found["headers"]["Cookie"] for found in options if "Cookie" in found["headers"]]
    headers = {name: value for found in reversed(options) for name, value in found["headers"].items()}
    if cookies:
        headers["Cookie"] = "; ".join(cookies)
    return {
        "query": "".join(found.get("query", "") for found in options),
        "headers": headers,
        "subprotocols": sum((found.get("subprotocols", ()) for found in options), ()),
    }


@pytest.mark.parametrize("source", SOURCES)
async def test_each_source_of_a_token_lets_in(house: House, source: str) -> None:
    options = await source_options(house, source)
    welcome = await house.admits(GOOD + options.pop("query", ""), None, **options)
    assert welcome["user"] == {"id": str(house.ben.pk), "name": "ben"}


@pytest.mark.parametrize(("first", "second"), list(zip(SOURCES, SOURCES[1:], strict=False)))
async def test_first_source_decides(house: House, first: str, second: str) -> None:
    options = together(await source_options(house, first), await source_options(house, second, who="anna"))
    welcome = await house.admits(GOOD + options.pop("query"), None, **options)
    assert welcome["user"]["name"] == "ben"


@pytest.mark.parametrize(("first", "second"), list(zip(SOURCES, SOURCES[1:], strict=False)))
async def test_bad_token_is_not_passed_over_for_the_next(house: House, first: str, second: str) -> None:
    options = together(await source_options(house, first, is_good=False), await source_options(house, second))
    await house.refuses("unauthorized", GOOD + options.pop("query"), None, **options)


@pytest.mark.parametrize("source", SOURCES)
async def test_empty_token_is_a_bad_one(house: House, source: str) -> None:
    options = await source_options(house, source, is_good=False)
    emptied = json.loads(json.dumps(options).replace("nonsense", ""))
    emptied["headers"]["Cookie"] = emptied["headers"].get("Cookie", "") + f"; other=1; sessionid={'x' * 32}"
    query = emptied.pop("query", "")
    await house.refuses("unauthorized", GOOD + query, "ben" if query else None, **emptied)


async def test_other_schemes_of_authorization_are_no_token(house: House) -> None:
    options = await source_options(house, "cookie")
    options["headers"]["Authorization"] = "Basic YW5uYTphbm5h"
    assert (await house.admits(who=None, **options))["user"]["name"] == "ben"


async def test_tokens_reach_no_log(house: House, tmp_path: Path) -> None:
    """Whatever the level, whether a socket is admitted, refused, or its handshake is."""
    log = tmp_path / "log"
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.getLogger().handlers[0].formatter)
    secrets = [house.token["ben"], house.token["ben"][:-1] + "x"]
    root = logging.getLogger()
    level, kept = root.level, root.handlers[:]
    root.setLevel("INFO")
    root.addHandler(handler)
    try:
        for source in SOURCES:
            options = await source_options(house, source)
            secrets += [credential_in(options)]
            query = options.pop("query", "")
            await house.admits(GOOD + query, None, **options)
            await refusal(house.open(f"/chat/{{nobody}}?chat_id={{fresh}}{query}", None, **options))
            options["headers"] = {**options.get("headers", {}), "Origin": "null"}
            await handshake_status(house.open(GOOD + query, None, **options))
    finally:
        root.handlers, root.level = kept, level
        handler.close()
    text = log.read_text()
    assert "socket_refused" in text and "handshake refused" in text
    assert [secret for secret in secrets if secret in text] == []


def credential_in(options: dict[str, Any]) -> str:
    if "query" in options:
        return options["query"].partition("=")[2]
    if "subprotocols" in options:
        return options["subprotocols"][1].removeprefix("bearer.")
    value = options["headers"].get("Authorization") or options["headers"]["Cookie"]
    return value.removeprefix("Bearer ").partition("=")[2] or value.removeprefix("Bearer ")


# ------------------------------------------------------------------------------------------------ subprotocol


async def echoed(house: House, *offered: str, who: str | None = "ben") -> str | None:
    async with house.open(who=who, subprotocols=offered) as socket:
        assert (await socket.recv())["type"] == "welcome"
        return socket.connection.subprotocol


async def test_subprotocol_that_is_spoken_is_echoed(house: House) -> None:
    assert await echoed(house, "headrace.v1") == "headrace.v1"
    assert await echoed(house) is None
    assert await echoed(house, "graphql-ws", "headrace.v1") == "headrace.v1"
    assert await echoed(house, "headrace.v2", "headrace.v1") == "headrace.v1"


async def test_bearer_is_never_echoed(house: House) -> None:
    bearer = f"bearer.{house.token['ben']}"
    assert await echoed(house, "headrace.v1", bearer, who=None) == "headrace.v1"
    assert await echoed(house, bearer, "headrace.v1", who=None) == "headrace.v1"
    assert await echoed(house, bearer, who=None) is None


async def test_refused_socket_has_its_subprotocol_too(house: House) -> None:
    """Else a browser would fail the handshake, and never see the error frame."""
    for offered in ("headrace.v1", "headrace.bisheng"):
        async with house.open(who=None, subprotocols=(offered,)) as socket:
            await socket.closed()
            assert socket.connection.subprotocol == offered


@pytest.mark.parametrize("name", ["bisheng", "chunk", "rpc", "neko", "agui"])
async def test_dialect_that_is_not_built_is_not_supported(house: House, name: str) -> None:
    await house.refuses("not_supported", subprotocols=(f"headrace.{name}",))
    await house.refuses("not_supported", GOOD + f"&dialect={name}")


async def test_path_of_another_dialect_speaks_ours_when_it_is_named(house: House) -> None:
    assert await house.admits("/api/v1/chat/{online}?chat_id={fresh}&dialect=v1")
    assert await house.admits("/api/v1/chat/{online}?chat_id={fresh}", subprotocols=("headrace.v1",))
    await house.refuses("not_supported", "/api/v1/chat/{online}?chat_id={fresh}")
