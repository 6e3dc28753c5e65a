"""Whatever the model's server does, a turn ends once with the right code, keeps its text, and the next one works."""

import uuid
from typing import Any

import pytest

from chat.models import Message, Turn
from flows.models import Provider
from providers import fake_openai, openai_compatible
from streams import database
from tests.chat.conftest import graph_of, node
from tests.chat.view import text_of
from tests.sockets.tabs import Tab, fake
from tests.waiting import until

TEXT = {"tokens": 20, "size": 5}
BEGUN = "0000 0001 0002 "  # the three tokens before a fault that breaks an answer

# fault: the code, what is kept, how often the server is asked, whether a client may repeat it
BREAKS = {
    "cut": ("provider_cut", BEGUN, 1, True),
    "reset": ("provider_cut", BEGUN, 1, True),
    "no_end": ("provider_cut", BEGUN, 1, True),
    "half_char": ("provider_cut", BEGUN, 1, True),
    "hang": ("provider_timeout", BEGUN, 1, True),
    "long_line": ("provider_error", BEGUN, 1, True),
    "bad_json": ("provider_error", BEGUN, 1, True),
    "bad_utf8": ("provider_error", BEGUN, 1, True),
    "error": ("provider_error", BEGUN, 1, True),
    "huge_event": ("provider_error", BEGUN, 1, True),
    "drop": ("provider_error", "", 3, True),
    "garbage": ("provider_error", "", 1, True),
    "hang_headers": ("provider_timeout", "", 1, True),
    "html": ("provider_error", "", 1, True),
    "json": ("provider_error", "", 1, True),
    "redirect": ("provider_error", "", 1, True),
}
STATUSES = {
    400: ("provider_refused", 1, False),
    401: ("provider_auth", 1, False),
    403: ("provider_auth", 1, False),
    404: ("provider_refused", 1, False),
    408: ("provider_timeout", 1, True),
    429: ("provider_rate_limited", 3, True),
    500: ("provider_error", 3, True),
    503: ("provider_error", 3, True),
    504: ("provider_timeout", 1, True),
}


