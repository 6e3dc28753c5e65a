"""Bad inputs by their rows: each is answered, nothing of it is stored, and everybody goes on."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from accounts import tokens
from accounts.models import User
from chat.models import Chat, Command, Message, Turn
from flows.models import Flow
from streams import database
from tests.chat.conftest import ASKS, graph_of, node
from tests.conftest import Live
from tests.sockets.conftest import SLOW, TALK
from tests.sockets.refused import check_error, check_refusal, refusal
from tests.waiting import until
from tests.wire import Socket

Online = Callable[..., Awaitable[Flow]]
Bounds = Callable[..., None]
TokenOf = Callable[[Any], Awaitable[str]]


def counts() -> dict[str, int]:
    return {model.__name__: model.objects.count() for model in (Chat, Message, Turn, Command)}


class Talk:
    """A socket of ben's that misbehaves and one of anna's that must not notice; each in a chat of its own."""

    def __init__(self, live: Live, flow: Flow, tokens_of: dict[str, str]) -> None:
        self.live, self.flow, self.token = live, flow, tokens_of
        self.chat = str(uuid.uuid4())
        self.socket: Socket
        self.other: Socket

    def open(self, who: str = "ben", chat: str | None = None, query: str = "") -> Any:
        return self.live.open(f"/chat/{self.flow.id}?chat_id={chat or self.chat}{query}", self.token[who])

    async def refuses(self, code: str, raw: str | bytes | dict[str, Any], field: str | None = None) -> dict[str, Any]:
        """This one frame is answered by this one error, and nothing is stored."""
        before = await database.read(counts)
        sent = json.dumps(raw) if isinstance(raw, dict) else raw
        await self.socket.connection.send(sent)
        error = await self.socket.until("error", "ok", "pong")
        check_error(error)
        assert error["code"] == code, (error, sent[:200])
        assert error.get("field") == field
        assert await database.read(counts) == before
        return error

    async def end(self, turn: str, socket: Socket | None = None) -> dict[str, Any]:
        """How a turn ended, whether we heard it by now or hear it yet."""
        socket = socket or self.socket
        while True:
            for frame in socket.frames:
                if frame["type"] == "turn_end" and frame["turn"] == turn:
                    return frame
            await socket.recv()

    async def goes_on(self) -> None:
        """The socket stays open, its next good frame works, and the other one keeps working."""
        for socket in (self.socket, self.other):
            await socket.send(type="ping", t="still there")
            assert (await socket.until("pong", "error")) == {"type": "pong", "t": "still there"}
            ok = await socket.say("Hello")
            assert ok["type"] == "ok"
            assert (await self.end(ok["turn"], socket))["status"] == "done"


@pytest.fixture
async def talk(live: Live, online: Online, anna: User, ben: User, token_of: TokenOf) -> AsyncIterator[Talk]:
    talk = Talk(live, await online(), {"anna": await token_of(anna), "ben": await token_of(ben)})
    async with talk.open() as talk.socket, talk.open("anna", str(uuid.uuid4())) as talk.other:
        for socket in (talk.socket, talk.other):
            await socket.until("snapshot")
        yield talk


def say(text: Any = "Hello", id: Any = "one", **fields: Any) -> dict[str, Any]:
    return {"type": "say", "id": id, "text": text, **fields}


# --------------------------------------------------------------------------------------------- protocol


@pytest.mark.parametrize("raw", ["", " ", "hello", "{", '{"type":"ping"', '{"type":"ping"} {}', "{'type':'ping'}"])
async def test_row_01_text_frame_that_is_not_json(talk: Talk, raw: str) -> None:
    await talk.refuses("bad_json", raw)
    await talk.goes_on()


async def closed_after(talk: Talk, opcode: Opcode, data: bytes) -> int:
    talk.socket.connection.transport.write(Frame(opcode, data).serialize(mask=True))
    return (await talk.socket.closed()).code


async def others_go_on(talk: Talk) -> None:
    async with talk.open() as talk.socket:
        await talk.socket.until("snapshot")
        await talk.goes_on()


async def test_row_02_invalid_utf8(talk: Talk) -> None:
    frame = json.dumps(say("caf")).encode().replace(b"caf", b"caf\xe9")
    assert await closed_after(talk, Opcode.TEXT, frame) == 1007
    assert await database.read(counts) == {"Chat": 0, "Message": 0, "Turn": 0, "Command": 0}
    assert "error" not in {frame["type"] for frame in talk.socket.frames}
    await others_go_on(talk)


def ping_of(size: int) -> str:
    empty = '{"type":"ping","t":""}'
    return empty.replace('""', f'"{"x" * (size - len(empty))}"')


async def test_row_03_frame_over_256_kib(talk: Talk) -> None:
    await talk.socket.connection.send(ping_of(256 * 1024))
    assert len((await talk.socket.until("pong", "error"))["t"]) > 262_000
    assert await closed_after(talk, Opcode.TEXT, ping_of(256 * 1024 + 1).encode()) == 1009
    assert "error" not in {frame["type"] for frame in talk.socket.frames}
    await others_go_on(talk)


async def test_row_03_frame_over_256_kib_in_pieces(talk: Talk) -> None:
    data = ping_of(256 * 1024 + 1).encode()
    for start in range(0, len(data), 65536):
        piece = Frame(
            Opcode.CONT if start else Opcode.TEXT, data[start : start + 65536], fin=start + 65536 >= len(data)
        )
        talk.socket.connection.transport.write(piece.serialize(mask=True))
    assert (await talk.socket.closed()).code == 1009
    await others_go_on(talk)


def nested(depth: int, open_: str = "[", close: str = "]") -> str:
    """A ping whose JSON is so deep."""
    inner = open_ * (depth - 1) + ("1" if open_ != "[" else "") + close * (depth - 1)
    return '{"type":"ping","t":' + inner + "}"


@pytest.mark.parametrize("raw", ["[]", "1", "null", '"ping"', "{}", '{"id":"a"}', '{"type":1}', '{"type":null}'])
async def test_row_04_json_that_is_not_an_object_with_a_type(talk: Talk, raw: str) -> None:
    await talk.refuses("bad_frame", raw, field="type")
    await talk.goes_on()


@pytest.mark.parametrize("raw", [nested(33), nested(40_000), nested(33, '{"a":', "}"), nested(40_000, '{"a":', "}")])
async def test_row_04_depth_over_32(talk: Talk, raw: str) -> None:
    await talk.refuses("bad_frame", raw)
    await talk.goes_on()


@pytest.mark.parametrize("raw", [nested(32), nested(32, '{"a":', "}"), json.dumps({"type": "ping", "t": "[" * 1000})])
async def test_row_04_depth_of_32_and_brackets_in_texts_are_read(talk: Talk, raw: str) -> None:
    await talk.socket.connection.send(raw)
    assert (await talk.socket.until("pong", "error"))["type"] == "pong"


LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    '"\\ud800"',
    '"\\udc00 alone"',
    '"\\ud800\\u0041"',
    "1e400",
    "01",
    "+1",
    ".5",
]


@pytest.mark.parametrize("literal", LITERALS)
async def test_row_04_nan_and_lone_surrogates(talk: Talk, literal: str) -> None:
    await talk.refuses("bad_json", '{"type":"ping","t":' + literal + "}")
    await talk.goes_on()


@pytest.mark.parametrize("number", ["1" + "0" * 30, "-" + "9" * 400, "18446744073709551616"])
async def test_row_04_whole_numbers_of_more_than_64_bits(talk: Talk, number: str) -> None:
    await talk.refuses("bad_frame", '{"type":"ping","t":' + number + "}")
    await talk.goes_on()


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808", "1e300"])
async def test_row_04_large_numbers_come_back(talk: Talk, number: str) -> None:
    await talk.socket.connection.send('{"type":"ping","t":' + number + "}")
    assert (await talk.socket.until("pong", "error")) == {"type": "pong", "t": json.loads(number)}
    await talk.goes_on()


@pytest.mark.parametrize("type_", ["", "Say", "says", "welcome", "turn_end", "call", "__class__", "x" * 10_000, "\0"])
async def test_row_05_unknown_type(talk: Talk, type_: str) -> None:
    error = await talk.refuses("unknown_type", {"type": type_, "id": "a"})
    assert error["id"] == "a"
    await talk.goes_on()


async def test_row_06_unknown_subprotocol_alone(talk: Talk) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with talk.live.open(f"/chat/{talk.flow.id}", talk.token["ben"], subprotocols=("graphql-ws",)):
            pass
    assert refused.value.response.status_code == 400
    await talk.goes_on()


BAD_ADDRESSES = [
    "/chat/",
    "/chat/..",
    "/chat/../x",
    "/chat/%2e%2e",
    "/chat/..%2f{flow}",
    "/chat/%00",
    "/chat/{flow}%00",
    "/chat/{flow}/",
    "/chat/{flow}/skill/more",
    "/chat/{flow}/..",
    "/chat/{flow}/%00",
    "/chat/UPPER",
    "/chat/-slug",
    "/chat/x",
    "/chat/" + "x" * 65,
    "/chat/" + "x" * 10_000,
    "/chat/{flow}/" + "x" * 10_000,
    "/chat/%C3%A9t%C3%A9",
    "/chat/%FF%FE",
    "/chat/{flow}?chat_id={chat}&dialect=klingon",
    "/chat/{flow}?chat_id={chat}&dialect=",
    "/chat/{flow}?chat_id={chat}&dialect=v1&dialect=v1",
    "/chat/{flow}?chat_id={chat}&rest=" + "x" * 10_000,
    "/chat/{flow}?chat_id={chat}&" + "&".join(f"a{n}=1" for n in range(1000)),
    "/chat/{flow}?chat_id={chat}&locale=%FF",
    "/chat/{flow}?chat_id=",
    "/chat/{flow}?chat_id=..",
    "/chat/{flow}?chat_id=%00",
    "/chat/{flow}?chat_id={chat}%00",
    "/chat/{flow}?chat_id={chat}0",
    "/chat/{flow}?chat_id=" + "x" * 10_000,
    "/chat/{flow}?chat_id={chat}&chat_id={chat}",
    "/chat/{flow}?chat_id={chat}&version_id=",
    "/chat/{flow}?chat_id={chat}&version_id=-1",
    "/chat/{flow}?chat_id={chat}&version_id=1.0",
    "/chat/{flow}?chat_id={chat}&version_id=one",
    "/chat/{flow}?chat_id={chat}&version_id=%D9%A3",
    "/chat/{flow}?chat_id={chat}&version_id=" + "9" * 100,
]


async def test_row_06_path_or_query_is_malformed(talk: Talk) -> None:
    for address in BAD_ADDRESSES:
        path = address.replace("{flow}", str(talk.flow.id)).replace("{chat}", str(uuid.uuid4()))
        refused = await refusal(talk.live.open(path, talk.token["ben"]))
        assert refused.code == "bad_request", address[:80]
        check_refusal(refused, "bad_request")
    await talk.goes_on()


BAD_POSITIONS = [
    "seq=1",
    "epoch={epoch}",
    "epoch={epoch}&seq=",
    "epoch={epoch}&seq=-1",
    "epoch={epoch}&seq=1.5",
    "epoch={epoch}&seq=one",
    "epoch={epoch}&seq=%2B1",
    "epoch={epoch}&seq=1e3",
    "epoch={epoch}&seq=%D9%A3",
    "epoch={epoch}&seq=" + "9" * 17,
    "epoch={epoch}&seq=0&seq=0",
    "epoch=&seq=0",
    "epoch=word&seq=0",
    "epoch={epoch}0&seq=0",
    "epoch=ABCDEF0123456789&seq=0",
    "epoch={epoch}%0A&seq=0",
]


async def test_row_07_position_is_malformed(talk: Talk) -> None:
    epoch = talk.socket.frames[0]["epoch"]
    for position in BAD_POSITIONS:
        refused = await refusal(talk.open(query="&" + position.format(epoch=epoch)))
        assert refused.code == "bad_request", position
        check_refusal(refused, "bad_request")
    await talk.goes_on()


@pytest.mark.parametrize(("is_own_epoch", "seq"), [(True, 1_000_000), (True, 2**53), (False, 0), (False, 1)], ids=str)
async def test_row_07_position_that_is_not_in_the_log(talk: Talk, is_own_epoch: bool, seq: int) -> None:
    await talk.goes_on()
    epoch = talk.socket.frames[0]["epoch"] if is_own_epoch else "0" * 16
    async with talk.open(query=f"&epoch={epoch}&seq={seq}") as socket:
        welcome, snapshot = await socket.recv(), await socket.recv()
    assert (welcome["type"], welcome["resumed"]) == ("welcome", False)
    assert snapshot["type"] == "snapshot"
    assert (snapshot["epoch"], snapshot["seq"]) == (welcome["epoch"], welcome["seq"])
    assert len(snapshot["messages"]) == 2


# ------------------------------------------------------------------------------------------------- auth


@pytest.mark.parametrize("path", ["/chat/{flow}?chat_id={chat}", "/chat/{flow}/", "/chat/nothing"])
async def test_row_08_cookie_from_a_foreign_page(talk: Talk, path: str) -> None:
    cookie = {"Cookie": f"access_token_cookie={talk.token['ben']}"}
    for origin in (None, "null", "https://evil.example", "http://{host}.evil.example", "{host}"):
        headers = cookie if origin is None else {**cookie, "Origin": origin.format(host=talk.live.host)}
        with pytest.raises(InvalidStatus) as refused:
            async with talk.live.open(path.format(flow=talk.flow.id, chat=talk.chat), headers=headers):
                pass
        assert refused.value.response.status_code == 403, origin
    await talk.goes_on()


def jwt(claims: dict[str, Any], header: dict[str, Any], key: bytes | None) -> str:
    """By hand, so that it may be as wrong as we like. Without a key: unsigned."""
    parts = [_b64(json.dumps(part).encode()) for part in (header, claims)]
    signed = ".".join(parts)
    signature = b"" if key is None else hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_b64(signature)}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def own_key() -> bytes:
    return tokens.Backend().signing_key.encode()


def without(claims: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in names}


HS256 = {"alg": "HS256", "typ": "JWT"}
FORGED: dict[str, Callable[[str, dict[str, Any]], str | None]] = {
    "missing": lambda token, claims: None,
    "empty": lambda token, claims: "",
    "a word": lambda token, claims: "token",
    "not utf-8": lambda token, claims: "\xff.\xff.\xff",
    "10 kB": lambda token, claims: "x" * 7000,
    "cut": lambda token, claims: token[:-2],
    "other claims under the same signature": lambda token, claims: ".".join(
        [token.split(".")[0], _b64(json.dumps({**claims, "sub": "1"}).encode()), token.split(".")[2]]
    ),
    "alg none": lambda token, claims: jwt(claims, {"alg": "none", "typ": "JWT"}, None),
    "alg None": lambda token, claims: jwt(claims, {"alg": "None"}, None),
    "unsigned": lambda token, claims: jwt(claims, HS256, None),
    "wrong key": lambda token, claims: jwt(claims, HS256, b"another key of the right length, it seems"),
    "empty key": lambda token, claims: jwt(claims, HS256, b""),
    "rs by hs": lambda token, claims: jwt(claims, {"alg": "RS256", "typ": "JWT"}, own_key()),
    "kid": lambda token, claims: jwt(claims, {**HS256, "kid": "../../../../dev/null"}, b""),
    "jwk": lambda token, claims: jwt(claims, {**HS256, "jwk": {"kty": "oct", "k": _b64(b"k" * 32)}}, b"k" * 32),
    "expired": lambda token, claims: jwt({**claims, "exp": int(time.time()) - 1}, HS256, own_key()),
    "no exp": lambda token, claims: jwt(without(claims, "exp"), HS256, own_key()),
    "no aud": lambda token, claims: jwt(without(claims, "aud"), HS256, own_key()),
    "no iss": lambda token, claims: jwt(without(claims, "iss"), HS256, own_key()),
    "other aud": lambda token, claims: jwt({**claims, "aud": "other"}, HS256, own_key()),
    "refresh": lambda token, claims: jwt({**claims, "token_type": "refresh"}, HS256, own_key()),
    "no login": lambda token, claims: jwt(without(claims, "login"), HS256, own_key()),
    "unknown login": lambda token, claims: jwt({**claims, "login": str(uuid.uuid4())}, HS256, own_key()),
    "login of no form": lambda token, claims: jwt({**claims, "login": "\0"}, HS256, own_key()),
    "another's login": lambda token, claims: jwt({**claims, "sub": "999999"}, HS256, own_key()),
    "numeric sub": lambda token, claims: jwt({**claims, "sub": int(claims["sub"])}, HS256, own_key()),
}


async def test_row_09_token_is_bad(talk: Talk) -> None:
    token = talk.token["ben"]
    for name, forge in FORGED.items():
        forged = forge(token, claims_of(token))
        path = f"/chat/{talk.flow.id}?chat_id={talk.chat}"
        if forged is not None:
            path += f"&t={quote(forged, encoding='latin-1')}"
        refused = await refusal(talk.live.open(path))
        assert refused.code == "unauthorized", name
        check_refusal(refused, "unauthorized")
    await talk.goes_on()


async def test_row_09_a_good_token_by_hand_is_good(talk: Talk) -> None:
    """So the forgeries fail by what they forge."""
    by_hand = jwt(claims_of(talk.token["ben"]), HS256, own_key())
    async with talk.live.open(f"/chat/{talk.flow.id}?chat_id={talk.chat}&t={by_hand}") as socket:
        assert (await socket.recv())["type"] == "welcome"


async def test_row_09_ticket_is_good_once(talk: Talk, ben: User) -> None:
    def buy() -> str:
        return tokens.buy_ticket(tokens.verify(tokens.Credential("header", talk.token["ben"])))[0]

    ticket = await database.write(buy)
    path = f"/chat/{talk.flow.id}?chat_id={talk.chat}&ticket="
    async with talk.live.open(path + ticket) as socket:
        assert (await socket.recv())["type"] == "welcome"
    for used in (ticket, "x" * 43, "", "%00"):
        check_refusal(await refusal(talk.live.open(path + used)), "unauthorized")
    await talk.goes_on()


async def test_row_09_ticket_is_good_for_its_time(talk: Talk, bounds: Bounds) -> None:
    def buy() -> str:
        return tokens.buy_ticket(tokens.verify(tokens.Credential("header", talk.token["ben"])))[0]

    bounds(ticket_s=0)
    late = await database.write(buy)
    path = f"/chat/{talk.flow.id}?chat_id={talk.chat}&ticket={late}"
    check_refusal(await refusal(talk.live.open(path)), "unauthorized")


async def test_row_09_revoked_token_and_inactive_user(talk: Talk, ben: User, token_of: TokenOf) -> None:
    from accounts import store

    revoked, inactive = await token_of(ben), await token_of(ben)
    path = f"/chat/{talk.flow.id}?chat_id={uuid.uuid4()}"
    await database.write(lambda: store.end_logins(login=claims_of(revoked)["login"]))
    check_refusal(await refusal(talk.live.open(path, revoked)), "unauthorized")
    await database.write(lambda: User.objects.filter(pk=ben.pk).update(is_active=False))
    check_refusal(await refusal(talk.live.open(path, inactive)), "unauthorized")


async def test_row_10_flow_unknown_deleted_or_not_visible(talk: Talk, anna: User) -> None:
    from flows import store as flow_store

    def furnish() -> list[str]:
        hidden = flow_store.create_flow(anna.pk, "Hidden", visibility="owner")
        deleted = flow_store.create_flow(anna.pk, "Deleted")
        flow_store.delete(deleted.id)
        return [str(hidden.id), hidden.slug, str(deleted.id), deleted.slug]

    refs = [*await database.write(furnish), str(uuid.uuid4()), uuid.uuid4().hex, "no-such-flow"]
    refused = [await refusal(talk.live.open(f"/chat/{ref}?chat_id={talk.chat}", talk.token["ben"])) for ref in refs]
    check_refusal(refused[0], "flow_not_found")
    assert {one.raw for one in refused} == {refused[0].raw}
    await talk.goes_on()


async def test_row_10_chat_deleted_or_of_another_user_or_flow(talk: Talk, anna: User, ben: User) -> None:
    def furnish() -> list[Chat]:
        other = Flow.objects.create(slug="other", name="Other", owner=anna)
        rows = [{"user": anna, "flow": talk.flow}, {"user": ben, "flow": other}]
        return [
            *(Chat.objects.create(**row) for row in rows),
            Chat.objects.create(user=ben, flow=talk.flow, deleted=True),
        ]

    chats = [str(chat.id) for chat in await database.write(furnish)]
    refused = [await refusal(talk.open(chat=chat)) for chat in chats]
    check_refusal(refused[0], "chat_not_found")
    assert {one.raw for one in refused} == {refused[0].raw}
    await talk.goes_on()


async def test_row_10_flow_offline_or_not_built(talk: Talk, anna: User) -> None:
    from flows import store as flow_store

    await talk.goes_on()
    await database.write(lambda: flow_store.offline(talk.flow.id))
    for chat in (talk.chat, str(uuid.uuid4())):
        check_refusal(await refusal(talk.open(chat=chat)), "flow_offline")
    draft = {**TALK, "title": "not built"}
    fresh = await database.write(lambda: flow_store.create_flow(anna.pk, "Fresh", draft=draft))
    check_refusal(await refusal(talk.live.open(f"/chat/{fresh.id}", talk.token["anna"])), "not_built")


@pytest.fixture
def quick_checks(bounds: Bounds) -> None:
    """Log-ins are looked at at once."""
    bounds(auth_check_s=0.05)


async def test_row_11_user_is_deactivated_while_his_socket_is_open(quick_checks: None, talk: Talk, ben: User) -> None:
    ok = await talk.socket.say(SLOW)
    await talk.socket.until("turn_start")

    def deactivate() -> None:
        ben.is_active = False
        ben.save()

    await database.write(deactivate)
    closed = await talk.socket.closed(within_s=5)
    check_error(talk.socket.frames[-1])
    assert talk.socket.frames[-1]["code"] == "unauthorized"
    assert (closed.code, closed.reason) == (1008, "unauthorized")
    check_refusal(await refusal(talk.open()), "unauthorized")
    await talk.other.send(type="ping", t=1)
    assert (await talk.other.until("pong", "error"))["type"] == "pong"
    assert ok["turn"] == await database.read(lambda: str(Turn.objects.get().id))


# --------------------------------------------------------------------------------------------- text chat

NO_IDS = ["", "x" * 65, "a b", "a.b", "é", "a\n", "\0", 1, None, True, ["a"], {"a": 1}]
COMMANDS: list[dict[str, Any]] = [
    {"type": "say", "text": "Hello"},
    {"type": "answer", "question": str(uuid.uuid4()), "value": "x"},
    {"type": "stop"},
    {"type": "regenerate", "message": str(uuid.uuid4())},
    {"type": "edit", "message": str(uuid.uuid4()), "text": "Hello"},
]


@pytest.mark.parametrize("command", COMMANDS, ids=[command["type"] for command in COMMANDS])
async def test_row_20_command_without_id_or_of_another_form(talk: Talk, bounds: Bounds, command: dict) -> None:
    bounds(bad_frames_per_minute=100)
    async with talk.open() as talk.socket:
        await talk.socket.until("snapshot")
        await talk.refuses("bad_frame", command, field="id")
        for id_ in NO_IDS:
            error = await talk.refuses("bad_frame", {**command, "id": id_}, field="id")
            assert "id" not in error
        await talk.goes_on()


@pytest.mark.parametrize("id_", ["a", "x" * 64, "A-Z_09", "-", "_"])
async def test_row_20_ids_of_the_right_form(talk: Talk, id_: str) -> None:
    ok = await talk.socket.say("Hello", id=id_)
    assert (ok["type"], ok["id"]) == ("ok", id_)


async def test_row_20_fields_of_another_form(talk: Talk, bounds: Bounds) -> None:
    bounds(bad_frames_per_minute=100)
    message = str(uuid.uuid4())
    bad = [
        ("text", say(None)),
        ("text", say(1)),
        ("text", {"type": "say", "id": "one"}),
        ("params", say(params=[])),
        ("params", say(params="x")),
        ("parent", say(parent="x")),
        ("parent", say(parent=message + "0")),
        ("files", say(files="x")),
        ("files", say(files=["x"])),
        ("question", {"type": "answer", "id": "one", "value": 1}),
        ("question", {"type": "answer", "id": "one", "question": "x", "value": 1}),
        ("action", {"type": "answer", "id": "one", "question": message, "action": "shrug"}),
        ("turn", {"type": "stop", "id": "one", "turn": "x"}),
        ("turn", {"type": "stop", "id": "one", "turn": 1}),
        ("message", {"type": "regenerate", "id": "one"}),
        ("message", {"type": "edit", "id": "one", "text": "x"}),
        ("text", {"type": "edit", "id": "one", "message": message}),
    ]
    async with talk.open() as talk.socket:
        await talk.socket.until("snapshot")
        for field, frame in bad:
            assert (await talk.refuses("bad_frame", frame, field=field))["id"] == "one"
        for field, frame in (
            ("seq", {"type": "ack"}),
            ("seq", {"type": "ack", "seq": -1}),
            ("seq", {"type": "ack", "seq": 1.5}),
            ("seq", {"type": "ack", "seq": "1"}),
            (None, {"type": "ack", "seq": 10**30}),
            ("seq", {"type": "ack", "seq": 1}),
            ("token", {"type": "auth"}),
            ("token", {"type": "auth", "token": 1}),
        ):
            await talk.refuses("bad_frame", frame, field=field)
        await talk.goes_on()


async def test_row_21_same_id_and_body_gets_the_first_ok_again(talk: Talk) -> None:
    first = await talk.socket.say("Hello", id="one", params={})
    end = await talk.socket.until("turn_end")
    stored = await database.read(counts)
    assert await talk.socket.say("Hello", id="one") == first
    async with talk.open() as socket:
        assert await socket.say("Hello", id="one", parent=None, files=[]) == first
    edit = await talk.socket.command("edit", id="two", message=first["message"], text="Hello again")
    await talk.socket.until("turn_end")
    again = await talk.socket.command("regenerate", id="three", message=end["message"]["id"])
    await talk.socket.until("turn_end")
    stored = await database.read(counts)
    assert await talk.socket.command("edit", id="two", message=first["message"], text="Hello again") == edit
    assert await talk.socket.command("regenerate", id="three", message=end["message"]["id"]) == again
    assert await database.read(counts) == stored
    await talk.goes_on()


async def test_row_21_same_stop_again(talk: Talk) -> None:
    await talk.socket.say(SLOW)
    await talk.socket.until("turn_start")
    first = await talk.socket.command("stop", id="stop")
    await talk.socket.until("turn_end")
    await talk.socket.say(SLOW)
    assert await talk.socket.command("stop", id="stop") == first
    assert await database.read(lambda: Turn.objects.filter(state="running", stop_at=None).count()) == 1
    await talk.socket.command("stop")
    await talk.socket.until("turn_end")


async def test_row_21_same_answer_again(live: Live, online: Online, ben: User, token_of: TokenOf) -> None:
    flow = await online(ASKS)
    path, token = f"/chat/{flow.id}?chat_id={uuid.uuid4()}", await token_of(ben)
    async with live.open(path, token) as socket:
        await socket.say("Hello")
        question = (await socket.until("question"))["question"]
        first = await socket.command("answer", id="answer", question=question, value="Ada")
        assert first["type"] == "ok"
        await socket.until("turn_end")
        assert await socket.command("answer", id="answer", question=question, value="Ada") == first
        late = await socket.command("answer", id="late", question=question, value="Ada")
        assert late["code"] == "question_closed"
        other = await socket.command("answer", id="answer", question=question, value="Bob")
        assert other["code"] == "id_conflict"


async def test_row_21_same_id_twenty_times_at_once_is_one_turn(talk: Talk) -> None:
    async with talk.open() as second:
        for _ in range(10):
            for socket in (talk.socket, second):
                await socket.send(**say("Hello"))
        replies = [await socket.until("ok", "error") for _ in range(10) for socket in (talk.socket, second)]
    assert all(reply == replies[0] for reply in replies)
    assert replies[0]["type"] == "ok"
    await talk.end(replies[0]["turn"])
    assert await database.read(counts) == {"Chat": 1, "Message": 2, "Turn": 1, "Command": 1}


async def test_row_22_same_id_with_another_body(talk: Talk) -> None:
    first = await talk.socket.say("Hello", id="one")
    await talk.socket.until("turn_end")
    others = [
        say("hello"),
        say("Hello", parent=first["message"]),
        {"type": "edit", "id": "one", "message": first["message"], "text": "Hello"},
        {"type": "regenerate", "id": "one", "message": first["message"]},
        {"type": "stop", "id": "one"},
    ]
    for other in others:
        assert (await talk.refuses("id_conflict", other))["id"] == "one"
    async with talk.open() as talk.socket:
        await talk.socket.until("snapshot")
        await talk.refuses("id_conflict", say("hello"))
        await talk.goes_on()


EMPTY = [
    "",
    " ",
    "\t\r\n\x0b\x0c",
    "\u00a0\u2003\u3000\u2028",
    "\u200b",
    "\u200c\u200d \u2060\ufeff",
    "\u200e\u200f",
    "\u00ad",
]


@pytest.mark.parametrize("text", EMPTY, ids=[text.encode("unicode_escape").decode() for text in EMPTY])
async def test_row_23_text_without_a_visible_character(talk: Talk, text: str) -> None:
    error = await talk.refuses("empty_text", say(text), field="text")
    assert error["id"] == "one"
    await talk.goes_on()


async def test_row_23_edit_to_nothing(talk: Talk) -> None:
    ok = await talk.socket.say("Hello")
    await talk.socket.until("turn_end")
    await talk.refuses("empty_text", {"type": "edit", "id": "e", "message": ok["message"], "text": " "}, field="text")
    await talk.goes_on()


async def test_row_24_text_over_32000_characters_or_with_nul(talk: Talk) -> None:
    long = "ä" * 31_999 + "𐀀"
    assert (await talk.socket.say(long))["type"] == "ok"
    end = await talk.socket.until("turn_end")
    assert end["status"] == "done"
    refused = await talk.refuses("text_too_long", say(long + "x"), field="text")
    assert "32000 characters" in refused["text"]
    await talk.refuses("bad_text", say("a\0b"), field="text")
    await talk.refuses("bad_text", say("\0"), field="text")
    await talk.goes_on()


async def test_one_file_too_many(talk: Talk, bounds: Callable[..., None]) -> None:
    bounds(files_per_say=2)
    refused = await talk.refuses("validation_error", say(files=[str(uuid.uuid4())] * 3), field="files")
    assert refused["text"] == "A message takes 2 files at most."
    await talk.goes_on()


async def test_row_24_nul_in_params(live: Live, online: Online, ben: User, token_of: TokenOf) -> None:
    params = {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}}
    flow = await online(graph_of(node("start", "start", params=params), node("end", "end")))
    async with live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", await token_of(ben)) as socket:
        for name, value in (("name", "a\0b"), ("name", 1), ("count", "x"), ("count", 1.5), ("other", 1)):
            error = await socket.say("Hello", params={name: value})
            assert (error.get("code"), error.get("field")) == ("validation_error", f"params.{name}")
            assert error["text"].startswith(f"The field {name} is not valid: ")
        assert await database.read(counts) == {"Chat": 0, "Message": 0, "Turn": 0, "Command": 0}
        assert (await socket.say("Hello", params={"name": "Ada", "count": 10**30}))["type"] in ("ok", "error")
        assert "internal" not in {frame.get("code") for frame in socket.frames}
        assert (await socket.say("Hello", params={"name": "Ada", "count": 1}))["type"] == "ok"


async def test_row_25_say_during_a_turn_where_the_flow_rejects(
    live: Live, online: Online, ben: User, token_of: TokenOf
) -> None:
    flow = await online(double_text="reject")
    async with live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", await token_of(ben)) as socket:
        ok = await socket.say(SLOW)
        stored = await database.read(counts)
        for command in (
            say("Hello"),
            {"type": "regenerate", "id": "two", "message": ok["message"]},
            {"type": "edit", "id": "three", "message": ok["message"], "text": "Hello"},
        ):
            await socket.send(**command)
            error = await socket.until("error", "ok")
            check_error(error)
            assert (error["code"], error["id"]) == ("turn_running", command["id"])
        assert await database.read(counts) == stored
        await socket.command("stop")
        await socket.until("turn_end")
        assert (await socket.say("Hello"))["type"] == "ok"
        assert (await socket.until("turn_end"))["status"] == "done"


async def test_row_25_say_where_five_wait(talk: Talk) -> None:
    running = await talk.socket.say(SLOW)
    waiting = [await talk.socket.say(f"Number {number}") for number in range(5)]
    assert [ok["queued"] for ok in [running, *waiting]] == [False] + [True] * 5
    error = await talk.refuses("queue_full", say("Too many"))
    assert error["retryable"] is True and error["retry_after"] > 0
    taken_out = await talk.socket.command("stop", turn=waiting[2]["turn"])
    assert taken_out["type"] == "ok"
    assert (await talk.socket.say("There is room now"))["type"] == "ok"
    await talk.socket.command("stop", turn=running["turn"])
    ends = [frame for frame in talk.socket.frames if frame["type"] == "turn_end"]
    while len(ends) < 7:
        ends.append(await talk.socket.until("turn_end"))
    assert [end["status"] for end in ends].count("done") == 5
    await talk.goes_on()


async def test_row_26_stop_of_an_unknown_or_ended_turn(talk: Talk) -> None:
    await talk.refuses("turn_not_running", {"type": "stop", "id": "one"})
    ok = await talk.socket.say("Hello")
    await talk.socket.until("turn_end")
    async with talk.open("anna", str(uuid.uuid4())) as anna:
        foreign = await anna.say("Hello")
        await anna.until("turn_end")
    for turn in (None, ok["turn"], foreign["turn"], str(uuid.uuid4())):
        await talk.refuses("turn_not_running", {"type": "stop", "id": "two", "turn": turn})
    await talk.goes_on()
    ends = [frame["turn"] for frame in talk.socket.frames if frame["type"] == "turn_end"]
    assert len(ends) == len(set(ends)) == 2


async def test_row_26_two_stops_are_one_end(talk: Talk) -> None:
    ok = await talk.socket.say(SLOW)
    for id_ in ("first", "second"):
        await talk.socket.send(type="stop", id=id_, turn=ok["turn"])
    replies = {}
    while len(replies) < 2:
        frame = await talk.socket.until("ok", "error")
        replies[frame["id"]] = frame.get("code", "ok")
    assert replies["first"] == "ok"
    assert replies["second"] in ("ok", "turn_not_running")
    await talk.goes_on()
    ends = [frame["status"] for frame in talk.socket.frames if frame["type"] == "turn_end"]
    assert ends == ["stopped", "done"]


async def test_row_27_more_than_a_burst_of_forty_commands(talk: Talk, bounds: Bounds) -> None:
    bounds(commands_per_s=0.001)
    async with talk.open() as socket:
        await socket.until("snapshot")
        for number in range(45):
            await socket.send(type="stop", id=f"s{number}")
        replies = [await socket.until("error") for _ in range(45)]
        by_id = {reply["id"]: reply for reply in replies}
        for number in range(40):
            assert by_id[f"s{number}"]["code"] == "turn_not_running"
        for number in range(40, 45):
            refused = by_id[f"s{number}"]
            check_error(refused)
            assert (refused["code"], refused["retryable"]) == ("rate_limited", True)
            assert refused["retry_after"] > 0
        await socket.send(type="ping", t=1)
        assert (await socket.until("pong", "error"))["type"] == "pong"
    await talk.goes_on()


async def test_row_27_the_next_command_in_time_works(talk: Talk, bounds: Bounds) -> None:
    bounds(commands_burst=1, commands_per_s=10)
    async with talk.open() as socket:
        await socket.until("snapshot")
        await socket.send(type="stop", id="first")
        await socket.send(**say("Hello"))
        refused = await socket.until("error")
        while refused["code"] != "rate_limited":
            refused = await socket.until("error")
        assert await database.read(Turn.objects.count) == 0

        async def is_taken() -> bool:
            return (await socket.say("Hello", id="one"))["type"] == "ok"

        await until(is_taken, what="the bucket has filled")
        await socket.until("turn_end")


async def test_row_27_two_hundred_refusals_in_a_minute(talk: Talk, bounds: Bounds) -> None:
    bounds(commands_burst=1, commands_per_s=0.001)
    async with talk.open() as socket:
        await socket.until("snapshot")
        for number in range(201):
            await socket.send(type="stop", id=f"s{number}")
        closed = await socket.closed()
    assert (closed.code, closed.reason) == (1008, "rate_limited")
    refused = [frame for frame in socket.frames if frame.get("code") == "rate_limited"]
    assert len(refused) == 200
    assert refused[-1]["retry_after"] > 0
    await talk.goes_on()


async def test_row_27_acks_and_pings_have_a_rate_of_their_own(talk: Talk, bounds: Bounds) -> None:
    bounds(acks_per_s=0.001, acks_burst=3)
    async with talk.open() as socket:
        await socket.until("snapshot")
        for number in range(5):
            await socket.send(type="ping", t=number)
        replies = [await socket.until("pong", "error") for _ in range(5)]
        assert [reply["type"] for reply in replies] == ["pong"] * 3 + ["error"] * 2
        assert replies[-1]["code"] == "rate_limited" and replies[-1]["retry_after"] > 0
        assert (await socket.say("Hello"))["type"] == "ok"
        await socket.until("turn_end")
    await talk.goes_on()


UNKNOWN = [
    "role",
    "seq",
    "base_url",
    "user",
    "chat",
    "Text",
    "",
    "a.b",
    "__proto__",
    "ä",
    "unknown field `x`",
    "x" * 9000,
]


@pytest.mark.parametrize("field", UNKNOWN, ids=[name[:20] for name in UNKNOWN])
async def test_row_28_server_owned_or_unknown_fields(talk: Talk, field: str) -> None:
    await talk.socket.connection.send(json.dumps(say(**{field: "assistant"})))
    error = await talk.socket.until("error", "ok")
    check_error(error)
    assert (error["code"], error["id"]) == ("unknown_field", "one")
    if field.isidentifier() and field.isascii() and len(field) < 100:
        assert error["field"] == field
    assert await database.read(counts) == {"Chat": 0, "Message": 0, "Turn": 0, "Command": 0}
    await talk.goes_on()


@pytest.mark.parametrize("command", COMMANDS, ids=[command["type"] for command in COMMANDS])
async def test_row_28_unknown_field_in_every_command(talk: Talk, command: dict) -> None:
    await talk.refuses("unknown_field", {**command, "id": "one", "role": "assistant"}, field="role")
    await talk.refuses("unknown_field", {"type": "ping", "t": 1, "id": "one"}, field="id")
    await talk.refuses("unknown_field", {"type": "ack", "seq": 0, "epoch": "x"}, field="epoch")
    await talk.goes_on()


# ----------------------------------------------------------------------------------------- bad frames in all


@pytest.mark.parametrize("data", [b"", b"\x00", b'{"type":"ping"}', b"x" * 70_000])
async def test_binary_frame(talk: Talk, data: bytes) -> None:
    await talk.refuses("bad_binary_frame", data)
    await talk.goes_on()


async def test_eleventh_bad_frame_closes(talk: Talk) -> None:
    bad = ["{", "[]", '{"type":"nothing"}', json.dumps(say(role="x")), b"\x00"]
    codes = ["bad_json", "bad_frame", "unknown_type", "unknown_field", "bad_binary_frame"]
    for number in range(10):
        await talk.socket.connection.send(bad[number % 5])
        assert (await talk.socket.until("error"))["code"] == codes[number % 5]
    await talk.socket.send(type="ping", t=1)
    assert (await talk.socket.until("pong"))["t"] == 1
    await talk.socket.connection.send("{")
    closed = await talk.socket.closed()
    last = talk.socket.frames[-1]
    check_error(last)
    assert (last["code"], last["retryable"]) == ("too_many_errors", True)
    assert last["retry_after"] > 0
    assert (closed.code, closed.reason) == (1008, "too_many_errors")
    await others_go_on(talk)


async def test_hundred_bad_frames_at_once_get_eleven_answers(talk: Talk) -> None:
    for _ in range(100):
        talk.socket.connection.transport.write(Frame(Opcode.TEXT, b"{").serialize(mask=True))
    closed = await talk.socket.closed()
    errors = [frame["code"] for frame in talk.socket.frames if frame["type"] == "error"]
    assert errors == ["bad_json"] * 10 + ["too_many_errors"]
    assert (closed.code, closed.reason) == (1008, "too_many_errors")
    await others_go_on(talk)


async def test_commands_that_are_refused_are_no_bad_frames(talk: Talk) -> None:
    for number in range(15):
        assert (await talk.socket.command("stop", id=f"s{number}"))["code"] == "turn_not_running"
        assert (await talk.socket.say("", id=f"e{number}"))["code"] == "empty_text"
    await talk.goes_on()


async def test_bad_frames_of_a_socket_are_its_own(talk: Talk) -> None:
    for _ in range(10):
        await talk.socket.connection.send("{")
        await talk.socket.until("error")
    async with talk.open() as second:
        await second.connection.send("{")
        assert (await second.until("error"))["code"] == "bad_json"
    await talk.goes_on()


# ------------------------------------------------------------------------------------ a chat that becomes another's


async def test_stranger_on_a_chat_that_becomes_another_s_hears_nothing(talk: Talk) -> None:
    async with talk.open("anna", talk.chat) as stranger:
        await stranger.until("snapshot")
        ok = await talk.socket.say("A secret")
        closed = await stranger.closed()
        await talk.socket.until("turn_end")
    assert [frame["type"] for frame in stranger.frames] == ["welcome", "snapshot", "error"]
    check_error(stranger.frames[-1])
    assert stranger.frames[-1]["code"] == "chat_not_found"
    assert (closed.code, closed.reason) == (1008, "chat_not_found")
    assert ok["message"] not in json.dumps(stranger.frames)
    check_refusal(await refusal(talk.open("anna", talk.chat)), "chat_not_found")
    await talk.goes_on()


@pytest.mark.parametrize("command", COMMANDS, ids=[command["type"] for command in COMMANDS])
async def test_stranger_s_command_on_a_chat_that_became_another_s(talk: Talk, ben: User, command: dict) -> None:
    chat = str(uuid.uuid4())
    async with talk.open("anna", chat) as stranger:
        await stranger.until("snapshot")
        await database.write(lambda: Chat.objects.create(id=chat, user=ben, flow=talk.flow))
        before = await database.read(counts)
        await stranger.send(**command, id="one")
        closed = await stranger.closed()
    assert [frame["type"] for frame in stranger.frames] == ["welcome", "snapshot", "error"]
    assert (stranger.frames[-1]["code"], stranger.frames[-1]["id"]) == ("chat_not_found", "one")
    assert (closed.code, closed.reason) == (1008, "chat_not_found")
    assert await database.read(counts) == before
    await talk.goes_on()


async def test_commands_on_a_chat_without_a_row_find_nothing(talk: Talk) -> None:
    codes = ["question_not_found", "turn_not_running", "message_not_found", "message_not_found"]
    for command, code in zip(COMMANDS[1:], codes, strict=True):
        await talk.refuses(code, {**command, "id": "one"})
    await talk.goes_on()


async def test_own_second_socket_on_a_fresh_chat_hears_all(talk: Talk) -> None:
    async with talk.open() as second:
        await second.until("snapshot")
        ok = await talk.socket.say("Hello")
        end = await second.until("turn_end")
        await talk.socket.until("turn_end")
    assert end["turn"] == ok["turn"]
    positions = [
        frame["seq"] for frame in second.frames if "seq" in frame and frame["type"] not in ("welcome", "snapshot")
    ]
    assert positions == list(range(1, end["seq"] + 1))


@pytest.mark.parametrize("who", ["ben", "anna"])
async def test_say_between_a_socket_s_admission_and_its_welcome(
    talk: Talk, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read that the chat has no row; by its welcome the chat has one, and a whole turn."""
    from streams.sessions import Sessions

    opening, said = Sessions.open, []

    async def late(sessions: Sessions, **fields: Any) -> Any:
        if not said:
            said.append(await talk.socket.say("A secret"))
            await talk.socket.until("turn_end")
        return await opening(sessions, **fields)

    monkeypatch.setattr(Sessions, "open", late)
    async with talk.open(who, talk.chat) as second:
        if who == "ben":
            welcome, snapshot = await second.recv(), await second.recv()
            assert snapshot["seq"] == welcome["seq"] > 0
            assert [message["turn"] for message in snapshot["messages"]] == [said[0]["turn"]] * 2
        else:
            closed = await second.closed()
            assert (closed.code, closed.reason) == (1008, "chat_not_found")
            assert said[0]["message"] not in json.dumps(second.frames)
