"""Rows of chats, turns and files (docs: durability). Written only in `chat/turns/store/`, and files in
`chat/files/store.py` too.
"""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from chat.turns.states import ACTIVE, TurnState

# What people read; the enum is pure and knows no language.
STATES = [
    (TurnState.QUEUED.value, _("queued")),
    (TurnState.RUNNING.value, _("running")),
    (TurnState.WAITING.value, _("waiting for an answer")),
    (TurnState.DONE.value, _("done")),
    (TurnState.STOPPED.value, _("stopped")),
    (TurnState.ERROR.value, _("error")),
]


class Owing(models.Model):
    """A row whose last change owes clients an event. `owes`: the worker that wrote it; `told`: it was appended."""

    owes = models.UUIDField(null=True, blank=True)
    told = models.BooleanField(default=True)
    rev = models.PositiveIntegerField(default=0)

    class Meta:
        abstract = True


class Chat(Owing):
    class Kind(models.TextChoices):
        CHAT = "chat", _("chat")
        DEBUG = "debug", _("debug")
        CALL = "call", _("call")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices, default=Kind.CHAT)
    # Foreign keys without an index of their own are led by one of those below: each costs a page at every begin.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="chats", verbose_name=_("user"), db_index=False
    )
    flow = models.ForeignKey(
        "flows.Flow", models.PROTECT, null=True, related_name="chats", verbose_name=_("flow"), db_index=False
    )
    graph = models.JSONField(null=True, blank=True)  # a debug chat's copy of the build
    title = models.CharField(_("title"), max_length=200, blank=True)
    # What `q` looks in: `shapes.folded` of the title. The default is the database's too, for older workers.
    search_title = models.TextField(default="", db_default="", blank=True, editable=False)
    head = models.UUIDField(_("shown leaf"), null=True, blank=True)  # the leaf that is shown; may name an answer to be
    pinned = models.BooleanField(_("pinned"), default=False)
    last_number = models.PositiveIntegerField(default=0)  # the number of the last turn
    vars = models.JSONField(default=dict, blank=True)
    locale = models.CharField(_("language"), max_length=16, blank=True)
    deleted = models.BooleanField(_("deleted"), default=False)
    created = models.DateTimeField(_("created"), auto_now_add=True)
    last_turn_at = models.DateTimeField(_("last turn"), auto_now_add=True)

    class Meta:
        verbose_name = _("chat")
        verbose_name_plural = _("chats")
        indexes = [
            models.Index(fields=["user", "kind", "deleted", "-last_turn_at"]),
            models.Index(fields=["told"], condition=Q(told=False), name="chat_owed"),
            models.Index(fields=["-last_turn_at", "-id"], name="chat_newest"),
            models.Index(fields=["flow", "-last_turn_at", "-id"], name="chat_newest_of_flow"),
        ]

    def __str__(self) -> str:
        return self.title or _("Untitled chat %(id)s") % {"id": str(self.id)[:8]}


class Messages(models.Manager):
    """Rows without what only the database looks at: an answer's text is in its parts already."""

    def get_queryset(self) -> models.QuerySet:
        return super().get_queryset().defer("search_text")


class Message(models.Model):
    class Role(models.TextChoices):
        USER = "user", _("user")
        ASSISTANT = "assistant", _("assistant")
        NOTICE = "notice", _("notice")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="messages", db_index=False)
    parent = models.UUIDField(null=True, blank=True)  # may name the answer of a turn that has not ended
    role = models.CharField(max_length=16, choices=Role.choices)
    parts = models.JSONField(default=list)
    # What `q` looks in: `shapes.search_text` of the parts. The default is the database's too, for older workers.
    search_text = models.TextField(default="", db_default="", blank=True, editable=False)
    turn = models.UUIDField(null=True, blank=True)
    status = models.CharField(max_length=8, default="done")
    client_id = models.CharField(max_length=64, blank=True)
    feedback = models.JSONField(null=True, blank=True)
    created = models.DateTimeField()

    objects = Messages()

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        indexes = [models.Index(fields=["chat", "-created", "-id"])]


