"""What pages need of log-ins: a session lives no longer than its log-in, a log-in refused says so by its status,
and the user's own language is spoken."""

from collections.abc import Callable

from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.utils import translation

from accounts import locale as languages
from accounts import signals, tokens
from accounts.rest.errors import error_headers, error_status


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


def own_language(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The language that the user has set wins over his browser's. Stands after Django's LocaleMiddleware."""

    def middleware(request: HttpRequest) -> HttpResponse:
        wish = request.user.locale if request.user.is_authenticated else ""
        if wish:
            request.LANGUAGE_CODE = languages.choose(wish)
            translation.activate(request.LANGUAGE_CODE)
        return get_response(request)

    return middleware


def login_refusals(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The form of a page says that too many log-ins were tried; so do the status and `Retry-After`."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        refusal = getattr(request, "login_refusal", None)
        if refusal is not None:
            response.status_code = error_status(refusal)
            for name, value in error_headers(refusal).items():
                response.headers[name] = value
        return response

    return middleware
