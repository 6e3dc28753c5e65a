"""Many rows for the pages that list them, in Headrace's own environment, and what each page costs.

python -m bench.pages fill COUNT    chats, turns and sessions up to COUNT each; prints how to look at them
python -m bench.pages queries       prints the queries of each page
"""

import os
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django
import msgspec

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Model  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts.tokens import mint  # noqa: E402
from bench.contenders import Look  # noqa: E402
from chat.models import Chat, Message, Question, Turn  # noqa: E402
from flows.models import Flow  # noqa: E402
from streams.models import StreamSession, Worker  # noqa: E402

USERS = 200
AT_ONCE = 2000
SPAN = timedelta(days=30)
WORDS = [
    "invoice",
    "holiday",
    "report",
    "password",
    "printer",
    "garden",
    "recipe",
    "contract",
    "travel",
    "budget",
    "summary",
    "poem",
    "schedule",
]
ERRORS = ["provider_timeout", "provider_rate_limited", "flow_error", "worker_lost", "turn_timeout"]
PAGES = {
    "overview": "/admin/",
    "sessions": "/admin/streams/streamsession/",
    "totals of all sessions": "/admin/streams/streamsession/totals/",
    "sessions, last page": "/admin/streams/streamsession/?p=last",
    "sessions, live": "/admin/streams/streamsession/?state=live",
    "sessions of a flow": "/admin/streams/streamsession/?flow={flow}",
    "sessions, user searched": "/admin/streams/streamsession/?q=reader7",
    "turns": "/admin/chat/turn/",
    "turns, errors": "/admin/chat/turn/?state=error",
    "turns, title searched": "/admin/chat/turn/?q=holiday",
    "chats": "/admin/chat/chat/",
    "chats, nothing found": "/admin/chat/chat/?q=unheard-of",
    "a chat": "/admin/chat/chat/{chat}/change/",
    "flows": "/admin/flows/flow/",
    "sessions by REST": "/api/sessions/",
}


def fill(count: int) -> Look:
    """The same rows for the same count, the newest first come to be last."""
    chance = random.Random(count)
    operator, _ = get_user_model().objects.get_or_create(
        username="operator", defaults={"is_staff": True, "is_superuser": True}
    )
    users = _users()
    flows = list(Flow.objects.all())
    worker = Worker.objects.first() or Worker.objects.create(
        host="box", pid=1, started=timezone.now(), last_seen=timezone.now()
    )
    begun, now = Chat.objects.count(), timezone.now()
    step = SPAN / max(count, 1)

    def rows() -> Iterator[list[Model]]:
        for number in range(begun, count):
            at = now - step * (count - number)
            yield _one(chance, number, at, chance.choice(users), chance.choice(flows), worker)

    _keep(rows())
    client = Client()
    client.force_login(operator)
    return Look(
        f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}",
        mint(operator, timedelta(hours=6)),
        _pages(),
    )


def _users() -> list[Any]:
    users = get_user_model().objects
    users.bulk_create([users.model(username=f"reader{i}", password="!") for i in range(USERS)], ignore_conflicts=True)
    return list(users.filter(username__startswith="reader"))


def _one(chance: random.Random, number: int, at: Any, user: Any, flow: Flow, worker: Worker) -> list[Model]:
    """A chat with a turn, its two messages, a session, and at times a question."""
    title = " ".join(chance.choices(WORDS, k=3))
    chat = Chat(id=_id(chance), user=user, flow=flow, title=title, last_number=1)
    said = Message(id=_id(chance), chat=chat, role="user", parts=[_part(f"About {title}?")], created=at)
    has_failed = chance.random() < 0.05
    turn = Turn(
        id=_id(chance), chat=chat, user=user, number=1, input=said.id, answer=_id(chance), version_id=flow.published_id,
        state="error" if has_failed else "done", attempt=1, created=at, running_at=at,
        ended_at=at + timedelta(seconds=chance.uniform(1, 30)), first_token_ms=int(chance.lognormvariate(6, 0.6)),
        usage={"input_tokens": chance.randint(50, 4000), "output_tokens": chance.randint(10, 900), "model": "bench"},
        error={"code": chance.choice(ERRORS), "text": "It failed.", "retryable": True} if has_failed else None,
    )  # fmt: skip
    answer = Message(
        id=turn.answer, chat=chat, role="assistant", parent=said.id, turn=turn.id, status=turn.state,
        parts=[_part(f"All there is to say of {title}. " * 10)], created=turn.ended_at,
    )  # fmt: skip
    chat.head = answer.id
    frames = chance.randint(3, 3000)
    session = StreamSession(
        id=_id(chance), user=user, flow=flow.id, chat=chat.id, worker=worker.id, started=at,
        last_seen=turn.ended_at, ended=turn.ended_at, state="error" if has_failed else "disconnected",
        kind=chance.choice(["text"] * 9 + ["audio"]), close_code=1001, bytes_sent=frames * chance.randint(40, 400),
        chunks_sent=frames, bytes_recv=chance.randint(60, 4000), chunks_recv=chance.randint(1, 200),
        address="192.0.2.7", user_agent="Mozilla/5.0",
    )  # fmt: skip
    rows: list[Model] = [chat, said, answer, turn, session]
    if number % 20 == 0:
        rows.append(Question(turn=turn, key="ask", part="1.ask#1", text=f"Which {title}?", expires=at, action="cancel"))
    chat.last_turn_at = chat.created = at
    return rows


def _part(text: str) -> dict[str, Any]:
    return {"id": "1.llm1#1", "kind": "text", "text": text, "node": "llm1"}


def _id(chance: random.Random) -> uuid.UUID:
    return uuid.UUID(int=chance.getrandbits(128), version=4)


def _keep(rows: Iterator[list[Model]]) -> None:
    """In the order of what names what, many at once."""
    for name in ("created", "last_turn_at"):
        Chat._meta.get_field(name).auto_now_add = False  # they were then, not now
    held: dict[type[Model], list[Model]] = {model: [] for model in (Chat, Message, Turn, StreamSession, Question)}

    def write() -> None:
        for model, waiting in held.items():
            model.objects.bulk_create(waiting)
            waiting.clear()

    for made in rows:
        for row in made:
            held[type(row)].append(row)
        if len(held[Chat]) >= AT_ONCE:
            write()
    write()


def _pages() -> dict[str, str]:
    flow, chat = Flow.objects.values_list("id", flat=True)[0], Chat.objects.values_list("id", flat=True)[0]
    counted = min(StreamSession.objects.count(), settings.HEADRACE.admin_counted_rows)
    last = max(1, -(-counted // settings.HEADRACE.admin_rows))
    return {name: path.format(flow=flow, chat=chat).replace("last", str(last)) for name, path in PAGES.items()}


def queries(look: Callable[[], dict[str, str]] = _pages) -> dict[str, int]:
    """How many queries each page makes."""
    client = Client(SERVER_NAME="localhost")
    operator = get_user_model().objects.get(username="operator")
    client.force_login(operator)
    bearer = {"Authorization": f"Bearer {mint(operator)}"}
    found = {}
    for name, path in look().items():
        headers = bearer if path.startswith("/api/") else {}
        client.get(path, headers=headers)
        with CaptureQueriesContext(connection) as captured:
            status = client.get(path, headers=headers).status_code
        if status != 200:
            raise SystemExit(f"bench: {path} answered {status}")
        found[name] = len(captured)
    return found


if __name__ == "__main__":
    result = fill(int(sys.argv[2])) if sys.argv[1] == "fill" else queries()
    print(msgspec.json.encode(result).decode())
