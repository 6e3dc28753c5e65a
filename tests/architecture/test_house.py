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
# Where `redis` may be imported: rooms that speak to it.
REDIS_ROOMS = {
    "streams/redis.py",
    "streams/log.py",
    "streams/hub.py",
    "streams/places.py",
    "streams/masters.py",
    "streams/exposition.py",
    "accounts/quotas.py",
    "flows/build.py",
}
# Who asks `streams.redis` for no more than whether it answers, and to close what it holds.
REDIS_CALLERS = {
    "chat/turns/control.py",
    "chat/turns/manager.py",
    "chat/views.py",
    "config/settings.py",
    "config/startup.py",
    "flows/management/commands/demo.py",
}
# Rows that only stores write: `store.py` files, and the one package that took the place of such a file.
STORE_PACKAGES = {"chat/turns/store"}
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
# What such rows are called where they are an attribute of another, and where they are a variable of their own.
RELATED = {"turns", "messages", "steps", "questions", "commands", "versions", "stream_sessions"}
CALLED = {"turn", "message", "step", "question", "command", "session", "worker", "version", "row"}
OTHER_ROWS = {("flows/api.py", "row.save()")}  # a provider's
PREPARED = {"insert", "update"}  # of `streams/prepared.py`
# What is made of a sentence, and which of its arguments that is.
SENTENCES = {"Sentence": 0, "NodeError": 0, "TemplateError": 0, "ConditionError": 0, "SetupError": 0, "WireError": 1}
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
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unmarked(name: str, call: ast.Call) -> bool:
    """Whether the sentence that this call makes is an f-string, or words that no mark of gettext's stands around."""
    place = SENTENCES.get(name)
    if place is None or len(call.args) <= place:
        return False
    text = call.args[place]
    if isinstance(text, ast.JoinedStr):
        return True
    return isinstance(text, ast.Constant) and bool(re.search("[A-Za-z]", re.sub(r"{\w*}", "", str(text.value))))


def test_sentences_for_people_can_be_translated():
    found = [
        f"{path}:{call.lineno}"
        for path, tree in sources("config", "chat", "flows", "accounts", "streams", "providers")
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and unmarked(call.func.id, call)
    ]
    assert found == []


def test_floors_import_only_floors_below():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def speaks_to_redis(tree: ast.Module) -> bool:
    """By the library, or by what the one maker of clients gives."""
    return any(module.split(".")[0] == "redis" or module.startswith("streams.redis") for module in imports(tree))


def test_redis_is_imported_only_where_the_house_says():
    found = {name for name, tree in sources(*FLOORS) if speaks_to_redis(tree)}
    assert found <= REDIS_ROOMS | REDIS_CALLERS


@pytest.mark.parametrize(
    ("line", "does"),
    [
        ("import redis", True),
        ("import redis.asyncio", True),
        ("from redis.asyncio import Redis", True),
        ("from streams import database, redis", True),
        ("from streams.redis import Link", True),
        ("import streams.redis", True),
        ("from streams import database", False),
        ("from streams.log import Log", False),
    ],
)
def test_who_speaks_to_redis_would_be_seen(line, does):
    assert speaks_to_redis(ast.parse(line)) is does


def names_in(node: ast.AST) -> set[str]:
    """Variables, attributes and quoted annotations."""
    found = set()
    for leaf in ast.walk(node):
        if isinstance(leaf, ast.Name):
            found.add(leaf.id)
        elif isinstance(leaf, ast.Attribute):
            found.add(leaf.attr)
        elif isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
            found.add(leaf.value)
    return found


def bound_to_kept_rows(tree: ast.AST) -> set[str]:
    """Variables that hold kept rows or querysets of them: by what is assigned, gone through, or annotated."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.NamedExpr):
            targets, value = [node.target], node.value
        elif isinstance(node, ast.AnnAssign):
            targets, value = [node.target], node.annotation
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            targets, value = [node.target], node.iter
        elif isinstance(node, ast.arg) and node.annotation is not None:
            if names_in(node.annotation) & KEPT_ROWS:
                found.add(node.arg)
            continue
        else:
            continue
        if names_in(value) & KEPT_ROWS:
            found |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return found


def writes_of_kept_rows(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and text of each call that writes a kept row, by manager, queryset, instance or prepared statement."""
    found = []
    suspects = KEPT_ROWS | RELATED | CALLED | bound_to_kept_rows(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "streams.prepared":
            found += [(node.lineno, f"{alias.name} of prepared") for alias in node.names if alias.name in PREPARED]
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        receiver = node.func.value
        of_prepared = node.func.attr in PREPARED and ast.unparse(receiver).split(".")[-1] == "prepared"
        if of_prepared or (node.func.attr in WRITES and names_in(receiver) & suspects):
            found.append((node.lineno, ast.unparse(node)))
    return found


def is_store(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return file == "store.py" or folder in STORE_PACKAGES


def test_kept_rows_are_written_only_in_stores():
    found = [
        f"{name}:{line} {text}"
        for name, tree in sources(*FLOORS)
        if not is_store(name)
        for line, text in writes_of_kept_rows(tree)
        if (name, text) not in OTHER_ROWS
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("flows/store.py", True),
        ("chat/turns/store/moves.py", True),
        ("chat/turns/stores.py", False),
        ("chat/turns/bookstore.py", False),
        ("chat/turns/store/more/moves.py", False),
        ("chat/files/store/moves.py", False),
        ("chat/turns/manager.py", False),
    ],
)
def test_what_is_a_store(name: str, is_one: bool):
    assert is_store(name) is is_one


@pytest.mark.parametrize(
    "text",
    [
        "Turn.objects.filter(pk=1).update(x=1)",
        "Message.objects.create()",
        "async def f(): await Step.objects.acreate()",
        "models.Turn.objects.filter(pk=1).delete()",
        "row.save()",
        "async def f(): await row.asave()",
        "turn.delete()",
        "found = Turn.objects.get(pk=1)\nfound.save()",
        "found: Turn = get()\nfound.save()",
        "if found := Turn.objects.first(): found.delete()",
        "old = Turn.objects.filter(x=1)\nold.update(x=2)",
        "for each in Message.objects.all(): each.save()",
        "def f(each: Turn): each.save()",
        "def f(each: 'Turn'): each.save()",
        "chat.turns.filter(x=1).delete()",
        "chat.turns.all().update(x=1)",
        "flow.versions.create(number=1)",
        "prepared.insert(thing)",
        "streams.prepared.update(thing, 'x')",
        "from streams.prepared import Select, insert",
    ],
)
def test_a_write_of_a_kept_row_would_be_seen(text):
    assert writes_of_kept_rows(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "Turn.objects.filter(pk=1).first()",
        "found = Turn.objects.get(pk=1)\nprint(found.state)",
        "chat.turns.filter(x=1).count()",
        "Provider.objects.filter(pk=1).update(x=1)",
        "provider = Provider.objects.get(pk=1)\nprovider.save()",
        "store.delete(flow.pk)",
        "known.update(more)",
        "user.save()",
        "from streams.prepared import Select",
    ],
)
def test_what_writes_no_kept_row_is_let_be(text):
    assert not writes_of_kept_rows(ast.parse(text))


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
