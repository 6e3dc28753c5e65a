"""Who speaks over REST: `request.user` is the User, `request.auth` his Identity."""

from typing import Any

from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts import tokens
from accounts.models import User
from accounts.tokens import Credential, Identity
from streams.errors import WireError


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <JWT>`. A bad one is never passed over for the session."""

    def authenticate(self, request: Request) -> tuple[User, Identity] | None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        identity = tokens.verify(Credential("header", value.strip()))
        known = tokens.known_user(identity.login)
        if known is None:
            raise WireError("unauthorized")
        return known.user, identity

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class PageSessionAuthentication(SessionAuthentication):
    """The session of the pages (`accounts/middleware.py` has looked at its log-in), with the CSRF token."""

    def authenticate(self, request: Request) -> tuple[User, Identity] | None:
        found = super().authenticate(request)
        if found is None:
            return None
        session = request._request.session
        known = tokens.known_user(session[tokens.SESSION_LOGIN])
        if known is None:
            raise WireError("unauthorized")
        expires_at = tokens.session_expiry(session.session_key)
        return known.user, tokens.identity_of(known, session[tokens.SESSION_LOGIN], expires_at)

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except Exception as error:
            raise WireError("csrf_failed") from error


class IsStaff(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        return bool(request.auth and request.auth.is_staff)


class MaySeeSessions(BasePermission):
    """Staff, and viewers: who may look at stream sessions in the admin."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.auth:
            return False
        return request.auth.is_staff or request.user.has_perm("streams.view_streamsession")
