from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.test import override_settings

from accounts import locale as languages
from flows import providers
from flows.models import Provider
from providers.base import LLMMessage, LLMRequest, ProviderError, Usage
from providers.openai_compatible import OpenAICompatible
from providers.scripted import Scripted
from streams import database
from streams.errors import CATALOGUE, WireError


def test_a_key_is_kept_encrypted_and_read_again() -> None:
    kept = providers.encrypt_key("sk-secret")
    assert "sk-secret" not in kept
    assert providers.decrypt_key(kept) == "sk-secret"
    assert providers.encrypt_key("") == providers.decrypt_key("") == ""


def test_a_key_under_an_older_secret_is_read_while_that_is_a_fallback() -> None:
    with override_settings(SECRET_KEY="old" * 20):
        kept = providers.encrypt_key("sk-secret")
    with override_settings(SECRET_KEY="new" * 20, SECRET_KEY_FALLBACKS=["old" * 20]):
        assert providers.decrypt_key(kept) == "sk-secret"
    with override_settings(SECRET_KEY="new" * 20), pytest.raises(WireError) as caught:
        providers.decrypt_key(kept)
    assert caught.value.code == "provider_auth"


async def said(llm: Any, model: str, text: str) -> str:
    request = LLMRequest(model=model, messages=(LLMMessage("user", text),))
    return "".join([chunk.text async for chunk in llm.stream(request)])


async def test_a_row_makes_a_model_once(stores: None, scripted: Provider) -> None:
    llm, model = await providers.open_llm("scripted")
    assert isinstance(llm, Scripted) and model
    assert await said(llm, model, "hey") == "hey!"
    assert (await providers.open_llm("scripted", "other"))[0] is llm


async def test_a_row_that_changed_makes_a_new_one(
    stores: None, scripted: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "HEADRACE", msgspec.structs.replace(settings.HEADRACE, provider_fresh_s=0))
    llm, _model = await providers.open_llm("scripted")
    assert (await providers.open_llm("scripted"))[0] is llm
    await database.write(lambda: Provider.objects.update(options={"default": "changed", "pour": True}))
    changed, model = await providers.open_llm("scripted")
    assert await said(changed, model, "hey") == "changed"


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_provider_that_is_gone_ends_the_turn(stores: None, scripted: Provider, enabled: bool) -> None:
    await database.write(lambda: Provider.objects.update(enabled=enabled, slug="renamed" if enabled else "scripted"))
    with pytest.raises(WireError) as caught:
        await providers.open_llm("scripted")
    assert caught.value.code == "flow_error" and "scripted" in str(caught.value.text)


async def test_a_model_that_the_row_does_not_name_is_refused(stores: None, scripted: Provider) -> None:
    await database.write(lambda: Provider.objects.update(model_names=["first", "second"]))
    assert (await providers.open_llm("scripted"))[1] == "first"
    assert (await providers.open_llm("scripted", "second"))[1] == "second"
    with pytest.raises(WireError):
        await providers.open_llm("scripted", "third")


async def test_a_row_with_a_bad_script_ends_the_turn(stores: None, scripted: Provider) -> None:
    await database.write(lambda: Provider.objects.update(options={"rulez": []}))
    with pytest.raises(WireError) as caught:
        await providers.open_llm("scripted")
    assert caught.value.code == "flow_error"


async def test_the_environment_makes_the_provider_openai(stores: None) -> None:
    with pytest.raises(WireError):
        await providers.open_llm("openai")
    with override_settings(OPENAI_API_KEY="sk", OPENAI_BASE_URL="http://127.0.0.1:1/v1", OPENAI_MODEL="m"):
        llm, model = await providers.open_llm("openai")
        assert isinstance(llm, OpenAICompatible) and model == "m"
        world = await database.read(providers.world)
        assert world.providers == {"openai": ("m",)}


@pytest.mark.parametrize(
    ("key", "url", "has_one"),
    [
        (None, "https://api.openai.com/v1", False),
        ("sk", "https://api.openai.com/v1", True),
        (None, "http://127.0.0.1:11434/v1", True),
    ],
)
def test_the_environment_needs_a_key_or_an_address_of_its_own(key: str | None, url: str, has_one: bool) -> None:
    with override_settings(OPENAI_API_KEY=key, OPENAI_BASE_URL=url, OPENAI_MODEL=None):
        assert (providers.of_environment() is not None) is has_one


async def test_a_row_wins_over_the_environment(stores: None, transactional_db: None) -> None:
    await database.write(lambda: Provider.objects.create(slug="openai", kind="scripted", model_names=["row"]))
    with override_settings(OPENAI_API_KEY="sk"):
        assert isinstance((await providers.open_llm("openai"))[0], Scripted)
        assert (await database.read(providers.world)).providers == {"openai": ("row",)}


def test_the_world_knows_handlers(db: None) -> None:
    assert "flow" in providers.world().handlers


@pytest.mark.parametrize("kind", ProviderError.__init__.__annotations__["kind"].__args__)
def test_each_kind_of_error_is_in_the_catalogue(kind: Any) -> None:
    error = providers.wire_error(ProviderError(kind, "The server answered 500.", retry_after=3))
    assert error.code in CATALOGUE and error.code.startswith("provider_")
    assert error.extra == {"retry_after": 3, "cause": "The server answered 500."}
    assert languages.sentence(error, "en") == f"{CATALOGUE[error.code].text} (The server answered 500)"


@pytest.mark.parametrize(
    ("prices", "usage", "micros"),
    [
        ({}, Usage(10, 10), 0),
        (None, Usage(10, 10), 0),
        ({"input": 2_000_000, "output": 8_000_000}, Usage(10, 5), 60),
        ({"input": 2_000_000, "output": 0, "cached": 500_000}, Usage(10, 5, 4), 14),
        ({"input": 2_000_000}, Usage(10, 0, 4), 20),
        ({"input": 150_000}, Usage(1, 0), 0),
        ({"input": 150_000}, Usage(4, 0), 1),
        ({"input": "free", "output": -3}, Usage(10, 10), 0),
    ],
)
def test_tokens_cost_what_the_prices_say(prices: Any, usage: Usage, micros: int) -> None:
    assert providers.cost(prices, usage) == micros


async def test_the_cost_is_that_of_the_row(stores: None, scripted: Provider) -> None:
    assert await providers.cost_micros("scripted", Usage(3, 9)) == 6


async def test_neither_a_row_that_is_gone_nor_a_database_that_is_away_costs_an_answer(
    stores: None, scripted: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await providers.cost_micros("nobody", Usage(3, 9)) == 0
    monkeypatch.setattr(settings, "HEADRACE", msgspec.structs.replace(settings.HEADRACE, provider_fresh_s=0))
    llm, _model = await providers.open_llm("scripted")

    async def away(*args: Any) -> Any:
        raise WireError("unavailable")

    monkeypatch.setattr(database, "read", away)
    assert (await providers.open_llm("scripted"))[0] is llm
    assert await providers.cost_micros("scripted", Usage(3, 9)) == 6
