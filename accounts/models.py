"""Users, their log-ins and tickets."""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person. `locale`: the language of the sentences sent to him; `theme`: of his pages; empty: by browser."""

    class Theme(models.TextChoices):
        LIGHT = "light", _("light")
        DARK = "dark", _("dark")

    locale = models.CharField(_("language"), max_length=16, blank=True)
    theme = models.CharField(_("theme"), max_length=8, choices=Theme.choices, blank=True)


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


class ApiKey(models.Model):
    """A password for scripts, shown once. It has a log-in of its own and ends with it; only its hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="api_keys")
    login = models.OneToOneField(Login, models.CASCADE, related_name="api_key")
    name = models.CharField(_("name"), max_length=100)
    scopes = models.JSONField(default=list)
    hash = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=8)  # its last characters, to tell one from another
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")


class Ticket(models.Model):
    """One use, one minute: a token for a socket's address. Only its hash is kept."""

    hash = models.CharField(primary_key=True, max_length=64)
    user = models.ForeignKey(User, models.CASCADE)
    login = models.ForeignKey(Login, models.CASCADE, null=True)
    expires = models.DateTimeField(db_index=True)
    token_expires = models.DateTimeField(null=True)  # when the token that bought it ends
