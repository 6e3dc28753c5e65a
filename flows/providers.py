"""Makes models out of Provider rows and the environment, and turns their errors into the catalogue's.

A provider's key is kept encrypted by a key that is derived from SECRET_KEY; keys under older ones
(SECRET_KEY_FALLBACKS) are still read. Nothing here shows a key to anybody but the provider's class.
"""

import base64
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _

from flows import handlers, store
from flows.graph import World
from flows.models import Provider
from providers.address import check_url
from providers.base import LLM, ProviderError, SetupError, Usage
from providers.openai_compatible import OpenAICompatible
from providers.scripted import Scripted
from streams import database, metrics
from streams.errors import WireError
from streams.sentences import Sentence, told

ENVIRONMENT_SLUG = "openai"
ENVIRONMENT_URL = "https://api.openai.com/v1"
ENVIRONMENT_MODEL = "gpt-4o-mini"  # where a key is given, but no model
KEY_INFO = b"headrace: keys of providers"

CODES = {
    "auth": "provider_auth",
    "rate_limited": "provider_rate_limited",
    "refused": "provider_refused",
    "bad_request": "provider_refused",
    "unavailable": "provider_error",
    "timeout": "provider_timeout",
    "cut": "provider_cut",
    "protocol": "provider_error",
}

for _kind in CODES:
    metrics.provider_errors.labels(_kind)  # shown before the first


class Setup(msgspec.Struct, frozen=True):
    """All that makes a provider what it is. `models`: names that graphs may use, the first is the default."""

    slug: str
    kind: str
    base_url: str = ""
    key_encrypted: str = ""
    key: str = ""  # of the environment
    models: tuple[str, ...] = ()
    options: Any = None
    prices: Any = None
    on_takeover: str = "restart"
    takes_pictures: bool = False
    is_trusted: bool = False  # the operator wrote its address into the environment


async def open_llm(slug: str, model: str = "") -> tuple[LLM, str]:
    """The provider's model and its name there; `model` empty: the provider's first. Raises WireError."""
    setup, llm = await _open(slug)
    if model and setup.models and model not in setup.models:
        raise WireError("flow_error", Sentence(_("The provider {name} has no model {model}."), name=slug, model=model))
    chosen = model or (setup.models[0] if setup.models else "")
    return llm, chosen or setup.kind


async def takes_pictures(slug: str) -> bool:
    """Whether its model reads pictures. Raises WireError."""
    return (await _open(slug))[0].takes_pictures


async def continues(slug: str) -> bool:
    """Whether an answer that was cut goes on where it was, else begins anew. Raises WireError."""
    return (await _open(slug))[0].on_takeover == Provider.OnTakeover.CONTINUE


async def cost_micros(slug: str, usage: Usage) -> int:
    """What the tokens cost, by the prices that held when the model was opened; 0 where nobody knows any more."""
    known = _opened.get(slug)
    try:
        setup = known[0] if known is not None else (await _open(slug))[0]
    except WireError:
        return 0  # an answer is not lost for its price
    return cost(setup.prices, usage)


def cost(prices: Any, usage: Usage) -> int:
    """Micros of the currency of `prices`: micros per million tokens, `input`, `output`, `cached` (else as `input`)."""
    if not isinstance(prices, dict):
        return 0
    per_input = _price(prices.get("input"))
    cached = min(usage.cached_tokens, usage.input_tokens)
    total = (
        (usage.input_tokens - cached) * per_input
        + cached * _price(prices.get("cached", per_input))
        + usage.output_tokens * _price(prices.get("output"))
    )
    return int(total / 1_000_000 + 0.5)


def _price(value: Any) -> float:
    is_price = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return value if is_price else 0


def wire_error(error: ProviderError) -> WireError:
    """The catalogue's error for a provider's; `cause` is what the provider's server said or did, in a line."""
    extra = {} if error.retry_after is None else {"retry_after": error.retry_after}
    values = {name: sentence_of(item) if isinstance(item, SetupError) else item for name, item in error.values.items()}
    return WireError(CODES[error.kind], cause=Sentence(error.id, **values), **extra)


def world() -> World:
    """What graphs may name. Synchronous: it reads rows."""
    known = {setup.slug: setup.models for setup in setups()}
    return World(providers=known, handlers=frozenset(handlers.names()))


def setups() -> list[Setup]:
    """All providers that may be used: the rows, and the environment's where no row has its slug."""
    found = {setup.slug: setup for setup in map(_of_row, store.providers())}
    own = of_environment()
    if own is not None:
        found.setdefault(own.slug, own)
    return list(found.values())


def of_environment() -> Setup | None:
    """The provider `openai`, where OPENAI_API_KEY or OPENAI_BASE_URL says that there is one."""
    key, url = settings.OPENAI_API_KEY or "", settings.OPENAI_BASE_URL or ENVIRONMENT_URL
    if not key and url == ENVIRONMENT_URL:
        return None
    return Setup(
        ENVIRONMENT_SLUG,
        Provider.Kind.OPENAI,
        url,
        key=key,
        models=(settings.OPENAI_MODEL or ENVIRONMENT_MODEL,),
        takes_pictures=url == ENVIRONMENT_URL,
        is_trusted=True,
    )


