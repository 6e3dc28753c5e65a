import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import templates
from flows.graph import RESERVED
from flows.templates import TemplateError

SCOPE: dict[str, Any] = {
    "a": {"text": "hi", "n": 5, "f": 0.1, "list": [1, 2, {"x": 1}], "yes": True, "none": None, "big": "x" * 60_000},
    "b": {"lines": ["y" * 1000] * 200},
    "vars": {"zero": 0, "blank_": ""},
    "chat": {"history": [{"role": "user", "text": "x" * 30_000}] * 30},
    "now": "2026-01-02T03:04:05.000Z",
}


def render(source: str) -> str:
    return templates.compile(source).render(SCOPE)


def refusal(source: str) -> str:
    with pytest.raises(TemplateError) as caught:
        render(source)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- what works


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain { } % text", "plain { } % text"),
        ("{{ a.text | upcase }} {{ a.n | plus: 1 }}", "HI 6"),
        ("{{ a.list }}", '[1,2,{"x":1}]'),
        ("{{ a.list.size }}{{ a.list.first }}{{ a.list[2].x }}{{ a.list[-1].x }}", "3111"),
        ("{{ a['text'] }}", "hi"),
        ("{{ a.yes }}{{ a.none }}", "true"),
        ("{{ vars.x | default: 'none' }}", "none"),
        ("{{ vars.zero | default: 1 }}{{ vars.blank_ | default: 2 }}", "02"),
        ("{% for i in (1..3) %}{{ i }}{{ forloop.last }} {% endfor %}", "1false 2false 3true "),
        ("{% for i in a.list limit: 1 %}{{ i }}{% endfor %}", "1"),
        ("{% for i in vars.blank_ %}x{% else %}none{% endfor %}", "none"),
        ("{% case a.n %}{% when 5 %}five{% else %}no{% endcase %}", "five"),
        ("{% unless a.n == 4 %}ok{% endunless %}", "ok"),
        ("{% if a.text contains 'h' and a.n > 4 %}yes{% elsif a.n %}no{% endif %}", "yes"),
        ("{% assign q = a.text %}{% capture z %}{{ q }}!{% endcapture %}{{ z }}", "hi!"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{% comment %}{{ b }}{% endcomment %}x", "x"),
        ("{{ now | date: '%d.%m.%Y' }}", "02.01.2026"),
        ("{{ a.f | plus: 0.2 }}", "0.3"),
        ("{{ '7' | times: 6 }}", "42"),
        ("{{ 7 | divided_by: 2 }} {{ 7 | divided_by: 2.0 }} {{ -7 | modulo: 4 }}", "3 3.5 1"),
        ("{{ 2.5 | round }} {{ 2.345 | round: 2 }} {{ 2.1 | ceil }} {{ 2.9 | floor }}", "2 2.34 3 2"),
        ("{{ 'a,b,a' | split: ',' | uniq | reverse | join: '-' }}", "b-a"),
        ("{{ 'abc' | slice: -2, 2 }} {{ 'abc' | truncate: 2 }} {{ 'a b c' | truncatewords: 2 }}", "bc a… a b…"),
        (
            "{{ 'aXbX' | replace: 'X', '-' }} {{ 'aXbX' | remove_first: 'X' }} {{ 'aXbX' | replace_last: 'X', '!' }}",
            None,
        ),
        ("{{ a.list | json }}", '[1,2,{"x":1}]'),
        ("{{ 'ä b' | url_encode }} {{ '<a>' | escape }} {{ 'aGk=' | base64_decode }}", "%C3%A4+b &lt;a&gt; hi"),
        ("{{ b.lines | map: 'x' | compact | size }}", "0"),
    ],
)
def test_a_template_renders(source: str, text: str | None) -> None:
    assert render(source) == (text if text is not None else "a-b- abX aXb!")


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ a.n }}", 5),
        ("{{ a.yes }}", True),
        ("{{ a.none }}", None),
        ("{{ a.list }}", [1, 2, {"x": 1}]),
        ("{{ a.n | plus: 0.5 }}", 5.5),
        ("{{ a.n }} ", "5 "),
        ("five", "five"),
        ("", ""),
    ],
)
def test_one_expression_alone_keeps_its_type(source: str, value: Any) -> None:
    found = templates.compile(source).value(SCOPE)
    assert found == value and type(found) is type(value)


def test_what_is_undefined_is_nothing_where_that_is_asked_for() -> None:
    assert templates.compile("{{ vars.x }}").value(SCOPE, undefined=True) is None


