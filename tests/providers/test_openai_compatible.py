"""The client of OpenAI's dialect against the fake server, over real sockets."""

import asyncio
import time
from contextlib import aclosing

import pytest
from aiohttp import web

from providers.base import LLMMessage, LLMRequest, Usage
from providers.fake_openai import FAULTS, TEXT, WHOLE
from providers.openai_compatible import (
    OpenAICompatible,
    encode,
    is_strict,
    pause_before_retry,
    refusal,
    seconds_to_wait,
)
from providers.scripted import tokens_of
from tests.providers.asking import directing, hear, request
from tests.providers.conftest import KEY
from tests.waiting import until

THREE = "".join(tokens_of(TEXT)[:3])


async def test_text_usage_and_finish_are_what_the_server_sent(server, client):
    heard = await hear(client(), request())
    assert heard.error is None
    assert heard.text == TEXT == server.seen.requests[0].text
    assert heard.finish == "stop"
    assert heard.usage == Usage(input_tokens=1, output_tokens=len(tokens_of(TEXT)))
    assert heard.tokens == len(tokens_of(TEXT))


@pytest.mark.parametrize(
    "directive",
    [{"split": 1}, {"split": 5}, {"crlf": True}, {"comments": True}, {"crlf": True, "comments": True, "split": 3}],
)
async def test_text_is_whole_however_it_travels(client, directive):
    heard = await hear(client(), directing(text="水車 naïve 🎡", **directive))
    assert (heard.text, heard.error) == ("水車 naïve 🎡", None)


async def test_all_deltas_of_one_read_are_one_chunk(client):
    heard = await hear(client(), directing(tokens=5000))
    assert heard.tokens == 5000
    assert len(heard.chunks) < 500


async def test_reasoning_is_kept_apart(client):
    heard = await hear(client(), directing(reasoning="Let me see. ", text="Four."))
    assert (heard.reasoning, heard.text) == ("Let me see. ", "Four.")


async def test_a_server_without_usage_is_none(client):
    heard = await hear(client(), directing(usage=False))
    assert (heard.usage, heard.finish, heard.error) == (None, "stop", None)


async def test_the_request_is_of_the_dialect(server, client):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    messages = (LLMMessage("system", "Be short."), LLMMessage("user", "Hi"))
    asked = LLMRequest(model="fake-large", messages=messages, temperature=0.5, max_tokens=9, schema=schema)
    await hear(client(), asked)
    seen = server.seen.requests[0]
    assert seen.authorized
    assert seen.body == {
        "model": "fake-large",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 9,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    }


def test_a_schema_is_strict_only_where_every_object_is_closed_and_full():
    closed = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    assert is_strict(closed)
    assert not is_strict({"type": "object", "properties": {"a": {}}, "required": ["a"]})
    assert not is_strict({"type": "object", "properties": {"a": {}}, "additionalProperties": False})
    assert not is_strict({"type": "array", "items": {"type": "object"}})


async def test_without_a_key_no_authorization_is_sent(server):
    llm = OpenAICompatible(server.base_url, allow_private=True)
    await hear(llm, request())
    await llm.aclose()
    assert not server.seen.requests[0].authorized


# Errors


AFTER_THREE_TOKENS = {
    "hang": "timeout",
    "cut": "cut",
    "reset": "cut",
    "no_end": "cut",
    "half_char": "cut",
    "bad_json": "protocol",
    "bad_utf8": "protocol",
    "error": "unavailable",
    "huge_event": "protocol",
    "long_line": "protocol",
}
BEFORE_ANY_TOKEN = {
    "drop": "unavailable",
    "garbage": "protocol",
    "hang_headers": "timeout",
    "html": "protocol",
    "json": "protocol",
    "redirect": "protocol",
}


def test_every_fault_of_the_server_has_its_test_here():
    assert set(FAULTS) == {*AFTER_THREE_TOKENS, *BEFORE_ANY_TOKEN, *WHOLE}


@pytest.mark.parametrize(("fault", "kind"), AFTER_THREE_TOKENS.items())
async def test_a_fault_in_mid_answer_keeps_the_text_and_is_not_repeated(server, client, fault, kind):
    heard = await hear(client(between_tokens_s=0.1), directing(fault=fault))
    assert heard.text == THREE
    assert heard.error.kind == kind
    assert heard.finish is None
    assert len(server.seen.requests) == 1


@pytest.mark.parametrize(("fault", "kind"), BEFORE_ANY_TOKEN.items())
async def test_a_fault_instead_of_an_answer_has_its_kind(client, fault, kind):
    heard = await hear(client(first_token_s=0.2, retries=0), directing(fault=fault))
    assert (heard.text, heard.error.kind) == ("", kind)


