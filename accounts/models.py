"""Users, their log-ins and tickets."""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person. `locale` is the language of the sentences sent to him; empty means by browser."""

    locale = models.CharField(_("language"), max_length=16, blank=True)


class Login(models.Model):
    """One log-in: every token made from it carries its id, and ends with it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="logins")
    created = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    refresh_jti = models.CharField(max_length=64, blank=True)  # the one refresh token that is good now

    class Meta:
        verbose_name = _("log-in")
        verbose_name_plural = _("log-ins")


class Ticket(models.Model):
    """One use, one minute: a token for a socket's address. Only its hash is kept."""

    hash = models.CharField(primary_key=True, max_length=64)
    user = models.ForeignKey(User, models.CASCADE)
    login = models.ForeignKey(Login, models.CASCADE, null=True)
    expires = models.DateTimeField(db_index=True)
    token_expires = models.DateTimeField(null=True)  # when the token that bought it ends
