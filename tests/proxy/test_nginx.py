"""Headrace behind docs/nginx.conf, as a browser meets it: TLS, log-in, sockets, event streams, who the client is."""

import asyncio
import http.client
import json
import re
import socket
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.proxy.conftest import NAME, Nginx
from tests.server import HeadraceServer
from tests.wire import Socket

CLIENT = "127.0.0.2"  # another address than the proxy's, on this machine


@pytest.fixture(scope="module")
def installation(make_server: Callable[..., HeadraceServer]) -> HeadraceServer:
    return make_server(TLS="on", TRUSTED_PROXIES="127.0.0.1", ALLOWED_HOSTS=NAME).start()


@pytest.fixture(scope="module")
def nginx(make_nginx: Callable[[str], Nginx], installation: HeadraceServer) -> Nginx:
    return make_nginx(installation.host)


class Browser:
    """Cookies, and requests by https from CLIENT."""

    def __init__(self, nginx: Nginx) -> None:
        self.nginx = nginx
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []  # Set-Cookie as it came

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPSConnection(NAME, self.nginx.port, timeout=20, context=self.nginx.context)
        connection._create_connection = lambda _, *rest: socket.create_connection(
            ("127.0.0.1", self.nginx.port), 20, (CLIENT, 0)
        )
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Cookie": self.cookie, "Referer": self.nginx.url + path, **names})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        for line in response.msg.get_all("Set-Cookie", []):
            self.set.append(line)
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response, text

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def log_in(self, name: str, password: str) -> None:
        _, page = self.ask("GET", "/login/")
        form = {"csrfmiddlewaretoken": re.search(r'csrfmiddlewaretoken" value="(\w+)"', page)[1]}
        body = urllib.parse.urlencode(form | {"username": name, "password": password}).encode()
        response, page = self.ask("POST", "/login/", body, Content_Type="application/x-www-form-urlencoded")
        assert response.status == 302, page

    @asynccontextmanager
    async def socket(self, path: str, **headers: str) -> Any:
        async with connect(
            f"wss://{self.nginx.host}{path}",
            ssl=self.nginx.context,
            host="127.0.0.1",
            port=self.nginx.port,
            local_addr=(CLIENT, 0),
            additional_headers={"Cookie": self.cookie, **headers},
            compression=None,
            proxy=None,
        ) as connection:
            yield Socket(connection)


@pytest.fixture(scope="module")
def admin(nginx: Nginx, installation: HeadraceServer) -> Browser:
    browser = Browser(nginx)
    browser.log_in("admin", installation.passwords["admin"])
    return browser


def chat() -> str:
    return f"/chat/guide?chat_id={uuid.uuid4()}"


def test_plain_http_is_sent_to_https(nginx: Nginx):
    connection = http.client.HTTPConnection("127.0.0.1", nginx.plain_port, timeout=20)
    connection.request("GET", "/login/?next=/", headers={"Host": NAME})
    response = connection.getresponse()
    assert (response.status, response.getheader("Location")) == (301, f"https://{NAME}/login/?next=/")
    connection.close()


def test_log_in_works_and_its_cookies_are_secure(admin: Browser):
    """Django takes the form only where it knows that it came by https."""
    assert all("secure" in line.lower() for line in admin.set) and "sessionid" in admin.cookies
    response, page = admin.ask("GET", "/")
    assert response.status == 200 and "guide" in page
    assert "max-age" in response.getheader("Strict-Transport-Security")


async def test_chat_by_socket_with_a_pages_cookie(admin: Browser):
    async with admin.socket(chat(), Origin=admin.nginx.url) as one:
        assert (await one.recv())["type"] == "welcome"
        await one.say("What is a flow?")
        end = await one.until("turn_end")
    assert end["status"] == "done" and end["message"]["parts"]


@pytest.mark.parametrize("origin", [f"https://{NAME}", "https://evil.example", "http://{host}"])
async def test_foreign_origin_is_refused(admin: Browser, origin: str):
    with pytest.raises(InvalidStatus) as refused:
        async with admin.socket(chat(), Origin=origin.format(host=admin.nginx.host)):
            pass
    assert refused.value.response.status_code == 403


async def test_session_has_the_clients_address_whatever_it_says(admin: Browser):
    path = chat()
    async with admin.socket(path, **{"Origin": admin.nginx.url, "X-Forwarded-For": "6.6.6.6"}) as one:
        session = (await one.recv())["session"]
        response, text = await asyncio.to_thread(admin.ask, "GET", f"/api/sessions/{session}/")
    assert response.status == 200, text
    assert json.loads(text)["address"] == CLIENT


async def test_token_in_an_address_is_in_no_log(admin: Browser, nginx: Nginx):
    response, text = admin.ask("POST", "/api/auth/ticket/", X_CSRFToken=admin.cookies["csrftoken"])
    assert response.status == 201, text
    ticket = json.loads(text)["ticket"]
    async with Browser(nginx).socket(f"{chat()}&ticket={ticket}") as one:
        assert (await one.recv())["type"] == "welcome"
    assert "/chat/guide" in nginx.logs and ticket not in nginx.logs


# --------------------------------------------------------------------------------------------- event streams


@pytest.fixture
def events(make_nginx: Callable[[str], Nginx]) -> Iterator[tuple[Nginx, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield make_nginx(f"127.0.0.1:{listener.getsockname()[1]}"), listener


def test_event_arrives_before_the_next_one_is_made(events: tuple[Nginx, socket.socket]):
    """A stream whose second event is written when the first has come out at the other side."""
    nginx, listener = events
    raw = socket.create_connection(("127.0.0.1", nginx.port), 20)
    with nginx.context.wrap_socket(raw, server_hostname=NAME) as client:
        client.sendall(f"GET /events HTTP/1.1\r\nHost: {nginx.host}\r\n\r\n".encode())
        upstream, _ = listener.accept()
        with upstream:
            assert f"Host: {nginx.host}".encode() in upstream.recv(65536)
            upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            for event in (b"data: one\n\n", b"data: two\n\n"):
                upstream.sendall(event)
                received = b""
                while event not in received:
                    received += client.recv(65536)
