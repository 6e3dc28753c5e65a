"""Whether an answer fits its question: options, a form's schema, or free text; no text is longer than a `say`'s."""

from typing import Any

from django.conf import settings

from flows import schemas
from streams.errors import WireError
from streams.sentences import Sentence
from streams.sentences import noop as _


def checked(options: list[dict], schema: dict | None, action: str, value: Any) -> tuple[Any, str]:
    """The value as it is stored, and its label. Raises WireError invalid_answer, with the field of a form."""
    if action != "accept":
        return None, ""
    if options:
        label = next((option["label"] for option in options if option["id"] == value), None)
        if label is None:
            raise WireError("invalid_answer", field="value")
        return value, label
    if schema:
        return _form(schema, value), ""
    if not isinstance(value, str) or not value.strip() or len(value) > settings.HEADRACE.text_chars or "\x00" in value:
        raise WireError("invalid_answer", field="value")
    return value, value


def text_as_answer(options: list[dict], schema: dict | None, text: str) -> tuple[Any, str] | None:
    """A typed text as the answer: free text, or an option's label or id. Null where the question doesn't take it."""
    if schema:
        return None
    if not options:
        return text, text
    wanted = text.strip().casefold()
    for option in options:
        if wanted in (option["label"].strip().casefold(), option["id"].casefold()):
            return option["id"], option["label"]
    return None


def label_of(options: list[dict], value: Any) -> str:
    named = next((option["label"] for option in options if option["id"] == value), None)
    if named is not None:
        return named
    return value if isinstance(value, str) else ""


def checked_params(schema: dict | None, params: dict[str, Any]) -> dict[str, Any]:
    """A say's `params` by the start node's schema. Raises WireError validation_error with the field."""
    if not schema:
        if params:
            raise _unfit_param(next(iter(params))[:64], Sentence(_("there is no such field")))
        return {}
    try:
        return schemas.validate(schema, params, settings.HEADRACE.text_chars)
    except schemas.SchemaError as error:
        raise _unfit_param(*next(iter(error.fields.items()))) from None


def _unfit_param(name: str, reason: Sentence) -> WireError:
    text = Sentence(_("The field {name} is not valid: {reason}."), name=name, reason=reason)
    return WireError("validation_error", text, field=f"params.{name}")


def fitting_params(schema: dict | None, params: dict[str, Any]) -> dict[str, Any]:
    """Params of an earlier turn by the schema of today: what it does not know any more is left out."""
    known = schema["properties"] if schema else {}
    return checked_params(schema, {name: value for name, value in params.items() if name in known})


def _form(schema: dict, value: Any) -> dict[str, Any]:
    """One object of plain fields; defaults fill what is left out."""
    try:
        return schemas.validate(schema, value, settings.HEADRACE.text_chars)
    except schemas.SchemaError as error:
        name, reason = next(iter(error.fields.items()))
        text = Sentence(_("The answer does not fit: {reason}."), reason=reason)
        raise WireError("invalid_answer", text, field=name or "value") from None
