"""Log-ins by name and password, at every door: how many are tried, and how many are checked at once.

Checking a password costs a good part of a second of a core, on purpose. Who asks for it too often is refused before;
the rest take turns, so that pages and streams keep theirs.
"""

import hashlib
import ipaddress
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from accounts import quotas
from accounts.models import User
from streams.errors import WireError
from streams.turnstile import Turnstile

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


def _bounds() -> tuple[int, int, float]:
    bounds = settings.HEADRACE
    return bounds.logins_at_once, bounds.logins_waiting, bounds.login_wait_s


_turns = Turnstile(_bounds, "throttled", CROWDED)


class _Throttled(forms.Form):
    """Shows a refusal as a fault of the form; `accounts/middleware.py` gives the answer its status."""

    def clean(self) -> dict[str, Any]:
        try:
            return super().clean()
        except WireError as error:
            self.request.login_refusal = error
            raise forms.ValidationError(gettext(error.text or error.entry.text)) from error


class LoginForm(_Throttled, AuthenticationForm):
    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": gettext_lazy("The log-in did not work: the name or the password is wrong."),
    }


class AdminLoginForm(_Throttled, AdminAuthenticationForm):
    pass
