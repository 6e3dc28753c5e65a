"""A deleted flow's turns end at once where a manager runs in this process; else the next sweep ends them."""

from typing import Any

from django.dispatch import receiver

from chat.turns import manager as managers
from flows.signals import flow_deleted
from streams.errors import WireError


@receiver(flow_deleted)
def end_its_turns(flow: str, **kwargs: Any) -> None:
    try:
        managers.manager().commands.flow_deleted(flow)
    except WireError:  # a command of its own process
        pass
