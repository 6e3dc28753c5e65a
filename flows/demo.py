"""The demo: three flows that show what Headrace does, made once for a fresh installation.

`guide` answers questions about Headrace by a script, at a pace that one can read; `wizard` asks in all three ways;
`assistant` talks with an OpenAI-compatible server and is online where its settings are given.
"""

from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction

from flows import build, store
from flows import providers as machines
from flows.models import Flow, Provider
from streams import database

OWNER = "admin"
PROVIDER = "scripted"

WHAT = """\
**Headrace** is a chat platform. People build *flows*, publish them, and chat with them over a WebSocket. Every \
answer streams, token by token, and survives whatever happens on the way.

The name comes from mills: a headrace is the channel that carries water to the wheel, steadily, whatever happens \
upstream. Here is what it carries:

- **answers** that go on while you reload the page, and are whole when you come back
- **questions**: a flow may ask you something and wait for days without holding anything in memory
- **many workers** behind one address, which take over from each other when one dies

It is made of Django, Channels and Redis, and runs from one command on an empty machine.

Ask me *how to build a flow*, *how resuming works*, or *what the socket speaks*.
"""

BUILD = """\
## Building a flow

A flow is a graph: one JSON document of nodes and edges. One node is active at a time, and a run walks from the \
start to an end.

| kind | what it does |
| --- | --- |
| `message` | says a text |
| `question` | asks, with options, a form, or free text |
| `condition` | chooses a branch |
| `llm` | lets a model answer |
| `set` | keeps a value with the chat |

The smallest one that greets looks like this:

```json
{
  "schema": 1,
  "nodes": [
    {"id": "start", "kind": "start"},
    {"id": "hello", "kind": "message", "fields": {"text": "Hello, {{ user.name }}!"}},
    {"id": "end", "kind": "end"}
  ],
  "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end"}]
}
```

1. Save the draft.
2. **Build** it. Everything that is wrong is told at once, at the node and field where it is.
3. Try it in a debug run, which needs no publication.
4. **Publish** it. A version never changes afterwards, and a turn stays on the version it began with.
"""

RESUME = """\
## What survives, and how

Nothing that was accepted is lost, and nothing is doubled. Three things hold that up:

1. **The database decides.** A message is accepted when its transaction is committed, never before.
2. **Events have positions.** In a chat they are numbered 1, 2, 3 … without a gap, the same for every tab.
3. **Answers do not belong to sockets.** A turn runs on whether you look or not.

So when your connection breaks, the client comes back with the last position that it applied:

```
/chat/guide?chat_id=…&epoch=9f2c61d07ab3e845&seq=128
```

and gets everything after it. If that position is too old, it gets a *snapshot* of the chat instead.

> Try it: ask me something long, and reload the page in mid-answer.

A worker that dies is noticed within seconds. Another one claims its turns and goes on from the journal, in which \
every step that was done is kept, so no step is done twice.
"""

SOCKET = """\
## The socket

Connect with the subprotocol `headrace.v1`; frames are JSON text. In JavaScript:

```js
const chat = crypto.randomUUID();
const socket = new WebSocket(`ws://${location.host}/chat/guide?chat_id=${chat}`, "headrace.v1");
socket.onmessage = ({ data }) => console.log(JSON.parse(data));
socket.onopen = () => socket.send(JSON.stringify({ type: "say", id: "m1", text: "Hello" }));
```

You say something with `say`; the answer comes in these events:

| event | meaning |
| --- | --- |
| `turn_start` | a run begins; it replaces what was shown of the turn |
| `part` | a piece of the answer opens |
| `delta` | more text of it |
| `part_end` | it is whole |
| `turn_end` | exactly one a turn |

Every command has an `id` of your own. Send it again with the same id, on any socket, and you get the same reply, \
and nothing is done twice.
"""

LIMITS = """\
## When things go wrong

Every refusal has a name, a sentence and a code, the same at every door: socket, event stream and REST.

- `queue_full`: five messages wait already. Let an answer end, or stop one.
- `provider_timeout`: the model did not answer in time. What it had written is kept.
- `loop_bound`: a flow went round more than twenty times. It is stopped, not your chat.
- `unavailable`: the database or Redis cannot be reached. Send again with the same id.

What you see of an answer stays yours: a turn that ends in an error keeps the text that it had.

For operators, `manage.py doctor` checks database, Redis, secrets and the socket itself:

```sh
.venv/bin/python manage.py doctor
```
"""

HELLO = """\
Hello! I am the guide, and I know my way around **Headrace**.

You may ask me:

- *what Headrace is*
- *how to build a flow*
- *how resuming works*
- *what the socket speaks*
- *what happens when something fails*

I answer from a script, so nothing outside of this machine is asked.
"""

