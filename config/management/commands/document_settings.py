"""Write docs/settings.md from the types of the settings."""

import ast
import inspect
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config.bounds import Bounds
from config.environment import BOUND_PREFIX, Environment, Field, fields

HEAD = """# Settings

Made from `config/environment.py` and `config/bounds.py` by `manage.py document_settings`.

Each comes from the environment or from `.env` beside `manage.py`; the environment wins, an empty value is none.
A missing or bad value ends the start with a sentence that names it. `ENV_FILE` names another file than `.env`.

## To run

"""
BOUNDS = """
## Bounds

Times are in seconds (`_S`), sizes in bytes (`_BYTES`) or characters (`_CHARS`).

"""


class Command(BaseCommand):
    help = "Writes docs/settings.md; with --check only says whether it is as it should be."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        path = settings.BASE_DIR / "docs" / "settings.md"
        text = document()
        if options["check"]:
            if not path.exists() or path.read_text() != text:
                raise CommandError("docs/settings.md is out of date; run: manage.py document_settings")
            return
        path.write_text(text)


def document() -> str:
    return HEAD + _table(fields(Environment)) + BOUNDS + _bounds()


def _table(rows: list[Field]) -> str:
    lines = ["| variable | value | default | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{row.variable}` | {row.kind} | {_shown(row.default)} | {row.text.replace('|', chr(92) + '|')} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _bounds() -> str:
    """One table for each group of `Bounds`, as its comments part them."""
    by_name = {row.variable: row for row in fields(Bounds, BOUND_PREFIX)}
    said = _said()
    out = []
    for title, names in _groups():
        rows = [by_name[BOUND_PREFIX + name.upper()] for name in names]
        lines = [f"| {title} | value | default | |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{row.variable}` | {row.kind} | {_shown(row.default)} | {said.get(row.variable, '')} |" for row in rows
        ]
        out.append("\n".join(lines))
    return "\n\n".join(out) + "\n"


def _said() -> dict[str, str]:
    """What the comment behind a bound says of it."""
    lines = inspect.getsource(Bounds).splitlines()
    pairs = [(line.split(":")[0].strip(), line.partition("  # ")[2]) for line in lines if "  # " in line]
    return {BOUND_PREFIX + name.upper(): text for name, text in pairs}


def _groups() -> list[tuple[str, list[str]]]:
    source = inspect.getsource(Bounds)
    comments = {
        number: line.strip().removeprefix("# ")
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip().startswith("# ")
    }
    groups: list[tuple[str, list[str]]] = []
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            title = next((comments[at] for at in range(node.lineno, 0, -1) if at in comments), "bounds")
            if not groups or groups[-1][0] != title:
                groups.append((title, []))
            groups[-1][1].append(node.target.id)
    return groups


def _shown(default: Any) -> str:
    if default is None or default == () or default == "":
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    return f"`{default}`" if isinstance(default, str) else str(default)
