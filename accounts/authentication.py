"""Who speaks over REST: `request.user` is the User, `request.auth` his Identity."""

from typing import Any

from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import SAFE_METHODS, BasePermission
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


SCOPES = ("chat", "flows", "sessions")


class HasScope(BasePermission):
    """Who has logged in may come; an API key where the view names one of its scopes.

    A view's `scopes` are those that may do everything there, `read_scopes` those that may read. Without them keys
    are refused.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.auth:
            return False
        scopes = getattr(view, "scopes", ())
        if request.method in SAFE_METHODS:
            scopes = (*scopes, *getattr(view, "read_scopes", ()))
        return request.auth.may(*scopes)


class IsStaff(HasScope):
    def has_permission(self, request: Request, view: Any) -> bool:
        return super().has_permission(request, view) and request.auth.is_staff


class MaySeeSessions(HasScope):
    """Staff, and viewers: who may look at stream sessions in the admin. To change something: staff."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        if request.auth.is_staff:
            return True
        return request.method in SAFE_METHODS and request.user.has_perm("streams.view_streamsession")