@pytest.mark.parametrize(
    "source",
    [
        "{{ vars.x }}",
        "{{ vars.x | upcase }}",
        "{{ a.text | append: vars.x }}",
        "{% if vars.x %}1{% endif %}",
        "{% if vars.x == 1 %}1{% endif %}",
        "{% for i in vars.x %}{% endfor %}",
        "{% case vars.x %}{% when 1 %}{% endcase %}",
        "{{ a.list[9] }}",
        "{{ a.text.more }}",
        "{{ a.text.__class__ }}",
        "{{ today }}",
    ],
)
def test_what_is_undefined_is_an_error_that_names_it(source: str) -> None:
    assert "undefined" in refusal(source)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ a[a.text] }}", "while it runs"),
        ("{{ (1..3) }}", "range"),
        ("{% assign r = (1..9) %}", "range"),
        ("{% for i in (1..(1..2)) %}{% endfor %}", "range"),
        ("{{ a.text | nofilter }}", "no filter nofilter"),
        ("{{ a.text | append }}", "append"),
        ("{{ a.text | upcase: 1 }}", "upcase"),
        ("{% break %}", "no tag break"),
        ("{% include 'x' %}", "no tag include"),
        ("{% render 'x' %}", "no tag render"),
        ("{% cycle 'a', 'b' %}", "no tag cycle"),
        ("{% liquid assign x = 1 %}", "no tag liquid"),
        ("{% if a.n %}", "expected tag endif"),
        ("{% endif %}", "endif"),
        ("{{ a.n", "not closed"),
        ("{{ }}", "empty"),
        ("{{ a..n }}", "expected"),
        ("{{ 'x' if a.n }}", "ternary"),
    ],
)
def test_what_is_not_of_the_language_does_not_compile(source: str, told: str) -> None:
    with pytest.raises(TemplateError) as caught:
        templates.compile(source)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ a.n | plus: 'x' }}",
        "{{ a.text | times: 2 }}",
        "{{ 5 | divided_by: 0 }}",
        "{% if a.n > 'x' %}{% endif %}",
        "{{ a.text | date: '%Y' }}",
        "{{ now | date: '%99999999999d' }}",
        "{{ a.list | sort }}",
        "{{ '%%%' | base64_decode }}",
        "{{ 9223372036854775807 | times: 2 }}",
    ],
)
def test_a_value_that_does_not_fit_is_an_error_of_the_run(source: str) -> None:
    templates.compile(source)
    refusal(source)


def test_the_reads_of_a_template_are_its_variables_without_its_own_names() -> None:
    source = (
        "{% assign own = ask.value %}{{ own }}{{ vars.n | default: 0 }}{% for m in chat.history %}{{ m.text }}"
        "{{ forloop.index }}{% endfor %}{% if b.x == c['y'] %}{{ later | append: d.e }}{% endif %}"
    )
    reads = {(".".join(read.path), read.is_optional) for read in templates.compile(source).reads}
    assert reads == {
        ("ask.value", False),
        ("vars.n", True),
        ("chat.history", False),
        ("b.x", False),
        ("c.y", False),
        ("later", False),
        ("d.e", False),
    }


def test_each_tag_of_the_language_is_reserved() -> None:
    assert templates.TAGS | templates.INNER <= RESERVED


# ------------------------------------------------------------------------------------------------- bounds