DEFAULT = """\
I answer from a script, and it has no page for this. What it does know:

- **what Headrace is**, and what its name means
- **how to build a flow**: nodes, edges, publishing
- **how resuming works**: positions, snapshots, takeovers
- **the socket**: its frames, in a few lines of JavaScript
- **errors**: what the names of refusals mean

For a model that answers anything, set `OPENAI_MODEL` and `OPENAI_API_KEY`, or \
`OPENAI_BASE_URL` of a server of your own, start again, and open the flow `assistant`.

| I want to | ask for |
| --- | --- |
| make a flow of my own | *how do I build a flow?* |
| write a client | *what does the socket speak?* |
| trust it | *how does resuming work?* |

You can also just reload this page while I am writing:

```
nothing is lost, nothing is doubled
```
"""

SCRIPT: dict[str, Any] = {
    "rules": [
        {"match": r"\b(build|node|graph|publish|version|draft|edit(or)?|make a flow|create a flow)\b", "text": BUILD},
        {"match": r"\b(resum\w*|reload|refresh|reconnect\w*|lost|lose|surviv\w*|crash\w*|durab\w*)\b", "text": RESUME},
        {"match": r"\b(web ?)?sockets?\b|\b(api|client|frames?|events?|protocol|javascript|sdk)\b", "text": SOCKET},
        {"match": r"\b(errors?|fail\w*|wrong|refus\w*|limits?|bounds?|timeout|doctor)\b", "text": LIMITS},
        {"match": r"\b(what|who|why|tell|explain|about|headrace|name)\b", "text": WHAT},
        {"match": r"^\W*(hello|hi|hey|good (morning|day|evening)|help)\b", "text": HELLO},
    ],
    "default": DEFAULT,
    "pace_tokens_per_s": 40,
    "first_token_ms": 400,
}

GUIDE: dict[str, Any] = {
    "schema": 1,
    "nodes": [
        {
            "id": "start",
            "kind": "start",
            "title": "Start",
            "fields": {
                "greeting": "Ask me about Headrace: what it is, how to build a flow, how an answer survives.",
                "suggestions": [
                    "What is Headrace?",
                    "How do I build a flow?",
                    "How does resuming work?",
                    "What does the socket speak?",
                ],
            },
            "at": [40, 120],
        },
        {
            "id": "answer",
            "kind": "llm",
            "title": "Answer",
            "fields": {"provider": PROVIDER, "prompt": "{{ input.text }}"},
            "at": [320, 120],
        },
        {"id": "end", "kind": "end", "title": "End", "at": [600, 120]},
    ],
    "edges": [{"from": "start", "to": "answer"}, {"from": "answer", "to": "end"}],
}

WIZARD: dict[str, Any] = {
    "schema": 1,
    "nodes": [
        {
            "id": "start",
            "kind": "start",
            "title": "Start",
            "fields": {
                "greeting": "I ask three things and greet you with the answers. Say anything to begin.",
                "suggestions": ["Let us begin"],
            },
            "at": [40, 200],
        },
        {
            "id": "drink",
            "kind": "question",
            "title": "Ask for a drink",
            "fields": {
                "text": "What may I bring you?",
                "options": [
                    {"id": "tea", "label": "Tea"},
                    {"id": "coffee", "label": "Coffee"},
                    {"id": "nothing", "label": "Nothing, thank you"},
                ],
            },
            "at": [300, 200],
        },
        {
            "id": "serve",
            "kind": "message",
            "title": "Serve it",
            "fields": {"text": "{{ drink.label }} it is.\n"},
            "at": [560, 120],
        },
        {
            "id": "spare",
            "kind": "message",
            "title": "Nothing to serve",
            "fields": {"text": "As you like.\n"},
            "at": [560, 280],
        },
        {
            "id": "name",
            "kind": "question",
            "title": "Ask for the name",
            "fields": {"text": "And what is your name?"},
            "at": [820, 200],
        },
        {
            "id": "details",
            "kind": "question",
            "title": "Ask for details",
            "fields": {
                "text": "A few details{% if name.value %}, {{ name.value }}{% endif %}:",
                "schema": {
                    "type": "object",
                    "properties": {
                        "cups": {
                            "type": "integer",
                            "title": "How many cups?",
                            "default": 1,
                            "minimum": 0,
                            "maximum": 12,
                        },
                        "place": {
                            "type": "string",
                            "title": "Where do you sit?",
                            "enum": ["at the window", "by the fire", "outside"],
                            "default": "at the window",
                        },
                        "sweet": {"type": "boolean", "title": "With something sweet?", "default": True},
                    },
                    "required": ["cups", "place"],
                },
            },
            "at": [1080, 200],
        },
        {
            "id": "many",
            "kind": "condition",
            "title": "Many cups?",
            "fields": {
                "cases": [
                    {"branch": "many", "when": {"all": [{"left": "{{ details.value.cups }}", "op": "gt", "right": 3}]}}
                ]
            },
            "at": [1340, 200],
        },
        {
            "id": "pot",
            "kind": "message",
            "title": "A pot",
            "fields": {"text": "{{ details.value.cups }} cups: I had better bring a pot.\n"},
            "at": [1600, 120],
        },
        {
            "id": "keep",
            "kind": "set",
            "title": "Remember the guest",
            "fields": {"name": "guest", "value": "{{ name.value | default: 'dear guest' }}"},
            "at": [1600, 280],
        },
        {
            "id": "greet",
            "kind": "message",
            "title": "Greet",
            "fields": {
                "text": (
                    "Welcome, **{{ vars.guest }}**!\n\n"
                    "- your drink: {{ drink.label | default: 'nothing' }}\n"
                    "{% if details.value %}"
                    "- cups: {{ details.value.cups }}\n"
                    "- your place: {{ details.value.place }}\n"
                    "{% if details.value.sweet %}- and a piece of cake\n{% endif %}"
                    "{% endif %}"
                )
            },
            "at": [1860, 200],
        },
        {
            "id": "end",
            "kind": "end",
            "title": "End",
            "fields": {
                "data": {
                    "name": "{{ name.value }}",
                    "drink": "{{ drink.value }}",
                    "details": "{{ details.value }}",
                }
            },
            "at": [2120, 200],
        },
    ],
    "edges": [
        {"from": "start", "to": "drink"},
        {"from": "drink", "to": "spare", "branch": "nothing"},
        {"from": "drink", "to": "spare", "branch": "declined"},
        {"from": "drink", "to": "serve"},
        {"from": "serve", "to": "name"},
        {"from": "spare", "to": "name"},
        {"from": "name", "to": "details"},
        {"from": "details", "to": "keep", "branch": "declined"},
        {"from": "details", "to": "many"},
        {"from": "many", "to": "pot", "branch": "many"},
        {"from": "many", "to": "keep", "branch": "else"},
        {"from": "pot", "to": "keep"},
        {"from": "keep", "to": "greet"},
        {"from": "greet", "to": "end"},
    ],
}

