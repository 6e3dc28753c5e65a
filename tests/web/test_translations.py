"""Every sentence of the pages speaks every language, with its names kept."""

import ast
import re
from pathlib import Path

import pytest
from babel.messages import Message
from babel.messages.pofile import read_po

from config.translations import LOCALE, compile_one
from tests.architecture.test_house import FLOORS
from tests.server import ROOT

NAMES = re.compile(r"%\(\w+\)s|\{\w+\}|%d")
CALLS = re.compile(r"""n?gettext\(\s*("(?:[^"\\]|\\.)*")""")
TEMPLATES = re.compile(r"""\{% translate (?:"([^"]+)"|'([^']+)') %\}""")


def strings_of(entry: Message) -> list[str]:
    return [entry.string] if isinstance(entry.string, str) else list(entry.string)


def modules() -> set[Path]:
    """What the pages' modules import, and what those import."""
    found: set[Path] = set()
    todo = [ROOT / "static/js" / f"{name}.js" for name in ("chat", "editor", "flows")]
    while todo:
        module = todo.pop()
        if module in found or "vendor" in module.parts:
            continue
        found.add(module)
        names = re.findall(r'(?:from|import) "(\.[^"]+)"', module.read_text())
        todo += [(module.parent / name).resolve() for name in names]
    return found


def said_by_modules() -> set[str]:
    calls = (call for module in modules() for call in CALLS.findall(module.read_text()))
    return {call[1:-1].replace('\\"', '"') for call in calls}


def said_by_templates() -> set[str]:
    texts = (path.read_text() for path in (ROOT / "templates").rglob("*.html"))
    return {one or other for text in texts for one, other in TEMPLATES.findall(text)}


def said_by_python() -> set[str]:
    marks = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext"}
    calls = (
        node
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in marks and node.args
    )
    texts = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    return {text for text in texts if text}


@pytest.mark.parametrize("language", ["de", "zh_Hans"])
@pytest.mark.parametrize(
    ("domain", "said"), [("djangojs", said_by_modules), ("django", said_by_templates), ("django", said_by_python)]
)
def test_each_sentence_is_translated(language: str, domain: str, said) -> None:
    with (LOCALE / language / "LC_MESSAGES" / f"{domain}.po").open("rb") as lines:
        catalogue = read_po(lines)
    whole = (entry for entry in catalogue if entry.id and not entry.fuzzy and all(strings_of(entry)))
    known = {entry.id if isinstance(entry.id, str) else entry.id[0] for entry in whole}
    assert len(said()) > 20
    assert said() - known == set()


@pytest.mark.parametrize(
    "source", sorted(LOCALE.glob("*/LC_MESSAGES/*.po")), ids=lambda path: f"{path.parts[-3]} {path.stem}"
)
def test_translation_keeps_the_names_that_are_filled_in(source: Path, tmp_path: Path) -> None:
    with source.open("rb") as lines:
        for entry in read_po(lines):
            ids = [entry.id] if isinstance(entry.id, str) else entry.id
            strings = strings_of(entry)
            names = set(NAMES.findall("".join(ids)))
            assert all(set(NAMES.findall(string)) == names for string in strings if string and entry.id), entry.id
    compile_one(source, tmp_path / "out.mo")
    assert (tmp_path / "out.mo").stat().st_size > 1000
