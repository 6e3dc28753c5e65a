"""The handler `flow`: walks a graph, one node at a time, and does everything through `ctx`.

A run begins again from the top after each answer and each takeover, so it must go the same way: it reads the world
once, what costs or asks is a step whose result `ctx` keeps, and the rest is walked again in silence.
"""

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec
from django.conf import settings
from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _

from flows import templates
from flows.conditions import ConditionError
from flows.context import Context, FlowView
from flows.graph import Graph, Limits, as_sentence, checksum, parse
from flows.handlers import handler
from flows.kinds import KINDS, Kind, NodeContext, NodeError, Outcome
from flows.templates import TemplateError
from streams.errors import WireError
from streams.sentences import Sentence, SentenceError, told


class PlanNode(msgspec.Struct, frozen=True):
    """`edges`: where each branch leads, None for the edge without one."""

    id: str
    kind: Kind
    fields: Any
    edges: dict[str | None, str]
    reads_history: bool


class Plan(msgspec.Struct, frozen=True):
    """A graph made ready to run, the same for all its runs."""

    start: str
    nodes: dict[str, PlanNode]
    templates: dict[str, templates.Template]


@handler("flow")
async def run_flow(params: dict[str, Any], ctx: Context) -> Any:
    """Walk the graph from its start; return the data of the end that was reached."""
    # Compiling the largest graph takes most of a second: not on the event loop.
    plan = known_plan(ctx.flow) or await asyncio.to_thread(plan_of, ctx.flow)
    return await _Walk(plan, ctx).run()


# ------------------------------------------------------------------------------------------- compiling

_plans: OrderedDict[str, tuple[Plan, int]] = OrderedDict()
_plans_guard = threading.Lock()


def known_plan(flow: FlowView) -> Plan | None:
    """The plan of a flow whose checksum is known, if it was compiled."""
    with _plans_guard:
        if flow.checksum not in _plans:
            return None
        _plans.move_to_end(flow.checksum)
        return _plans[flow.checksum][0]


def plan_of(flow: FlowView) -> Plan:
    """The flow's plan, compiled once a process and checksum. Raises WireError("flow_error")."""
    key = flow.checksum or checksum(flow.graph)
    if flow.checksum == "" and key in _plans:
        return _plans[key][0]
    plan = compile_plan(flow.graph)
    most, most_chars = settings.HEADRACE.plans_kept, settings.HEADRACE.plans_kept_chars
    with _plans_guard:
        _plans[key] = plan, sum(map(len, plan.templates)) + 1000 * len(plan.nodes)
        while len(_plans) > most or sum(chars for _plan, chars in _plans.values()) > most_chars:
            _plans.popitem(last=False)
    return plan


def compile_plan(raw: dict[str, Any]) -> Plan:
    """Compile a graph that was checked. Raises WireError("flow_error") where it does not hold here any more."""
    bounds = settings.HEADRACE
    graph, faults = parse(raw, Limits(nodes=bounds.graph_nodes, bytes=bounds.graph_bytes))
    if faults:
        raise WireError("flow_error", as_sentence(faults[0]))
    compiled: dict[str, templates.Template] = {}
    nodes = {name: _plan_node(graph, name, compiled) for name in graph.nodes}
    start = next((name for name, node in nodes.items() if node.kind.is_start), None)
    if start is None:
        raise WireError("flow_error", _("The flow has no start."))
    return Plan(start, nodes, compiled)


def _plan_node(graph: Graph, name: str, compiled: dict[str, templates.Template]) -> PlanNode:
    node = graph.nodes[name]
    kind = KINDS.get(node.kind)
    try:
        if kind is None:
            raise NodeError(_("there is no kind of node {kind}"), kind=node.kind)
        fields = kind.parse(node.fields)
        own = {source: templates.compile(source) for _path, source in kind.sources(fields)}
    except (NodeError, TemplateError, msgspec.ValidationError) as error:
        raise _failed(node.title or name, error) from error
    compiled.update(own)
    reads_history = any(read.path[0] == "chat" for template in own.values() for read in template.reads)
    edges = {edge.branch: edge.to for edge in graph.edges if edge.start == name}
    return PlanNode(name, kind, fields, edges, reads_history)