@pytest.mark.parametrize("fault", WHOLE)
async def test_one_end_mark_of_the_two_is_enough(client, monkeypatch, fault):
    monkeypatch.setattr("providers.openai_compatible.END_MARK_S", 0.1)
    heard = await hear(client(), directing(fault=fault))
    assert (heard.text, heard.finish, heard.error) == (TEXT, "stop", None)


async def test_empty_events_are_no_tokens_to_the_first_bound(client):
    heard = await hear(client(first_token_s=0.1), directing(fault="hang", after=0))
    assert heard.error.kind == "timeout"
    assert heard.error.is_retryable


async def test_a_slow_reader_is_not_the_servers_fault(server, client):
    text = ""
    async with aclosing(client(between_tokens_s=0.05).stream(directing(rate=100, tokens=20))) as chunks:
        async for chunk in chunks:
            await until(lambda: server.seen.requests[0].ended)  # many times the bound
            text += chunk.text
    assert text == server.seen.requests[0].text


async def test_what_came_before_a_cut_is_kept_by_a_slow_reader(server, client):
    text = ""
    with pytest.raises(Exception, match="cut"):
        async with aclosing(client().stream(directing(rate=200, tokens=50, fault="reset", after=10))) as chunks:
            async for chunk in chunks:
                text += chunk.text
                await until(lambda: server.seen.open == 0)
    assert text == "".join(f"{i:04d} " for i in range(10))


@pytest.mark.parametrize(
    ("status", "kind", "is_retryable"),
    [
        (400, "bad_request", False),
        (401, "auth", False),
        (403, "auth", False),
        (404, "bad_request", False),
        (429, "rate_limited", True),
        (500, "unavailable", True),
        (503, "unavailable", True),
    ],
)
async def test_a_status_has_its_kind(server, client, status, kind, is_retryable):
    heard = await hear(client(retries=0), directing(status=status))
    assert (heard.error.kind, heard.error.is_retryable) == (kind, is_retryable)
    assert len(server.seen.requests) == 1


async def test_an_error_never_holds_the_key_that_the_server_echoed(client):
    heard = await hear(client(), directing(status=401))
    assert KEY not in str(heard.error)
    assert "Bearer" not in str(heard.error)


def test_a_used_up_quota_is_not_worth_a_retry():
    assert not refusal(429, "insufficient_quota").is_retryable
    assert refusal(400, "content_filter").kind == "refused"


async def test_a_key_with_a_line_feed_in_it_is_refused_unsent(server):
    llm = OpenAICompatible(server.base_url, "sk-a\r\nX-Evil: 1", allow_private=True)
    assert (await hear(llm, request())).error.kind == "auth"
    assert not server.seen.connections


async def test_a_taken_away_server_is_unavailable(server, client):
    await server.close()
    assert (await hear(client(retries=0), request())).error.kind == "unavailable"


async def test_a_redirect_is_not_followed(server, client):
    await hear(client(), directing(fault="redirect"))
    assert [seen.path for seen in server.seen.requests] == ["/v1/chat/completions"]


async def test_a_body_past_its_bound_is_cut_off(server, client):
    heard = await hear(client(max_body_bytes=50_000), directing(tokens=100_000))
    assert heard.error.kind == "protocol"
    assert heard.tokens < 2000
    await until(lambda: server.seen.open == 0)


# Retries


async def test_retries_come_before_the_first_token_only_and_keep_retry_after(server, client):
    heard = await hear(client(), directing(statuses=[429, 429], retry_after=0.15))
    assert heard.text == TEXT
    began = [seen.began for seen in server.seen.requests]
    assert len(began) == 3
    assert min(later - sooner for sooner, later in zip(began, began[1:], strict=False)) >= 0.15


async def test_429_then_500_then_success_is_one_answer(server, client, monkeypatch):
    monkeypatch.setattr("providers.openai_compatible.BACKOFF_S", 0.01)
    heard = await hear(client(), directing(statuses=[429, 500]))
    assert (heard.text, heard.error) == (TEXT, None)
    assert [seen.status for seen in server.seen.requests] == [429, 500, 200]


async def test_a_cut_before_the_first_token_is_tried_again(server, client, monkeypatch):
    monkeypatch.setattr("providers.openai_compatible.BACKOFF_S", 0.01)
    heard = await hear(client(), directing(fault="cut", after=0, times=1))
    assert (heard.text, heard.error) == (TEXT, None)
    assert len(server.seen.requests) == 2


