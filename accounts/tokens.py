"""Who somebody is: tokens of every source, read and verified. Rows are written in `accounts/store.py`.

A JWT is signed with HS256 by one key derived from SECRET_KEY, and has `exp`, `iss`, `aud`, `sub` (the user's id) and
`login` (the log-in's id). The log-in is looked up at every use, at most 5 s old, so that its end, a new password or
a deactivation ends every token made from it. Errors are always `unauthorized`: why is nobody's business.
"""

import time
import uuid
from datetime import UTC, datetime, timedelta
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import Group
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.utils.crypto import constant_time_compare, salted_hmac
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken, TokenError
from rest_framework_simplejwt.tokens import Token

from accounts import store
from accounts.models import Login, User
from streams.errors import WireError
from streams.prepared import Select

ISSUER = AUDIENCE = "headrace"
SESSION_LOGIN = "headrace_login"  # in a Django session: the id of its log-in
SESSION_PASSWORD = "headrace_password"  # and the mark of the password by which it was begun


class Identity(msgspec.Struct, frozen=True):
    """Who speaks. `expires_at` in seconds since 1970; null: never. An empty `locale`: as his browser says."""

    user_id: int
    name: str
    is_staff: bool
    group_ids: frozenset[int]
    login: str | None
    expires_at: float | None
    source: str
    locale: str
    scopes: frozenset[str] | None = None  # of an API key; null: everything
    key: str | None = None  # the API key's id, where he came with one

    def may(self, *scopes: str) -> bool:
        """Whether an API key has one of these scopes; who has logged in himself has all."""
        return self.scopes is None or not self.scopes.isdisjoint(scopes)


class Credential(msgspec.Struct, frozen=True):
    """What a handshake brought. `source`: ticket, t, header, subprotocol, cookie, session, or none."""

    source: str
    value: str

    @property
    def needs_origin(self) -> bool:
        """Browsers send these by themselves, from any page: only an allowed Origin may use them."""
        return self.source in ("cookie", "session")


class Known(NamedTuple):
    user: User
    group_ids: frozenset[int]
    scopes: frozenset[str] | None = None
    key: str | None = None


# ------------------------------------------------------------------------------------- where a token comes from