def encrypt_key(key: str) -> str:
    """A provider's key as its row keeps it."""
    return _fernet().encrypt(key.encode()).decode() if key else ""


def decrypt_key(encrypted: str) -> str:
    """Raises WireError("provider_auth") where no SECRET_KEY of ours made it."""
    if not encrypted:
        return ""
    try:
        return _fernet().decrypt(encrypted.encode()).decode()
    except InvalidToken as error:
        text = _("The provider's key cannot be read any more: SECRET_KEY was changed. Enter it anew.")
        raise WireError("provider_auth", text) from error


def keep_key(row: Provider, key: str | None, old_url: str) -> None:
    """Give a row, not saved here, its new key; None keeps the old one. A key is never sent to another host."""
    if key is not None:
        row.key_encrypted = encrypt_key(key)
    elif urlsplit(row.base_url)[:2] != urlsplit(old_url)[:2]:
        row.key_encrypted = ""


def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(_derived(secret)) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _derived(secret: str) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=KEY_INFO).derive(secret.encode())
    return base64.urlsafe_b64encode(derived)


# ------------------------------------------------------------------------------------------- opened


_opened: dict[str, tuple[Setup, LLM, float]] = {}


async def _open(slug: str) -> tuple[Setup, LLM]:
    """The provider, made once and anew when its row changes. What runs on the old one runs on."""
    known = _opened.get(slug)
    if known is not None and time.monotonic() - known[2] < settings.HEADRACE.provider_fresh_s:
        return known[0], known[1]
    try:
        setup = await database.read(_find, slug)
    except WireError:
        if known is None:
            raise
        return known[0], known[1]  # the database is away: streams go on
    if setup is None:
        _opened.pop(slug, None)
        raise WireError("flow_error", Sentence(_("There is no provider {name}."), name=slug))
    known = _opened.get(slug)
    llm = known[1] if known is not None and known[0] == setup else make(setup)
    _opened[slug] = setup, llm, time.monotonic()
    return setup, llm


async def aclose() -> None:
    """Close what was opened: at the end of a worker."""
    while _opened:
        _slug, (_setup, llm, _at) = _opened.popitem()
        await llm.aclose()


def _find(slug: str) -> Setup | None:
    row = store.provider(slug)
    if row is not None:
        return _of_row(row)
    own = of_environment()
    return own if own is not None and own.slug == slug else None


def _of_row(row: Provider) -> Setup:
    return Setup(
        row.slug,
        row.kind,
        row.base_url,
        row.key_encrypted,
        models=tuple(name for name in row.model_names if isinstance(name, str)),
        options=row.options,
        prices=row.prices,
        on_takeover=row.on_takeover,
        takes_pictures=row.takes_pictures,
    )


def make(setup: Setup) -> LLM:
    """Raises WireError where the row's settings make no provider."""
    maker = MAKERS.get(setup.kind)
    if maker is None:
        raise WireError("flow_error", Sentence(_("There is no kind of provider {kind}."), kind=setup.kind))
    try:
        return maker(setup)
    except SetupError as error:
        text = _("The provider {name} is not set up rightly: {reason}")
        raise WireError("flow_error", Sentence(text, name=setup.slug, reason=sentence_of(error))) from error


def check(kind: str, base_url: str, options: Any) -> None:
    """Whether a row may have these. Raises WireError url_not_allowed, validation_error."""
    if kind == Provider.Kind.OPENAI:
        try:
            check_url(base_url, settings.ALLOW_PRIVATE_PROVIDERS)
        except SetupError as error:
            raise WireError("url_not_allowed", fields={"base_url": told(sentence_of(error), gettext)}) from error
    else:
        try:
            Scripted(options)
        except SetupError as error:
            raise WireError("validation_error", fields={"options": told(sentence_of(error), gettext)}) from error


def sentence_of(error: SetupError) -> Sentence:
    return Sentence(error.id, **error.values)


def _scripted(setup: Setup) -> LLM:
    return Scripted(setup.options)


def _openai_compatible(setup: Setup) -> LLM:
    bounds = settings.HEADRACE
    return OpenAICompatible(
        setup.base_url,
        setup.key or decrypt_key(setup.key_encrypted),
        allow_private=setup.is_trusted or settings.ALLOW_PRIVATE_PROVIDERS,
        connect_s=bounds.provider_connect_s,
        first_token_s=bounds.provider_first_token_s,
        between_tokens_s=bounds.provider_between_tokens_s,
    )


MAKERS: dict[str, Callable[[Setup], LLM]] = {
    Provider.Kind.SCRIPTED: _scripted,
    Provider.Kind.OPENAI: _openai_compatible,
}
