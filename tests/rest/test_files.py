"""Files: what is taken and what is not, whose they are, and how they reach a model."""

import asyncio
import base64
import io
import json
import re
import struct
import threading
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.core.files.storage import FileSystemStorage
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from PIL import Image

from chat.files import checks, store, tidying
from chat.files import pdf as pdf_reader
from chat.models import File, Message, Turn
from flows.context import FileView, with_files
from flows.models import Provider
from providers.base import LLMMessage, LLMRequest
from providers.openai_compatible import encode
from streams.database import read, write
from tests.rest.conftest import Api, bare, code_of
from tests.rest.remote import Remote, chat_with, in_state
from tests.waiting import until

Make = Callable[..., Api]
BOUNDARY = "frontier"


def form(name: str, content: bytes, field: str = "file", end: str = "--\r\n") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    return head.encode() + b"Content-Type: text/html\r\n\r\n" + content + f"\r\n--{BOUNDARY}{end}".encode()


def send(client: Api, body: bytes) -> HttpResponse:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return client.client.generic("POST", "/api/files/", body, kind, headers=client.headers)


def upload(client: Api, name: str, content: bytes) -> HttpResponse:
    return send(client, form(name, content))


def picture(kind: str = "PNG", size: tuple[int, int] = (4, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, kind)
    return out.getvalue()


def pdf(stream: bytes = b"", flate: bool = False) -> bytes:
    """A document of one page whose content is `stream`."""
    stream = stream or b"BT /F1 12 Tf 10 100 Td (Water wheels) Tj ET"
    coding = b" /Filter /FlateDecode" if flate else b""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d%b >>\nstream\n%b\nendstream" % (len(stream), coding, stream),
    ]
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


GOOD = {
    "notes.txt": (b"Of mills", "text/plain"),
    "read.me.md": ("# \u6c34".encode(), "text/markdown"),
    "rows.csv": (b"a,b\n1,2\n", "text/csv"),
    "a.png": (picture("PNG"), "image/png"),
    "a.JPG": (picture("JPEG"), "image/jpeg"),
    "a.gif": (picture("GIF"), "image/gif"),
    "a.webp": (picture("WEBP"), "image/webp"),
    "a.pdf": (pdf(), "application/pdf"),
}


@pytest.mark.parametrize("name", GOOD)
def test_files_that_are_taken_and_come_back_as_they_were(api: Make, name: str) -> None:
    anna, bert = api("anna"), api("bert")
    content, mime = GOOD[name]
    made = upload(anna, name, content)
    assert made.status_code == 201, made.content
    shown = made.json()
    assert (shown["name"], shown["mime"], shown["bytes"]) == (name, mime, len(content))
    assert made["Location"] == f"/api/files/{shown['id']}/"
    got = anna.get(f"files/{shown['id']}/")
    assert b"".join(got.streaming_content) == content
    assert got["Content-Disposition"].startswith("attachment") and got["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in got["Content-Security-Policy"] and got["Content-Type"].split(";")[0] == mime
    for foreign in (bert.get(f"files/{shown['id']}/"), bert.delete(f"files/{shown['id']}/")):
        assert bare(foreign) == bare(bert.get(f"files/{uuid4()}/"))
    assert anna.delete(f"files/{shown['id']}/").status_code == 204
    assert code_of(anna.get(f"files/{shown['id']}/")) == (404, "not_found")


def test_row_36_a_file_that_is_too_large_leaves_nothing(api: Make) -> None:
    anna = api("anna")
    most = b"x" * (10 * 1024 * 1024)
    assert upload(anna, "a.txt", most).status_code == 201
    refused = upload(anna, "b.txt", most + b"x")
    assert code_of(refused) == (413, "file_too_large")
    assert refused.json()["error"]["text"] == "The file is larger than 10 MiB."
    assert [row.name for row in File.objects.all()] == ["a.txt"]


async def test_row_36_a_body_that_is_declared_or_grows_too_large_is_not_taken(anna: Remote) -> None:
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    big = form("a.txt", b"x" * (11 * 1024 * 1024))

    async def in_pieces() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    for data in (big, in_pieces()):
        try:
            async with anna.http.post(f"{anna.url}/api/files/", data=data, headers=kind) as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (413, "file_too_large")
                assert error["text"] == "The file is larger than 10 MiB."
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            pass  # the server hung up while it was still sent
    assert await read(File.objects.count) == 0
    async with anna.http.get(f"{anna.url}/api/me/") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("a.html", b"<html></html>"),
        ("a.txt", b"  \n<!DOCTYPE html><script>alert(1)</script>"),
        ("a.txt", b"\xff\xfe\x00x"),
        ("a.txt", b"a\0b"),
        ("a.png", b"<svg></svg>"),
        ("a.txt", picture()),
        ("a.jpg", picture()),
        ("a.pdf", picture()),
        ("a.gif", b"GIF89a/*<script>alert(1)</script>*/" + picture("GIF")[6:]),
        ("a.exe", b"MZ\x90\x00"),
        ("a.zip", b"PK\x03\x04"),
        ("noextension", b"text"),
    ],
)
def test_row_37_types_that_are_not_taken(api: Make, name: str, content: bytes) -> None:
    assert code_of(upload(api("anna"), name, content)) == (415, "file_type_not_allowed")
    assert not File.objects.exists()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\temp\\a.txt", "a.txt"),
        ("a\u202etxt.exe.txt", "atxt.exe.txt"),
        ("a\0b.txt", "ab.txt"),
        ("x" * 400 + ".txt", "x" * 251 + ".txt"),
        ("\u6c34" * 200 + ".txt", "\u6c34" * 83 + ".txt"),
        ("  a b .txt", "a b .txt"),
    ],
)
def test_row_38_names_are_cleaned_and_bytes_kept_under_random_keys(api: Make, raw: str, clean: str) -> None:
    assert checks.clean_name(raw) == clean
    if "\0" not in raw and "\\" not in raw:
        made = upload(api("anna"), raw, b"x")
        assert made.json()["name"] == clean
        assert "/" in (row := File.objects.get()).key and clean not in row.key


