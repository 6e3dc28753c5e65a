"""Schemathesis over the OpenAPI document, the short form: no 5xx, nothing that the document does not say."""

import re
from collections.abc import Callable

import pytest

from tests.rest.fuzz import run
from tests.server import HeadraceServer, manage


@pytest.mark.timeout(420)
def test_generated_requests_get_what_the_document_says(make_server: Callable[..., HeadraceServer]) -> None:
    plenty = {"HEADRACE_REST_REQUESTS_PER_MINUTE": "1000000", "HEADRACE_REST_ANONYMOUS_PER_MINUTE": "1000000"}
    server = make_server(**plenty).start()
    token = manage("token", "admin", "--minutes", "60", env=server.env).stdout.strip()
    done = run(server.url, token, 30, 3, "examples,fuzzing")
    server.stop()
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert passed and passed[1] == passed[2] and int(passed[1]) > 50, done.stdout[-2000:]