def _failed(title: str, error: Exception) -> WireError:
    reason = error.sentence if isinstance(error, SentenceError) else str(error).rstrip(".")
    return WireError("flow_error", Sentence(_("The flow failed at “{node}”: {reason}."), node=title, reason=reason))


# --------------------------------------------------------------------------------------------- walking


GIVES_WAY_S = 0.005


class _Walk:
    """One run of a plan: what its nodes gave so far, and how often each was visited."""

    def __init__(self, plan: Plan, ctx: Context) -> None:
        self.plan = plan
        self.ctx = ctx
        self.visits: Counter[str] = Counter()
        self.sizes: dict[str, int] = {}  # in bytes, of what each node gave
        self.titles = _titles(ctx.flow.graph)
        self.scope: dict[str, Any] = {
            "input": {
                "text": ctx.input.text,
                "params": ctx.input.params,
                "files": ctx.input.shown_files(),
            },
            "user": {"name": ctx.user.name},
            "vars": ctx.vars,
            "now": ctx.now,
            "chat": {},
        }

    async def run(self) -> Any:
        name: str | None = self.plan.start
        gave_way = time.monotonic()
        while name is not None:
            if time.monotonic() - gave_way > GIVES_WAY_S:  # nodes that neither cost nor ask give way to others
                await asyncio.sleep(0)
                gave_way = time.monotonic()
            node = self.plan.nodes[name]
            outcome = await self.visit(node)
            if node.kind.is_end:
                return outcome.outputs.get("data")
            self.scope[name] = outcome.outputs
            name = node.edges.get(outcome.branch, node.edges.get(None))
        return None

    async def visit(self, node: PlanNode) -> Outcome:
        """Run a node between its two events. Whatever it raises ends the turn; `Suspend` and cancellation pass."""
        title = self.titles.get(node.id) or node.id
        self.visits[node.id] += 1
        if self.visits[node.id] > settings.HEADRACE.node_visits:
            text = _("The flow went round too often: “{node}” ran {count} times.")
            raise WireError("loop_bound", Sentence(text, node=title, count=settings.HEADRACE.node_visits))
        await self.ctx.node_start(node.id, self.visits[node.id], node.kind.name, self.titles.get(node.id, ""))
        try:
            if node.reads_history:
                await self.read_history()
            view = NodeContext(self.ctx, self.scope, self.plan.templates, frozenset(node.edges) - {None})
            outcome = await node.kind.run(node.fields, view)
            self.check_size(node.id, outcome)
        except (NodeError, TemplateError, ConditionError) as error:
            await self.ctx.node_end(error=told(error.sentence, gettext))
            raise _failed(title, error) from error
        except WireError as error:
            await self.ctx.node_end(error=told(error.text or error.entry.text, gettext))
            raise
        except Exception:
            await self.ctx.node_end(error="internal")
            raise
        await self.ctx.node_end(output=None if outcome.is_secret else outcome.outputs)
        return outcome

    def check_size(self, node: str, outcome: Outcome) -> None:
        """Raises NodeError."""
        self.sizes[node] = len(msgspec.json.encode(outcome.outputs))
        limit = settings.HEADRACE.results_bytes
        if sum(self.sizes.values()) > limit:
            raise NodeError(_("the results of the nodes are larger than {limit} bytes together"), limit=limit)

    async def read_history(self) -> None:
        chat = self.scope["chat"]
        if "history" not in chat:
            found = await self.ctx.history(settings.HEADRACE.history_messages)
            chat["history"] = [{"role": message.role, "text": message.text} for message in found]


def _titles(raw: Mapping[str, Any]) -> dict[str, str]:
    """Titles are no part of the checksum, so they come from the turn's own graph, not from the plan."""
    return {node["id"]: node.get("title", "") for node in raw.get("nodes", ())}
