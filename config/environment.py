"""What the operator sets: every variable of the environment and `.env`, typed, checked at start.

A missing or bad value raises SettingsError with one sentence that names the variable and says what would be right.
`docs/settings.md` is made from this file (`manage.py document_settings`).
"""

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Meta

from config.bounds import Bounds
from streams import cluster, sentinel

BOUND_PREFIX = "HEADRACE_"
SECRET_KEY_CHARS = 32
METRICS_TOKEN_CHARS = 16

Names = tuple[str, ...]


class SettingsError(Exception):
    """One sentence for the operator."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A field is a variable: its name in capitals. None: there is a way to go on without it."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="Port to listen on.")] = 8000
    data_dir: Annotated[str, Meta(description="Where the database, the embedded store and the secret key live.")] = (
        "var"
    )
    files_dir: Annotated[
        str | None,
        Meta(
            description="Where uploaded files are kept; without it `DATA_DIR/files`. All machines of an installation "
            "need the same one."
        ),
    ] = None
    workers: Annotated[int, Meta(ge=1, le=256, description="Server processes behind the port.")] = 1
    database_url: Annotated[
        str | None,
        Meta(
            description="`postgres://user:password@host:5432/name` or `sqlite:///path`; without it SQLite in "
            "`DATA_DIR`."
        ),
    ] = None
    redis_url: Annotated[
        str | None,
        Meta(
            description="`redis://host:6379/0`, `rediss://…`, `unix:///path`, by Sentinel "
            "`redis+sentinel://host,host/master/0`, or of a cluster `redis+cluster://host,host`; without it the "
            "embedded store."
        ),
    ] = None
    redis_prefix: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9._:-]{1,64}$",
            description="What keys and channels begin with. Installations that share a Redis need one each: a database "
            "number does not part their channels.",
        ),
    ] = "hr:"
    embedded_mb: Annotated[int, Meta(ge=16, description="Memory of the embedded store, in MiB.")] = 512
    secret_key: Annotated[
        str | None,
        Meta(
            description="Signs sessions and tokens, at least 32 characters; without it one is made once and kept in "
            "`DATA_DIR/secret_key`."
        ),
    ] = None
    secret_key_fallbacks: Annotated[
        Names, Meta(description="Former secret keys that still verify, separated by commas.")
    ] = ()
    debug: Annotated[bool, Meta(description="Django's error pages. Never where others can reach it.")] = False
    tls: Annotated[
        bool,
        Meta(description="The site is reached by https (usually at a proxy): cookies are secure, HSTS is sent."),
    ] = False
    allowed_hosts: Annotated[
        Names,
        Meta(description="Host names the site is reached by, besides localhost and `HOST`; needed with 0.0.0.0."),
    ] = ()
    allowed_origins: Annotated[
        Names,
        Meta(description="Origins besides the site's own whose pages may open sockets: `https://app.example.org`."),
    ] = ()
    trusted_proxies: Annotated[
        Names,
        Meta(
            description="Addresses of proxies whose `X-Forwarded-For` and `-Proto` are believed: "
            "`127.0.0.1, 10.0.0.0/8`."
        ),
    ] = ()
    log_format: Annotated[str, Meta(pattern="^(json|console)$", description="`json` or `console`.")] = "console"
    log_level: Annotated[
        str,
        Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`."),
    ] = "INFO"
    metrics_token: Annotated[
        str | None,
        Meta(
            description="What reads `/metrics` from other machines sends as `Authorization: Bearer …`, at least 16 "
            "characters; without it only this machine reads it."
        ),
    ] = None
    otel_exporter_otlp_endpoint: Annotated[
        str | None,
        Meta(
            description="Where spans of turns go, by OTLP over HTTP: `http://collector:4318`. Needs "
            "`requirements-otel.txt`; other `OTEL_*` variables are read from the environment."
        ),
    ] = None
    headrace_turns: Annotated[
        bool, Meta(description="Off: this process serves pages and sockets and runs no turns.")
    ] = True
    headrace_allow_private_providers: Annotated[
        bool,
        Meta(description="Providers may be at private addresses and plain http (a model on your own machine)."),
    ] = False
    openai_api_key: Annotated[
        str | None, Meta(description="Key of the OpenAI-compatible server that the demo flow `assistant` uses.")
    ] = None
    openai_base_url: Annotated[
        str | None, Meta(description="Its address; without it OpenAI's own, if there is a key.")
    ] = None
    openai_model: Annotated[str | None, Meta(description="The model's name there.")] = None


class Settings(msgspec.Struct, frozen=True):
    environment: Environment
    bounds: Bounds


class Field(msgspec.Struct, frozen=True):
    """A variable for the documents. `kind`: a word for its type."""

    variable: str
    kind: str
    default: Any
    text: str


# --------------------------------------------------------------------------------------------- reading


def load(environ: Mapping[str, str], env_file: Path | None) -> Settings:
    """Settings from `environ`, which wins, and `env_file`. An empty value is as good as none. Raises SettingsError."""
    values = {**(read_env_file(env_file) if env_file else {}), **environ}
    _refuse_unknown(values)
    values = {name: value.strip() for name, value in values.items() if value.strip()}
    environment = _read(Environment, values, prefix="")
    bounds = _read(Bounds, values, prefix=BOUND_PREFIX)
    _check(environment)
    _check_bounds(bounds)
    return Settings(environment, bounds)


_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1(?:\s+#.*)?""")


