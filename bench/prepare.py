"""Headrace's side of the measurements, in its own environment: users, tokens, the provider and the flows.

python -m bench.prepare flows MODEL_ADDRESS     tables, the provider `bench`, the flows below
python -m bench.prepare tokens COUNT            so many users, each with an access token: one a line
python -m bench.prepare history COUNT           a user's chat of so many stored messages: his token and its id
"""

import asyncio
import os
import sys
import uuid
from datetime import timedelta
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import transaction

django.setup()

from django.utils import timezone  # noqa: E402

from accounts.tokens import mint  # noqa: E402
from chat.models import Chat, Message, Turn  # noqa: E402
from flows import build, store  # noqa: E402
from flows.models import Flow, Provider  # noqa: E402

TOKEN_LIFE = timedelta(hours=6)
OWNER = "bench"
MESSAGES = 60  # of the flow `many`
AT_ONCE = 2000


def line(*nodes: dict[str, Any]) -> dict[str, Any]:
    """A graph of nodes one after the other."""
    ids = [node["id"] for node in nodes]
    return {
        "schema": 1,
        "nodes": [{"fields": {}, "at": [0, 0], **node} for node in nodes],
        "edges": [{"from": a, "to": b} for a, b in zip(ids, ids[1:], strict=False)],
    }


FLOWS = {
    "bench": line(
        {"id": "start", "kind": "start"},
        {"id": "llm1", "kind": "llm", "fields": {"provider": "bench", "prompt": "{{ input.text }}"}},
        {"id": "end", "kind": "end"},
    ),
    "plain": line(
        {"id": "start", "kind": "start"},
        {"id": "say1", "kind": "message", "fields": {"text": "So be it."}},
        {"id": "end", "kind": "end"},
    ),
    "many": line(  # events that come together, so that an append holds many
        {"id": "start", "kind": "start"},
        *({"id": f"say{i}", "kind": "message", "fields": {"text": "So be it."}} for i in range(MESSAGES)),
        {"id": "end", "kind": "end"},
    ),
    "ask": line(
        {"id": "start", "kind": "start"},
        {"id": "ask1", "kind": "question", "fields": {"text": "Go on?"}},
        {"id": "end", "kind": "end"},
    ),
}


def flows(model: str) -> None:
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    call_command("migrate", interactive=False, verbosity=0)
    owner = get_user_model().objects.create_user(OWNER)
    Provider.objects.create(slug="bench", kind="openai_compatible", base_url=model, model_names=["bench"])
    made = [store.create_flow(owner.pk, slug, slug=slug, draft=graph).id for slug, graph in FLOWS.items()]

    async def publish() -> None:
        for flow in made:
            await build.publish(flow, owner.pk, "For the measurements.")

    asyncio.run(publish())


def tokens(count: int) -> list[str]:
    users = get_user_model().objects
    with transaction.atomic():
        begun = users.count()
        made = [users.model(username=f"bench{begun + i}", password="!") for i in range(count)]
        users.bulk_create(made)
        return [mint(user, TOKEN_LIFE) for user in made]


def history(count: int) -> tuple[str, str]:
    """A chat with so many messages, said and answered in turn."""
    [token] = tokens(1)
    user = get_user_model().objects.latest("pk")
    flow = Flow.objects.get(slug="bench")
    now = timezone.now()
    chat = Chat(user=user, flow=flow, title="A long chat", last_number=count // 2)
    turns, messages = [], []
    for number in range(1, count // 2 + 1):
        said, answer, at = uuid.uuid4(), uuid.uuid4(), now - timedelta(minutes=count - number)
        turn = Turn(
            chat=chat, user=user, number=number, input=said, answer=answer, version_id=flow.published_id,
            state="done", attempt=1, created=at, running_at=at, ended_at=at,
        )  # fmt: skip
        turns.append(turn)
        messages += [
            Message(id=said, chat=chat, role="user", parent=chat.head, parts=[_part(0)], created=at),
            Message(
                id=answer, chat=chat, role="assistant", parent=said, turn=turn.id, parts=[_part(1)], created=at,
            ),
        ]  # fmt: skip
        chat.head = answer
    with transaction.atomic():
        chat.save(force_insert=True)
        Turn.objects.bulk_create(turns, AT_ONCE)
        Message.objects.bulk_create(messages, AT_ONCE)
    return token, str(chat.id)


def _part(number: int) -> dict[str, Any]:
    return {"id": f"m{number}", "kind": "text", "text": "All that there is to say of it. " * 8}


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    if command == "flows":
        flows(argument)
    elif command == "history":
        print(*history(int(argument)))
    else:
        print("\n".join(tokens(int(argument))))
