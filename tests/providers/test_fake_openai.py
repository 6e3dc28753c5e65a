"""The fake server: what it does on request, and what it says it saw."""

import asyncio
import json
import signal
import sys
import time

import aiohttp
import pytest

from providers.fake_openai import STAMP_STEP_S, TEXT, numbered, read_stamps, stamp
from tests.providers.asking import directing, hear, request
from tests.providers.conftest import KEY
from tests.waiting import until


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


def plain(text: str = "Hello", **fields) -> dict:
    return {"model": "fake", "messages": [{"role": "user", "content": text}]} | fields


async def test_directives_come_from_model_message_and_header_the_later_over_the_earlier(server, http, client):
    assert (await hear(client(), request("x", model="fake?text=model"))).text == "model"
    said = json.dumps({"fake": {"text": "message"}})
    assert (await hear(client(), request(f"Please {said}", model="fake?text=model"))).text == "message"
    body = plain(said)
    async with http.post(
        f"{server.base_url}/chat/completions", json=body, headers={"X-Fake": '{"text":"header"}'}
    ) as r:
        assert (await r.json())["choices"][0]["message"]["content"] == "header"


async def test_echo_answers_the_last_user_message_without_its_directive(client):
    heard = await hear(client(), request('How are {"fake": {"echo": true}} you?'))
    assert heard.text == "How are  you?"


async def test_an_answer_that_is_not_streamed_is_whole(server, http):
    async with http.post(f"{server.base_url}/chat/completions", json=plain()) as response:
        answer = await response.json()
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    ]
    assert answer["usage"]["prompt_tokens"] == 1


async def test_an_error_that_is_not_streamed_has_status_retry_after_and_echoes_the_key(server, http):
    body = plain('{"fake": {"status": 429, "retry_after": 2}}')
    headers = {"Authorization": f"Bearer {KEY}"}
    async with http.post(f"{server.base_url}/chat/completions", json=body, headers=headers) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "2")
        assert KEY in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "body", [{}, [], plain('{"fake": {"nonsense": 1}}'), plain('{"fake": {"fault": "nonsense"}}'), plain('{"fake": {')]
)
async def test_what_it_does_not_understand_it_refuses(server, http, body):
    async with http.post(f"{server.base_url}/chat/completions", json=body) as response:
        assert response.status == 400


async def test_it_lists_models(server, http):
    async with http.get(f"{server.base_url}/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["fake", "fake-large"]


async def test_seen_tells_requests_and_connections_and_reset_forgets(server, http, client):
    chunks = client().stream(directing(rate=100, tokens=1000))
    await anext(chunks)
    await chunks.aclose()
    await until(lambda: server.seen.requests[0].closed)
    async with http.get(f"{server.url}/__seen?texts=1") as response:
        seen = await response.json()
    told = seen["requests"][0]
    assert told["body"]["model"] == "fake"
    assert told["authorized"] is True
    assert told["tokens"] >= 1
    assert told["tokens_after_close"] == 0
    assert told["text"].startswith("0000 ")
    assert told["ended"] is None
    assert abs(told["closed"]["wall"] - time.time()) < 60
    assert seen["connections"][0]["closed"]["mono"] == told["closed"]["mono"]
    assert seen["open"] == 1  # the one that asks
    assert KEY not in json.dumps(seen)
    async with http.post(f"{server.url}/__reset"):
        pass
    assert not server.seen.requests


async def test_times_and_statuses_count_by_the_body(client):
    llm = client(retries=0)
    asked = directing(statuses=[401, 500], text="fine")
    assert [(await hear(llm, asked)).text for _ in range(3)] == ["", "", "fine"]
    asked = directing(status=503, times=1, text="fine")
    assert [(await hear(llm, asked)).text for _ in range(2)] == ["", "fine"]


async def test_the_time_table_does_not_wait_for_anybody(client):
    begun = time.monotonic()
    heard = await hear(client(), directing(tokens=40, rate=200, stamp="due"))
    due = read_stamps(heard.text, time.monotonic())
    gaps = [later - sooner for sooner, later in zip(due, due[1:], strict=False)]
    assert len(due) == 40
    assert max(abs(gap - 1 / 200) for gap in gaps) <= 2 * STAMP_STEP_S
    assert due[0] >= begun - STAMP_STEP_S


async def test_stamps_of_writing_are_not_in_the_future(client):
    heard = await hear(client(), directing(tokens=10, rate=500, stamp="write"))
    now = time.monotonic()
    stamps = read_stamps(heard.text, now)
    assert stamps == sorted(stamps)
    assert stamps[-1] <= now


@pytest.mark.parametrize("mono", [0.0, 1.23456, 10_737.41, 10_737.43, 987_654.32])
def test_a_stamp_is_five_characters_and_reads_back(mono):
    assert len(stamp(mono)) == 5
    assert abs(read_stamps(stamp(mono), mono + 1)[0] - mono) <= 2 * STAMP_STEP_S


def test_numbered_tokens_have_their_size_and_their_number():
    assert numbered(3, 5) == ("0000 ", "0001 ", "0002 ")


async def test_the_command_says_where_it_listens_and_ends_on_a_signal(http):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "providers.fake_openai", "--port", "0", "--default", '{"text": "by default"}',
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        assert line.startswith("listening on http://127.0.0.1:")
        url = line.split()[-1]
        async with http.post(f"{url}/v1/chat/completions", json=plain()) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "by default"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
