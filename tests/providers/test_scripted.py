"""The scripted model: rules, pace, faults."""

import asyncio
import time
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import LLMMessage, LLMRequest, Usage
from providers.scripted import Scripted, tokens_of
from tests.clock import Clock
from tests.providers.asking import hear, request

MARKDOWN = "# Title\n\n- one  \n- two\n\n```python\nif x:\n    y()\n```\n\n| a | b |\n|---|---|\n水車は回る。🎡\n"


@given(st.text())
def test_tokens_joined_are_the_text(text):
    assert "".join(tokens_of(text)) == text


async def test_the_first_rule_that_matches_answers():
    options = {
        "pour": True,
        "rules": [
            {"match": r"refund|money\s+back", "text": "By rule."},
            {"match": ["hello", "STRASSE"], "text": "By words."},
        ],
        "default": "By default.",
    }
    llm = Scripted(options)
    assert (await hear(llm, request("I want my MONEY  back, hello"))).text == "By rule."
    assert (await hear(llm, request("Hello!"))).text == "By words."
    assert (await hear(llm, request("straße"))).text == "By words."
    assert (await hear(llm, request("other"))).text == "By default."


async def test_without_rule_and_default_the_last_user_message_is_said_again():
    messages = (LLMMessage("user", "first"), LLMMessage("assistant", "well"), LLMMessage("user", "last"))
    heard = await hear(Scripted({"pour": True}), LLMRequest(model="m", messages=messages))
    assert heard.text == "last"


@pytest.mark.parametrize("pace", [{"pour": True}, {"pace_tokens_per_s": 5000, "first_token_ms": 0}])
async def test_markdown_comes_out_as_it_was_written(pace):
    heard = await hear(Scripted({"default": MARKDOWN, **pace}), request())
    assert heard.text == MARKDOWN
    assert heard.finish == "stop"


async def test_usage_counts_tokens_of_question_and_answer():
    heard = await hear(Scripted({"default": "one two three", "pour": True}), request("a b"))
    assert heard.usage == Usage(input_tokens=2, output_tokens=3)
    assert heard.tokens == 3


async def test_max_tokens_cuts_the_answer_and_says_length():
    heard = await hear(Scripted({"default": "one two three", "pour": True}), request(max_tokens=2))
    assert (heard.text, heard.finish) == ("one two", "length")


async def test_tokens_come_at_the_pace_not_before():
    begun = time.monotonic()
    heard = await hear(Scripted({"default": "a " * 20, "pace_tokens_per_s": 100, "first_token_ms": 50}), request())
    assert len(heard.chunks) > 10
    assert time.monotonic() - begun > 0.05 + 18 * 0.5 / 100


def test_tokens_that_are_overdue_come_together():
    async def main() -> list[int]:
        llm = Scripted({"default": "a " * 50, "pace_tokens_per_s": 1000, "first_token_ms": 0})
        sizes = []
        async with aclosing(llm.stream(request())) as chunks:
            async for chunk in chunks:
                sizes.append(chunk.tokens)
                if len(sizes) == 1:
                    asyncio.get_running_loop().now += 0.2  # the loop is held up, as by a long transaction
        return sizes

    with asyncio.Runner(loop_factory=Clock) as runner:
        assert runner.run(main()) == [1, 50, 0]  # the last one tells the usage


async def test_pouring_lets_others_run():
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    heard = await hear(Scripted({"default": "word ", "repeat": 5000, "pour": True}), request())
    task.cancel()
    assert heard.text == "word " * 5000
    assert turns >= 10


async def test_reasoning_comes_before_the_text():
    options = {"pour": True, "rules": [{"match": ".", "text": "So: 4.", "reasoning": "Two and two."}]}
    heard = await hear(Scripted(options), request())
    assert (heard.reasoning, heard.text) == ("Two and two.", "So: 4.")
    assert heard.usage.output_tokens == 5


async def test_a_fault_comes_after_its_tokens_with_the_text_kept():
    fault = {"kind": "rate_limited", "after_tokens": 2, "retry_after": 3}
    heard = await hear(Scripted({"default": "one two three", "pour": True, "fault": fault}), request())
    assert heard.text == "one two"
    assert (heard.error.kind, heard.error.is_retryable, heard.error.retry_after) == ("rate_limited", True, 3)
    assert heard.finish is None


async def test_a_fault_with_times_is_over_after_them():
    llm = Scripted({"default": "fine", "pour": True, "fault": {"kind": "unavailable", "times": 2}})
    assert [(await hear(llm, request())).error is None for _ in range(4)] == [False, False, True, True]


async def test_the_same_seed_gives_the_same_faults():
    async def faults(seed: int) -> list[bool]:
        llm = Scripted({"pour": True, "seed": seed, "fault": {"kind": "cut", "rate": 0.5}})
        return [(await hear(llm, request(str(i)))).error is not None for i in range(40)]

    assert await faults(1) == await faults(1) != await faults(2)


async def test_a_reader_that_is_cancelled_ends_the_stream_at_once():
    task = asyncio.create_task(hear(Scripted({"first_token_ms": 60_000}), request()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"ruels": []},
        {"rules": [{"match": "(", "text": "x"}]},
        {"rules": [{"match": "x"}]},
        {"fault": {"kind": "lazy"}},
        {"pace_tokens_per_s": "fast"},
    ],
)
def test_options_with_a_fault_are_refused_with_a_sentence(options):
    with pytest.raises(ValueError, match="The script has a fault"):
        Scripted(options)
