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
        QUEUE = "queue", _("waits for its turn")
        REJECT = "reject", _("is refused")
        INTERRUPT = "interrupt", _("stops that answer")

    class Visibility(models.TextChoices):
        EVERYONE = "everyone", _("everyone")
        GROUPS = "groups", _("the groups below")
        OWNER = "owner", _("its owner and staff")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.CharField(_("slug"), max_length=64)
    name = models.CharField(_("name"), max_length=120)
    description = models.TextField(_("description"), blank=True)
    icon = models.CharField(_("icon"), max_length=16, blank=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="flows", verbose_name=_("owner"))
    status = models.PositiveSmallIntegerField(_("status"), choices=Status.choices, default=Status.OFFLINE)
    draft = models.JSONField(_("draft"), default=dict)
    revision = models.PositiveIntegerField(_("revision"), default=1, editable=False)  # grows at each save of the draft
    published = models.ForeignKey(
        "FlowVersion", models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("published version")
    )
    double_text = models.CharField(
        _("a message while an answer is written"), max_length=16, choices=DoubleText.choices, default=DoubleText.QUEUE
    )
    visibility = models.CharField(
        _("visible to"), max_length=16, choices=Visibility.choices, default=Visibility.EVERYONE
    )
    groups = models.ManyToManyField(Group, blank=True, verbose_name=_("groups"))
    deleted = models.BooleanField(_("deleted"), default=False)
    created = models.DateTimeField(_("created"), auto_now_add=True)
    updated = models.DateTimeField(_("changed"), auto_now=True)

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
    flow = models.ForeignKey(Flow, models.CASCADE, related_name="versions", verbose_name=_("flow"))
    number = models.PositiveIntegerField(_("number"))
    graph = models.JSONField(_("graph"))
    checksum = models.CharField(_("checksum"), max_length=64)
    note = models.TextField(_("note"), blank=True)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, verbose_name=_("author"))
    created = models.DateTimeField(_("published"), auto_now_add=True)

    class Meta:
        verbose_name = _("version")
        verbose_name_plural = _("versions")
        constraints = [models.UniqueConstraint(fields=["flow", "number"], name="version_number_unique")]

    def __str__(self) -> str:
        return _("Version %(number)s of %(flow)s") % {"number": self.number, "flow": self.flow}


class Provider(models.Model):
    """A model's server. Graphs name it by slug; the key is kept encrypted and never shown again."""

    class Kind(models.TextChoices):
        SCRIPTED = "scripted", _("scripted answers")
        OPENAI = "openai_compatible", _("server that speaks OpenAI's API")

    class OnTakeover(models.TextChoices):
        RESTART = "restart", _("the answer begins anew")
        CONTINUE = "continue", _("the answer goes on where it was cut")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(_("slug"), max_length=64, unique=True)
    kind = models.CharField(_("kind"), max_length=32, choices=Kind.choices)
    base_url = models.CharField(_("address"), max_length=500, blank=True)
    key_encrypted = models.TextField(blank=True, editable=False)
    model_names = models.JSONField(
        _("models"), default=list, blank=True, help_text=_("Names that graphs may use; the first is the default.")
    )
    options = models.JSONField(_("options"), default=dict, blank=True)  # scripted: rules, pace, faults
    on_takeover = models.CharField(
        _("after a lost worker"), max_length=16, choices=OnTakeover.choices, default=OnTakeover.RESTART
    )
    prices = models.JSONField(
        _("prices"), default=dict, blank=True, help_text=_("Micros per million tokens: input, output, cached.")
    )
    takes_pictures = models.BooleanField(
        _("takes pictures"),
        default=False,
        help_text=_("Pictures that come with a message are sent to it; else only their names."),
    )
    enabled = models.BooleanField(_("in use"), default=True)
    updated = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("provider")
        verbose_name_plural = _("providers")

    def __str__(self) -> str:
        return self.slug