@pytest.fixture(autouse=True)
def short(bounds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds and pauses that a test can wait for."""
    bounds(provider_first_token_s=1.5, provider_between_tokens_s=1)
    monkeypatch.setattr(openai_compatible, "BACKOFF_S", 0.01)
    monkeypatch.setattr(openai_compatible, "END_MARK_S", 0.1)


async def ended(tab: Tab, text: str) -> dict[str, Any]:
    reply = await tab.say(text)
    assert reply["type"] == "ok", reply
    return await tab.until_ended(reply["turn"])


async def check_failed(tab: Tab, end: dict[str, Any], code: str, text: str, is_retryable: bool) -> None:
    """Ended once, stored as it was shown; and the next turn works."""
    assert (end["status"], end["error"]["code"]) == ("error", code), end["error"]
    assert end["error"]["retryable"] is is_retryable, end["error"]
    assert end["error"]["text"]
    assert text_of(end["message"]["parts"]) == text_of(tab.view.last_shown) == text
    stored = await database.read(lambda: Message.objects.get(id=end["message"]["id"]))
    assert (stored.status, text_of(stored.parts)) == ("error", text)
    again = await ended(tab, fake(**TEXT))
    assert (again["status"], text_of(again["message"]["parts"])) == ("done", "".join(fake_openai.numbered(20, 5)))
    assert len(tab.view.ends) == 2
    states = await database.read(lambda: list(Turn.objects.order_by("number").values_list("state", flat=True)))
    assert states == ["error", "done"]


@pytest.mark.parametrize("fault", BREAKS)
async def test_broken_answer_ends_once_with_its_code_and_text(modelled, model, tab, fault):
    code, text, asked, is_retryable = BREAKS[fault]
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(fault=fault, **TEXT))
        assert len(model.seen.requests) == asked
        await check_failed(one, end, code, text, is_retryable)


@pytest.mark.parametrize("status", STATUSES)
async def test_refused_request_ends_once_with_its_code(modelled, model, tab, status):
    code, asked, is_retryable = STATUSES[status]
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(status=status, **TEXT))
        assert len(model.seen.requests) == asked
        await check_failed(one, end, code, "", is_retryable)


@pytest.mark.parametrize("fault", ["no_done", "no_finish", "open_end"])
async def test_answer_with_half_an_end_mark_is_whole(modelled, model, tab, fault):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(fault=fault, **TEXT))
    assert (end["status"], text_of(end["message"]["parts"])) == ("done", model.seen.requests[0].text)
    assert len(model.seen.requests[0].sent) == 20


async def test_silence_before_the_first_token_is_a_timeout(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(first_s=3600, **TEXT))
        await until(lambda: model.seen.requests[0].closed, what="the provider's connection is closed")
        assert len(model.seen.requests) == 1
        await check_failed(one, end, "provider_timeout", "", True)


async def test_server_that_is_not_there_is_a_provider_error(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    nowhere = "http://127.0.0.1:9/v1"
    await database.write(lambda: Provider.objects.update(base_url=nowhere))
    async with tab(flow, chat) as one:
        end = await ended(one, "hello")
    assert (end["status"], end["error"]["code"]) == ("error", "provider_error")


async def test_failures_before_the_first_token_are_repeated_until_it_answers(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(statuses=[429, 500], retry_after=0.05, **TEXT))
    assert (end["status"], text_of(end["message"]["parts"])) == ("done", model.seen.requests[-1].text)
    assert [request.status for request in model.seen.requests] == [429, 500, 200]
    first, second, _ = model.seen.requests
    assert second.began - first.ended >= 0.05


@pytest.mark.parametrize("split", [1, 3])
async def test_characters_split_over_reads_arrive_whole(modelled, tab, bounds, split):
    bounds(provider_first_token_s=20, provider_between_tokens_s=20)  # a write a byte takes its time
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(text="naïve 水車 🎡", split=split, usage=False))
    assert text_of(end["message"]["parts"]) == "naïve 水車 🎡"


async def test_usage_is_what_the_provider_counted(modelled, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(**TEXT))
    assert (end["usage"]["output_tokens"], end["usage"]["model"]) == (20, "m")
    assert end["usage"]["input_tokens"] > 0


async def test_reasoning_is_a_part_of_its_own_before_the_text(modelled, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(reasoning="Let me think.", **TEXT))
    assert [(part["kind"], part["id"]) for part in end["message"]["parts"]] == [
        ("reasoning", "1.model#1"),
        ("text", "1.model#1.2"),
    ]
    assert end["message"]["parts"][0]["text"] == "Let me think."


async def test_answer_over_its_bound_is_cut_and_its_text_kept(modelled, model, tab, bounds):
    bounds(answer_bytes=5000)
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(tokens=2000, rate=20_000))
        await until(lambda: model.seen.open == 0, what="the provider's connection is closed")
    assert (end["status"], end["error"]["code"]) == ("error", "answer_too_long")
    text = text_of(end["message"]["parts"])
    assert 0 < len(text) <= 5000 and model.seen.requests[0].text.startswith(text)


async def test_turn_over_its_time_is_cut_and_its_text_kept(modelled, model, tab, bounds):
    bounds(turn_running_s=0.5)
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, fake(tokens=2000, rate=100))
        await until(lambda: model.seen.open == 0, what="the provider's connection is closed")
    assert (end["status"], end["error"]["code"]) == ("error", "turn_timeout")
    text = text_of(end["message"]["parts"])
    assert text and model.seen.requests[0].text.startswith(text)


async def test_second_model_of_a_flow_that_fails_leaves_the_first_ones_text(modelled, model, tab):
    graph = graph_of(
        node("start", "start"),
        node("first", "llm", provider="model", model="m", prompt='{"fake": {"text": "First."}}'),
        node("second", "llm", provider="model", model="m", prompt='{"fake": {"fault": "cut", "text": "a b c d e f"}}'),
        node("end", "end"),
    )
    flow, chat = await modelled(graph), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        end = await ended(one, "go")
    assert end["error"]["code"] == "provider_cut"
    assert [part["text"] for part in end["message"]["parts"]] == ["First.", "a b c"]


def test_every_fault_of_the_fake_server_is_tried():
    assert {*BREAKS, *fake_openai.WHOLE} == set(fake_openai.FAULTS)
