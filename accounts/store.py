"""Each transaction of log-ins and tickets."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import models, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from accounts.models import ApiKey, Login, Ticket, User
from streams import database
from streams.errors import WireError

KEY_PREFIX = "hr_"
KEYS_FULL = _("You have too many keys. Take some back first.")


def begin_login(user_id: int) -> str:
    return str(Login.objects.create(user_id=user_id).id)


def rotate(login: str, old_jti: str, new_jti: str) -> bool:
    """Makes `new_jti` the one good refresh token, if `old_jti` was and the log-in lives."""
    live = Login.objects.filter(id=login, refresh_jti=old_jti, ended_at=None)
    return live.update(refresh_jti=new_jti) == 1


def end_logins(*, login: str | None = None, user_id: int | None = None) -> list[str]:
    """Ends one log-in or every one of a user, his API keys apart: those are taken back one by one. Which ended."""
    which: dict[str, Any] = {"id": login} if login is not None else {"user_id": user_id, "api_key": None}
    with transaction.atomic():
        live = Login.objects.select_for_update(of=("self",)).filter(**which, ended_at=None)
        ended = list(live.values_list("id", flat=True))
        Login.objects.filter(id__in=ended).update(ended_at=Now())
    return [str(pk) for pk in ended]


def forget_logins() -> int:
    """Some of those made `logins_kept_s` ago, but for API keys'. Who still uses one logs in again. Returns how many."""
    old = database.now() - timedelta(seconds=settings.HEADRACE.logins_kept_s)
    rows = Login.objects.filter(created__lt=old, api_key=None).order_by("id")
    ids = list(rows.values_list("id", flat=True)[: settings.HEADRACE.purge_rows])
    Login.objects.filter(id__in=ids).delete()
    return len(ids)


def forget_page_sessions() -> int:
    """Some of Django's sessions that have expired. Returns how many."""
    rows = Session.objects.filter(expire_date__lt=database.now()).order_by("expire_date")
    keys = list(rows.values_list("pk", flat=True)[: settings.HEADRACE.purge_rows])
    Session.objects.filter(pk__in=keys).delete()
    return len(keys)


def issue_ticket(user_id: int, login: str | None, token_expires: datetime | None) -> tuple[str, datetime]:
    """A new ticket and its end. Only its hash is kept; those whose minute is over go."""
    value = secrets.token_urlsafe(32)
    expires = database.now() + timedelta(seconds=settings.HEADRACE.ticket_s)
    with transaction.atomic():
        Ticket.objects.filter(expires__lt=Now()).delete()
        Ticket.objects.create(
            hash=_hash(value), user_id=user_id, login_id=login, expires=expires, token_expires=token_expires
        )
    return value, expires


def spend_ticket(value: str) -> Ticket | None:
    """The ticket, once: of many who come with it at the same time one gets it."""
    with transaction.atomic():
        ticket = Ticket.objects.filter(hash=_hash(value), expires__gt=Now()).first()
        if ticket is None:
            return None
        deleted, _by_model = Ticket.objects.filter(hash=ticket.hash).delete()
        return ticket if deleted else None


def create_key(user_id: int, name: str, scopes: list[str]) -> tuple[ApiKey, str]:
    """A new API key's row, and the key, which is not kept. Raises validation_error past `keys_per_user`."""
    value = KEY_PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        if live_keys(user_id).count() >= settings.HEADRACE.keys_per_user:
            raise WireError("validation_error", fields={"name": KEYS_FULL})
        login = Login.objects.create(user_id=user_id)
        row = ApiKey.objects.create(
            user_id=user_id,
            login=login,
            name=name,
            scopes=sorted(set(scopes)),
            hash=_hash(value),
            hint=value[-4:],
        )
    return row, value


def live_keys(user_id: int) -> models.QuerySet[ApiKey]:
    return ApiKey.objects.filter(user_id=user_id, login__ended_at=None)


def login_of_key(value: str) -> str | None:
    found = ApiKey.objects.filter(hash=_hash(value)).values_list("login_id", flat=True).first()
    return None if found is None else str(found)


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def set_preferences(user_id: int, **changes: str) -> None:
    """`locale`, `theme`."""
    User.objects.filter(id=user_id).update(**changes)
