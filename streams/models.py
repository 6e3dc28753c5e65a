"""Rows of workers and sockets. Flow and chat are plain UUIDs here: what they are is for floors above."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from streams.states import Door, Kind, StreamState

# What people read; the enums are pure and know no language.
DOORS = [
    (Door.CHAT.value, _("chat")),
    (Door.DEBUG.value, _("debug run")),
    (Door.CALL.value, _("handler calls")),
    (Door.VOICE.value, _("voice")),
    (Door.SSE.value, _("server-sent events")),
]
KINDS = [
    (Kind.TEXT.value, _("text")),
    (Kind.AUDIO.value, _("audio")),
    (Kind.VIDEO.value, _("video")),
    (Kind.MIXED.value, _("mixed")),
]
STATES = [
    (StreamState.CONNECTING.value, _("connecting")),
    (StreamState.CONNECTED.value, _("connected")),
    (StreamState.STREAMING.value, _("streaming")),
    (StreamState.PAUSED.value, _("paused")),
    (StreamState.DISCONNECTED.value, _("disconnected")),
    (StreamState.ERROR.value, _("error")),
]


class Worker(models.Model):
    """One process. Alive means `last_seen` is recent by the database's clock, and nothing else."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(_("host"), max_length=255)
    pid = models.PositiveIntegerField(_("process"))
    started = models.DateTimeField(_("started"))
    last_seen = models.DateTimeField(_("last seen"), db_index=True)
    runs_turns = models.BooleanField(_("runs turns"), default=True)
    draining = models.BooleanField(_("draining"), default=False)
    buried_at = models.DateTimeField(_("given up at"), null=True, blank=True)

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class StreamSession(models.Model):
    """One admitted socket. Counters: frames and their payload bytes, counted when the write returned."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="stream_sessions", verbose_name=_("user")
    )
    flow = models.UUIDField(_("flow"), null=True, blank=True, db_index=True)
    chat = models.UUIDField(_("chat"), null=True, blank=True, db_index=True)
    door = models.CharField(_("door"), max_length=8, choices=DOORS, default=Door.CHAT)
    kind = models.CharField(_("kind"), max_length=8, choices=KINDS, default=Kind.TEXT)
    state = models.CharField(_("state"), max_length=16, choices=STATES, default=StreamState.CONNECTING)
    worker = models.UUIDField(_("worker"), null=True, blank=True, db_index=True)
    address = models.GenericIPAddressField(_("address"), null=True, blank=True)
    user_agent = models.CharField(_("program"), max_length=255, blank=True)
    dialect = models.CharField(_("dialect"), max_length=32, default="headrace.v1")
    trace = models.CharField(_("trace"), max_length=32, blank=True)
    bytes_sent = models.BigIntegerField(_("bytes sent"), default=0)
    bytes_recv = models.BigIntegerField(_("bytes received"), default=0)
    chunks_sent = models.BigIntegerField(_("frames sent"), default=0)
    chunks_recv = models.BigIntegerField(_("frames received"), default=0)
    started = models.DateTimeField(_("started"), db_index=True)
    last_seen = models.DateTimeField(_("last seen"))
    ended = models.DateTimeField(_("ended"), null=True, blank=True)
    close_code = models.PositiveSmallIntegerField(_("close code"), null=True, blank=True)
    close_reason = models.CharField(_("close reason"), max_length=64, blank=True)
    close_asked = models.DateTimeField(_("close asked for"), null=True, blank=True)  # by an operator

    class Meta:
        verbose_name = _("stream session")
        verbose_name_plural = _("stream sessions")
        indexes = [
            models.Index(fields=["state", "-started"]),
            models.Index(fields=["-started", "-id"]),
            # What operators filter by, each in the order of their list.
            models.Index(fields=["flow", "-started", "-id"], name="session_flow_started"),
            models.Index(fields=["user", "-started", "-id"], name="session_user_started"),
            models.Index(fields=["kind", "-started", "-id"], name="session_kind_started"),
            models.Index(
                fields=["worker"], condition=Q(close_asked__isnull=False, ended=None), name="session_close_asked"
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)[:8]


class StreamSamples(models.Model):
    """A session's counters over time, a bounded number of points: see `streams/samples.py`."""

    session = models.UUIDField(primary_key=True, editable=False)
    points = models.JSONField(default=list)
