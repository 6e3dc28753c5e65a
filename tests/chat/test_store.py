"""Transactions on chats and turns, called as the bridge calls them: bounds, repeats, titles, heads, what goes."""

import itertools
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction

from chat import snapshot
from chat.models import Chat, Command, File, Message, Question, Turn
from chat.turns import orders, reads
from chat.turns.store import asking, beginning, chats, running, stopping, tidying
from flows import build
from flows import store as flow_store
from flows.models import Flow
from streams import database
from streams.errors import WireError
from streams.log import Log
from tests.chat.conftest import TALK

WORKER = str(uuid.uuid4())
ASKED = orders.Asked(
    key="ask:a#1:1",
    part="1.a#1",
    text="Tea?",
    options=[],
    schema=None,
    secret=False,
    expires_s=60,
    default=None,
    on_expiry="end",
)
Says = Callable[..., Awaitable[orders.Outcome]]


class Talk:
    """One user's chats with one flow. Each command gets an id of its own unless it names one."""

    def __init__(self, user: Any, flow: Flow) -> None:
        self.user, self.flow = user, flow
        self.chat = str(uuid.uuid4())
        self._ids = itertools.count(1)

    def begin(self, text: str = "hello", **fields: Any) -> orders.Begin:
        fields = {"act": "say", "text": text, "chat": self.chat, "worker": WORKER, "command": self.id()} | fields
        return orders.Begin(user=self.user.id, user_name="anna", flow=str(self.flow.id), **fields)

    def id(self) -> str:
        return f"c{next(self._ids)}"

    async def say(self, text: str = "hello", **fields: Any) -> orders.Outcome:
        return await database.write(beginning.begin_turn, self.begin(text, **fields))

    async def refused(self, text: str = "hello", **fields: Any) -> WireError:
        with pytest.raises(WireError) as refusal:
            await self.say(text, **fields)
        return refusal.value

    async def end(self, order: orders.RunOrder, state: str = "done", **fields: Any) -> orders.Outcome:
        parts = [{"id": f"{order.number}.m#1", "kind": "text", "text": "answer"}]
        fields.setdefault("next_worker", WORKER)
        return (await database.write(lambda: running.finish(order, state, parts, **fields)))[1]

    async def ask(self, order: orders.RunOrder, **fields: Any) -> Question:
        asked = msgspec.structs.replace(ASKED, **fields)
        return (await database.write(asking.ask, order, asked, [], [], None))[0]

    async def answer(self, question: Question, value: Any = "Yes", action: str = "accept", **fields: Any) -> Any:
        command = fields.get("command") or self.id()
        return await database.write(
            asking.answer, self.chat, self.user.id, command, str(question.id), action, value, WORKER
        )

    async def stop(self, turn: str | None = None, command: str | None = None) -> orders.Outcome:
        return await database.write(stopping.stop, self.chat, self.user.id, command or self.id(), turn, WORKER)

    async def row(self) -> Chat:
        return await database.read(lambda: Chat.objects.get(id=self.chat))

    async def states(self) -> list[str]:
        return await database.read(
            lambda: list(Turn.objects.filter(chat_id=self.chat).order_by("number").values_list("state", flat=True))
        )


@pytest.fixture
async def talk(user, publish, scripted) -> Talk:
    await database.write(scripted)
    return Talk(user, await publish(TALK))


@pytest.fixture
def talk_with(user, publish, scripted) -> Callable[..., Awaitable[Talk]]:
    async def make(**fields: Any) -> Talk:
        await database.write(scripted)
        return Talk(user, await publish(TALK, **fields))

    return make


# -------------------------------------------------------------------------------------- a queue and its bounds


