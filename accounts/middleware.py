"""A page's session lives no longer than its log-in: one rule for sessions, tokens and sockets."""

from collections.abc import Callable

from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse

from accounts import signals, tokens


def session_logins(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Signs a session out whose log-in has ended. Stands after Django's AuthenticationMiddleware.

    Who changes his own password keeps his session (Django gives it the new hash) and gets a new log-in.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.user.is_authenticated:
            login = request.session.get(tokens.SESSION_LOGIN)
            if login is None or tokens.known_user(login) is None:
                if request.session.get(tokens.SESSION_PASSWORD) == signals.password_mark(request.user):
                    logout(request)
                else:
                    signals.begin_session_login(request, request.user)
        return get_response(request)

    return middleware
