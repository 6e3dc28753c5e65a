"""Log-ins by name and password, at every door: how many are tried, and how many are checked at once.

Checking a password costs a good part of a second of a core, on purpose. Who asks for it too often is refused before;
the rest take turns, so that pages and streams keep theirs.
"""

import hashlib
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest
from django.utils.translation import gettext, gettext_noop

from accounts import quotas
from accounts.models import User
from streams.errors import WireError

TOO_MANY = gettext_noop("Too many log-ins were tried. Wait a minute, then try again.")
CROWDED = gettext_noop("Too many people log in at this moment. Try again in a few seconds.")


class PasswordBackend(ModelBackend):
    """Django's, throttled by address, and by address and name; a log-in that works clears the latter."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        """Raises WireError throttled."""
        name = username if username is not None else kwargs.get(User.USERNAME_FIELD)
        if name is None or password is None:
            return None
        by_name = None if request is None else _spend(request, name)  # None: a command of the operator's
        with _turns.take():
            user = super().authenticate(request, username=name, password=password)
        if user is not None and by_name is not None:
            quotas.give_back(by_name)
        return user


def _spend(request: HttpRequest, name: str) -> str:
    """The quota of this name from this address. Raises WireError throttled."""
    bounds = settings.HEADRACE
    address = network_of(request.META.get("REMOTE_ADDR", ""))
    by_name = "login:" + hashlib.sha256(f"{address} {name.casefold()}".encode("utf-8", "surrogatepass")).hexdigest()
    wait_s = quotas.spend(f"login:{address}", bounds.logins_per_address_a_minute)
    wait_s = wait_s or quotas.spend(by_name, bounds.logins_per_name_a_minute)
    if wait_s:
        raise WireError("throttled", TOO_MANY, retry_after=round(wait_s, 1))
    return by_name


def network_of(address: str) -> str:
    """Whom an address stands for: of IPv6 a subscriber has a whole /64. Pure."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4 or ip.ipv4_mapped:
        return str(ip.ipv4_mapped if ip.version == 6 else ip)
    return str(ipaddress.ip_network((int(ip), 64), strict=False))


class _Turns:
    """Threads that check passwords: `logins_at_once` of this process, and `logins_waiting` behind them."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._inside = self._waiting = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Raises WireError throttled: too many wait already, or this one has waited `login_wait_s`."""
        with self._free:
            self._wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                self._free.notify()

    def _wait(self) -> None:
        bounds = settings.HEADRACE
        if self._inside < bounds.logins_at_once:
            return
        if self._waiting >= bounds.logins_waiting:
            raise WireError("throttled", CROWDED, retry_after=bounds.login_wait_s)
        self._waiting += 1
        try:
            if not self._free.wait_for(lambda: self._inside < bounds.logins_at_once, bounds.login_wait_s):
                raise WireError("throttled", CROWDED, retry_after=bounds.login_wait_s)
        finally:
            self._waiting -= 1


_turns = _Turns()


class _Throttled(forms.Form):
    """Shows a refusal as a fault of the form; `accounts/middleware.py` gives the answer its status."""

    def clean(self) -> dict[str, Any]:
        try:
            return super().clean()
        except WireError as error:
            self.request.login_refusal = error
            raise forms.ValidationError(gettext(error.text or error.entry.text)) from error


class LoginForm(_Throttled, AuthenticationForm):
    pass


class AdminLoginForm(_Throttled, AdminAuthenticationForm):
    pass