TIMES = 200
BOMBS = {
    "append": "{% assign s = 'xxxxxxxxxxxxxxxx' %}" + "{% assign s = s | append: s %}" * 40 + "{{ s }}",
    "capture": "{% capture c %}xxxxxxxx{% endcapture %}" + "{% capture c %}{{ c }}{{ c }}{% endcapture %}" * 40,
    "list": "{% assign s = 'x,x' | split: ',' %}" + "{% assign s = s | concat: s %}" * 30 + "{{ s | join: s }}",
    "list of long ones": "{% assign l = b.lines %}" + "{% assign l = l | concat: l %}" * 30 + "{{ l }}",
    "replace": "{{ a.big | replace: 'x', a.big }}",
    "join": "{% assign l = a.big | slice: 0, 9000 | split: '' %}{{ l | join: a.big }}",
    "split": "{% assign l = a.big | slice: 0, 9000 | split: '' %}" * TIMES,
    "numbers": "{% assign n = 99999999 %}" + "{% assign n = n | times: n %}" * 40,
    "loops in loops": "{% for i in (1..9999) %}" * 5 + "x" + "{% endfor %}" * 5,
    "loops after loops": "{% for i in (1..9999) %}{% endfor %}" * 100,
    "many small loops": "{% for i in (1..2) %}" * 28 + "x" + "{% endfor %}" * 28,
    "range": "{% for i in (1..99999999999999999999) %}{% endfor %}",
    "range reversed": "{% for i in (1..999999999) reversed %}{% endfor %}",
    "range from far": "{% for i in (1..999999999) offset: 99999999 %}{% endfor %}",
    "range by number": "{% for i in (1..a.n) limit: 99999999999 offset: -1 %}{% endfor %}" * 501,
    "comments": "{% for i in (1..9999) %}" + "{% comment %}{% endcomment %}" * TIMES + "{% endfor %}",
    "conditions": "{% for i in (1..9999) %}{% if false %}" + "{% elsif false %}" * TIMES + "{% endif %}{% endfor %}",
    "whens": "{% for i in (1..9999) %}{% case 2 %}{% when " + ",".join("1" * 450) + " %}{% endcase %}{% endfor %}",
    "blocks in blocks": "{% if a.n %}" * 200 + "{% endif %}" * 200,
    "and and and": "{% if " + " and ".join(["a.n"] * 150) + " %}x{% endif %}",
    "brackets": "{{ " + "[" * 500 + "a" + "]" * 400 + " }}",
    "many brackets": ("{{ " + '["' * 400 + " }}") * 30,
    "open tags": "{{ " * 9000,
    "blanks": "{{" + " " * 30_000,
    "empty tags": ("{{" + " " * 900 + "}}") * 30,
    "open raws": "{% raw %}" * 3000,
    "open comments": "{% comment %}" * 490,
    "docs": "{% doc %}" * 3000,
    "quotes": ("{{" + "'\"" * 450 + "}}") * 30,
    "tags": "{{ a.n }}" * 3000,
    "length": "x" * 40_000,
    "the past again": "{{ chat.history }}" * 100,
    "contains": "{% for i in (1..9999) %}{% if a.big contains a.big %}{% endif %}{% endfor %}",
    "contains an object": "{% for i in (1..9999) %}{% if a.text contains chat.history %}{% endif %}{% endfor %}",
    "cases": "{% for i in (1..9999) %}{{ a.big | upcase | downcase | size }}{% endfor %}",
    "output": "{% for i in (1..9999) %}{{ a.big }}{% endfor %}",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_refused_soon_and_small(name: str) -> None:
    assert len(BOMBS[name]) < 50_000
    tracemalloc.start()
    begun = time.process_time()
    try:
        refusal(BOMBS[name])
        took, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < 3  # under tracemalloc, on any machine; without it at most some 60 ms
    assert peak < 32 * 1024 * 1024


@pytest.mark.parametrize(
    "source",
    [
        "{{ a.big | escape | url_encode | url_encode }}",
        "{{ a.big | truncate: 99999999999999 }}",
        "{{ a.big | replace: '', a.big }}",
        "{{ 1.5 | round: 99999999999 }}",
        ("{{" + " " * 900 + "a.n}}") * 30,
        "{% for m in chat.history %}{{ m.role }}: {{ m.text | truncate: 100 }}\n{% endfor %}",
        "{{ chat.history | map: 'text' | size }}",
    ],
)
def test_what_is_large_but_bounded_renders(source: str) -> None:
    assert render(source)


def test_a_text_at_the_bound_of_filters_passes_and_one_beyond_does_not() -> None:
    template = templates.compile("{{ t.t | downcase | size }}")
    assert template.render({"t": {"t": "x" * 65_536}}) == "65536"
    with pytest.raises(TemplateError):
        template.render({"t": {"t": "x" * 65_537}})


WORDS = st.sampled_from(
    ["{{", "}}", "{%", "%}", "a.text", "a", "|", "append:", "for", "i", "in", "(1..9)", "endfor", "if", "endif"]
    + [
        "assign",
        "x",
        "=",
        "capture",
        "endcapture",
        "raw",
        "endraw",
        "'",
        '"',
        "[",
        "]",
        "(",
        ")",
        "..",
        "-",
        " ",
        "1e9",
    ]
    + ["case", "when", "else", "contains", "and", "default", "\0", "é", "💧", "\n", "comment", "endcomment", ",", ":"]
)


@settings(max_examples=500)
@given(st.lists(WORDS, max_size=40).map(" ".join) | st.text(max_size=200))
def test_any_text_renders_or_is_refused_by_one_error(source: str) -> None:
    try:
        templates.compile(source).render(SCOPE)
    except TemplateError as error:
        assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
FILTERS = st.sampled_from(sorted(templates.FILTERS))


@settings(max_examples=500)
@given(JSON, FILTERS, st.lists(JSON, max_size=2))
def test_any_filter_on_any_value_answers_or_is_refused(value: Any, name: str, arguments: list[Any]) -> None:
    given_ = ", ".join(f"x.a[{index}]" for index in range(len(arguments)))
    source = f"{{{{ x.v | {name}{': ' + given_ if given_ else ''} }}}}"
    try:
        found = templates.compile(source).value({"x": {"v": value, "a": arguments}})
    except TemplateError:
        return
    json.dumps(found)