async def test_five_may_wait_and_the_sixth_is_refused_without_a_row(talk: Talk):
    await talk.say("runs")
    replies = [(await talk.say("waits")).reply for _ in range(5)]
    assert all(reply["queued"] for reply in replies)
    refusal = await talk.refused("one too many")
    assert (refusal.code, refusal.entry.is_retryable, refusal.extra["retry_after"]) == ("queue_full", True, 5)
    assert await talk.states() == ["running"] + 5 * ["queued"]
    assert await database.read(Message.objects.count) == 6
    assert await database.read(Command.objects.count) == 6


async def test_a_message_that_ends_what_waits_takes_the_place_that_becomes_free(talk: Talk):
    first = (await talk.say("runs")).run
    for _ in range(5):
        await talk.say("waits")
    await talk.ask(first, options=[{"id": "a", "label": "A"}])
    assert (await talk.say("not an option")).reply["queued"]
    assert await talk.states() == ["stopped", "running"] + 5 * ["queued"]


async def test_turns_run_in_the_order_they_came_each_with_its_place(talk: Talk):
    first = (await talk.say("1")).run
    second, third = [(await talk.say(text)).reply["turn"] for text in "23"]
    ended = await talk.end(first)
    assert (ended.run.turn, ended.run.attempt, ended.owed) == (second, 1, [third])
    assert (await talk.end(ended.run)).run.turn == third


async def test_five_turns_of_a_user_run_at_once_and_a_sixth_chat_is_busy(talk: Talk, make_user):
    runs = [(await talk.say(chat=str(uuid.uuid4()))).run for _ in range(5)]
    refusal = await talk.refused()
    assert (refusal.code, refusal.entry.is_retryable, refusal.extra["retry_after"]) == ("busy", True, 1)
    assert not await database.read(lambda: Chat.objects.filter(id=talk.chat).exists())
    queued = await talk.say(chat=runs[0].chat)
    assert queued.reply["queued"], "what waits behind one's own turn runs no sixth"
    ben = await database.write(make_user, "ben")
    other = Talk(ben, talk.flow)
    assert (await other.say()).run
    await talk.end(runs[1])
    assert (await talk.say()).run


async def test_a_turn_that_waits_for_an_answer_counts_for_nobodys_bound(talk: Talk):
    for _ in range(5):
        asking = Talk(talk.user, talk.flow)
        await asking.ask((await asking.say()).run)
    assert (await talk.say()).run


async def full(talk: Talk) -> list[orders.RunOrder]:
    """As many chats of the user as may answer at once."""
    return [(await talk.say(chat=str(uuid.uuid4()))).run for _ in range(5)]


@pytest.mark.parametrize("how", ["answer", "say"])
async def test_an_answer_that_would_run_a_sixth_turn_is_busy_keeps_nothing_and_may_come_again(talk: Talk, how: str):
    question = await talk.ask((await talk.say()).run)
    runs = await full(talk)

    async def answers() -> orders.Outcome:
        if how == "say":
            return await talk.say("Yes", command="a")
        return await talk.answer(question, command="a")

    with pytest.raises(WireError, match="busy") as refused:
        await answers()
    assert refused.value.entry.is_retryable
    assert await database.read(lambda: Question.objects.get().action) == ""
    assert await talk.states() == ["waiting"]
    await talk.end(runs[0])
    assert (await answers()).run.attempt == 2
    assert (await answers()).reply["question"] == str(question.id), "and now it is kept"


async def test_a_message_that_ends_what_waits_is_busy_where_it_would_run_a_sixth_turn(talk: Talk):
    await talk.ask((await talk.say()).run, options=[{"id": "a", "label": "A"}])
    runs = await full(talk)
    assert (await talk.refused("no option")).code == "busy"
    assert await talk.states() == ["waiting"]
    await talk.end(runs[0])
    await talk.say("no option")
    assert await talk.states() == ["stopped", "running"]


