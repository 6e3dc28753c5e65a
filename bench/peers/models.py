"""The rows that accepting a message writes: as many, with the same keys and texts as Headrace's."""

import uuid
from typing import Any

from django.db import IntegrityError, models, transaction
from django.utils import timezone


class Chat(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    title = models.CharField(max_length=200, blank=True)
    head = models.UUIDField(null=True)
    last_turn_at = models.DateTimeField(db_index=True)


class Message(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="messages")
    role = models.CharField(max_length=16)
    parts = models.JSONField(default=list)
    created = models.DateTimeField(db_index=True)

    class Meta:
        indexes = [models.Index(fields=["chat", "-created", "-id"])]


class Turn(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    chat = models.ForeignKey(Chat, models.CASCADE, related_name="turns")
    input = models.UUIDField()
    answer = models.UUIDField(default=uuid.uuid4)
    state = models.CharField(max_length=8)
    created = models.DateTimeField(db_index=True)


class Command(models.Model):
    scope = models.UUIDField()
    command = models.CharField(max_length=64)
    reply = models.JSONField()
    created = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "command"], name="peer_command_once")]


def accept(chat: str, command: str, text: str) -> dict[str, str]:
    """One transaction: four rows written, nothing read. What a message costs at the least."""
    at = timezone.now()
    chat_id = uuid.UUID(chat)
    message = Message(chat_id=chat_id, role="user", parts=[{"kind": "text", "text": text}], created=at)
    turn = Turn(chat_id=chat_id, input=message.id, state="running", created=at)
    reply = {"message": str(message.id), "turn": str(turn.id), "answer": str(turn.answer)}
    with transaction.atomic():
        fresh = Chat(id=chat_id, title=text[:60], head=message.id, last_turn_at=at)
        if not Chat.objects.filter(id=chat_id).update(head=message.id, last_turn_at=at):
            fresh.save(force_insert=True)
        message.save(force_insert=True)
        turn.save(force_insert=True)
        Command(scope=chat_id, command=command, reply=reply, created=at).save(force_insert=True)
    return reply


def accept_once(chat: str, command: str, text: str) -> tuple[dict[str, str], bool]:
    """As `accept`, but a command that was accepted before has its first reply again; and whether it is a fresh one."""
    try:
        return accept(chat, command, text), True
    except IntegrityError:
        earlier = Command.objects.filter(scope=chat, command=command).first()
        if earlier is None:
            raise
        return earlier.reply, False


def finish(chat: str, turn: str, text: str, state: str = "done") -> None:
    """The answer, saved at its end."""
    at = timezone.now()
    with transaction.atomic():
        answer = Message(chat_id=uuid.UUID(chat), role="assistant", parts=[{"kind": "text", "text": text}], created=at)
        answer.save(force_insert=True)
        Turn.objects.filter(id=turn).update(state=state, answer=answer.id)
        Chat.objects.filter(id=chat).update(head=answer.id)


def history(chat: str) -> list[dict[str, Any]]:
    """What a page shows that is loaded: turns in their order, what was said, and the answers of those that ended."""
    texts = {row.id: row.parts[0]["text"] for row in Message.objects.filter(chat=chat)}
    return [
        {
            "turn": str(turn.id),
            "state": turn.state,
            "said": texts[turn.input],
            "answer": texts.get(turn.answer, ""),
        }
        for turn in Turn.objects.filter(chat=chat).order_by("created")
    ]
