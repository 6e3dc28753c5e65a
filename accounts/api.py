"""REST of log-ins, tickets and oneself."""

from django.conf import settings
from django.contrib.auth import authenticate
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import store, tokens
from accounts.authentication import SCOPES
from accounts.models import ApiKey, User
from accounts.rest.bodies import Body, Flag, Text, found, path_id
from accounts.rest.pages import page
from streams.clock import stamp
from streams.errors import WireError


class Password(Body):
    username = Text(max_length=150)
    password = Text(max_length=1000)


class Refresh(Body):
    refresh = Text(max_length=4000)


class Revoke(Body):
    all = Flag(default=False)


class Me(Body):
    locale = serializers.ChoiceField(
        choices=[("", _("as the browser says")), *settings.LANGUAGES], allow_blank=True, required=False
    )
    theme = serializers.ChoiceField(
        choices=[("", _("as the browser says")), *User.Theme.choices], allow_blank=True, required=False
    )


class NewKey(Body):
    name = Text(max_length=100)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES), allow_empty=False, max_length=10)


class TokenView(APIView):
    """A log-in by name and password: an access token of 15 minutes, a refresh token of 7 days."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def post(self, request: Request) -> Response:
        body = Password.of(request)
        user = authenticate(request._request, **body)
        if user is None:
            raise WireError("unauthorized", _("The name or the password is wrong."))
        return Response(tokens.log_in(user)._asdict())


class RefreshView(APIView):
    """The next pair. A refresh token is good once; an old one again ends the log-in."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def post(self, request: Request) -> Response:
        return Response(tokens.refresh(Refresh.of(request)["refresh"])._asdict())


class RevokeView(APIView):
    """Ends this log-in, or with `{"all": true}` every one of the user."""

    def post(self, request: Request) -> Response:
        ends_all = Revoke.of(request)["all"]
        ended = (
            store.end_logins(user_id=request.auth.user_id) if ends_all else store.end_logins(login=request.auth.login)
        )
        tokens.forget(ended)
        return Response(status=204)


class TicketView(APIView):
    """A ticket for a socket's address: one use, one minute."""

    scopes = SCOPES

    def post(self, request: Request) -> Response:
        ticket, expires = tokens.buy_ticket(request.auth)
        left_s = round((expires - timezone.now()).total_seconds())
        return Response({"ticket": ticket, "expires_in": left_s}, status=201)


class MeView(APIView):
    read_scopes = SCOPES

    def get(self, request: Request) -> Response:
        return Response(me_json(request))

    def patch(self, request: Request) -> Response:
        body = Me.of(request)
        if body:
            store.set_preferences(request.auth.user_id, **body)
        for name, value in body.items():
            setattr(request.user, name, value)
        return Response(me_json(request))


class KeysView(APIView):
    """One's API keys. A key is shown once, when it is made."""

    def get(self, request: Request) -> Response:
        rows = store.live_keys(request.auth.user_id)
        return page(request, rows, ("created", "id"), lambda rows: [key_json(row) for row in rows])

    def post(self, request: Request) -> Response:
        body = NewKey.of(request)
        row, value = store.create_key(request.auth.user_id, body["name"], body["scopes"])
        headers = {"Location": f"{request.path}{row.id}/", "Cache-Control": "no-store"}
        return Response(key_json(row) | {"key": value}, status=201, headers=headers)


class KeyView(APIView):
    """Taken back, a key is good no more, and its sockets close."""

    def delete(self, request: Request, ref: str) -> Response:
        row = found(store.live_keys(request.auth.user_id).filter(id=path_id(ref)).first())
        tokens.forget(store.end_logins(login=str(row.login_id)))
        return Response(status=204)


def key_json(row: ApiKey) -> dict[str, object]:
    return {
        "id": str(row.id),
        "name": row.name,
        "scopes": row.scopes,
        "hint": row.hint,
        "created": stamp(row.created),
    }


def me_json(request: Request) -> dict[str, object]:
    return {
        "id": str(request.auth.user_id),
        "username": request.user.get_username(),
        "name": request.auth.name,
        "locale": request.user.locale,
        "theme": request.user.theme,
        "staff": request.auth.is_staff,
    }
