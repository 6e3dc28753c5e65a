"""What comes in: strict JSON, named fields of their types, ids of a path. What is out of form is refused by name."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from streams.errors import WireError, too_large
from streams.numbers import TOO_LARGE, OutOfRange, check_numbers

BODY_DEPTH = 64  # a draft may nest to 32 by its own rules


class JSONParser(BaseParser):
    """Strict JSON: no NaN, no lone surrogate, no number out of range, bounded. What is not JSON is `bad_json`."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        most_bytes = settings.HEADRACE.body_bytes
        raw = stream.read(most_bytes + 1)
        if len(raw) > most_bytes:
            raise too_large("frame_too_large", most_bytes)
        try:
            value = msgspec.json.decode(raw)
            check_numbers(raw, value)
        except OutOfRange as error:
            raise WireError("bad_json", _(TOO_LARGE)) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise WireError("bad_json") from error
        if _is_deeper(value, BODY_DEPTH):
            raise WireError("bad_json", _("The JSON is nested too deeply."))
        return value


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _level in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


class JSONOnly(BaseContentNegotiation):
    """Every answer is JSON, whatever `Accept` says."""

    def select_parser(self, request: Request, parsers: list[Any]) -> Any:
        essence = (request.content_type or "").split(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == essence), None)

    def select_renderer(self, request: Request, renderers: list[Any], format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class JSONRenderer(BaseRenderer):
    """Structs and plain values, encoded as the wire's frames are."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return b"" if data is None else msgspec.json.encode(data, enc_hook=str)


class Text(serializers.CharField):
    """A string as it came: numbers are not taken for text, blanks are kept."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **kwargs})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Json(serializers.Field):
    """Any JSON value, or one of `kind`, as it came."""

    default_error_messages = {"invalid": gettext_lazy("This has not the right type.")}

    def __init__(self, *, kind: type = object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, self.kind):
            self.fail("invalid")
        return data


class Flag(serializers.BooleanField):
    """true or false, and no word that might mean one."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Body(serializers.Serializer):
    """A body of named fields; others are refused."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if isinstance(data, Mapping):
            unknown = sorted(set(data) - set(self.fields))
            if unknown:
                raise WireError("unknown_field", fields={name: _("There is no such field.") for name in unknown})
        return super().to_internal_value(data)

    @classmethod
    def of(cls, request: Request) -> dict[str, Any]:
        """The request's body, checked. Raises WireError bad_json, unknown_field, validation_error."""
        body = cls(data=request.data)
        body.is_valid(raise_exception=True)
        return body.validated_data


class Nothing(Body):
    """Of what is asked for without more: a field is refused."""


def path_id(text: str) -> uuid.UUID:
    """An id in a path, with or without dashes. One of another form is not there, like one that is not yours."""
    if not _UUID.fullmatch(text):
        raise WireError("not_found")
    return uuid.UUID(text)


def found(row: Any) -> Any:
    if row is None:
        raise WireError("not_found")
    return row


_UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
