"""The steps that are kept with a turn, within their bounds."""

from chat import protocol
from chat.turns.nodes import Nodes


def event(node: str, state: str = "end", visit: int = 1, output: object = None) -> protocol.Node:
    return protocol.Node(turn="t", node=node, visit=visit, kind="llm", state=state, output=output, ms=3)


def test_the_end_of_a_step_takes_the_place_of_its_start():
    nodes = Nodes([], 10, 1000)
    nodes.add(event("a", "start"))
    nodes.add(event("b", "start"))
    nodes.add(event("a", "end"))
    assert [(row["node"], row["state"]) for row in nodes.rows()] == [("a", "end"), ("b", "start")]


def test_only_the_last_steps_are_kept():
    nodes = Nodes([], 3, 1000)
    for visit in range(9):
        nodes.add(event("a", visit=visit))
    assert [row["visit"] for row in nodes.rows()] == [6, 7, 8]


def test_outputs_beyond_the_bound_are_left_out():
    nodes = Nodes([], 10, 12)
    nodes.add(event("a", output="x" * 8))
    nodes.add(event("b", output="x" * 8))
    nodes.add(event("c", output=1))
    assert [row["output"] for row in nodes.rows()] == ["x" * 8, None, 1]