async def test_a_stop_that_would_run_a_sixth_turn_is_busy_and_one_that_runs_none_is_not(talk: Talk):
    first = (await talk.say()).run
    await talk.say("behind it")
    await talk.ask(first)
    alone = Talk(talk.user, talk.flow)
    await alone.ask((await alone.say()).run)
    runs = await full(talk)
    with pytest.raises(WireError, match="busy"):
        await talk.stop(command="s")
    await alone.stop()
    assert (await talk.states(), await alone.states()) == (["waiting", "queued"], ["stopped"])
    await talk.end(runs[0])
    assert (await talk.stop(command="s")).run
    assert await talk.states() == ["stopped", "running"]


async def test_an_expired_question_waits_until_its_turn_may_run(talk: Talk):
    question = await talk.ask((await talk.say()).run, default="no", on_expiry="default")
    await pass_time(question)
    runs = await full(talk)
    assert (await expire(talk, question)).run is None
    assert await talk.states() == ["waiting"]
    await talk.end(runs[0])
    assert (await expire(talk, question)).run.attempt == 2


async def test_a_full_worker_is_busy_for_a_turn_that_would_run_and_still_answers_a_repeat(talk: Talk):
    first = await talk.say(command="once")
    assert (await talk.say(command="once", has_room=False)).reply == first.reply
    assert (await talk.say("behind", has_room=False)).reply["queued"]
    assert (await talk.refused(chat=str(uuid.uuid4()), has_room=False)).code == "busy"


async def test_a_rejecting_flow_takes_one_message_at_a_time(talk_with):
    talk = await talk_with(double_text="reject")
    run = (await talk.say()).run
    assert (await talk.refused()).code == "turn_running"
    question = await talk.ask(run, options=[{"id": "a", "label": "A"}])
    assert (await talk.refused("no option")).code == "turn_running"
    await talk.answer(question, "a")
    assert await talk.states() == ["running"]


async def test_an_interrupting_flow_has_no_full_queue(talk_with):
    talk = await talk_with(double_text="interrupt")
    await talk.say()
    for _ in range(7):
        assert (await talk.say()).reply["queued"]
    assert await talk.states() == ["running"] + 6 * ["stopped"] + ["queued"]


# ---------------------------------------------------------------------------------------- commands are kept


async def test_the_same_command_answers_the_same_whatever_became_of_its_turn(talk: Talk):
    begun = await talk.say(command="once")
    await talk.end(begun.run)
    again = await talk.say(command="once")
    assert (again.reply, again.run, again.owed) == (begun.reply, None, [])
    assert await talk.states() == ["done"]


@pytest.mark.parametrize(
    "other",
    [
        {"text": "other"},
        {"params": {"tone": "formal"}},
        {"parent": str(uuid.uuid4())},
        {"act": "regenerate", "text": "", "message": str(uuid.uuid4())},
        {"act": "edit", "message": str(uuid.uuid4())},
    ],
    ids=["text", "params", "parent", "regenerate", "edit"],
)
async def test_the_same_id_with_another_body_is_a_conflict(talk: Talk, other: dict[str, Any]):
    await talk.say(command="once")
    assert (await talk.refused(**{"command": "once"} | other)).code == "id_conflict"
    assert await talk.states() == ["running"]


async def test_an_id_of_one_command_is_a_conflict_for_every_other(talk: Talk):
    run = (await talk.say(command="once")).run
    question = await talk.ask(run)
    with pytest.raises(WireError, match="id_conflict"):
        await talk.answer(question, command="once")
    with pytest.raises(WireError, match="id_conflict"):
        await talk.stop(command="once")
    assert await talk.states() == ["waiting"]


async def test_an_id_belongs_to_its_chat(talk: Talk):
    one = await talk.say(command="once")
    other = await talk.say("another text", command="once", chat=str(uuid.uuid4()))
    assert one.reply["turn"] != other.reply["turn"]


