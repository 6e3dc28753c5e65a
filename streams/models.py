"""Rows of workers and sockets. Flow and chat are plain UUIDs here: what they are is for floors above."""

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from streams.states import Door, Kind, StreamState


class Worker(models.Model):
    """One process. Alive means `last_seen` is recent by the database's clock, and nothing else."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started = models.DateTimeField()
    last_seen = models.DateTimeField(db_index=True)
    runs_turns = models.BooleanField(default=True)
    draining = models.BooleanField(default=False)
    buried_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class StreamSession(models.Model):
    """One admitted socket. Counters: frames and their payload bytes, counted when the write returned."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="stream_sessions")
    flow = models.UUIDField(null=True, blank=True, db_index=True)
    chat = models.UUIDField(null=True, blank=True, db_index=True)
    door = models.CharField(max_length=8, choices=Door.choices(), default=Door.CHAT)
    kind = models.CharField(max_length=8, choices=Kind.choices(), default=Kind.TEXT)
    state = models.CharField(max_length=16, choices=StreamState.choices(), default=StreamState.CONNECTING)
    worker = models.UUIDField(null=True, blank=True, db_index=True)
    address = models.GenericIPAddressField(null=True, blank=True)
    user_agent = models.CharField(max_length=255, blank=True)
    dialect = models.CharField(max_length=32, default="headrace.v1")
    trace = models.CharField(max_length=32, blank=True)
    bytes_sent = models.BigIntegerField(default=0)
    bytes_recv = models.BigIntegerField(default=0)
    chunks_sent = models.BigIntegerField(default=0)
    chunks_recv = models.BigIntegerField(default=0)
    started = models.DateTimeField(db_index=True)
    last_seen = models.DateTimeField()
    ended = models.DateTimeField(null=True, blank=True)
    close_asked = models.DateTimeField(null=True, blank=True)  # when an operator asked for its end
    close_code = models.PositiveSmallIntegerField(null=True, blank=True)
    close_reason = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name = _("stream session")
        verbose_name_plural = _("stream sessions")
        indexes = [
            models.Index(fields=["state", "-started"]),
            models.Index(fields=["-started", "-id"]),
        ]

    def __str__(self) -> str:
        return str(self.id)
