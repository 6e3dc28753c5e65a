"""What is counted has a name, a unit, a sentence and few labels; the dashboard shows all of it and nothing else."""

import json
import re

import pytest
from prometheus_client import Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from streams import exposition, here, metrics, redis
from tests.server import ROOT

BOUNDED = {"code", "door", "end", "kind", "lane", "reason", "worker", "version", "turns"}
UNITS = ("_total", "_seconds", "_events", "_calls", "_sockets", "_turns", "_waiting", "_info")
DASHBOARD = ROOT / "docs" / "grafana.json"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "info": ("_info",), "gauge": ("",)}
WORDS_OF_SERIES = re.compile(r"\b(?:headrace|process)_[a-z0-9_]+")


def families():
    return list(metrics.registry.collect())


def series() -> set[str]:
    return {family.name + suffix for family in families() for suffix in SUFFIXES[family.type]}


def expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return asked + [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]


def test_each_metric_has_a_name_with_a_unit_and_one_line_of_help():
    for family in families():
        if family.name.startswith("process_"):
            continue
        shown = family.name + SUFFIXES[family.type][0].replace("_bucket", "")
        assert re.fullmatch(r"headrace(_[a-z]+)+", shown), shown
        assert shown.endswith(UNITS), shown
        assert family.documentation.endswith(".") and "\n" not in family.documentation, shown


def test_labels_have_few_values_and_name_nobody():
    labels = {label for family in families() for sample in family.samples for label in sample.labels}
    assert labels - {"le"} <= BOUNDED


def test_all_is_declared_in_one_file():
    makes = re.compile(r"\b(Counter|Gauge|Histogram|LoopHistogram|Summary|Info|Enum)\(\s*\"headrace")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("config", "chat", "flows", "accounts", "streams", "providers")
        for path in (ROOT / folder).rglob("*.py")
        if makes.search(path.read_text())
    ]
    assert found == ["streams/metrics.py"]


def test_dashboard_names_only_what_is_counted():
    named = {name for expression in expressions() for name in WORDS_OF_SERIES.findall(expression)}
    assert named and named <= series()


def test_dashboard_shows_all_that_is_counted():
    asked = {name for expression in expressions() for name in WORDS_OF_SERIES.findall(expression)}
    ours = [family for family in families() if family.name.startswith("headrace_")]
    left_out = [each.name for each in ours if not asked & {each.name + suffix for suffix in SUFFIXES[each.type]}]
    assert ours and left_out == []


def test_dashboard_groups_by_labels_that_there_are():
    groups = {
        label.strip()
        for expression in expressions()
        for inside in re.findall(r"by \(([^)]*)\)", expression)
        for label in inside.split(",")
    }
    assert groups <= BOUNDED | {"le"}


def test_tally_counts_as_a_histogram_of_the_library_does():
    theirs = Histogram("theirs", "Help.", buckets=(0.1, 1, 2.5))
    tally = metrics.Tally((0.1, 1, 2.5))
    for value in (0, 0.05, 0.1, 0.11, 1, 2.5, 2.6, 100):
        theirs.observe(value)
        tally.observe(value)
    family = HistogramMetricFamily("theirs", "Help.", labels=[])
    family.add_metric([], *tally.read())
    (wanted,) = theirs.collect()
    shown = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert shown == {(sample.name, sample.labels.get("le")): sample.value for sample in wanted.samples}


# -------------------------------------------------------------------------------------------- of all workers


@pytest.fixture
def workers(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    """`workers("a", 2)`: a worker of this name has left that it took over two turns; this process is `here`."""
    monkeypatch.setattr(here, "worker", "here")

    def leave(name: str, takeovers: int) -> None:
        head = "# HELP headrace_takeovers_total Help.\n# TYPE headrace_takeovers_total counter\n"
        line = f'headrace_takeovers_total{{worker="{name}"}} {takeovers}\n'
        family = exposition.Family("headrace_takeovers", head, line)
        monkeypatch.setattr(here, "worker", name)
        with monkeypatch.context() as patch:
            patch.setattr(exposition, "own", lambda: [family])
            exposition.leave()
        monkeypatch.setattr(here, "worker", "here")

    forget()
    yield leave
    forget()


def forget() -> None:
    client = redis.blocking_client()
    client.delete(redis.key("{metrics}"), *client.keys(redis.key("{metrics}", "*")))


def shown(name: str) -> dict[str, float]:
    """Worker -> value of this series, as a scraper reads the page."""
    samples = (one for family in text_string_to_metric_families(exposition.page().decode()) for one in family.samples)
    return {sample.labels["worker"]: sample.value for sample in samples if sample.name == name}


def test_who_is_asked_answers_for_all_workers(workers):
    workers("a", 2)
    workers("b", 3)
    found = shown("headrace_takeovers_total")
    assert set(found) == {"a", "b", "here"}
    assert (found["a"], found["b"]) == (2, 3)
    assert exposition.page().count(b"# TYPE headrace_takeovers_total counter") == 1


def test_own_figures_are_those_of_now(workers):
    workers("here", 1000)
    before = shown("headrace_takeovers_total")["here"]
    metrics.takeovers.inc()
    assert shown("headrace_takeovers_total")["here"] == before + 1 < 1000


def test_worker_that_is_gone_is_forgotten(workers):
    workers("a", 2)
    redis.blocking_client().delete(redis.key("{metrics}", "a"))
    assert set(shown("headrace_takeovers_total")) == {"here"}
    assert redis.blocking_client().smembers(redis.key("{metrics}")) == {b"here"}


def test_no_counter_is_seen_to_go_back_whoever_is_asked(workers, monkeypatch):
    """What a scrape showed of a worker is what others show of it from then on, or more."""
    metrics.takeovers.inc()
    asked = shown("headrace_takeovers_total")["here"]
    monkeypatch.setattr(here, "worker", "another")
    assert shown("headrace_takeovers_total")["here"] == asked


def test_figures_that_are_left_end_by_themselves(workers):
    workers("a", 2)
    for name in (redis.key("{metrics}"), redis.key("{metrics}", "a")):
        assert 0 < redis.blocking_client().ttl(name) <= 15


def test_without_redis_a_worker_answers_for_itself(workers, monkeypatch):
    def away() -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(exposition.redis, "blocking_client", away)
        assert set(shown("headrace_takeovers_total")) == {"here"}
