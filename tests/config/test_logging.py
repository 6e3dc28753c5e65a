"""Log lines hold no credential and no query string."""

import io
import json
import logging
import logging.config

import pytest
import structlog
from django.conf import settings

from config.logging import FromOutside, dict_config, hide

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('GET "/chat/x?ticket=abc&seq=1" 101', 'GET "/chat/x" 101'),
        (f"/chat/x?t={JWT}", "/chat/x"),
        (f"Authorization: Bearer {JWT}", "Authorization: [hidden]"),
        (f"subprotocol bearer.{JWT} offered", "subprotocol [hidden] offered"),
        (f"token {JWT} is bad", "token [hidden] is bad"),
        ("key hr_0123456789abcdef", "key [hidden]"),
        ("why? a=b is said", "why? a=b is said"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_credentials_and_queries_are_hidden(text, left):
    assert hide(text) == left


@pytest.fixture
def lines():
    """Lines as a server writes them, read back."""
    before, written = structlog.get_config(), io.StringIO()
    logging.config.dictConfig(dict_config("json", "INFO"))
    (handler,) = [each for each in logging.getLogger().handlers if each.get_name() == "stderr"]
    handler.setStream(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)
    logging.config.dictConfig(settings.LOGGING)


def test_line_carries_what_its_task_works_for(lines):
    structlog.contextvars.bind_contextvars(trace_id="t1", session="s1")
    structlog.get_logger("headrace.test").info("admitted", user=7)
    (line,) = lines()
    assert (line["event"], line["trace_id"], line["session"], line["user"]) == ("admitted", "t1", "s1", 7)
    assert line["level"] == "info"


def test_secrets_are_hidden_by_their_names(lines):
    structlog.get_logger("headrace.test").info("seen", token="abc", ticket="def", authorization="ghi")
    (line,) = lines()
    assert {line["token"], line["ticket"], line["authorization"]} == {"[hidden]"}


def test_lines_of_libraries_are_scrubbed_too(lines):
    logging.getLogger("some.library").warning("closed %s", "/chat/x?t=secret-of-somebody")
    (line,) = lines()
    assert line["event"] == "closed /chat/x"


def test_stack_of_an_exception_is_kept_and_scrubbed(lines):
    try:
        raise ValueError(f"bad token {JWT}")
    except ValueError:
        structlog.get_logger("headrace.test").exception("failed")
    (line,) = lines()
    assert "Traceback" in line["exception"]
    assert JWT not in line["exception"]


def test_access_lines_of_the_server_are_off(lines):
    logging.getLogger("uvicorn.access").info("GET /?t=secret")
    logging.getLogger("uvicorn.error").info('127.0.0.1 - "WebSocket /chat/x?t=secret" [accepted]')
    assert lines() == []


# ---------------------------------------------------------------------------- what peers can cause is bounded


def test_fault_of_a_peer_is_one_warning_without_a_traceback(lines):
    try:
        raise ValueError("a long way down")
    except ValueError as error:
        host = "x" * 10_000
        logging.getLogger("django.security.DisallowedHost").error("Invalid HTTP_HOST header: %s", host, exc_info=error)
    (line,) = lines()
    assert line["level"] == "warning" and "exception" not in line
    assert "Invalid HTTP_HOST header" in line["event"] and len(line["event"]) <= 300


@pytest.mark.parametrize(
    "logger",
    [
        logging.getLogger("uvicorn.error"),
        logging.getLogger("django.security.DisallowedHost"),
        structlog.get_logger("headrace.asgi"),
    ],
    ids=["uvicorn", "django", "ours"],
)
def test_lines_that_peers_cause_are_few_and_the_rest_is_counted(lines, logger, monkeypatch):
    for _ in range(100):
        logger.warning("seen")
    assert len(lines()) == FromOutside.LINES
    monkeypatch.setattr(FromOutside, "WINDOW_S", 0.0)
    logger.warning("seen")
    last = lines()[-1]
    assert last.get("left_out") == 90 or "90 more" in last["event"]


@pytest.mark.parametrize("name", ["uvicorn.error", "headrace.asgi", "headrace.test", "some.library"])
def test_errors_of_our_own_are_never_left_out(lines, name):
    for _ in range(50):
        logging.getLogger(name).error("failed")
    assert len(lines()) == 50


def test_close_codes_that_daphne_cannot_send_are_no_errors(lines):
    logger = logging.getLogger("daphne.server")
    logger.error("Exception inside application: %s", "invalid close code 1008 (must be 1000 or from [3000, 4999])")
    logger.error("Exception inside application: %s", "something else")
    (line,) = lines()
    assert "something else" in line["event"]
