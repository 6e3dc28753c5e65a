"""Log lines: structlog for ours, the same form for those of libraries. No token, ticket, key or query string is in any.

`structlog.contextvars.bind_contextvars(trace_id=…, session=…, user=…, flow=…)` names what a task works for; every
line that the task writes carries it, and every line of a worker its id.
"""

import logging
import re
import time
from typing import Any

import structlog

from streams import here

SECRET_KEYS = frozenset(
    {
        "token",
        "ticket",
        "access",
        "refresh",
        "authorization",
        "cookie",
        "password",
        "secret",
        "secret_key",
        "api_key",
        "key",
    }
)
HIDDEN = "[hidden]"
SECURITY = "django.security."
OUTSIDE = {"uvicorn.error", "headrace.asgi"}  # their lines below an error are about what peers sent
LINE_CHARS = 300  # of what a peer said

# What libraries put into their sentences: query strings, credentials of a header or subprotocol, API keys, JWT.
_QUERY = re.compile(r"(?<=[\w/-])\?[\w%.~+-]+=[^\s\"']*")
_CREDENTIAL = re.compile(r"\b(?i:bearer)[ .][\w.~+/=-]+|\bhr_[\w-]{8,}|\beyJ[\w-]+\.[\w-]+\.[\w-]*|\bsk-[\w-]{8,}")


def scrub(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Last but one of the processors: hides by key what is a secret by its name, by form what looks like one."""
    return _scrubbed(event)


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, bytes):
        return hide(value.decode(errors="replace"))
    if isinstance(value, dict):
        return {name: HIDDEN if name in SECRET_KEYS else _scrubbed(part) for name, part in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(map(_scrubbed, value))
    return value


def name_worker(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Which worker wrote the line, once this process is one."""
    if here.worker:
        event.setdefault("worker", here.worker)
    return event


def hide(text: str) -> str:
    return _CREDENTIAL.sub(HIDDEN, _QUERY.sub("", text))


class FromOutside(logging.Filter):
    """Bounds the lines that anybody outside can cause: LINES of a logger in WINDOW_S, then how many were left out.

    What Django calls an error of security (a foreign Host, too many fields) is a peer's fault: one warning of one line
    instead of a traceback. Other errors pass whole: nobody outside should be able to cause one.
    """

    LINES = 10
    WINDOW_S = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}  # a logger: when its window began, lines since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith(SECURITY):
            _soften(record)
        elif record.name not in OUTSIDE or record.levelno >= logging.ERROR:
            return True
        now = time.monotonic()
        began, count = self._seen.get(record.name, (now, 0))
        if now - began >= self.WINDOW_S:
            _note(record, count - self.LINES)
            began, count = now, 0
        self._seen[record.name] = (began, count + 1)
        return count < self.LINES


def _soften(record: logging.LogRecord) -> None:
    record.levelno, record.levelname = logging.WARNING, "WARNING"
    record.msg, record.args = record.getMessage()[:LINE_CHARS], ()
    record.exc_info = record.exc_text = None


def _note(record: logging.LogRecord, left_out: int) -> None:
    if left_out > 0 and isinstance(record.msg, dict):
        record.msg = {**record.msg, "left_out": left_out}
    elif left_out > 0:
        record.msg = f"{record.msg} (and {left_out} more of its logger)"


class NoCloseCode(logging.Filter):
    """Daphne takes no close codes 1008 and 1013 from an application, which closes with others then; that is known."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "invalid close code" not in record.getMessage()


def dict_config(form: str, level: str) -> dict[str, Any]:
    """Django's LOGGING, and structlog set to the same. `form`: json or console."""
    shared = [
        structlog.contextvars.merge_contextvars,
        name_worker,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    if form == "json":
        last = [structlog.processors.format_exc_info, scrub, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
        last = [structlog.processors.format_exc_info, scrub, plain]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": shared,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            }
        },
        "filters": {"from outside": {"()": FromOutside}, "close code": {"()": NoCloseCode}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["from outside"]}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Their own handlers would print a second time and in another form.
            "django": {"handlers": [], "propagate": True, "level": level},
            "django.server": {"handlers": [], "propagate": True, "level": "WARNING"},
            # A page that is missing is no event of this server.
            "django.request": {"level": "ERROR"},
            # Its info lines hold the query string of each socket; ours say who was admitted.
            "uvicorn.error": {"level": "WARNING"},
            "uvicorn.access": {"level": "CRITICAL"},
            "daphne": {"level": "WARNING"},
            "daphne.server": {"filters": ["close code"]},
            "psycopg.pool": {"level": "ERROR"},  # warns at each try of a connection; who needs one says so
            "asyncio": {"level": "WARNING"},
            "aiohttp.access": {"level": "CRITICAL"},
        },
    }
