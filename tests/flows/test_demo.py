import re
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import override_settings

from flows import demo, graph, providers, schemas, store
from flows.context import Answer, LLMResult
from flows.engine import run_flow
from flows.kinds import KINDS
from flows.models import Flow, FlowVersion, Provider
from providers.base import LLMMessage, LLMRequest
from providers.scripted import Scripted, tokens_of
from streams import database
from tests.flows.fake import FakeContext

WITH_MODEL = {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_MODEL": "m"}


@pytest.fixture
def admin(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("admin")


async def statuses() -> dict[str, int]:
    return await database.read(lambda: dict(Flow.objects.filter(deleted=False).values_list("slug", "status")))


async def test_the_demo_is_made_once_and_published_by_the_real_build(stores: None, admin: Any) -> None:
    assert len(await demo.make()) == 3
    assert await statuses() == {"guide": 2, "wizard": 2, "assistant": 1}
    assert await demo.make() == []
    assert await database.read(FlowVersion.objects.count) == 2
    owners = await database.read(lambda: set(Flow.objects.values_list("owner__username", flat=True)))
    assert owners == {"admin"}


def test_the_command_makes_the_demo_and_says_what_it_did(admin: Any, redis_url: str) -> None:
    told = StringIO()
    call_command("demo", stdout=told)
    assert [line.split(":")[0].strip() for line in told.getvalue().splitlines()] == ["guide", "wizard", "assistant"]
    told = StringIO()
    call_command("demo", stdout=told)
    assert told.getvalue() == ""


async def test_without_an_admin_nothing_is_made(stores: None) -> None:
    assert await demo.make() == []
    assert await statuses() == {}


async def test_the_assistant_goes_online_with_its_settings_and_stays_so_without_them(stores: None, admin: Any) -> None:
    await demo.make()
    with override_settings(**WITH_MODEL):
        assert len(await demo.make()) == 1
        assert (await statuses())["assistant"] == 2
        assert await demo.make() == []
    (line,) = await demo.make()
    assert line.startswith("assistant: stays online")
    assert (await statuses())["assistant"] == 2


async def test_what_people_did_to_the_demo_stays(stores: None, admin: Any) -> None:
    await demo.make()
    guide, wizard = await database.read(lambda: [store.find_flow(slug) for slug in ("guide", "wizard")])
    await database.write(store.offline, guide.id)
    await database.write(store.delete, wizard.id)
    await database.write(lambda: Provider.objects.update(options={}))
    assert await demo.make() == []
    assert await statuses() == {"guide": 1, "assistant": 1}
    assert (await database.read(Provider.objects.get)).options == {}


async def test_another_owners_flow_of_that_name_is_left_alone(stores: None, admin: Any, owner: Any) -> None:
    await database.write(lambda: store.create_flow(owner.id, "Guide", slug="guide"))
    await demo.make()
    assert await statuses() == {"guide": 1, "wizard": 2, "assistant": 1}


@pytest.mark.parametrize("slug", sorted(demo.FLOWS))
def test_each_flow_of_the_demo_has_no_fault(slug: str) -> None:
    world = graph.World(providers={demo.PROVIDER: (), providers.ENVIRONMENT_SLUG: ("m",)})
    assert graph.check(demo.FLOWS[slug][2], KINDS, world) == []


async def scripted(question: str) -> str:
    llm = Scripted({**demo.SCRIPT, "pour": True})
    request = LLMRequest(model="guide", messages=(LLMMessage("user", question),))
    return "".join([chunk.text async for chunk in llm.stream(request)])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is Headrace?", demo.WHAT),
        ("How do I build a flow?", demo.BUILD),
        ("How does resuming work?", demo.RESUME),
        ("What does the socket speak?", demo.SOCKET),
        ("What happens when something fails?", demo.LIMITS),
        ("Hello!", demo.HELLO),
        ("Lorem ipsum", demo.DEFAULT),
    ],
)
async def test_the_guide_answers_its_topics(question: str, answer: str) -> None:
    assert await scripted(question) == answer


def test_each_suggestion_of_the_guide_has_a_page() -> None:
    for suggestion in demo.GUIDE["nodes"][0]["fields"]["suggestions"]:
        assert any(re.search(rule["match"], suggestion, re.IGNORECASE) for rule in demo.SCRIPT["rules"])


@pytest.mark.parametrize("page", [demo.BUILD, demo.SOCKET, demo.DEFAULT])
def test_a_page_of_the_guide_shows_what_markdown_can(page: str) -> None:
    assert "```" in page and "| --- |" in page and page.count("\n\n") > 4
    assert 3 < len(tokens_of(page)) / demo.SCRIPT["pace_tokens_per_s"] < 20


@pytest.mark.parametrize(
    ("drink", "cups", "told"),
    [("tea", 1, "Tea it is."), ("nothing", 1, "As you like."), ("coffee", 5, "5 cups: I had better bring a pot.")],
)
async def test_the_wizard_greets_with_what_was_answered(drink: str, cups: int, told: str) -> None:
    questions = {item["id"]: item["fields"] for item in demo.WIZARD["nodes"] if item["kind"] == "question"}
    label = next(option["label"] for option in questions["drink"]["options"] if option["id"] == drink)
    form = schemas.validate(questions["details"]["schema"], {"cups": cups})
    answers = [Answer("accept", drink, label), Answer("accept", "Anna", "Anna"), Answer("accept", form)]
    ctx = FakeContext(demo.WIZARD, answers=answers)
    assert await run_flow({}, ctx) == {"name": "Anna", "drink": drink, "details": form}
    said = "".join(ctx.written)
    assert told in said
    assert "Welcome, **Anna**!" in said and f"your drink: {label}" in said and "at the window" in said
    assert ctx.vars == {"guest": "Anna"}


async def test_the_wizard_greets_whoever_declines_everything() -> None:
    ctx = FakeContext(demo.WIZARD, answers=[Answer("decline", None, "")] * 3)
    await run_flow({}, ctx)
    said = "".join(ctx.written)
    assert "As you like." in said and "Welcome, **dear guest**!" in said and "your drink: nothing" in said
    assert "cups" not in said


async def test_the_wizard_reaches_its_end_by_first_options_short_texts_and_defaults() -> None:
    answers = []
    for item in demo.WIZARD["nodes"]:
        fields = item["fields"]
        if item["kind"] == "question" and "options" in fields:
            answers.append(Answer("accept", fields["options"][0]["id"], fields["options"][0]["label"]))
        elif item["kind"] == "question":
            value = schemas.validate(fields["schema"], {}) if "schema" in fields else "short"
            answers.append(Answer("accept", value))
    assert await run_flow({}, FakeContext(demo.WIZARD, answers=answers))


async def test_the_assistant_gives_the_model_what_was_said_before() -> None:
    ctx = FakeContext(demo.ASSISTANT, replies=[LLMResult("x")], past=[LLMMessage("user", "before")])
    await run_flow({}, ctx)
    assert ("history", 20) in ctx.done
    assert [message.role for message in ctx.calls[0].messages] == ["system", "user", "user"]
