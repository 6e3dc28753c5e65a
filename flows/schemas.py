"""The schemas of forms, parameters and structured answers: one object of plain values, nothing nested. Pure.

A property is a string, number, integer or boolean, or has an `enum` of plain values; it may have `title`,
`description`, `default`, and bounds. A subset of JSON Schema, so that a browser draws it and a model is given it.
"""

import math
import re
from typing import Annotated, Any, Literal

import msgspec

from streams.sentences import Sentence
from streams.sentences import noop as _

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
PROPERTIES = 50  # of the contract (flows: "Schemas"), not of an installation
LARGEST = 2**63  # what the databases and most clients hold

Plain = str | int | float | bool


class Property(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    type: Literal["string", "number", "integer", "boolean"] | None = None
    title: str = ""
    description: str = ""
    default: Plain | None = None
    enum: Annotated[list[Plain], msgspec.Meta(min_length=1, max_length=200)] | None = None
    min_length: int | None = None
    max_length: int | None = None
    minimum: float | None = None
    maximum: float | None = None


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    properties: dict[str, Property]
    type: Literal["object"] = "object"
    title: str = ""
    description: str = ""
    required: list[str] = []
    additional_properties: Literal[False] = False


class SchemaError(Exception):
    """A schema outside of the subset, or values that do not fit: `fields` has a sentence for each of them."""

    def __init__(self, fields: dict[str, Sentence]) -> None:
        self.fields = fields
        self.sentence = _together(fields)
        super().__init__(str(self.sentence))


def _together(fields: dict[str, Sentence]) -> Sentence:
    """One sentence of all: there is nothing to translate but its parts."""
    places, values = [], {}
    for number, (name, text) in enumerate(fields.items()):
        places.append(f"{{name{number}}}: {{text{number}}}" if name else f"{{text{number}}}")
        values |= {f"name{number}": name, f"text{number}": text} if name else {f"text{number}": text}
    return Sentence("; ".join(places), **values)


def parse(raw: Any) -> Schema:
    """Raises SchemaError."""
    try:
        schema = msgspec.convert(raw, Schema)
    except (msgspec.ValidationError, OverflowError) as error:  # a bound that no float holds
        raise SchemaError({"": Sentence("{reason}", reason=error)}) from error
    found: dict[str, Sentence] = {}
    if not 1 <= len(schema.properties) <= PROPERTIES:
        found[""] = Sentence(_("a schema has 1 to {limit} properties"), limit=PROPERTIES)
    for name in schema.required:
        if name not in schema.properties:
            found[name[:64]] = Sentence(_("it is required and not there"))
    for name, item in schema.properties.items():
        fault = _property_fault(name, item)
        if fault:
            found[name[:64]] = fault
    if found:
        raise SchemaError(found)
    return schema


def _property_fault(name: str, item: Property) -> Sentence | None:
    if not NAME.match(name):
        return Sentence(_("a name has letters, digits, _ and -, a letter first"))
    if item.type is None and item.enum is None:
        return Sentence(_("it needs a type or an enum"))
    if item.type is not None and any(_fault(item, value) for value in item.enum or ()):
        return Sentence(_("its enum does not fit its type"))
    if item.default is not None and _fault(item, item.default):
        return Sentence(_("its default does not fit: {reason}"), reason=_fault(item, item.default))
    return None


def validate(raw: Any, values: Any, text_chars: int | None = None) -> dict[str, Any]:
    """`values` with the defaults of what is left out. `text_chars`: of any text in them, whatever the schema says.

    Raises SchemaError with a sentence for each wrong field.
    """
    schema = parse(raw)
    if not isinstance(values, dict):
        raise SchemaError({"": Sentence(_("it must be an object"))})
    found = {str(name)[:64]: Sentence(_("there is no such field")) for name in values if name not in schema.properties}
    filled: dict[str, Any] = {}
    for name, item in schema.properties.items():
        value = values.get(name)
        if value is None:
            value = item.default
        if value is None:
            if name in schema.required:
                found[name] = Sentence(_("it is needed"))
            continue
        if item.type == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # browsers have one kind of number
        fault = _fault(item, value, text_chars)
        if fault:
            found[name] = fault
        filled[name] = value
    if found:
        raise SchemaError(found)
    return filled


def _fault(item: Property, value: Any, text_chars: int | None = None) -> Sentence | None:
    """Why the value does not fit, or None."""
    if item.enum is not None and not any(type(value) is type(one) and value == one for one in item.enum):
        return Sentence(_("it is not one of the choices"))
    match item.type:
        case "string":
            return _text_fault(item, value, text_chars)
        case "boolean":
            return None if isinstance(value, bool) else Sentence(_("it must be true or false"))
        case "integer" | "number":
            return _number_fault(item, value)
    return None


def _text_fault(item: Property, value: Any, text_chars: int | None) -> Sentence | None:
    if not isinstance(value, str):
        return Sentence(_("it must be a text"))
    if "\0" in value:
        return Sentence(_("it has a character that is not allowed (NUL)"))
    if len(value) < (item.min_length or 0):
        return Sentence(_("it has fewer than {limit} characters"), limit=item.min_length)
    limit = min((most for most in (item.max_length, text_chars) if most is not None), default=len(value))
    return Sentence(_("it has more than {limit} characters"), limit=limit) if len(value) > limit else None


def _number_fault(item: Property, value: Any) -> Sentence | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Sentence(_("it must be a number"))
    if isinstance(value, float) and not math.isfinite(value):
        return Sentence(_("it must be a number"))
    if item.type == "integer" and not isinstance(value, int):
        return Sentence(_("it must be a whole number"))
    if abs(value) > LARGEST:
        return Sentence(_("it is too large"))
    if item.minimum is not None and value < item.minimum:
        return Sentence(_("it is less than {limit}"), limit=f"{item.minimum:g}")
    if item.maximum is not None and value > item.maximum:
        return Sentence(_("it is more than {limit}"), limit=f"{item.maximum:g}")
    return None
