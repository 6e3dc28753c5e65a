from typing import Any

import msgspec
import pytest
from django.conf import settings

from flows import engine, handlers
from flows.context import Answer, LLMResult, Suspend
from flows.engine import run_flow
from flows.graph import World, check
from flows.kinds import KINDS, Kind, Outcome, register
from providers.base import LLMMessage, Usage
from streams.errors import WireError
from tests.flows.fake import END, START, FakeContext, chain, edge, node

WORLD = World(providers={"scripted": ()})
ACCEPT_TEA = Answer("accept", "tea", "Tea")


async def run(ctx: FakeContext, *, checked: bool = True) -> Any:
    if checked:
        assert check(ctx.flow.graph, KINDS, WORLD) == []
    return await run_flow(ctx.params, ctx)


async def failure(ctx: FakeContext, *, checked: bool = True) -> WireError:
    with pytest.raises(WireError) as caught:
        await run(ctx, checked=checked)
    return caught.value


def test_a_flow_is_the_handler_flow() -> None:
    assert handlers.get("flow") is run_flow
    assert handlers.get("nobody") is None


def test_a_handlers_name_is_given_once() -> None:
    async def other(params: dict, ctx: Any) -> None: ...

    other.__module__ = "elsewhere"
    with pytest.raises(ValueError, match="flow"):
        handlers.handler("flow")(other)


async def test_each_node_runs_between_its_two_events() -> None:
    ctx = FakeContext(chain(node("hello", "message", text="Hello {{ user.name }}: {{ input.text }}")), text="what?")
    assert await run(ctx) is None
    assert ctx.done == [
        ("start", "start", 1),
        ("end", {"text": "what?", "params": {}, "files": []}),
        ("start", "hello", 1),
        ("write", "Hello Anna: what?"),
        ("end", {"text": "Hello Anna: what?"}),
        ("start", "end", 1),
        ("end", {"data": None}),
    ]


async def test_the_data_of_the_end_is_the_turns_data_with_its_types() -> None:
    data = {"who": "{{ user.name }}", "n": "{{ input.params.n }}", "list": ["{{ now }}", 1, None]}
    ctx = FakeContext(chain(end=node("end", "end", data=data)), params={"n": 3})
    assert await run(ctx) == {"who": "Anna", "n": 3, "list": ["2026-01-02T03:04:05.000Z", 1, None]}


async def test_nothing_is_written_where_a_message_is_empty() -> None:
    ctx = FakeContext(chain(node("say", "message", text="{% if false %}x{% endif %}")))
    await run(ctx)
    assert ctx.written == []


def choosing(*branches: tuple[str, str]) -> dict[str, Any]:
    """A question whose branches lead to messages that say their names."""
    names = dict.fromkeys(to for _branch, to in branches)
    options = [{"id": "tea", "label": "Tea"}, {"id": "milk", "label": "Milk {{ input.text }}"}]
    return {
        "schema": 1,
        "nodes": [
            START,
            END,
            node("ask", "question", text="What, {{ user.name }}?", options=options),
            *(node(name, "message", text=f"{name}: {{{{ ask.label }}}}") for name in names),
        ],
        "edges": [
            edge("start", "ask"),
            *(edge("ask", to, branch or None) for branch, to in branches),
            *(edge(name, "end") for name in names),
        ],
    }


async def test_a_question_suspends_the_run_and_the_next_one_goes_the_same_way() -> None:
    graph = choosing(("tea", "one"), ("milk", "two"))
    ctx = FakeContext(graph)
    with pytest.raises(Suspend):
        await run(ctx)
    assert ctx.done[-1] == ("ask", "What, Anna?")
    assert ctx.asked[0]["options"] == ({"id": "tea", "label": "Tea"}, {"id": "milk", "label": "Milk hi"})
    again = FakeContext(graph, answers=[ACCEPT_TEA])
    await run(again)
    assert again.done[: len(ctx.done)] == ctx.done
    assert again.written == ["one: Tea"]


