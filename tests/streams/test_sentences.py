"""Sentences that are made where nobody knows the reader's language."""

import msgspec
import pytest

from accounts import locale
from flows import graph, schemas
from flows.kinds import NodeError
from flows.templates import TemplateError, compile
from streams.errors import WireError
from streams.sentences import Kept, Sentence, SentenceError, kept, restored, told

GERMAN = {
    "it has more than {limit} tags": "es hat mehr als {limit} Marken",
    "The template does not compile: {what}.": "Die Vorlage ist fehlerhaft: {what}.",
    "it is needed": "es fehlt",
    "its default does not fit: {reason}": "die Vorgabe passt nicht: {reason}",
    "it must be a number": "es muss eine Zahl sein",
}


def german(text: str) -> str:
    return GERMAN.get(text, text)


def test_sentence_is_its_english_text():
    assert Sentence("it has more than {limit} tags", limit=5) == "it has more than 5 tags"
    assert str(SentenceError("it has more than {limit} tags", limit=5)) == "it has more than 5 tags"


def test_sentence_is_told_in_the_readers_language_with_its_values():
    assert told(Sentence("it has more than {limit} tags", limit=5), german) == "es hat mehr als 5 Marken"


def test_sentence_within_a_sentence_is_told_too():
    inner = Sentence("it must be a number")
    assert told(Sentence("its default does not fit: {reason}", reason=inner), german) == (
        "die Vorgabe passt nicht: es muss eine Zahl sein"
    )


def test_braces_in_a_value_are_left_alone():
    made = Sentence("its default does not fit: {reason}", reason="{limit} {")
    assert told(restored(kept(made)), german) == "die Vorgabe passt nicht: {limit} {"


def test_text_that_is_no_sentence_is_a_message_id():
    assert told("it is needed", german) == "es fehlt"
    assert told("{left} alone", german) == "{left} alone"


def test_sentence_is_kept_as_json():
    made = Sentence("its default does not fit: {reason}", reason=Sentence("it must be a number"))
    sent = msgspec.json.encode({"what": kept(made)})
    read = msgspec.json.decode(sent, type=dict[str, str | Kept])
    assert told(restored(read["what"]), german) == "die Vorgabe passt nicht: es muss eine Zahl sein"


def test_fault_of_a_template_is_told_whole_after_it_was_kept_with_its_build(settings):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, template_tags=1)
    with pytest.raises(TemplateError) as caught:
        compile("{{ a }}{{ b }}")
    found = graph.fault("bad_template", "n", "text", what=caught.value.sentence)
    assert found.text == "The template does not compile: it has more than 1 tags."
    read = msgspec.convert(msgspec.json.decode(msgspec.json.encode(found)), graph.Fault)
    assert graph.sentence(read, german) == "Die Vorlage ist fehlerhaft: es hat mehr als 1 Marken."


def test_faults_of_a_schema_are_told_each_with_its_field():
    schema = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    with pytest.raises(schemas.SchemaError) as caught:
        schemas.validate(schema, {})
    assert str(caught.value) == "n: it is needed"
    assert told(caught.value.sentence, german) == "n: es fehlt"


def test_error_of_a_run_is_told_at_the_edge(monkeypatch):
    monkeypatch.setattr(locale, "gettext", german)
    error = WireError("flow_error", Sentence("{reason}", reason=NodeError("it is needed").sentence))
    assert locale.sentence(error, "en") == "es fehlt"
