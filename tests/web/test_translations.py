"""Every sentence of the pages speaks every language, with its names kept."""

import re
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from config.translations import LOCALE, compile_one
from tests.server import ROOT

NAMES = re.compile(r"%\(\w+\)s|\{\w+\}|%d")
CALLS = re.compile(r"""n?gettext\(\s*("(?:[^"\\]|\\.)*")""")
TEMPLATES = re.compile(r"""\{% translate (?:"([^"]+)"|'([^']+)') %\}""")
PAGES = ("base", "chat", "edit", "flows", "login", "404", "500", "sign_out")


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
    texts = (ROOT / "templates" / f"{name}.html" for name in PAGES)
    return {one or other for path in texts for one, other in TEMPLATES.findall(path.read_text())}


@pytest.mark.parametrize("language", ["de", "zh_Hans"])
@pytest.mark.parametrize(("domain", "said"), [("djangojs", said_by_modules), ("django", said_by_templates)])
def test_each_sentence_of_the_pages_is_translated(language: str, domain: str, said) -> None:
    with (LOCALE / language / "LC_MESSAGES" / f"{domain}.po").open("rb") as lines:
        catalogue = read_po(lines)
    known = {entry.id if isinstance(entry.id, str) else entry.id[0] for entry in catalogue if entry.id and entry.string}
    assert len(said()) > 20
    assert said() - known == set()


@pytest.mark.parametrize(
    "source", sorted(LOCALE.glob("*/LC_MESSAGES/*.po")), ids=lambda path: f"{path.parts[-3]} {path.stem}"
)
def test_translation_keeps_the_names_that_are_filled_in(source: Path, tmp_path: Path) -> None:
    with source.open("rb") as lines:
        for entry in read_po(lines):
            ids = [entry.id] if isinstance(entry.id, str) else entry.id
            strings = [entry.string] if isinstance(entry.string, str) else entry.string
            names = set(NAMES.findall("".join(ids)))
            assert all(set(NAMES.findall(string)) == names for string in strings if string and entry.id), entry.id
    compile_one(source, tmp_path / "out.mo")
    assert (tmp_path / "out.mo").stat().st_size > 1000