class File(models.Model):
    """What somebody uploaded. `ready`: its bytes are kept; `named`: a message names it; others go after a day."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="files")
    name = models.CharField(_("name"), max_length=255)
    mime = models.CharField(max_length=100)
    bytes = models.PositiveIntegerField()
    text = models.TextField(blank=True)  # what of it a model reads
    key = models.CharField(max_length=200)  # in the storage
    ready = models.BooleanField(default=False)
    named = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("file")
        verbose_name_plural = _("files")
        indexes = [models.Index(fields=["created"], condition=Q(named=False), name="file_unnamed")]


class Command(models.Model):
    """A command and its reply: the same id again answers the same."""

    scope = models.UUIDField()  # the chat; outside a chat the user (as a UUID made of his id)
    command = models.CharField(max_length=64)
    body_hash = models.CharField(max_length=64)
    reply = models.JSONField()
    created = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "command"], name="command_once")]


class Turn(Owing):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="turns", verbose_name=_("chat"), db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False)  # the chat's
    key = models.UUIDField(null=True, blank=True)  # the API key that said it: its budget counts this turn
    number = models.PositiveIntegerField(_("number"))
    input = models.UUIDField()  # the user's message
    answer = models.UUIDField(default=uuid.uuid4)  # the message to be
    version = models.ForeignKey("flows.FlowVersion", models.PROTECT, null=True, blank=True, verbose_name=_("version"))
    skill = models.CharField(_("handler"), max_length=120, default="flow")
    params = models.JSONField(default=dict, blank=True)
    inputs = models.JSONField(default=dict, blank=True)  # the world as first read
    state = models.CharField(_("state"), max_length=8, choices=STATES, default=TurnState.QUEUED.value)
    worker = models.UUIDField(_("worker"), null=True, blank=True)
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    takeovers = models.PositiveIntegerField(_("takeovers"), default=0)
    stop_at = models.DateTimeField(_("told to stop"), null=True, blank=True)
    parts = models.JSONField(default=list, blank=True)
    usage = models.JSONField(null=True, blank=True)
    data = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    background = models.BooleanField(default=False)
    created = models.DateTimeField(_("created"))
    nodes = models.JSONField(default=list, blank=True)  # the flow's steps as their `node` events told them
    running_at = models.DateTimeField(_("began to run"), null=True, blank=True)
    ran_ms = models.PositiveBigIntegerField(default=0)  # of earlier runs, for turn_timeout
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    # From the beginning of the run that wrote the answer to the answer's first text.
    first_token_ms = models.PositiveIntegerField(_("first token after"), null=True, blank=True)

    class Meta:
        verbose_name = _("turn")
        verbose_name_plural = _("turns")
        constraints = [
            models.UniqueConstraint(fields=["chat", "number"], name="turn_number_unique"),
            models.UniqueConstraint(
                fields=["chat"],
                condition=Q(state__in=sorted(ACTIVE), background=False),
                name="one_active_turn_a_chat",
            ),
        ]
        indexes = [
            models.Index(fields=["worker"], condition=Q(state__in=sorted(ACTIVE)), name="turn_active"),
            models.Index(fields=["told"], condition=Q(told=False), name="turn_owed"),
            models.Index(fields=["user"], condition=Q(state=TurnState.RUNNING.value), name="turn_running_of_user"),
            models.Index(fields=["state", "running_at"]),
            models.Index(fields=["-created", "-id"]),
            models.Index(fields=["state", "-created", "-id"], name="turn_newest_of_state"),
        ]

    def __str__(self) -> str:
        return _("Turn %(number)s of %(chat)s") % {"number": self.number, "chat": self.chat}


class Step(models.Model):
    """The journal: what a turn did, kept so that it is done once."""

    turn = models.ForeignKey(Turn, models.CASCADE, related_name="steps")
    key = models.CharField(max_length=200)
    kind = models.CharField(max_length=16)
    arguments_hash = models.CharField(max_length=64)
    value = models.JSONField(null=True)
    parts = models.JSONField(default=list)  # shown since the step before
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["turn", "key"], name="step_once")]


class Question(models.Model):
    class OnExpiry(models.TextChoices):
        DEFAULT = "default", _("goes on with the default")
        BRANCH = "branch", _("takes the branch of the unanswered")
        END = "end", _("the turn ends")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    turn = models.ForeignKey(Turn, models.CASCADE, related_name="questions", verbose_name=_("turn"))
    key = models.CharField(max_length=200)
    part = models.CharField(max_length=120)
    text = models.TextField(_("text"))
    options = models.JSONField(_("options"), default=list)
    schema = models.JSONField(_("form"), null=True)
    secret = models.BooleanField(_("secret"), default=False)
    expires = models.DateTimeField(_("expires"), db_index=True)
    default = models.JSONField(null=True)
    on_expiry = models.CharField(_("when it expires"), max_length=8, choices=OnExpiry.choices, default=OnExpiry.END)
    action = models.CharField(_("answer"), max_length=8, blank=True)  # empty while it is open
    value = models.JSONField(null=True)
    label = models.TextField(blank=True)
    answered_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, verbose_name=_("answered by"))
    answered_at = models.DateTimeField(_("answered"), null=True)

    class Meta:
        verbose_name = _("question")
        verbose_name_plural = _("questions")
        constraints = [models.UniqueConstraint(fields=["turn", "key"], name="question_once")]
        indexes = [models.Index(fields=["-expires", "-id"], condition=Q(action=""), name="question_open")]

    def __str__(self) -> str:
        return self.text[:80]
