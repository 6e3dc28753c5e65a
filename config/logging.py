"""Log lines: structlog for ours, the same form for those of libraries. No token, ticket, key or query string is in any.

`structlog.contextvars.bind_contextvars(trace_id=…, session=…, user=…, flow=…)` names what a task works for; every
line that the task writes carries it.
"""

import re
from typing import Any

import structlog

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


def hide(text: str) -> str:
    return _CREDENTIAL.sub(HIDDEN, _QUERY.sub("", text))


def dict_config(form: str, level: str) -> dict[str, Any]:
    """Django's LOGGING, and structlog set to the same. `form`: json or console."""
    shared = [
        structlog.contextvars.merge_contextvars,
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
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
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
            "psycopg.pool": {"level": "ERROR"},  # warns at each try of a connection; who needs one says so
            "asyncio": {"level": "WARNING"},
            "aiohttp.access": {"level": "CRITICAL"},
        },
    }