async def test_a_repeat_answers_the_same_after_the_flow_was_published_anew_hidden_switched_off_or_deleted(talk: Talk):
    once = (await talk.say(command="once")).reply
    graph = msgspec.json.decode(msgspec.json.encode(TALK))
    graph["nodes"][0]["fields"] = {"params": {"properties": {"tone": {"type": "string"}}, "required": ["tone"]}}
    await publish_anew(talk, graph)
    assert (await talk.say(command="once")).reply == once
    await database.write(lambda: flow_store.offline(talk.flow.id))
    assert (await talk.say(command="once")).reply == once
    await database.write(lambda: flow_store.delete(talk.flow.id))
    assert (await talk.say(command="once")).reply == once
    assert (await talk.refused("once")).code == "flow_not_found"


async def test_params_are_judged_by_the_version_that_the_turn_will_run(talk: Talk):
    graph = msgspec.json.decode(msgspec.json.encode(TALK))
    tone = {"type": "string", "default": "plain"}
    graph["nodes"][0]["fields"] = {"params": {"properties": {"tone": tone, "words": {"type": "integer"}}}}
    assert (await talk.refused(params={"tone": "warm"})).code == "validation_error"
    await publish_anew(talk, graph)
    first = await talk.say(params={"words": 3})
    assert (first.run.params, first.run.version) == ({"tone": "plain", "words": 3}, 2)
    await talk.end(first.run)
    assert (await talk.refused(params={"words": "many"})).extra["field"] == "params.words"
    del graph["nodes"][0]["fields"]["params"]["properties"]["words"]
    await publish_anew(talk, graph)
    again = await talk.say("", act="regenerate", message=first.reply["answer"])
    assert (again.run.params, again.run.version) == ({"tone": "plain"}, 3), "what no version knows is left out"


async def test_who_lost_the_right_to_a_flow_begins_nothing_and_what_runs_goes_on(talk: Talk, make_user):
    ben = await database.write(make_user, "ben")
    group = await database.write(lambda: Group.objects.create(name="friends"))
    await database.write(lambda: (ben.groups.add(group), talk.flow.groups.add(group)))
    other = Talk(ben, talk.flow)
    run = (await other.say()).run
    await sees(talk, "groups")
    assert (await other.say("in the group")).reply["queued"]
    await database.write(lambda: ben.groups.clear())
    assert (await other.refused("left it")).code == "flow_not_found"
    await sees(talk, "owner")
    assert (await other.refused("", act="edit", message=run.message.id)).code == "flow_not_found"
    assert (await other.refused(chat=str(uuid.uuid4()))).code == "flow_not_found"
    assert (await talk.say("the owner")).run
    question = await other.ask(run)
    assert (await other.answer(question)).run.attempt == 2
    await sees(talk, "everyone")
    assert (await other.say("again")).reply["queued"]
    assert (await other.refused(version=str(talk.flow.published_id))).code == "forbidden"


async def publish_anew(talk: Talk, graph: dict[str, Any]) -> None:
    await database.write(lambda: Flow.objects.filter(id=talk.flow.id).update(draft=graph))
    await build.publish(talk.flow.id, talk.user.id)


async def sees(talk: Talk, visibility: str) -> None:
    await database.write(lambda: flow_store.update_flow(talk.flow.id, visibility=visibility))


async def test_a_refused_command_keeps_nothing_and_may_succeed_later(talk_with):
    talk = await talk_with(double_text="reject")
    run = (await talk.say()).run
    assert (await talk.refused("later", command="later")).code == "turn_running"
    await talk.end(run)
    assert (await talk.say("later", command="later")).run


async def test_a_stop_answers_the_same_again(talk: Talk):
    turn = (await talk.say()).reply["turn"]
    once = await talk.stop(command="s")
    assert (once.reply, once.stops) == ({"turn": turn}, [turn])
    again = await talk.stop(command="s")
    assert (again.reply, again.stops) == ({"turn": turn}, [])


async def test_two_stops_mark_a_turn_once(talk: Talk):
    turn = (await talk.say()).reply["turn"]
    await talk.stop()
    marked = await database.read(lambda: Turn.objects.get(id=turn).stop_at)
    await talk.stop()
    assert marked is not None
    assert await database.read(lambda: Turn.objects.get(id=turn).stop_at) == marked