def credential_of(scope: dict[str, Any]) -> Credential:
    """The first source present in an ASGI scope; a bad one is never passed over for the next. Pure."""
    query = dict(reversed(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)))
    for name in ("ticket", "t"):
        if name in query:
            return Credential(name, query[name])
    headers = {name.lower(): value.decode("latin-1") for name, value in reversed(scope.get("headers", []))}
    scheme, _, value = headers.get(b"authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential("header", value.strip())
    for offered in scope.get("subprotocols", []):
        if offered.startswith("bearer."):
            return Credential("subprotocol", offered.removeprefix("bearer."))
    cookies = _cookies(headers.get(b"cookie", ""))
    if "access_token_cookie" in cookies:
        return Credential("cookie", cookies["access_token_cookie"])
    if settings.SESSION_COOKIE_NAME in cookies:
        return Credential("session", cookies[settings.SESSION_COOKIE_NAME])
    return Credential("none", "")


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


# ------------------------------------------------------------------------------------------------- verification


def verify(credential: Credential) -> Identity:
    """Who this is. Reads the database; a ticket is spent by it. Raises WireError unauthorized."""
    if credential.source == "none" or not credential.value:
        raise WireError("unauthorized")
    if credential.source == "ticket":
        return _verify_ticket(credential.value)
    if credential.source == "session":
        return _verify_session(credential.value)
    if credential.value.startswith(store.KEY_PREFIX):
        return _verify_key(credential)
    token = _read(AccessToken, credential.value)
    known = _known_as(token["login"], token["sub"])
    return identity_of(known, token["login"], float(token["exp"]), credential.source)


def identity_of(
    known: Known | User, login: str | None = None, expires_at: float | None = None, source: str = "session"
) -> Identity:
    if isinstance(known, User):
        known = Known(known, frozenset(known.groups.values_list("id", flat=True)))
    return Identity(
        user_id=known.user.pk,
        name=known.user.get_full_name() or known.user.get_username(),
        is_staff=known.user.is_staff,
        group_ids=known.group_ids,
        login=login,
        expires_at=expires_at,
        source=source,
        locale=known.user.locale,
        scopes=known.scopes,
        key=known.key,
    )


def ended_among(logins: list[str], user_ids: list[int]) -> set[str | int]:
    """Which of these are dead: log-ins that ended (or whose user is inactive) and users who are inactive or gone."""
    live_logins = Login.objects.filter(id__in=logins, ended_at=None, user__is_active=True)
    live_users = User.objects.filter(id__in=user_ids, is_active=True)
    dead_logins = set(logins) - {str(pk) for pk in live_logins.values_list("id", flat=True)}
    return dead_logins | (set(user_ids) - set(live_users.values_list("id", flat=True)))


def known_user(login: str) -> Known | None:
    """The active user of a live log-in, as read a moment ago (`known_login_s`); else None."""
    entry = _known.get(login)
    if entry is not None and time.monotonic() - entry[0] < settings.HEADRACE.known_login_s:
        return entry[1]
    known = _look_up(login)
    if len(_known) >= settings.HEADRACE.known_logins:
        _known.clear()
    _known[login] = (time.monotonic(), known)
    return known


def forget(logins: list[str]) -> None:
    """What this process knows of these is old: look again at their next use."""
    for login in logins:
        _known.pop(login, None)


_known: dict[str, tuple[float, Known | None]] = {}


def _look_up(login: str) -> Known | None:
    found = _LIVE.one(uuid.UUID(login))
    if found is None:
        return None
    key = getattr(found, "api_key", None)
    groups = frozenset(group.pk for group in _GROUPS.all(found.user_id))
    return Known(found.user, groups) if key is None else Known(found.user, groups, frozenset(key.scopes), str(key.id))


_LIVE = Select(
    lambda login: Login.objects.select_related("user", "api_key").filter(id=login, ended_at=None, user__is_active=True),
    uuid.UUID,
)
_GROUPS = Select(lambda user: Group.objects.filter(user=user).only("id"), int)


def _known_as(login: str, user_id: str) -> Known:
    known = known_user(login)
    if known is None or str(known.user.pk) != user_id:
        raise WireError("unauthorized")
    return known


def _verify_ticket(value: str) -> Identity:
    ticket = store.spend_ticket(value)
    if ticket is None or ticket.login_id is None:
        raise WireError("unauthorized")
    login = str(ticket.login_id)
    expires_at = ticket.token_expires.timestamp() if ticket.token_expires else None
    return identity_of(_known_as(login, str(ticket.user_id)), login, expires_at, "ticket")


def _verify_key(credential: Credential) -> Identity:
    """An API key never ends by itself."""
    login = store.login_of_key(credential.value)
    known = known_user(login) if login else None
    if known is None:
        raise WireError("unauthorized")
    return identity_of(known, login, None, credential.source)


def _verify_session(key: str) -> Identity:
    session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    login = session.get(SESSION_LOGIN)
    if login is None:
        raise WireError("unauthorized")
    known = _known_as(login, session.get(auth.SESSION_KEY))
    if not _is_begun_by(known.user, session):
        raise WireError("unauthorized")
    return identity_of(known, login, session_expiry(key), "session")


def _is_begun_by(user: User, session: SessionBase) -> bool:
    """Whether his password, as it is, began the session. Writes nothing.

    Django's `get_user` gives a session a new key where only an older SECRET_KEY verifies it; the response of a page
    carries that key back, a handshake does not.
    """
    begun = session.get(auth.HASH_SESSION_KEY, "")
    hashes = (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    is_ours = session.get(auth.BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS
    return is_ours and any(constant_time_compare(begun, one) for one in hashes)


def session_expiry(key: str | None) -> float | None:
    row = Session.objects.filter(session_key=key).values_list("expire_date", flat=True).first()
    return row.timestamp() if row else None


# ---------------------------------------------------------------------------------------------------- JWT pairs


class Backend(TokenBackend):
    """HS256 and nothing else. Keys made from SECRET_KEY_FALLBACKS still verify."""

    def __init__(self) -> None:
        keys = [
            salted_hmac("headrace.jwt", "key", secret=secret, algorithm="sha256").hexdigest()
            for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        ]
        super().__init__("HS256", keys[0], audience=AUDIENCE, issuer=ISSUER)
        self.older = [TokenBackend("HS256", key, audience=AUDIENCE, issuer=ISSUER) for key in keys[1:]]

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        for backend in self.older:
            try:
                return backend.decode(token, verify)
            except TokenBackendExpiredToken:
                raise
            except TokenBackendError:
                continue
        return super().decode(token, verify)


class _LoginToken(Token):
    def get_token_backend(self) -> TokenBackend:
        return Backend()

    def verify(self) -> None:
        super().verify()
        if not all(isinstance(self.get(claim), str) for claim in ("login", "sub", "jti")):
            raise TokenError("a claim is missing")
        if str(uuid.UUID(self["login"])) != self["login"]:  # ValueError where it is none
            raise TokenError("the log-in is malformed")


class AccessToken(_LoginToken):
    token_type = "access"
    lifetime = timedelta(minutes=15)


class RefreshToken(_LoginToken):
    token_type = "refresh"
    lifetime = timedelta(days=7)


class Pair(NamedTuple):
    access: str
    refresh: str


def log_in(user: User) -> Pair:
    """Begins a log-in. Its first pair of tokens."""
    login = store.begin_login(user.pk)
    return _pair(login, user.pk, rotate_from="")


def refresh(value: str) -> Pair:
    """The next pair for a refresh token. An old one that is used again ends the log-in: somebody has a copy."""
    old = _read(RefreshToken, value)
    known = _known_as(old["login"], old["sub"])
    return _pair(old["login"], known.user.pk, rotate_from=old["jti"])


def mint(user: User, lifetime: timedelta = AccessToken.lifetime) -> str:
    """An access token on a log-in of its own, for scripts."""
    token = _token(AccessToken, store.begin_login(user.pk), user.pk)
    token.set_exp(lifetime=lifetime)
    return str(token)


def buy_ticket(identity: Identity) -> tuple[str, datetime]:
    """A ticket for a socket's address, and when it ends. It acts for the token that bought it."""
    expires = datetime.fromtimestamp(identity.expires_at, UTC) if identity.expires_at else None
    return store.issue_ticket(identity.user_id, identity.login, expires)


def _pair(login: str, user_id: int, rotate_from: str) -> Pair:
    token = _token(RefreshToken, login, user_id)
    if not store.rotate(login, rotate_from, token["jti"]):
        forget(store.end_logins(login=login))
        raise WireError("unauthorized")
    return Pair(str(_token(AccessToken, login, user_id)), str(token))


def _token(kind: type[_LoginToken], login: str, user_id: int) -> _LoginToken:
    token = kind()
    token["login"] = login
    token["sub"] = str(user_id)
    return token


def _read(kind: type[_LoginToken], value: str) -> _LoginToken:
    try:
        return kind(value)
    except (TokenError, ValueError) as error:
        raise WireError("unauthorized") from error