ASSISTANT: dict[str, Any] = {
    "schema": 1,
    "nodes": [
        {
            "id": "start",
            "kind": "start",
            "title": "Start",
            "fields": {
                "greeting": "Ask me anything.",
                "suggestions": ["Explain back-pressure in three sentences", "Write a haiku about water"],
            },
            "at": [40, 120],
        },
        {
            "id": "answer",
            "kind": "llm",
            "title": "Answer",
            "fields": {
                "provider": machines.ENVIRONMENT_SLUG,
                "system": "You are a helpful assistant. Answer in the user's language, in markdown where it helps.",
                "prompt": "{{ input.text }}",
                "history": 20,
            },
            "at": [320, 120],
        },
        {"id": "end", "kind": "end", "title": "End", "at": [600, 120]},
    ],
    "edges": [{"from": "start", "to": "answer"}, {"from": "answer", "to": "end"}],
}

FLOWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "guide": ("Guide", "Answers questions about Headrace itself, from a script.", GUIDE),
    "wizard": ("Wizard", "Asks with options, free text and a form, and greets with what was answered.", WIZARD),
    "assistant": ("Assistant", "A model on any OpenAI-compatible server.", ASSISTANT),
}


async def make() -> list[str]:
    """Make what of the demo was never made, publish what can run; return a line for each flow to speak of.

    A flow that somebody deleted, took offline or edited is left as it is, except that the assistant goes online
    with its settings. Without them it stays as it is: the server that runs may have them, the shell of this need not.
    """
    owner = await database.write(_prepare)
    if owner is None:
        return []
    lines = []
    has_model = await database.read(_has_model)
    for slug in FLOWS:
        flow, is_new = await database.write(_flow, owner, slug)
        if flow is None:
            continue
        is_online = flow.status == Flow.Status.ONLINE
        if slug == "assistant" and is_online and not has_model:
            lines.append(f"{slug}: stays online, but here are no OPENAI_MODEL and OPENAI_API_KEY (or OPENAI_BASE_URL)")
        elif not is_online and (has_model if slug == "assistant" else is_new or flow.published_id is None):
            version = await build.publish(flow.id, owner, "Made by the demo.")
            lines.append(f"{slug}: online, version {version.number}")
        elif is_new:
            lines.append(f"{slug}: offline, it needs OPENAI_MODEL and OPENAI_API_KEY (or OPENAI_BASE_URL)")
    return lines


def _prepare() -> int | None:
    """The owner's id, and the provider of the guide. None: there is nobody to own the flows."""
    owner = get_user_model().objects.filter(username=OWNER).values_list("id", flat=True).first()
    if owner is not None:
        Provider.objects.get_or_create(
            slug=PROVIDER,
            defaults={
                "kind": Provider.Kind.SCRIPTED,
                "options": SCRIPT,
                "on_takeover": Provider.OnTakeover.CONTINUE,
            },
        )
    return owner


def _flow(owner: int, slug: str) -> tuple[Flow | None, bool]:
    """The flow, and whether it was made now; None where it was deleted since, or the slug is another's."""
    name, description, draft = FLOWS[slug]
    with transaction.atomic():
        known = Flow.objects.filter(slug=slug).order_by("deleted").first()
        if known is not None:
            is_ours = not known.deleted and known.owner_id == owner
            return (known if is_ours else None), False
        return store.create_flow(owner, name, slug=slug, draft=draft, description=description), True


def _has_model() -> bool:
    return machines.ENVIRONMENT_SLUG in machines.world().providers
