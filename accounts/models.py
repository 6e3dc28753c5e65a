"""Users, their log-ins, tickets and API keys; budgets and what was spent of them."""

import uuid
from functools import reduce
from operator import or_

from django.contrib.auth.models import AbstractUser, Group
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
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

    def __str__(self) -> str:
        return f"{self.name} (…{self.hint})"


class Ticket(models.Model):
    """One use, one minute: a token for a socket's address. Only its hash is kept."""

    hash = models.CharField(primary_key=True, max_length=64)
    user = models.ForeignKey(User, models.CASCADE)
    login = models.ForeignKey(Login, models.CASCADE, null=True)
    expires = models.DateTimeField(db_index=True)
    token_expires = models.DateTimeField(null=True)  # when the token that bought it ends


OF = ("user", "group", "key", "flow")  # whose a budget is: one of these


def _is_of(name: str) -> Q:
    return Q(**{f"{other}__isnull": other != name for other in OF})


class Budget(models.Model):
    """How much may be used in each day or month, by one user, by a group's members together, by a key, by a flow.

    A limit that is null is none. Flows are of the floor above: a plain id.
    """

    class Period(models.TextChoices):
        DAY = "day", _("day")
        MONTH = "month", _("month")

    user = models.ForeignKey(User, models.CASCADE, null=True, blank=True, db_index=False, verbose_name=_("user"))
    group = models.ForeignKey(Group, models.CASCADE, null=True, blank=True, db_index=False, verbose_name=_("group"))
    key = models.ForeignKey(ApiKey, models.CASCADE, null=True, blank=True, db_index=False, verbose_name=_("API key"))
    flow = models.UUIDField(_("flow"), null=True, blank=True)
    period = models.CharField(_("period"), max_length=8, choices=Period.choices)
    limit_tokens = models.PositiveBigIntegerField(_("tokens"), null=True, blank=True, validators=[MinValueValidator(1)])
    limit_cost_micros = models.PositiveBigIntegerField(
        _("cost in micros"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Millionths of what the providers' prices are in: 2500000 is 2.50."),
    )
    created = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("budget")
        verbose_name_plural = _("budgets")
        constraints = [
            *(models.UniqueConstraint(fields=[name, "period"], name=f"budget_once_a_{name}") for name in OF),
            models.CheckConstraint(
                condition=reduce(or_, map(_is_of, OF)),
                name="budget_of_one",
                violation_error_message=_("Choose one: a user, a group, a key or a flow."),
            ),
            models.CheckConstraint(
                condition=Q(limit_tokens__isnull=False) | Q(limit_cost_micros__isnull=False),
                name="budget_limits",
                violation_error_message=_("Set a limit: of tokens, of the cost, or of both."),
            ),
        ]

    @property
    def of(self) -> str:
        """`user`, `group`, `key` or `flow`."""
        return next(name for name in OF if getattr(self, self._meta.get_field(name).attname) is not None)

    def __str__(self) -> str:
        return f"{getattr(self, self.of)}, {self.get_period_display()}"


class Spent(models.Model):
    """What was used of a budget in the day or month that began at `start` (UTC)."""

    budget = models.ForeignKey(Budget, models.CASCADE, related_name="spent", db_index=False)
    start = models.DateField()
    tokens = models.PositiveBigIntegerField(default=0)
    cost_micros = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name = _("spent sum")
        verbose_name_plural = _("spent sums")
        constraints = [models.UniqueConstraint(fields=["budget", "start"], name="spent_once_a_period")]