# -------------------------------------------------------------------------------------------- title and head


async def test_the_title_is_the_beginning_of_the_first_message_in_one_line(talk: Talk):
    text = "Tell me\n\n  about \t" + "water and wheels " * 10
    begun = await talk.say(text)
    row = await talk.row()
    assert row.title == " ".join(text.split())[:60]
    assert (row.rev, row.told, begun.run.titled.title) == (1, False, row.title)


async def test_a_later_message_does_not_change_the_title(talk: Talk):
    await talk.end((await talk.say("first")).run)
    begun = await talk.say("second")
    assert ((await talk.row()).title, begun.run.titled, begun.owes_chat) == ("first", None, False)


async def test_a_chat_that_was_named_keeps_its_name(talk: Talk):
    await talk.end((await talk.say("first")).run)
    await database.write(lambda: chats.patch_chat(talk.chat, talk.user.id, title="Mine"))
    await talk.say("second")
    row = await talk.row()
    assert (row.title, row.rev) == ("Mine", 2)


async def test_what_a_chat_is_found_by_goes_with_its_title(talk: Talk):
    await talk.end((await talk.say("Große Räder")).run)
    assert (await talk.row()).search_title == "grosse räder"
    await database.write(lambda: chats.patch_chat(talk.chat, talk.user.id, title="МОСКВА"))
    assert (await talk.row()).search_title == "москва"


async def test_a_chat_made_with_a_title_keeps_it(talk: Talk):
    made = await database.write(chats.create_chat, talk.user.id, str(talk.flow.id), "Mine")
    talk.chat = str(made.id)
    await talk.say("first")
    assert (await talk.row()).title == "Mine"


async def test_the_head_follows_the_turn_that_runs_and_its_answer(talk: Talk):
    first = await talk.say("1")
    assert str((await talk.row()).head) == first.reply["message"]
    second = await talk.say("2")
    assert str((await talk.row()).head) == first.reply["message"], "what waits moves nothing"
    run = (await talk.end(first.run)).run
    assert str((await talk.row()).head) == second.reply["message"]
    await talk.end(run, "error")
    assert str((await talk.row()).head) == second.reply["answer"]


async def test_a_queued_turn_that_is_stopped_moves_no_head(talk: Talk):
    first = await talk.say("1")
    second = await talk.say("2")
    await talk.stop(second.reply["turn"])
    assert str((await talk.row()).head) == first.reply["message"]
    stored = await database.read(lambda: Message.objects.get(id=second.reply["answer"]))
    assert (stored.status, stored.parts) == ("stopped", [])


async def test_a_regenerated_answer_is_the_head_once_it_runs(talk: Talk):
    first = await talk.say("1")
    await talk.end(first.run)
    again = await talk.say("", act="regenerate", message=first.reply["answer"])
    assert again.reply["message"] == first.reply["message"]
    assert str((await talk.row()).head) == again.reply["answer"]


# ------------------------------------------------------------------------------------- a question's time


async def pass_time(question: Question) -> None:
    await database.write(
        lambda: Question.objects.filter(id=question.id).update(expires=question.expires - timedelta(days=8))
    )


async def expire(talk: Talk, question: Question) -> orders.Outcome:
    return await database.write(asking.expire, talk.chat, str(question.id), WORKER)


async def test_a_default_answers_what_nobody_answered(talk: Talk):
    options = [{"id": "t", "label": "Tea"}, {"id": "c", "label": "Coffee"}]
    question = await talk.ask((await talk.say()).run, default="c", on_expiry="default", options=options)
    await pass_time(question)
    run = (await expire(talk, question)).run
    assert run.answers == {ASKED.key: {"action": "accept", "value": "c", "label": "Coffee"}}
    assert (run.attempt, run.answered.by, run.answered.value) == (2, None, "c")


