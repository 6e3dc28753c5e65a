"""These tests parse every source, which must not be interrupted."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_collection_while_parsing() -> Iterator[None]:
    """What a collection ends may print a traceback, which parses too: Python 3.11 fails both (CPython issue 106905)."""
    gc.disable()
    yield
    gc.enable()