async def test_429_for_ever_ends_after_the_bounded_count(server, client, monkeypatch):
    monkeypatch.setattr("providers.openai_compatible.BACKOFF_S", 0.01)
    heard = await hear(client(retries=3), directing(status=429))
    assert heard.error.kind == "rate_limited"
    assert len(server.seen.requests) == 4


async def test_a_retry_after_beyond_the_bounded_total_is_handed_on_at_once(server, client):
    begun = time.monotonic()
    heard = await hear(client(), directing(status=429, retry_after=600))
    assert heard.error.retry_after == 600
    assert len(server.seen.requests) == 1
    assert time.monotonic() - begun < 5


async def test_a_timeout_is_not_tried_again(server, client):
    await hear(client(first_token_s=0.1), directing(fault="hang_headers"))
    assert len(server.seen.requests) == 1


def test_back_off_grows_with_jitter():
    error = refusal(500, "")
    for attempt in range(3):
        pauses = {pause_before_retry(error, attempt) for _ in range(50)}
        assert len(pauses) > 40
        assert all(0.25 * 2**attempt <= pause <= 0.5 * 2**attempt for pause in pauses)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "1e999"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(headers, seconds):
    assert seconds_to_wait(headers, now=60) == seconds


# Connections


async def closed_at(server) -> float:
    await until(lambda: server.seen.requests[0].closed)
    return server.seen.requests[0].closed


async def test_closing_the_stream_closes_the_connection_and_no_token_follows(server, client):
    chunks = client().stream(directing(rate=100, tokens=10_000))
    await anext(chunks)
    begun = time.monotonic()
    await chunks.aclose()
    assert await closed_at(server) - begun < 0.1
    assert server.seen.requests[0].tokens_after_close == 0
    assert server.seen.open == 0


@pytest.mark.parametrize("fault", ["hang", "hang_headers"])
async def test_cancelling_a_reader_that_waits_closes_the_connection(server, client, fault):
    task = asyncio.create_task(hear(client(), directing(fault=fault, after=0)))
    await until(lambda: server.seen.requests)
    begun = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await closed_at(server) - begun < 0.1


async def test_cancelling_during_a_pause_before_a_retry_ends_at_once(server, client):
    task = asyncio.create_task(hear(client(), directing(status=429, retry_after=10)))
    await until(lambda: server.seen.requests and server.seen.requests[0].ended)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)


async def test_connections_of_whole_answers_are_used_again(server, client):
    llm = client()
    for _ in range(5):
        assert (await hear(llm, request())).error is None
    assert len(server.seen.connections) == 1


async def test_aclose_ends_running_streams_and_the_shared_session(server, client):
    first, second = client(), client()
    streams = [llm.stream(directing(rate=100, tokens=10_000)) for llm in (first, second)]
    for stream in streams:
        await anext(stream)
    await first.aclose()
    with pytest.raises(Exception, match="cut"):
        async for _ in streams[0]:
            pass
    assert (await anext(streams[1])).text
    await second.aclose()
    await until(lambda: server.seen.open == 0)
    for stream in streams:
        await stream.aclose()


async def test_a_pouring_server_is_held_back_by_a_reader_that_does_not_read(server, client):
    async with aclosing(client().stream(directing(tokens=400_000))) as chunks:
        await anext(chunks)
        seen = server.seen.requests[0]
        sent = [0, 0]

        def stands_still() -> bool:
            sent.append(seen.tokens)
            return sent[-1] == sent[-2] == sent[-3] > 0

        await until(stands_still)
        assert seen.tokens < 200_000


async def test_a_stream_in_plain_text_without_role_or_done_is_understood(unused_tcp_port):
    async def answer(_: web.Request) -> web.Response:
        events = ['{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}],"usage":null,"x":[1]}']
        events += ['{"choices":[{"delta":null,"finish_reason":"model_length"}]}', '{"choices":[]}']
        return web.Response(text="".join(f"data:{event}\n\n" for event in events))

    app = web.Application()
    app.router.add_post("/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    llm = OpenAICompatible(f"http://127.0.0.1:{unused_tcp_port}", allow_private=True)
    heard = await hear(llm, request())
    await llm.aclose()
    await runner.cleanup()
    assert (heard.text, heard.finish, heard.error) == ("Hi", "length", None)


def test_openai_itself_gets_the_new_name_for_max_tokens():
    asked = request(max_tokens=5)
    assert b'"max_completion_tokens":5' in encode(asked, "max_completion_tokens")