async def test_the_branch_for_what_nobody_answered_is_taken(talk: Talk):
    question = await talk.ask((await talk.say()).run, on_expiry="branch")
    await pass_time(question)
    run = (await expire(talk, question)).run
    assert run.answers == {ASKED.key: {"action": "expire", "value": None, "label": ""}}


async def test_else_the_turn_ends_and_the_next_one_runs(talk: Talk):
    first = await talk.say()
    second = (await talk.say("next")).reply["turn"]
    question = await talk.ask(first.run)
    await pass_time(question)
    ended = await expire(talk, question)
    row = await database.read(lambda: Turn.objects.get(id=first.reply["turn"]))
    assert (row.state, row.error["code"], ended.run.turn) == ("error", "question_expired", second)


@pytest.mark.parametrize("on_expiry", ["branch", "end"])
async def test_an_expired_question_takes_no_answer_any_more(talk: Talk, on_expiry: str):
    question = await talk.ask((await talk.say()).run, on_expiry=on_expiry)
    await pass_time(question)
    with pytest.raises(WireError, match="question_expired"):  # the sweep has not come by yet
        await talk.answer(question)
    await expire(talk, question)
    with pytest.raises(WireError, match="question_expired"):
        await talk.answer(question)


async def test_whoever_was_first_wins_over_the_sweep(talk: Talk):
    question = await talk.ask((await talk.say()).run, default="no", on_expiry="default")
    await talk.answer(question, "yes")
    await pass_time(question)
    late = await expire(talk, question)
    assert (late.run, late.owed) == (None, [])
    assert await database.read(lambda: Question.objects.get().value) == "yes"


async def test_a_question_expires_once(talk: Talk):
    question = await talk.ask((await talk.say()).run, on_expiry="branch")
    await pass_time(question)
    assert (await expire(talk, question)).run
    assert (await expire(talk, question)).run is None


async def test_a_say_does_not_answer_a_question_whose_time_has_passed(talk: Talk):
    first = await talk.say()
    question = await talk.ask(first.run)
    await pass_time(question)
    reply = (await talk.say("Yes")).reply
    assert reply["turn"] != first.reply["turn"]
    assert await talk.states() == ["stopped", "running"]


async def test_a_question_of_a_turn_that_ended_is_closed(talk: Talk):
    question = await talk.ask((await talk.say()).run)
    await talk.stop()
    with pytest.raises(WireError, match="question_closed"):
        await talk.answer(question)


# ------------------------------------------------------------------------------------------ purge and deletion


async def aged(chat: str, days: float = 2) -> None:
    def change() -> None:
        row = Chat.objects.get(id=chat)
        Chat.objects.filter(id=chat).update(last_turn_at=row.last_turn_at - timedelta(days=days))

    await database.write(change)


async def purged() -> list[str]:
    return [chat for chat in await database.read(reads.past_chats) if await database.write(tidying.purge, chat)]


async def test_a_debug_chat_past_its_day_loses_its_contents_and_stays_deleted(talk: Talk):
    graph = {"schema": 1, "nodes": [], "edges": []}
    begun = await talk.say("secret", kind="debug", graph=graph)
    await talk.end(begun.run, new_vars={"a": 1})
    await aged(talk.chat)
    assert await purged() == [talk.chat]
    row = await talk.row()
    assert (row.deleted, row.graph, row.vars, row.head) == (True, None, {}, None)
    assert (row.title, row.search_title) == ("", "")
    assert await database.read(lambda: (row.turns.count(), row.messages.count())) == (0, 0)
    assert (await talk.refused("secret", kind="debug")).code == "chat_not_found"
    assert await purged() == []


