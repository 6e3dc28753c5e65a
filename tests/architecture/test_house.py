"""The rules of the house that a test can hold: who imports what, who writes which rows, what pages may hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ROOT

FLOORS = ("config", "chat", "flows", "accounts", "streams", "providers")
# Where `redis` may be imported: rooms that speak to it. `config/startup.py` asks whether it is there.
REDIS_ROOMS = {
    "streams/redis.py",
    "streams/log.py",
    "streams/hub.py",
    "accounts/quotas.py",
    "flows/build.py",
    "config/startup.py",
}
# Rows that only `store.py` files write.
KEPT_ROWS = {"Turn", "Message", "Step", "Question", "Command", "StreamSession", "Worker", "FlowVersion"}
WRITES = {
    "create",
    "acreate",
    "bulk_create",
    "abulk_create",
    "get_or_create",
    "aget_or_create",
    "update_or_create",
    "aupdate_or_create",
    "update",
    "aupdate",
    "bulk_update",
    "abulk_update",
    "delete",
    "adelete",
    "save",
    "asave",
}
SLEEPS = {"tests/waiting.py"}  # waits for conditions, with deadlines


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(), str(path))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_floors_import_only_floors_below():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_redis_is_imported_only_where_the_house_says():
    found = {
        name for name, tree in sources(*FLOORS) if any(module.split(".")[0] == "redis" for module in imports(tree))
    }
    assert found <= REDIS_ROOMS


def test_kept_rows_are_written_only_in_stores():
    found = []
    for name, tree in sources(*FLOORS):
        if name.endswith("/store.py"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
                rows = {leaf.id for leaf in ast.walk(node.func) if isinstance(leaf, ast.Name)} & KEPT_ROWS
                if rows:
                    found.append(f"{name}:{node.lineno} writes {', '.join(rows)}")
    assert found == []


@pytest.mark.parametrize(
    "line", ["Turn.objects.filter(pk=1).update(x=1)", "Message.objects.create()", "await Step.objects.acreate()"]
)
def test_a_write_of_a_kept_row_would_be_seen(line):
    calls = [node for node in ast.walk(ast.parse(f"async def f():\n    {line}")) if isinstance(node, ast.Call)]
    seen = [
        node
        for node in calls
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in WRITES
        and {leaf.id for leaf in ast.walk(node.func) if isinstance(leaf, ast.Name)} & KEPT_ROWS
    ]
    assert seen


def test_no_test_sleeps():
    found = []
    for name, tree in sources("tests"):
        if name in SLEEPS:
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"):
                continue
            if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0:
                continue  # gives way to other tasks, waits for nothing
            if isinstance(node.func.value, ast.Name) and node.func.value.id in {"asyncio", "time"}:
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_every_room_says_what_it_is_for():
    silent = [
        name
        for name, tree in sources(*FLOORS)
        if tree.body and ast.get_docstring(tree) is None and not name.endswith(("__init__.py", "apps.py"))
    ]
    assert silent == []


def templates() -> list[Path]:
    return sorted((ROOT / "templates").rglob("*.html"))


@pytest.mark.parametrize("path", templates(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_has_nothing_inline_and_nothing_of_other_hosts(path):
    """Its Content-Security-Policy would refuse it anyway, and only in the browser."""
    text = path.read_text()
    for script in re.findall(r"<script\b([^>]*)>(.*?)</script>", text, re.DOTALL | re.IGNORECASE):
        is_data = "application/json" in script[0]
        assert is_data or not script[1].strip(), "a script inside the page"
    assert not re.search(r"<style\b", text, re.IGNORECASE), "a style inside the page"
    assert not re.search(r"\sstyle\s*=", text, re.IGNORECASE), "a style on an element"
    assert not re.search(r"\son[a-z]+\s*=", text, re.IGNORECASE), "a handler on an element"
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?:https?:)?//", text, re.IGNORECASE), "another host"


def test_nothing_is_loaded_from_other_hosts_by_the_pages_modules():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "static").rglob("*.js")
        if "vendor" not in path.parts and re.search(r"""(?:import|fetch)\s*\(?\s*["']https?://""", path.read_text())
    ]
    assert found == []