@pytest.mark.parametrize(
    ("branches", "answer", "written", "goes_on"),
    [
        ([("", "one")], ACCEPT_TEA, ["one: Tea"], False),
        ([("milk", "one"), ("", "two")], ACCEPT_TEA, ["two: Tea"], False),
        ([("", "one"), ("expired", "two")], Answer("expire"), ["two: "], True),
        ([("", "one"), ("declined", "two")], Answer("decline"), ["two: "], False),
        ([("", "one")], Answer("cancel"), ["one: "], False),
        ([("tea", "one"), ("milk", "two")], Answer("decline"), [], False),
    ],
)
async def test_an_answer_chooses_its_edge(
    branches: list[tuple[str, str]], answer: Answer, written: list[str], goes_on: bool
) -> None:
    ctx = FakeContext(choosing(*branches), answers=[answer])
    assert await run(ctx) is None
    assert ctx.written == written
    assert ctx.asked[0]["goes_on_expired"] is goes_on


async def test_a_secret_answer_is_in_no_event() -> None:
    ctx = FakeContext(
        chain(
            node("ask", "question", text="Password?", secret=True), node("x", "set", name="n", value="{{ ask.value }}")
        ),
        answers=[Answer("accept", "hunter2")],
    )
    await run(ctx)
    assert ctx.vars == {"n": "hunter2"}
    assert "hunter2" not in str(ctx.done)


async def test_a_form_is_read_by_its_fields() -> None:
    schema = {"properties": {"cups": {"type": "integer"}}}
    ctx = FakeContext(
        chain(
            node("ask", "question", text="?", schema=schema, expires_s=60, default={"cups": 1}),
            node("say", "message", text="{{ ask.value.cups | plus: 1 }} {{ ask.value }}"),
        ),
        answers=[Answer("accept", {"cups": 2})],
    )
    await run(ctx)
    assert ctx.written == ['3 {"cups":2}']
    assert ctx.asked[0] | {"options": ()} == {
        "options": (),
        "schema": schema,
        "secret": False,
        "expires_s": 60,
        "default": {"cups": 1},
        "goes_on_expired": False,
    }


async def test_set_changes_what_later_nodes_read() -> None:
    ctx = FakeContext(
        chain(
            node("one", "set", name="n", value="{{ vars.n | default: 0 | plus: 1 }}"),
            node("two", "set", name="n", value="{{ vars.n | plus: 1 }}"),
            node("say", "message", text="{{ vars.n }}"),
        ),
        vars={"n": 40, "other": "x"},
    )
    await run(ctx)
    assert ctx.vars == {"n": 42, "other": "x"}
    assert ctx.written == ["42"]


async def test_variables_are_bounded() -> None:
    big = "x" * 30_000
    ctx = FakeContext(chain(*(node(name, "set", name=name, value=big) for name in ("a", "b", "c"))))
    error = await failure(ctx)
    assert (error.code, set(ctx.vars)) == ("flow_error", {"a", "b"})


def condition(left: str, op: str, right: Any = None) -> dict[str, Any]:
    return {
        "schema": 1,
        "nodes": [
            START,
            END,
            node(
                "check",
                "condition",
                cases=[{"branch": "yes", "when": {"all": [{"left": left, "op": op, "right": right}]}}],
            ),
            node("yes", "message", text="yes {{ check.branch }}"),
        ],
        "edges": [
            edge("start", "check"),
            edge("check", "yes", "yes"),
            edge("check", "end", "else"),
            edge("yes", "end"),
        ],
    }


@pytest.mark.parametrize(
    ("left", "op", "right", "written"),
    [
        ("{{ input.text }}", "equals", "hi", ["yes yes"]),
        ("{{ input.params.n }}", "gt", 3, ["yes yes"]),
        ("{{ input.params.n }}", "gt", "{{ input.params.n }}", []),
        ("{{ vars.none }}", "is_empty", None, ["yes yes"]),
        ("{{ input.params.list }}", "contains", "b", ["yes yes"]),
    ],
)
async def test_a_condition_compares_values_with_their_types(left: str, op: str, right: Any, written: list[str]) -> None:
    ctx = FakeContext(condition(left, op, right), params={"n": 5, "list": ["a", "b"]})
    await run(ctx, checked=False)
    assert ctx.written == written


async def test_a_comparison_of_unlike_types_ends_the_turn_at_its_node() -> None:
    graph = condition("{{ input.text }}", "gt", 3)
    graph["nodes"][2]["title"] = "Is it much?"
    ctx = FakeContext(graph)
    error = await failure(ctx)
    assert error.code == "flow_error"
    assert "“Is it much?”" in str(error.text) and "text with number" in str(error.text)
    assert ctx.done[-1][0] == "error"