async def test_files_that_only_purged_messages_name_are_named_no_more(talk: Talk):
    def upload(name: str) -> str:
        return str(File.objects.create(user=talk.user, name=name, mime="text/plain", bytes=1, key=name, ready=True).id)

    async def named() -> set[str]:
        return set(await database.read(lambda: list(File.objects.filter(named=True).values_list("name", flat=True))))

    debug, kept = talk.chat, str(uuid.uuid4())
    alone, shared = [await database.write(upload, name) for name in ("alone", "shared")]
    graph = {"schema": 1, "nodes": [], "edges": []}
    await talk.end((await talk.say("both", kind="debug", graph=graph, files=(alone, shared))).run)
    await talk.end((await talk.say("one", chat=kept, files=(shared,))).run)
    assert await named() == {"alone", "shared"}
    await aged(debug)
    assert await purged() == [debug]
    assert await named() == {"shared"}


@pytest.mark.parametrize("why", ["it is young", "its turn runs", "its turn waits", "it is a chat"])
async def test_a_chat_is_not_purged_while(talk: Talk, why: str):
    kind = "chat" if why == "it is a chat" else "debug"
    run = (await talk.say(kind=kind)).run
    if why == "its turn waits":
        await talk.ask(run)
    elif why != "its turn runs":
        await talk.end(run)
    if why != "it is young":
        await aged(talk.chat)
    assert await purged() == []
    assert not (await talk.row()).deleted


async def test_a_command_is_kept_for_a_week_and_outlives_its_chat(talk: Talk):
    begun = await talk.say(command="once")
    await talk.end(begun.run)

    def age(days: float) -> None:
        row = Command.objects.get()
        Command.objects.update(created=row.created - timedelta(days=days))

    await database.write(age, 6.9)
    await database.write(tidying.forget_commands)
    assert (await talk.say(command="once")).reply == begun.reply
    await database.write(lambda: chats.delete_chat(talk.chat, talk.user.id, WORKER))
    assert await database.read(Command.objects.count) == 1
    await database.write(age, 0.2)
    await database.write(tidying.forget_commands)
    assert await database.read(Command.objects.count) == 0


async def test_a_deleted_chat_is_nobodys_for_every_command(talk: Talk):
    run = (await talk.say()).run
    question = await talk.ask(run)
    await database.write(lambda: chats.delete_chat(talk.chat, talk.user.id, WORKER))
    assert (await talk.refused()).code == "chat_not_found"
    for command in (talk.answer(question), talk.stop()):
        with pytest.raises(WireError, match="chat_not_found"):
            await command
    for change in (chats.patch_chat, lambda *given: chats.delete_chat(*given, WORKER)):
        with pytest.raises(WireError, match="not_found"):
            await database.write(change, talk.chat, talk.user.id)


async def test_deleting_ends_what_waits_and_tells_what_runs_to_stop(talk: Talk):
    running = await talk.say()
    queued = (await talk.say("next")).reply["turn"]
    deleted = await database.write(lambda: chats.delete_chat(talk.chat, talk.user.id, WORKER))
    assert (deleted.stops, deleted.owed, deleted.owes_chat) == ([running.reply["turn"]], [queued], True)
    assert await talk.states() == ["running", "stopped"]
    ended = await talk.end(running.run, "stopped")
    assert (ended.run, await talk.states()) == (None, ["stopped", "stopped"])


@pytest.mark.parametrize("whose", ["another user's", "another flow's"])
async def test_a_chat_is_not_found_by(talk: Talk, publish, make_user, whose: str):
    await talk.end((await talk.say()).run)
    other = Talk(talk.user, talk.flow)
    if whose == "another user's":
        other.user = await database.write(make_user, "ben")
    else:
        other.flow = await publish(TALK)
    assert (await other.refused(chat=talk.chat)).code == "chat_not_found"


# -------------------------------------------------------------------------------------------- a snapshot's bounds


async def filled(talk: Talk, count: int, chars: int) -> list[str]:
    """So many messages more in the chat, oldest first, each with so much text."""

    def fill() -> list[str]:
        made = Chat.objects.filter(id=talk.chat).first() or chats.create_chat(talk.user.id, str(talk.flow.id), "")
        talk.chat = str(made.id)
        rows = [
            Message(
                chat=made,
                role="user",
                parts=[{"id": f"{i}.input#1", "kind": "text", "text": "x" * chars}],
                created=database.now() + timedelta(seconds=i),
            )
            for i in range(count)
        ]
        Message.objects.bulk_create(rows)
        return [str(row.id) for row in rows]

    return await database.write(fill)