@pytest.mark.parametrize("name", ["../", "\u202e", "...", " ", "\u200b/", "\x01"])
def test_row_38_a_name_of_which_nothing_is_left(api: Make, name: str) -> None:
    refused = upload(api("anna"), name, b"x")
    assert code_of(refused) == (400, "bad_filename")
    error = refused.json()["error"]
    assert error["fields"] == {"file": error["text"]}


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8000, 6251), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_row_39_a_picture_of_too_many_points(api: Make, size: tuple[int, int]) -> None:
    assert code_of(upload(api("anna"), "a.png", png_of(*size))) == (422, "file_decompression_limit")


def test_row_39_a_document_that_unfolds_to_too_much(api: Make) -> None:
    packer = zlib.compressobj(9)
    pieces = [packer.compress(b"A" * 1_000_000) for _ in range(400)]
    bomb = pdf(packer.compress(b"BT (") + b"".join(pieces) + packer.flush(), flate=True)
    assert len(bomb) < 500_000
    before = rss_peak()
    assert code_of(upload(api("anna"), "a.pdf", bomb)) == (422, "file_decompression_limit")
    assert rss_peak() - before < 64 * 1024


def rss_peak() -> int:
    """This process's peak in KiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", ["a.txt", "a.png", "a.pdf"])
def test_row_40_an_empty_file(api: Make, name: str) -> None:
    assert code_of(upload(api("anna"), name, b"")) == (400, "empty_file")


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.gif", "a.webp", "a.pdf"])
def test_row_40_a_file_that_was_cut_short(api: Make, name: str) -> None:
    content, _ = GOOD[name]
    assert code_of(upload(api("anna"), name, content[: -len(content) // 3])) == (400, "file_incomplete")


def test_row_40_a_form_that_was_cut_short(api: Make) -> None:
    anna = api("anna")
    whole = form("a.txt", b"x" * 5000)
    for body in (whole[:-10], whole[:2000], form("a.txt", b"x", end="\r\n")):
        assert code_of(send(anna, body)) == (400, "file_incomplete")
    assert not File.objects.exists()


def test_forms_that_are_none(api: Make) -> None:
    anna = api("anna")
    assert code_of(anna.post("files/", {"file": "x"})) == (415, "unsupported_media_type")
    assert code_of(send(anna, form("a.txt", b"x", field="other"))) == (400, "unknown_field")
    two = form("a.txt", b"x", end="\r\n") + form("b.txt", b"y").split(b"\r\n", 1)[1]
    assert code_of(send(anna, two)) == (400, "validation_error")
    assert code_of(send(anna, f"--{BOUNDARY}--\r\n".encode())) == (400, "validation_error")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\u00e4"):
        response = anna.client.generic("POST", "/api/files/", b"x", kind, headers=anna.headers)
        assert code_of(response)[0] == 400
    assert not File.objects.exists()


@pytest.mark.django_db(transaction=True)  # the bridge has connections of its own
def test_files_that_no_message_names_go_after_a_day(api: Make, settings: Any) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, purge_rows=1)
    anna = api("anna")
    names = ("old", "older", "new", "named")
    old, _, new, named = (upload(anna, f"{name}.txt", b"x").json()["id"] for name in names)
    File.objects.exclude(id=new).update(created=timezone.now() - timedelta(days=2))
    File.objects.filter(id=named).update(named=True)
    key = File.objects.get(id=old).key
    assert store.storage().exists(key)
    async_to_sync(tidying.remove_unnamed)()
    assert {str(row.id) for row in File.objects.all()} == {new, named}
    assert not store.storage().exists(key)


async def test_a_file_that_a_message_names_after_it_was_listed_is_kept(anna: Remote) -> None:
    chat = await chat_with(anna, SHOWS)
    file = await sent(anna, "a.txt", b"kept")
    await write(lambda: File.objects.update(created=timezone.now() - timedelta(days=2)))
    [listed] = await read(store.unnamed)
    status, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "look", "files": [file]})
    assert status == 202, reply
    assert await write(store.let_go, listed) is None
    row = await read(File.objects.get)
    assert row.ready and store.storage().exists(row.key)


async def test_a_file_that_goes_cannot_be_named_any_more(anna: Remote) -> None:
    chat = await chat_with(anna, SHOWS)
    file = await sent(anna, "a.txt", b"gone")
    assert await write(store.let_go, UUID(file)) is not None
    status, answer, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "look", "files": [file]})
    assert (status, answer["error"]["code"]) == (404, "file_not_found")


@pytest.mark.django_db(transaction=True)  # the bridge has connections of its own
def test_a_file_whose_bytes_cannot_be_removed_keeps_no_other(api: Make, monkeypatch: Any) -> None:
    anna = api("anna")
    stuck, _ = (upload(anna, f"{name}.txt", b"x").json()["id"] for name in ("stuck", "gone"))
    File.objects.update(created=timezone.now() - timedelta(days=2))
    key = File.objects.get(id=stuck).key
    delete = FileSystemStorage.delete

    def fail(self: FileSystemStorage, name: str) -> None:
        if name == key:
            raise OSError("read-only")
        delete(self, name)

    monkeypatch.setattr(FileSystemStorage, "delete", fail)
    async_to_sync(tidying.remove_unnamed)()
    assert [str(row.id) for row in File.objects.all()] == [stuck]


async def test_so_many_documents_are_read_at_once(anna: Remote, settings: Any, monkeypatch: Any) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, pdfs_at_once=1, request_wait_s=0.05)
    entered, leave = threading.Event(), threading.Event()

    def slow(path: str, limits: pdf_reader.Limits, within_s: float) -> str:
        entered.set()
        assert leave.wait(20)
        return "text"

    monkeypatch.setattr(pdf_reader, "text_of", slow)
    first = asyncio.create_task(sent(anna, "a.pdf", pdf()))
    await until(entered.is_set, what="the first is read")
    data = aiohttp.FormData()
    data.add_field("file", pdf(), filename="b.pdf")
    async with anna.http.post(f"{anna.url}/api/files/", data=data) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (429, "busy")
    await sent(anna, "a.txt", b"no document")
    leave.set()
    await first


def test_files_of_a_user_have_a_bound(api: Make, settings: Any) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, files_bytes_per_user=10)
    anna = api("anna")
    first = upload(anna, "a.txt", b"12345678").json()["id"]
    refused = upload(anna, "b.txt", b"123")
    assert code_of(refused) == (429, "quota_exceeded") and refused.json()["error"]["retryable"] is False
    assert upload(api("bert"), "b.txt", b"123").status_code == 201
    anna.delete(f"files/{first}/")
    assert upload(anna, "b.txt", b"123").status_code == 201


# ------------------------------------------------------------------------------------------------ in a chat

SHOWS = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {
            "id": "show",
            "kind": "message",
            "fields": {"text": "{% for file in input.files %}[{{ file.name }}: {{ file.text }}]{% endfor %}"},
        },
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "show"}, {"from": "show", "to": "end"}],
}


async def sent(anna: Remote, name: str, content: bytes) -> str:
    data = aiohttp.FormData()
    data.add_field("file", content, filename=name)
    async with anna.http.post(f"{anna.url}/api/files/", data=data) as response:
        assert response.status == 201, await response.text()
        return (await response.json())["id"]


async def test_a_say_names_files_whose_text_the_flow_reads(anna: Remote) -> None:
    chat = await chat_with(anna, SHOWS)
    files = [await sent(anna, name, GOOD[name][0]) for name in ("a.pdf", "notes.txt", "a.png")]
    status, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "look", "files": files})
    assert status == 202, reply
    ended = await in_state(anna, reply["turn"], "done")
    text = ended["parts"][0]["text"]
    assert "Water wheels" in text and "[notes.txt: Of mills]" in text and "[a.png: ]" in text
    _, messages, _ = await anna("GET", f"chats/{chat}/messages/")
    said = messages["results"][1]["parts"]
    assert [part["kind"] for part in said] == ["text", "data", "data", "image"]
    assert [part["data"]["file"] for part in said[1:]] == files and said[3]["data"]["mime"] == "image/png"
    assert len({part["id"] for part in said}) == 4
    assert await read(lambda: File.objects.filter(named=True).count()) == 3


async def test_row_40_files_of_others_and_unready_ones_are_not_found(anna: Remote, bert: Remote) -> None:
    chat = await chat_with(anna, SHOWS)
    foreign, unready, own = [await sent(who, "a.txt", b"secret") for who in (bert, anna, anna)]
    await write(lambda: File.objects.filter(id=unready).update(ready=False))
    for file in (foreign, unready, str(uuid4())):
        body = {"text": "x", "files": [own, file]}
        status, answer, _ = await anna("POST", f"chats/{chat}/turns/", body)
        assert (status, answer["error"]["code"]) == (404, "file_not_found")
    for files in (["x"], "x", [None], [own] * 11, {}):
        status, answer, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "x", "files": files})
        assert (status, answer["error"]["code"]) == (400, "validation_error"), files
    assert await read(Turn.objects.count) == 0 and await read(Message.objects.count) == 0
    assert await read(lambda: File.objects.filter(named=True).count()) == 0


async def test_one_file_too_many_is_told_with_how_many_there_may_be(anna: Remote, settings: Any) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, files_per_say=2)
    chat = await chat_with(anna, SHOWS)
    files = [await sent(anna, "a.txt", b"x") for _ in range(3)]
    status, answer, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "x", "files": files})
    assert (status, answer["error"]["code"]) == (400, "validation_error")
    assert answer["error"]["fields"] == {"files": "A message takes 2 files at most."}
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, files_per_say=20)
    many = [files[0]] * 20
    assert (await anna("POST", f"chats/{chat}/turns/", {"text": "x", "files": many}))[0] == 202


async def test_a_model_reads_the_texts_of_files_and_the_names_of_pictures_it_does_not_take(anna: Remote) -> None:
    await write(lambda: Provider.objects.create(slug="echo", kind="scripted", options={"pour": True}))
    nodes = [{"id": "start", "kind": "start"}, {"id": "end", "kind": "end"}]
    nodes.append({"id": "llm1", "kind": "llm", "fields": {"provider": "echo"}})
    edges = [{"from": "start", "to": "llm1"}, {"from": "llm1", "to": "end"}]
    chat = await chat_with(anna, {"schema": 1, "nodes": nodes, "edges": edges})
    files = [await sent(anna, name, GOOD[name][0]) for name in ("a.pdf", "a.png")]
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "look", "files": files})
    ended = await in_state(anna, reply["turn"], "done")
    text = ended["parts"][0]["text"]
    assert text.startswith("look") and "[a.pdf]\nWater wheels" in text and text.endswith("[a.png]")


def test_pictures_go_to_a_model_that_takes_them_as_parts_of_the_message() -> None:
    page = FileView("1", "a.txt", "text/plain", "Of mills")
    picture = FileView("2", "a.png", "image/png")
    message = with_files(LLMMessage("user", "look"), (page, picture))
    assert message.text == "look\n\n[a.txt]\nOf mills"
    assert [(shown.file, shown.mime, shown.data) for shown in message.pictures] == [("2", "image/png", "")]
    read = msgspec.structs.replace(message, pictures=(msgspec.structs.replace(message.pictures[0], data="QUJD"),))
    body = json.loads(encode(LLMRequest(model="m", messages=(read,))))
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "look\n\n[a.txt]\nOf mills"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
    ]
    unread = json.loads(encode(LLMRequest(model="m", messages=(message,))))
    assert unread["messages"][0]["content"] == message.text


def test_a_picture_is_read_for_its_owner_only(api: Make) -> None:
    anna, bert = api("anna"), api("bert")
    made = upload(anna, "a.png", picture()).json()
    assert base64.b64decode(store.picture(anna.user.pk, made["id"])) == picture()
    assert store.picture(bert.user.pk, made["id"]) is None and store.views(bert.user.pk, [made["id"]]) == {}


def test_a_page_sends_a_file_by_its_session_and_its_token(make_user: Callable[..., Any]) -> None:
    make_user("page")
    client = Client(enforce_csrf_checks=True)
    assert client.login(username="page", password="page")
    body = form("a.txt", b"hello")
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    assert client.generic("POST", "/api/files/", body, kind).json()["error"]["code"] == "csrf_failed"
    token = json.loads(re.search(r'id="config"[^>]*>(.*?)</script>', client.get("/").content.decode())[1])["csrf"]
    sent = client.generic("POST", "/api/files/", body, kind, headers={"X-CSRFToken": token})
    assert (sent.status_code, sent.json()["name"]) == (201, "a.txt")
