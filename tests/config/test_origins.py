"""Which pages may open sockets."""

import pytest

from config.origins import is_allowed

HOSTS = ["chat.example", "127.0.0.1", "[::1]"]
ORIGINS = ["https://app.example", "http://localhost:3000"]


@pytest.mark.parametrize("origin", ["https://chat.example:8443", "https://app.example", "http://localhost:3000"])
def test_own_and_listed_origins_pass(origin):
    assert is_allowed(origin, "chat.example:8443", True, ORIGINS, HOSTS)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "https://app.example.evil.example",
        "https://evilapp.example",
        "https://app.example:444",
        "http://app.example",
        "https://APP.example",
        "https://app.example/",
        "https://chat.example",
        "http://chat.example:8443",
        "https://chat.example:8443@evil.example",
    ],
)
def test_every_other_origin_is_foreign(origin):
    assert not is_allowed(origin, "chat.example:8443", True, ORIGINS, HOSTS)


def test_own_origin_counts_only_under_an_allowed_host():
    """A name that an attacker points at this machine is his page's own host too."""
    assert not is_allowed("http://evil.example:8000", "evil.example:8000", False, ORIGINS, HOSTS)
    assert is_allowed("http://[::1]:8000", "[::1]:8000", False, ORIGINS, HOSTS)