@pytest.fixture
async def shows(redis_url):
    log = Log()

    async def take(talk: Talk) -> tuple[dict[str, Any], int]:
        frame, position = await snapshot.take(log, talk.chat)
        shown = json.loads(frame)
        assert (shown["epoch"], shown["seq"]) == (position.epoch, position.seq)
        return shown, len(frame)

    yield take
    await log.aclose()


@pytest.mark.parametrize(("count", "more"), [(0, False), (49, False), (50, False), (51, True), (80, True)])
async def test_a_snapshot_holds_the_newest_fifty_messages(talk: Talk, shows, count: int, more: bool):
    ids = await filled(talk, count, 10)
    shown, _ = await shows(talk)
    assert [message["id"] for message in shown["messages"]] == ids[-50:]
    assert shown["more"] is more


async def test_a_snapshot_holds_as_many_messages_as_fit(talk: Talk, shows):
    ids = await filled(talk, 20, 30_000)
    shown, size = await shows(talk)
    assert size <= 256 * 1024
    assert [message["id"] for message in shown["messages"]] == ids[-8:]
    assert shown["more"] is True


async def test_a_snapshot_holds_the_newest_message_whatever_its_size(talk: Talk, shows):
    ids = await filled(talk, 3, 300_000)
    shown, _ = await shows(talk)
    assert [message["id"] for message in shown["messages"]] == ids[-1:]
    assert shown["more"] is True


async def test_a_snapshot_of_one_message_that_is_too_large_has_no_more(talk: Talk, shows):
    await filled(talk, 1, 300_000)
    shown, _ = await shows(talk)
    assert (len(shown["messages"]), shown["more"]) == (1, False)


async def test_an_open_turn_has_its_message_though_it_is_older_than_those_shown(talk: Talk, shows):
    first = await talk.say()
    await talk.end(first.run)
    await filled(talk, 60, 10)
    begun = await talk.say("", act="regenerate", message=first.reply["answer"])
    queued = await talk.say("next")
    shown, _ = await shows(talk)
    assert first.reply["message"] not in [message["id"] for message in shown["messages"]]
    assert [(turn["turn"], turn["message"]["id"], turn["state"], turn["place"]) for turn in shown["turns"]] == [
        (begun.reply["turn"], first.reply["message"], "running", None),
        (queued.reply["turn"], queued.reply["message"], "queued", 1),
    ]


@pytest.mark.parametrize("table", ["chat_turn", "chat_message"])
async def test_a_turn_that_ends_while_a_snapshot_is_read_has_moved_its_head(talk: Talk, shows, monkeypatch, table: str):
    begun = await talk.say()
    order, parts = begun.run, [{"id": "1.m#1", "kind": "text", "text": "answer"}]
    read, ends = snapshot._read, iter([order])

    def end_before(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if f'FROM "{table}"' in sql and (ending := next(ends, None)) is not None:
            with transaction.atomic():
                running.finish(ending, "done", parts, next_worker=WORKER)
        return execute(sql, *args)

    def read_meanwhile(chat: str) -> Any:
        with connection.execute_wrapper(end_before):
            return read(chat)

    monkeypatch.setattr(snapshot, "_read", read_meanwhile)
    shown, _ = await shows(talk)
    assert next(ends, None) is None, "it has ended meanwhile"
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant"]
    assert (shown["chat"]["head"], shown["turns"]) == (begun.reply["answer"], [])


async def test_a_snapshot_of_a_deleted_chat_is_refused(talk: Talk, shows):
    await filled(talk, 1, 10)
    await database.write(lambda: chats.delete_chat(talk.chat, talk.user.id, WORKER))
    with pytest.raises(WireError, match="chat_not_found"):
        await shows(talk)
