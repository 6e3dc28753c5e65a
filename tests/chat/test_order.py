"""In which order a chat's events stand in the log where several writers tell of it, and where its head is then."""

import asyncio
from typing import Any

import pytest

from chat.models import Chat
from streams import database
from tests.chat.conftest import ASKS, TALK


async def head_of(chat: str) -> str:
    return str(await database.read(lambda: Chat.objects.values_list("head", flat=True).get(id=chat)))


@pytest.mark.parametrize("act", ["say", "edit", "regenerate"])
async def test_what_ends_a_waiting_turn_tells_its_end_before_the_next_one_begins(staged, act: str):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = await tab.say("hello")
    await tab.until_question(first["turn"])
    fields: dict[str, Any] = {
        "say": {"text": "hello again", "parent": first["answer"]},
        "edit": {"text": "hello again", "message": first["message"]},
        "regenerate": {"message": first["message"]},
    }[act]
    second = await tab.command(act, **fields)
    await tab.until_question(second["turn"])
    await stage.at_rest(one)
    told = [(event["type"], event["turn"]) for event in await stage.events() if "turn" in event]
    assert told.index(("turn_end", first["turn"])) < told.index(("turn_start", second["turn"]))


async def test_a_chats_event_that_was_read_before_a_turn_began_does_not_move_the_head_back(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(two)
    await tab.until_ended((await tab.say("hello"))["turn"])
    slow = one.at_call("holds", "append:chat")
    naming = asyncio.create_task(stage.commands(one, "patch_chat", stage.chat, stage.user.id, title="Mine"))
    await slow.reached()
    second = await tab.say("again")
    await tab.until_ended(second["turn"])
    slow.go()
    await naming
    await stage.at_rest(one)
    chats = [event for event in await stage.events() if event["type"] == "chat" and event.get("title") == "Mine"]
    assert chats[-1]["head"] == second["answer"] == await head_of(stage.chat)


async def test_a_branch_that_was_chosen_while_a_turn_ran_stays(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = await tab.say("hello")
    await tab.until_ended(first["turn"])
    second = await tab.say("stuck")
    await tab.until_shown(second["turn"], "Five six")
    await stage.commands(one, "patch_chat", stage.chat, stage.user.id, head=first["answer"])
    await tab.command("stop", turn=second["turn"])
    await tab.until_ended(second["turn"])
    await stage.at_rest(one)
    assert await head_of(stage.chat) == first["answer"]


async def test_a_socket_that_was_admitted_before_its_chat_was_made_shows_what_a_lost_log_had_told(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    held = two.at_call("holds", "read")  # it found no row, and has not read the log yet
    opening = asyncio.create_task(stage.tab(two))
    await held.reached()
    tab = await stage.tab(one)
    await tab.until_ended((await tab.say("hello"))["turn"])
    await stage.at_rest(one)
    await stage.empty()
    held.go()
    looks_on = await opening
    await stage.notice(tab)
    await looks_on.until(lambda: looks_on.view.messages)
    await stage.agrees(tab, looks_on)