def read_env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines, `#` comments, values in single or double quotes. Anything else is an error with its line.

    Strict, because a line that is passed over is a setting somebody believes in.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({_reason(error)}); it must be a UTF-8 text file of NAME=value lines."
        ) from None
    found: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SettingsError(f"{path}, line {number} is not NAME=value, a comment or empty.")
        name, value = match.groups()
        if value[:1] in {"'", '"'}:
            quoted = _QUOTED.fullmatch(value)
            if quoted is None:
                raise SettingsError(
                    f"{path}, line {number}: the value of {name} must end with the quote it begins with; "
                    "only a comment may follow."
                )
            value = quoted[2]
        else:
            value = re.sub(r"(?:^|\s+)#.*", "", value)
        found[name] = value
    return found


def fields(struct: type[msgspec.Struct], prefix: str = "") -> list[Field]:
    """The variables of `struct` as documents show them."""
    hints = get_type_hints(struct, include_extras=True)
    found = []
    for field in msgspec.structs.fields(struct):
        plain, meta = _take_apart(hints[field.name])
        found.append(Field(prefix + field.name.upper(), _kind(plain), field.default, meta.description or ""))
    return found


# ---------------------------------------------------------------------------------------------- checks

_WORDS = {
    "on": True,
    "off": False,
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "1": True,
    "0": False,
}


def _read(struct: type[msgspec.Struct], values: Mapping[str, str], prefix: str) -> Any:
    hints = get_type_hints(struct, include_extras=True)
    given = {}
    for field in msgspec.structs.fields(struct):
        variable = prefix + field.name.upper()
        if variable in values:
            given[field.name] = _convert(variable, values[variable], hints[field.name])
    return struct(**given)


def _convert(variable: str, value: str, hint: Any) -> Any:
    """`value` as the field's type says. The value is shown in the sentence unless it is a secret."""
    plain, meta = _take_apart(hint)
    if plain is bool:
        if value.lower() not in _WORDS:
            raise SettingsError(f"{variable} is {value!r}; it must be on or off.")
        return _WORDS[value.lower()]
    if plain == Names:
        return tuple(item.strip() for item in value.split(",") if item.strip())
    try:
        converted = msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        converted = None
    is_bound = variable.startswith(BOUND_PREFIX) and plain in {int, float}
    if converted is None or (is_bound and meta.ge is None and not converted > 0):
        raise SettingsError(f"{variable} is {value!r}; it must be {_right(plain, meta, variable)}.")
    return converted


def _take_apart(hint: Any) -> tuple[Any, Meta]:
    """The type under `Annotated` and `| None`, and what is said of it."""
    meta = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Meta)), None)
    plain = get_args(hint)[0] if meta else hint
    choices = [arg for arg in get_args(plain) if arg is not NoneType]
    return (choices[0] if len(choices) == 1 else plain), meta or Meta()


def _right(plain: Any, meta: Meta, variable: str) -> str:
    if plain in {int, float}:
        number = "a whole number" if plain is int else "a number"
        if meta.ge is None:
            return f"{number} above 0"
        return f"{number} from {meta.ge}" + (f" to {meta.le}" if meta.le is not None else "")
    return (meta.description or f"a value that {variable} can take").rstrip(".")


def _kind(plain: Any) -> str:
    return {bool: "on or off", int: "whole number", float: "number"}.get(plain, "list" if plain == Names else "text")


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Of `names` those that are no settings and nearly one, and that one. `OTEL_…` are OpenTelemetry's own."""
    known = {f.variable for f in (*fields(Environment), *fields(Bounds, BOUND_PREFIX))}
    others = [name for name in names if name not in known and not name.startswith("OTEL_")]
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.75) for name in others}
    return {name: found[0] for name, found in near.items() if found}


