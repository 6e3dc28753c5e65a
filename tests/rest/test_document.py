"""The OpenAPI document: complete, valid, and what REST really answers."""

from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver
from rest_framework.views import APIView

from config import examples, openapi
from tests.rest.conftest import Api

VERBS = ("get", "post", "put", "patch", "delete")
OWN = {"schema/", "docs/"}


def served() -> set[tuple[str, str]]:
    """Every path and verb under /api/, from the addresses."""
    api = next(found for found in get_resolver().url_patterns if str(found.pattern) == "api/")
    found = set()
    for pattern in api.url_patterns:
        view = getattr(pattern.callback, "cls", None) if isinstance(pattern, URLPattern) else None
        if view is not None and issubclass(view, APIView) and str(pattern.pattern) not in OWN:
            path = str(pattern.pattern).replace("<str:", "{").replace(">", "}")
            found |= {(path, verb.upper()) for verb in VERBS if hasattr(view, verb)}
    return found


def test_every_path_and_verb_is_documented_and_no_other() -> None:
    assert served() == set(openapi.OPERATIONS)
    paths = openapi.document()["paths"]
    documented = {(path, verb.upper()) for path, verbs in paths.items() for verb in verbs}
    assert documented == {(f"/api/{path}", verb) for path, verb in openapi.OPERATIONS}
    ids = [operation["operationId"] for verbs in paths.values() for operation in verbs.values()]
    assert len(ids) == len(set(ids))


def test_the_document_is_served_to_everybody(db: None) -> None:
    shown = Client().get("/api/schema/").json()
    assert shown["openapi"] == "3.1.0" and shown == openapi.document()
    page = Client().get("/api/docs/")
    assert page.status_code == 200 and b"cdn" not in page.content and b"//" not in page.content
    assert b'<a href="/">' in page.content


def test_the_documents_page_alone_may_show_pictures_of_its_style(db: None) -> None:
    policy = Client().get("/api/docs/")["Content-Security-Policy"]
    assert "img-src 'self' data:;" in policy and policy.count("data:") == 1 and "unsafe" not in policy
    assert "data:" not in Client().get("/login/")["Content-Security-Policy"]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": openapi.document()["components"]}


def bodies() -> list[Any]:
    found = []
    for path, verbs in openapi.document()["paths"].items():
        for verb, operation in verbs.items():
            for status, response in operation["responses"].items():
                for media, content in response.get("content", {}).items():
                    if media == "application/json":
                        found.append(pytest.param(content, id=f"{verb} {path} {status}"))
            sent = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if sent:
                found.append(pytest.param(sent, id=f"{verb} {path} body"))
    return found


@pytest.mark.parametrize("content", bodies())
def test_every_body_has_examples_and_they_fit_its_schema(content: dict[str, Any]) -> None:
    shown = [content["example"]] if "example" in content else []
    shown += [example["value"] for example in content.get("examples", {}).values()]
    assert shown
    checker = jsonschema.Draft202012Validator(resolved(content["schema"]))
    for example in shown:
        checker.validate(example)


def test_what_the_document_says_of_errors_is_what_they_are(api: Callable[..., Api]) -> None:
    checker = jsonschema.Draft202012Validator(resolved({"$ref": "#/components/schemas/Error"}))
    anna = api("anna")
    for response in (
        api().get("me/"),
        anna.get("x/"),
        anna.post("flows/", {"name": 5}),
        anna.post("flows/", {"name": "x", "draft": []}),
        anna.request("PUT", "/api/me/"),
    ):
        checker.validate(response.json())
    assert set(examples.error("busy")["error"]) == {"code", "text", "retryable", "trace"}
