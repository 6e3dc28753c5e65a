"""Which addresses a model's server may have, as written and as resolved."""

import ipaddress
import socket

import pytest

from providers.address import AddressRefused, PublicResolver, check_url, is_public
from providers.fake_openai import Server
from tests.providers.asking import hear, request

REFUSED = [
    "",
    "api.example.com/v1",
    "http://api.example.com/v1",
    "ftp://api.example.com/",
    "file:///etc/passwd",
    "https://",
    "https:///v1",
    "https://user:secret@api.example.com/v1",
    "https://api.example.com@127.0.0.1/v1",
    "https://api.example.com/v1?to=x",
    "https://api.example.com/v1#x",
    "https://api.example.com\\@127.0.0.1/",
    "https://api.example.com/\r\nHost: x",
    "https://127.0.0.1%2f.example.com/",
    "https://api.example.com:0/",
    "https://api.example.com:99999/",
    "https://localhost/v1",
    "https://LOCALHOST./v1",
    "https://redis/v1",
    "https://printer.local/v1",
    "https://metadata.google.internal/v1",
    "https://127.0.0.1/v1",
    "https://127.1/v1",
    "https://2130706433/v1",
    "https://0x7f000001/v1",
    "https://0x7f.0.0.1/v1",
    "https://0177.0.0.1/v1",
    "https://１２７.0.0.1/v1",
    "https://127.0.0.1./v1",
    "https://0.0.0.0/v1",
    "https://10.0.0.8/v1",
    "https://172.16.3.4/v1",
    "https://192.168.1.1/v1",
    "https://100.64.0.1/v1",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/v1",
    "https://100.100.100.200/v1",
    "https://224.0.0.1/v1",
    "https://255.255.255.255/v1",
    "https://[::1]/v1",
    "https://[::]/v1",
    "https://[::ffff:127.0.0.1]/v1",
    "https://[::ffff:8.8.8.8]/v1",
    "https://[fe80::1]/v1",
    "https://[fe80::1%25eth0]/v1",
    "https://[fc00::1]/v1",
    "https://[fd00:ec2::254]/v1",
    "https://[fec0::1]/v1",
    "https://[ff02::1]/v1",
    "https://[64:ff9b::7f00:1]/v1",
    "https://[2002:7f00:1::]/v1",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/v1",
    "https://[2001:db8::1]/v1",
    "https://[v1.x]/v1",
    "https://-bad-.example.com/v1",
    "https://" + "a" * 500 + ".example.com",
]

ALLOWED = [
    "https://api.openai.com/v1",
    "https://API.Example.com:8443/v1/",
    "https://api.example.com.",
    "https://8.8.8.8/v1",
    "https://[2606:4700::1111]/v1",
    "https://[64:ff9b::808:808]/v1",
    "https://bücher.example/v1",
    "https://1e100.net/v1",
]

PRIVATE = [
    "http://127.0.0.1:11434/v1",
    "http://localhost:8000/v1",
    "http://[::1]:8000/v1",
    "http://ollama:11434/v1",
    "https://10.0.0.8/v1",
    "http://model.internal/v1",
]


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_that_is_not_public_https_is_refused_with_its_reason(url):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        check_url(url, allow_private=False)


@pytest.mark.parametrize("url", ALLOWED)
def test_public_https_is_allowed(url):
    check_url(url, allow_private=False)
    check_url(url, allow_private=True)


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_allowed_only_where_the_setting_says_so(url):
    check_url(url, allow_private=True)
    with pytest.raises(ValueError):
        check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url", ["http://user:x@127.0.0.1/", "http://2130706433/", "ftp://127.0.0.1/", "http://a b/", "http://x?y=1"]
)
def test_malformed_addresses_are_refused_even_where_private_ones_are_allowed(url):
    with pytest.raises(ValueError):
        check_url(url, allow_private=True)


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "::ffff:8.8.8.8", "192.0.0.192", "198.18.0.1", "240.0.0.1"])
def test_special_ranges_are_not_public(text):
    assert not is_public(ipaddress.ip_address(text))


class Names:
    """A resolver that answers from a list, one answer after another."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        return [{"hostname": host, "host": address, "port": port} for address in self.answers.pop(0)]

    async def close(self):
        pass


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], ["169.254.169.254"]]
)
async def test_a_name_with_one_address_that_is_not_public_is_refused_whole(addresses):
    with pytest.raises(AddressRefused):
        await PublicResolver(Names(addresses)).resolve("model.example", 443)


async def test_a_name_that_turns_private_later_is_refused_then():
    resolver = PublicResolver(Names(["8.8.8.8"], ["127.0.0.1"]))
    assert [found["host"] for found in await resolver.resolve("model.example", 443)] == ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        await resolver.resolve("model.example", 443)


@pytest.fixture
def everywhere_is_here(monkeypatch):
    """Every name stands for 127.0.0.1."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)


async def test_a_public_name_that_stands_for_a_private_address_is_never_connected_to(
    server: Server, client, everywhere_is_here
):
    port = server.url.rpartition(":")[2]
    heard = await hear(client(f"https://model.example:{port}/v1", allow_private=False), request())
    assert heard.error.kind == "bad_request"
    assert not heard.error.is_retryable
    assert not server.seen.connections


async def test_a_private_number_is_never_connected_to(server: Server, client):
    heard = await hear(client(server.base_url, allow_private=False), request())
    assert heard.error.kind == "bad_request"
    assert not server.seen.connections