def _refuse_unknown(values: Mapping[str, str]) -> None:
    """A misspelt bound must not pass for a default."""
    known = {f.variable for f in (*fields(Environment), *fields(Bounds, BOUND_PREFIX))}
    for name in sorted(values):
        if name.startswith(BOUND_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists what there is."
            raise SettingsError(f"{name} is not a setting; {hint}")


_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")


def _check(environment: Environment) -> None:
    """What a type cannot say."""
    for variable in ("secret_key", *(["secret_key_fallbacks"] if environment.secret_key_fallbacks else [])):
        keys = getattr(environment, variable)
        for key in [keys] if isinstance(keys, str) else keys or []:
            if len(key) < SECRET_KEY_CHARS:
                raise SettingsError(
                    f"{variable.upper()} is too short; it must be at least {SECRET_KEY_CHARS} characters, "
                    "for example what `openssl rand -base64 48` prints."
                )
    for origin in environment.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"ALLOWED_ORIGINS has {origin!r}; an origin is scheme and host in small letters without a path, "
                "for example https://app.example.org."
            )
    for host in environment.allowed_hosts:
        if "/" in host or " " in host:
            raise SettingsError(
                f"ALLOWED_HOSTS has {host!r}; it must be host names without scheme and path, "
                "for example app.example.org."
            )
    for proxy in environment.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise SettingsError(
                f"TRUSTED_PROXIES has {proxy!r}; it must be IP addresses or networks, for example "
                "127.0.0.1, 10.0.0.0/8."
            ) from None
    if environment.openai_base_url is not None and not _is_base_url(environment.openai_base_url):
        raise SettingsError(
            "OPENAI_BASE_URL is not the address of a server; it must look like https://api.openai.com/v1."
        )
    if environment.metrics_token is not None and len(environment.metrics_token) < METRICS_TOKEN_CHARS:
        raise SettingsError(
            f"METRICS_TOKEN is too short; it must be at least {METRICS_TOKEN_CHARS} characters, for example what "
            "`openssl rand -hex 32` prints."
        )
    receiver = environment.otel_exporter_otlp_endpoint
    if receiver is not None and not _is_base_url(receiver):
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is not the address of a server; it must look like http://collector:4318."
        )
    if environment.redis_url is not None:
        _check_redis(environment.redis_url)
    if environment.database_url is not None:
        database_of(environment.database_url)


def _check_bounds(bounds: Bounds) -> None:
    """What one bound must be to another."""
    if bounds.dead_after_s < 2 * bounds.beat_s:
        raise SettingsError(
            f"HEADRACE_DEAD_AFTER_S is {bounds.dead_after_s:g} and HEADRACE_BEAT_S is {bounds.beat_s:g}; "
            "the first must be at least twice the second, or one late beat makes a worker dead."
        )
    if 0 < bounds.loop_stands_s < bounds.dead_after_s:
        raise SettingsError(
            f"HEADRACE_LOOP_STANDS_S is {bounds.loop_stands_s:g} and HEADRACE_DEAD_AFTER_S is {bounds.dead_after_s:g}; "
            "the first must be 0 or at least the second, or a worker ends that the others still believe in."
        )
    if bounds.places_kept_s < 2 * bounds.places_every_s:
        raise SettingsError(
            f"HEADRACE_PLACES_KEPT_S is {bounds.places_kept_s:g} and HEADRACE_PLACES_EVERY_S is "
            f"{bounds.places_every_s:g}; the first must be at least twice the second, or open sockets are not counted."
        )


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    has_more = bool(parts.query or parts.fragment or re.search(r"\s", url))
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not has_more


def _check_redis(url: str) -> None:
    is_good = True
    try:
        if sentinel.is_sentinel(url):
            sentinel.parse(url)
        elif cluster.is_cluster(url):
            cluster.parse(url)
        else:
            parts = urlsplit(url)
            _ = parts.port
            is_good = bool(parts.hostname if parts.scheme in {"redis", "rediss"} else parts.path)
            is_good = is_good and parts.scheme in {"redis", "rediss", "unix"}
    except ValueError:
        is_good = False
    if not is_good:
        raise SettingsError(
            "REDIS_URL is not an address of Redis; it must look like redis://host:6379/0, rediss://host:6380/0, "
            "unix:///path/to/socket, redis+sentinel://host:26379,host:26379/master/0 or, without a database number, "
            "redis+cluster://host:6379,host:6379."
        )


def database_of(url: str) -> dict[str, Any]:
    """ENGINE, NAME and the rest of Django's DATABASES from an address. Raises SettingsError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    name = unquote(parts.path[1:])
    if parts.scheme == "sqlite" and not parts.netloc and name:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
    if parts.scheme in {"postgres", "postgresql"} and name and port != -1:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(port or ""),
            "OPTIONS": dict(parse_qsl(parts.query)),
        }
    raise SettingsError(
        "DATABASE_URL is not an address of a database; it must look like postgres://user:password@host:5432/name "
        "or sqlite:///path/to/file."
    )


def postgres_options(given: Mapping[str, str], bounds: Bounds) -> dict[str, Any]:
    """Of a connection, those of the address last. Nobody keeps a row, or waits for one, without an end.

    A worker that is frozen between its lock and its commit would else hold the threads of all others, one a row, and
    a database whose machine has gone would hold them until the kernel gives up.
    """
    limits = {
        "lock_timeout": bounds.database_lock_s,
        "statement_timeout": bounds.database_statement_s,
        "idle_in_transaction_session_timeout": bounds.database_idle_s,
    }
    of_session = [f"-c {name}={_milliseconds(seconds)}" for name, seconds in limits.items()]
    probe_s = max(1, round(bounds.database_silence_s / 4))
    return {
        "connect_timeout": 2,
        "tcp_user_timeout": _milliseconds(bounds.database_silence_s),
        "keepalives_idle": probe_s,
        "keepalives_interval": probe_s,
        "keepalives_count": 3,
        **given,
        "options": " ".join([*of_session, *([given["options"]] if "options" in given else [])]),
    }


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not UTF-8"
