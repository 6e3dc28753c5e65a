"""Compiles the translations whose source is newer, without gettext's own tools: `python -m config.translations`."""

import contextlib
import sys
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

LOCALE = Path(__file__).resolve().parent.parent / "locale"


def compile_stale() -> list[Path]:
    """The files that were made. A folder that cannot be written was made ready by whoever installed it."""
    made = []
    for source in sorted(LOCALE.glob("*/LC_MESSAGES/*.po")):
        target = source.with_suffix(".mo")
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            continue
        with contextlib.suppress(PermissionError):
            compile_one(source, target)
            made.append(target)
    return made


def compile_one(source: Path, target: Path) -> None:
    """Whole or not at all: a server that starts meanwhile reads the old one or the new one."""
    with source.open("rb") as lines:
        catalogue = read_po(lines, abort_invalid=True)
    fresh = target.with_suffix(".tmp")
    with fresh.open("wb") as output:
        write_mo(output, catalogue)
    fresh.replace(target)


if __name__ == "__main__":
    for path in compile_stale():
        sys.stdout.write(f"== translation {path.relative_to(LOCALE.parent)}\n")
