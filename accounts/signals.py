"""When log-ins begin and end by what Django does: sign-in and sign-out of pages, new passwords, deactivation.

And when budgets change: this process looks at once whether there are any.
"""

import hashlib
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_save
from django.dispatch import receiver
from django.http import HttpRequest

from accounts import spend, store, tokens
from accounts.models import Budget, User


@receiver(user_logged_in)
def begin_session_login(request: HttpRequest, user: User, **kwargs: Any) -> None:
    request.session[tokens.SESSION_LOGIN] = store.begin_login(user.pk)
    request.session[tokens.SESSION_PASSWORD] = password_mark(user)


def password_mark(user: User) -> str:
    """Tells one password from the next, whatever SECRET_KEY is."""
    return hashlib.sha256(user.password.encode()).hexdigest()


@receiver(user_logged_out)
def end_session_login(request: HttpRequest, **kwargs: Any) -> None:
    login = request.session.get(tokens.SESSION_LOGIN)
    if login is not None:
        tokens.forget(store.end_logins(login=login))


@receiver(pre_save, sender=User)
def notice_change(instance: User, update_fields: frozenset[str] | None, **kwargs: Any) -> None:
    instance._ends_logins = False
    if instance.pk is None or (update_fields is not None and update_fields.isdisjoint({"password", "is_active"})):
        return
    before = User.objects.filter(pk=instance.pk).values("password", "is_active").first()
    if before is not None:
        has_new_password = before["password"] != instance.password
        instance._ends_logins = has_new_password or (before["is_active"] and not instance.is_active)


@receiver(post_save, sender=User)
def end_logins_on_change(instance: User, **kwargs: Any) -> None:
    if instance._ends_logins:
        tokens.forget(store.end_logins(user_id=instance.pk))


@receiver((post_save, post_delete), sender=Budget)
def budgets_changed(**kwargs: Any) -> None:
    spend.look_again()
    transaction.on_commit(spend.look_again)  # who looked meanwhile saw what was before