async def test_what_is_undefined_ends_the_turn_at_its_node() -> None:
    error = await failure(FakeContext(chain(node("say", "message", text="{{ input.params.x }}"))))
    assert error.code == "flow_error"
    assert "say" in str(error.text) and "input.params.x" in str(error.text)


async def test_a_flow_that_goes_round_is_stopped_after_max_visits() -> None:
    graph = {
        "schema": 1,
        "nodes": [START, END, condition("{{ input.text }}", "equals", "hi")["nodes"][2]],
        "edges": [edge("start", "check"), edge("check", "check", "yes"), edge("check", "end", "else")],
    }
    ctx = FakeContext(graph)
    error = await failure(ctx)
    assert error.code == "loop_bound" and "check" in str(error.text)
    assert sum(call[0] == "start" and call[1] == "check" for call in ctx.done) == settings.HEADRACE.node_visits


PAST = [LLMMessage("user", "one"), LLMMessage("assistant", "two"), LLMMessage("user", "three")]


async def test_a_model_gets_system_history_and_prompt_and_gives_its_parts() -> None:
    reply = LLMResult("answer", "thought", Usage(10, 5, 2), "large")
    ctx = FakeContext(
        chain(
            node(
                "model",
                "llm",
                provider="scripted",
                model="m",
                system="Be {{ input.params.how }}",
                history=2,
                temperature=0.5,
                max_tokens=9,
                show="reasoning",
            ),
            end=node("end", "end", data="{{ model.usage.input_tokens }} {{ model.text }} {{ model.reasoning }}"),
        ),
        params={"how": "kind"},
        replies=[reply],
        past=PAST,
    )
    assert await run(ctx) == "10 answer thought"
    call = ctx.calls[0]
    assert [(message.role, message.text) for message in call.messages] == [
        ("system", "Be kind"),
        ("assistant", "two"),
        ("user", "three"),
        ("user", "hi"),
    ]
    assert (call.provider, call.model, call.temperature, call.max_tokens, call.show) == (
        "scripted",
        "m",
        0.5,
        9,
        "reasoning",
    )


async def test_the_messages_of_a_prompt_reach_the_model() -> None:
    lines = [{"role": "user", "text": "a {{ input.text }}"}, {"role": "assistant", "text": "b"}]
    ctx = FakeContext(
        chain(
            node("lines", "prompt", messages=lines),
            node("model", "llm", provider="scripted", prompt="{{ lines.messages }}"),
        ),
        replies=[LLMResult("x")],
    )
    await run(ctx)
    assert [(message.role, message.text) for message in ctx.calls[0].messages] == [("user", "a hi"), ("assistant", "b")]


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "n": {"type": "integer"}},
    "required": ["n"],
}


def structured(text: str) -> FakeContext:
    graph = chain(
        node("model", "llm", provider="scripted", schema=SCHEMA, show="hidden"),
        end=node("end", "end", data="{{ model.data }}"),
    )
    return FakeContext(graph, replies=[LLMResult(text)])


@pytest.mark.timeout(20)
async def test_a_fence_that_never_ends_takes_no_time() -> None:
    error = await failure(structured("```" + 32_000 * "\n" + "x"))
    assert error.code == "flow_error"


@pytest.mark.timeout(20)
async def test_templates_of_one_node_share_what_they_may_spend() -> None:
    heavy = "{% for i in (1..2900) %}{{ i | times: 2 | minus: 3 | plus: 7 }}{% endfor %}"
    values = {f"v{i}": heavy + str(i) for i in range(150)}
    error = await failure(FakeContext(chain(node("x", "set", name="n", value=values))))
    assert error.code == "flow_error"


@pytest.mark.parametrize("text", ['{"n": 3, "mood": "good"}', '```json\n{"n": 3.0, "mood": "good"}\n```'])
async def test_structured_output_is_read_and_validated(text: str) -> None:
    ctx = structured(text)
    assert await run(ctx) == {"n": 3, "mood": "good"}
    assert ctx.calls[0].schema == SCHEMA


