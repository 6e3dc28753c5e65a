"""What a turn uses, counted against the budgets of who pays for it."""

from datetime import datetime

from accounts import spend
from chat.models import Chat, Turn


def spender(turn: Turn, chat: Chat) -> spend.Spender:
    return spend.Spender(turn.user_id, turn.key, chat.flow_id)


def use(turn: Turn, chat: Chat, usage: dict | None, at: datetime) -> None:
    """What a turn's row says that it used has been counted, always: what is written more is counted with it."""
    if usage is None:  # a run that only ends it knows of none
        return
    before = turn.usage or {}
    tokens, cost = (_of(usage) - _of(before) for _of in (_tokens, _cost))
    turn.usage = usage
    spend.count(spender(turn, chat), tokens, cost, at)


def _tokens(usage: dict) -> int:
    return usage.get("input_tokens", 0) + usage.get("output_tokens", 0)


def _cost(usage: dict) -> int:
    return usage.get("cost_micros", 0)
