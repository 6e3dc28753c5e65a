"""What others hear of a transaction: rows that owe clients an event, and the user's lists of chats."""

from chat import shapes
from chat.models import Chat, Turn
from chat.turns.orders import Outcome
from chat.turns.states import ACTIVE
from chat.turns.store import rows


def owe(turn: Turn, worker: str | None, outcome: Outcome) -> None:
    turn.owes, turn.told, turn.rev = rows.uuid_or_none(worker), False, turn.rev + 1
    if str(turn.id) not in outcome.owed:
        outcome.owed.append(str(turn.id))


def owe_chat(chat: Chat, worker: str | None, outcome: Outcome) -> None:
    chat.owes, chat.told = rows.uuid_or_none(worker), False
    outcome.owes_chat = True


def show_in_lists(chat: Chat, state: str | None, outcome: Outcome) -> None:
    """What the user's lists show of it now; debug and call chats are in none."""
    if chat.kind == Chat.Kind.CHAT:
        outcome.listed = (chat.user_id, shapes.chat_item(chat, state))


def active_state(chat: Chat) -> str | None:
    return chat.turns.filter(state__in=ACTIVE, background=False).values_list("state", flat=True).first()
