"""Rows of flows, their versions, and the outside machines they name."""

import uuid

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Flow(models.Model):
    class Status(models.IntegerChoices):
        OFFLINE = 1, _("offline")
        ONLINE = 2, _("online")

    class DoubleText(models.TextChoices):
        QUEUE = "queue", _("queue")
        REJECT = "reject", _("reject")
        INTERRUPT = "interrupt", _("interrupt")

    class Visibility(models.TextChoices):
        EVERYONE = "everyone", _("everyone")
        GROUPS = "groups", _("groups")
        OWNER = "owner", _("owner")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.CharField(max_length=64)
    name = models.CharField(_("name"), max_length=120)
    description = models.TextField(_("description"), blank=True)
    icon = models.CharField(max_length=16, blank=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="flows")
    status = models.PositiveSmallIntegerField(choices=Status.choices, default=Status.OFFLINE)
    draft = models.JSONField(_("draft"), default=dict)
    revision = models.PositiveIntegerField(default=1, editable=False)  # grows at each save of the draft
    published = models.ForeignKey("FlowVersion", models.SET_NULL, null=True, blank=True, related_name="+")
    double_text = models.CharField(max_length=16, choices=DoubleText.choices, default=DoubleText.QUEUE)
    visibility = models.CharField(max_length=16, choices=Visibility.choices, default=Visibility.EVERYONE)
    groups = models.ManyToManyField(Group, blank=True)
    deleted = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("flow")
        verbose_name_plural = _("flows")
        constraints = [models.UniqueConstraint(fields=["slug"], condition=Q(deleted=False), name="flow_slug_unique")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_online(self) -> bool:
        return self.status == self.Status.ONLINE


class FlowVersion(models.Model):
    """What was published: never changed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    flow = models.ForeignKey(Flow, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    graph = models.JSONField()
    checksum = models.CharField(max_length=64)
    note = models.TextField(blank=True)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("version")
        verbose_name_plural = _("versions")
        constraints = [models.UniqueConstraint(fields=["flow", "number"], name="version_number_unique")]

    def __str__(self) -> str:
        return f"{self.flow_id} v{self.number}"


class Provider(models.Model):
    """A model's server. Graphs name it by slug; the key is kept encrypted and never shown again."""

    class Kind(models.TextChoices):
        SCRIPTED = "scripted", "scripted"
        OPENAI = "openai_compatible", "openai_compatible"

    class OnTakeover(models.TextChoices):
        RESTART = "restart", _("restart")
        CONTINUE = "continue", _("continue")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(max_length=64, unique=True)
    kind = models.CharField(max_length=32, choices=Kind.choices)
    base_url = models.CharField(_("address"), max_length=500, blank=True)
    key_encrypted = models.TextField(blank=True, editable=False)
    model_names = models.JSONField(
        _("models"), default=list, blank=True, help_text=_("Names that graphs may use; the first is the default.")
    )
    options = models.JSONField(default=dict, blank=True)  # scripted: rules, pace, faults
    on_takeover = models.CharField(max_length=16, choices=OnTakeover.choices, default=OnTakeover.RESTART)
    prices = models.JSONField(
        default=dict, blank=True, help_text=_("Micros per million tokens: input, output, cached.")
    )
    takes_pictures = models.BooleanField(
        default=False, help_text=_("Pictures that come with a message are sent to it; else only their names.")
    )
    enabled = models.BooleanField(default=True)
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("provider")
        verbose_name_plural = _("providers")

    def __str__(self) -> str:
        return self.slug