@pytest.mark.parametrize(
    "text",
    [
        *("", "good", "[1]", "{}", '{"n": "3"}', '{"n": 3, "mood": "none"}', '{"n": 3, "x": 1}', "[" * 9999),
        *('{"n": 1e400}', '{"n": 1' + 400 * "0" + "}", '{"n": 18446744073709551616}'),
    ],
    ids=lambda text: text[:24],
)
async def test_structured_output_that_does_not_fit_ends_the_turn(text: str) -> None:
    error = await failure(structured(text))
    assert error.code == "flow_error" and "model" in str(error.text)


async def test_an_error_of_a_provider_passes_through_with_its_code() -> None:
    ctx = FakeContext(chain(node("model", "llm", provider="scripted")), replies=[WireError("provider_cut")])
    error = await failure(ctx)
    assert error.code == "provider_cut"
    assert ctx.done[-1][0] == "error"


async def test_a_model_that_would_get_nothing_is_not_called() -> None:
    ctx = FakeContext(chain(node("model", "llm", provider="scripted", prompt="")))
    assert (await failure(ctx)).code == "flow_error"
    assert ctx.calls == []


async def test_the_past_is_read_once_and_only_by_who_needs_it() -> None:
    ctx = FakeContext(
        chain(
            node("one", "message", text="x"),
            node("two", "message", text="{{ chat.history.size }}"),
            node("three", "message", text="{% for m in chat.history %}{{ m.role }}:{{ m.text }} {% endfor %}"),
        ),
        past=PAST,
    )
    await run(ctx)
    assert ctx.written == ["x", "3", "user:one assistant:two user:three "]
    assert [call for call in ctx.done if call[0] == "history"] == [("history", settings.HEADRACE.history_messages)]
    assert ctx.done.index(("history", 50)) > ctx.done.index(("start", "two", 1))


async def test_an_unforeseen_error_closes_the_nodes_event_and_passes() -> None:
    ctx = FakeContext(chain(node("model", "llm", provider="scripted")), replies=[RuntimeError("secret detail")])
    with pytest.raises(RuntimeError):
        await run(ctx)
    assert ctx.done[-1] == ("error", "internal")


async def test_a_kind_that_is_gone_ends_the_turn_before_anything_runs() -> None:
    ctx = FakeContext(chain(node("x", "shout", text="")))
    error = await failure(ctx, checked=False)
    assert error.code == "flow_error" and ctx.done == []


async def test_a_graph_that_cannot_be_read_ends_the_turn() -> None:
    assert (await failure(FakeContext({"nodes": 3}), checked=False)).code == "flow_error"


async def test_titles_are_the_turns_own_though_the_plan_is_shared() -> None:
    first = chain(node("say", "message", text="{{ input.params.x }}"))
    second = chain({**node("say", "message", text="{{ input.params.x }}"), "title": "Other"})
    engine._plans.clear()
    await failure(FakeContext(first))
    assert "“Other”" in str((await failure(FakeContext(second))).text)
    assert len(engine._plans) == 1


async def test_plans_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HEADRACE", msgspec.structs.replace(settings.HEADRACE, plans_kept=3))
    engine._plans.clear()
    for number in range(9):
        await run(FakeContext(chain(node("say", "message", text=str(number)))))
    assert len(engine._plans) == 3


class Shout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


async def shout(fields: Shout, ctx: Any) -> Outcome:
    await ctx.write(fields.text.upper())
    return Outcome({"text": fields.text.upper()})


async def test_an_app_registers_a_kind_of_its_own() -> None:
    kind = register(Kind("shout", Shout, shout, title="Shout", outputs=("text",)))
    try:
        ctx = FakeContext(chain(node("x", "shout", text="hey"), node("say", "message", text="{{ x.text }}")))
        await run(ctx)
        assert ctx.written == ["HEY", "HEY"]
        assert kind.describe()["outputs"] == ["text"]
        with pytest.raises(ValueError, match="message"):
            register(Kind("message", Shout, shout, title="Shout"))
    finally:
        del KINDS["shout"]


def test_each_kind_describes_itself_with_a_schema() -> None:
    for name, kind in KINDS.items():
        told = kind.describe()
        assert told["kind"] == name and told["title"] and told["schema"]["$defs"]
        msgspec.json.encode(told)
