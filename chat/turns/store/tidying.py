"""A worker's duties towards all rows: marks what was told, and lets go what is past its time."""

from collections import defaultdict
from datetime import timedelta

from django.conf import settings
from django.db.models import TextField
from django.db.models.functions import Cast

from chat import shapes
from chat.models import Chat, Command, File, Message, Turn
from chat.turns import reads
from chat.turns.states import UNENDED
from chat.turns.store import rows
from streams.database import now as database_now

TOLD_AT_ONCE = 500


def mark_told(told: list[tuple[str, str, int]]) -> None:
    """(kind, id, rev) of appended events. A row that owes something newer by now keeps owing it."""
    by_rev: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for kind, id_, rev in told:
        by_rev[kind, rev].append(id_)
    for (kind, rev), ids in by_rev.items():
        model = Turn if kind == "turn" else Chat
        for start in range(0, len(ids), TOLD_AT_ONCE):
            model.objects.filter(id__in=ids[start : start + TOLD_AT_ONCE], rev=rev).update(told=True)


def purge(chat_id: str) -> bool:
    """A debug or call chat past its day loses its contents; its row stays, deleted. False: it is in use again."""
    chat = rows.lock(chat_id)
    if chat is None or chat.deleted or not reads.is_past(chat) or chat.turns.filter(state__in=UNENDED).exists():
        return False
    _unname_files(chat)
    chat.turns.all().delete()
    chat.messages.all().delete()
    chat.deleted, chat.graph, chat.vars, chat.head = True, None, {}, None
    rows.entitle(chat, "")
    chat.rev += 1
    chat.owes, chat.told = None, False
    chat.save()
    return True


def _unname_files(chat: Chat) -> None:
    """What no other message of the user's names goes with the other files that none names."""
    said = chat.messages.filter(role=Message.Role.USER).values_list("parts", flat=True)
    ids = {data["file"] for parts in said for data in shapes.files_of(parts)}
    if not ids:
        return
    others = Message.objects.filter(chat__user_id=chat.user_id, role=Message.Role.USER).exclude(chat=chat)
    others = others.annotate(raw=Cast("parts", TextField()))
    for row in File.objects.select_for_update().filter(id__in=ids).order_by("id").only("id"):  # who names one waits
        if not others.filter(raw__contains=str(row.id)).exists():
            File.objects.filter(id=row.id).update(named=False)


def forget_commands() -> int:
    """Some of those older than a week: who repeats one after that does it anew. Returns how many: 0, no more."""
    old = database_now() - timedelta(days=settings.HEADRACE.command_kept_days)
    past = Command.objects.filter(created__lt=old).order_by("created")
    ids = list(past.values_list("id", flat=True)[: settings.HEADRACE.purge_rows])
    Command.objects.filter(id__in=ids).delete()
    return len(ids)
