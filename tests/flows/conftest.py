from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from flows import providers
from flows.models import Provider
from streams import database, redis


@pytest.fixture
async def stores(transactional_db: None, redis_url: str) -> AsyncIterator[None]:
    """Database and Redis, as async code reaches them; nothing is held afterwards."""
    providers._opened.clear()
    yield
    await redis.aclose()
    database.close()


@pytest.fixture
def owner(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("owner", password="owner")


@pytest.fixture
def scripted(transactional_db: None) -> Provider:
    return Provider.objects.create(
        slug="scripted", kind="scripted", options={"default": "{input}!", "pour": True}, prices={"input": 2_000_000}
    )
