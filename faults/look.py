"""Headrace's rows and log, read by its own models, not through any worker. Import it once Django is set up.

Every function blocks: call it from a thread.
"""

import asyncio
import json
from datetime import timedelta
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections, transaction

from accounts.tokens import mint
from chat.models import Command, Step
from chat.models import Turn as TurnRow
from chat.turns.states import UNENDED, TurnState
from faults import facts
from flows import build, store
from flows.models import Provider
from streams import database
from streams.models import StreamSession
from streams.models import Worker as WorkerRow

TOKEN_LIFE = timedelta(hours=24)
FIRST = "First. "
FIRST_PROMPT = '{"fake": {"text": "First. "}} [first] {{ input.text }}'
SLUGS = ("talk", "ask")


def prepare(model: str) -> str:
    """Tables, a user, a provider, the flows `talk` (two model calls) and `ask` (a question between them). His token."""
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    call_command("migrate", interactive=False, verbosity=0)
    user = get_user_model().objects.create_user("faults")
    Provider.objects.create(slug="model", kind="openai_compatible", base_url=model, model_names=["m"])
    first = {"id": "first", "kind": "llm", "fields": {"provider": "model", "model": "m", "prompt": FIRST_PROMPT}}
    second = {"id": "second", "kind": "llm", "fields": {"provider": "model", "prompt": "{{ input.text }}"}}
    question = {"id": "ask", "kind": "question", "fields": {"text": "Go on?"}}
    made = [
        store.create_flow(user.pk, slug, slug=slug, draft=_line(nodes)).id
        for slug, nodes in zip(SLUGS, ([first, second], [first, question, second]), strict=True)
    ]

    async def publish() -> None:
        for flow in made:
            await build.publish(flow, user.pk, "For the faults.")

    asyncio.run(publish())
    return mint(user, TOKEN_LIFE)


def _line(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    chain = [{"id": "start", "kind": "start"}, *nodes, {"id": "end", "kind": "end"}]
    ids = [node["id"] for node in chain]
    return {
        "schema": 1,
        "nodes": [{"fields": {}, "at": [0, 0], **node} for node in chain],
        "edges": [{"from": a, "to": b} for a, b in zip(ids, ids[1:], strict=False)],
    }


def worker_id(pid: int) -> str | None:
    """The row of the process; it has one since it is ready."""
    row = WorkerRow.objects.filter(pid=pid, buried_at=None).order_by("-started").first()
    return None if row is None else str(row.id)


def unsettled(chats: list[str]) -> list[str]:
    """Turns that run or are queued, and those that owe an event, in words."""
    rows = TurnRow.objects.filter(chat_id__in=chats).order_by("created")
    running = [f"turn {row.id} is {row.state}" for row in rows if row.state in (TurnState.RUNNING, TurnState.QUEUED)]
    return running + [f"turn {row.id}, {row.state}, owes its event" for row in rows if not row.told]


def undead(sessions: list[str], workers: list[str]) -> list[str]:
    """Sessions that have not ended, workers that are dead and not buried."""
    live = StreamSession.objects.filter(id__in=sessions, ended=None).values_list("id", flat=True)
    dead = WorkerRow.objects.filter(id__in=workers, buried_at=None).values_list("id", flat=True)
    return [f"session {id_} is live" for id_ in live] + [f"worker {id_} is not buried" for id_ in dead]


def turns(chats: list[str]) -> list[facts.Turn]:
    return [
        facts.Turn(
            id=str(row.id),
            chat=str(row.chat_id),
            number=row.number,
            input=str(row.input),
            answer=str(row.answer),
            state=row.state,
            attempt=row.attempt,
            takeovers=row.takeovers,
            worker=str(row.worker) if row.worker else None,
            told=row.told,
            error=(row.error or {}).get("code"),
            has_question=row.state in UNENDED and row.questions.filter(action="").exists(),
        )
        for row in TurnRow.objects.filter(chat_id__in=chats).order_by("chat_id", "number")
    ]


def replies(chats: list[str]) -> list[tuple[str, str, facts.Json]]:
    return [(str(row.scope), row.command, row.reply) for row in Command.objects.filter(scope__in=chats)]


def kept(chats: list[str]) -> list[facts.Kept]:
    rows = Step.objects.filter(turn__chat_id__in=chats)
    return [facts.Kept(str(row.turn_id), row.key, row.created.timestamp()) for row in rows]


def usage(turn: str) -> dict[str, Any]:
    return TurnRow.objects.get(id=turn).usage or {}


def sessions(ids: list[str]) -> list[facts.Session]:
    return [
        facts.Session(
            id=str(row.id),
            worker=str(row.worker),
            state=row.state,
            reason=row.close_reason,
            has_ended=row.ended is not None,
            counted=(row.chunks_sent, row.bytes_sent, row.chunks_recv, row.bytes_recv),
        )
        for row in StreamSession.objects.filter(id__in=ids)
    ]


def workers() -> list[facts.Worker]:
    now = database.now()
    return [
        facts.Worker(str(row.id), (now - row.last_seen).total_seconds(), row.buried_at is not None)
        for row in WorkerRow.objects.all()
    ]


def log(client: redis.Redis, chat: str) -> facts.Log:
    """A chat's log. Empty where there is none."""
    tag = f"{settings.REDIS_PREFIX}{{{chat.replace('-', '')}}}"
    epoch, seq = client.hmget(f"{tag}:meta", "epoch", "seq")
    entries = [(int(id_.partition(b"-")[0]), _decoded(fields)) for id_, fields in client.xrange(f"{tag}:log")]
    return facts.Log((epoch or b"").decode(), int(seq or 0), entries)


def _decoded(fields: dict[bytes, bytes]) -> facts.Json:
    (frame,) = fields.values()
    return json.loads(frame)


def left_in(client: redis.Redis, chats: list[str]) -> list[str]:
    """Keys without a time to live, and chats that are watched though nobody looks, in words."""
    prefix = settings.REDIS_PREFIX
    keys = [key.decode() for key in client.scan_iter(f"{prefix}*", count=1000) if client.ttl(key) == -1]
    channels = [f"{prefix}{{{chat.replace('-', '')}}}" for chat in chats]
    watched = [name.decode() for name, count in client.pubsub_numsub(*channels) if count] if channels else []
    return [f"{key} has no time to live" for key in keys] + [f"{channel} is still watched" for channel in watched]


def execute(*statements: str) -> None:
    """SQL of a fault's own, in one transaction."""
    connection = connections["default"]
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def close() -> None:
    database.close()
    connections.close_all()
    pool = getattr(connections["default"], "pool", None)
    if pool is not None:
        pool.close()
