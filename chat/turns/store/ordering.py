"""All that a run needs of a turn, read in the transaction that begins the run."""

from chat import shapes
from chat.models import Chat, Message, Turn
from chat.turns.orders import Kept, RunOrder
from chat.turns.store import spending


def order_of(turn: Turn, chat: Chat, message: Message, *, is_titled: bool = False) -> RunOrder:
    """`is_titled`: the run tells what the chat's row owes."""
    version = turn.version
    is_first = turn.attempt == 1
    steps = [] if is_first else list(turn.steps.order_by("id"))
    asked = [] if is_first else list(turn.questions.exclude(action=""))
    said = shapes.message_of(message)
    return RunOrder(
        turn=str(turn.id),
        chat=str(chat.id),
        number=turn.number,
        attempt=turn.attempt,
        answer=str(turn.answer),
        message=said,
        start=shapes.turn_start(turn, said, []),
        version_id=None if version is None else str(version.id),
        version=None if version is None else version.number,
        skill=turn.skill,
        params=turn.params,
        inputs=turn.inputs,
        flow_id=str(chat.flow_id) if chat.flow_id else "",
        flow_slug=chat.flow.slug if chat.flow else "",
        flow_name=chat.flow.name if chat.flow else "",
        graph=chat.graph if version is None else None,
        checksum="" if version is None else version.checksum,
        chat_kind=chat.kind,
        spender=spending.spender(turn, chat),
        parts=shapes.standing_parts(turn.parts, steps),
        kept={step.key: Kept(step.kind, step.arguments_hash, step.value) for step in steps},
        answers={row.key: {"action": row.action, "value": row.value, "label": row.label} for row in asked},
        nodes=turn.nodes,
        ran_ms=turn.ran_ms,
        usage=turn.usage,
        titled=shapes.chat_event(chat) if is_titled else None,
        is_resumed=not is_first,
    )
