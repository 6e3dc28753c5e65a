"""Headrace's side of the measurements, in its own environment: users, tokens, the provider and the flows.

python -m bench.prepare flows MODEL_ADDRESS     tables, the provider `bench`, the flows `bench` and `plain`
python -m bench.prepare tokens COUNT            so many users, each with an access token: one a line
"""

import asyncio
import os
import sys
from datetime import timedelta
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"

import django
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import transaction

django.setup()

from accounts.tokens import mint  # noqa: E402
from flows import build, store  # noqa: E402
from flows.models import Provider  # noqa: E402

TOKEN_LIFE = timedelta(hours=6)
OWNER = "bench"


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


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    if command == "flows":
        flows(argument)
    else:
        print("\n".join(tokens(int(argument))))
