"""A message from a socket to its stored answer, on real parts."""

import uuid

from chat.models import Message, Turn
from streams import database
from tests.chat.conftest import ANSWERS, ASKS
from tests.chat.view import View, text_of


async def test_say_streams_its_answer_and_stores_what_was_shown(live, publish, scripted, user, token_of):
    await database.write(lambda: scripted(default="One two three four five."))
    flow = await publish(ANSWERS)
    chat = str(uuid.uuid4())
    async with live.open(f"/chat/{flow.id}?chat_id={chat}", await token_of(user)) as socket:
        assert (await socket.recv())["type"] == "welcome"
        ok = await socket.say("hello")
        assert ok["type"] == "ok" and ok["queued"] is False
        end = await socket.until("turn_end")
    view = View()
    for frame in socket.frames:
        view.apply(frame)
    assert end["status"] == "done", end
    assert view.last_shown == end["message"]["parts"]
    assert text_of(end["message"]["parts"]) == "You said hello.|One two three four five."
    stored = await database.read(lambda: Message.objects.get(id=ok["answer"]))
    assert stored.parts == end["message"]["parts"]


async def test_question_waits_and_its_answer_goes_on(live, publish, scripted, user, token_of):
    await database.write(lambda: scripted(default="Model says {input}."))
    flow = await publish(ASKS)
    chat = str(uuid.uuid4())
    async with live.open(f"/chat/{flow.id}?chat_id={chat}", await token_of(user)) as socket:
        await socket.recv()
        ok = await socket.say("hello")
        question = await socket.until("question")
        turn = await database.read(lambda: Turn.objects.get(id=ok["turn"]))
        assert (turn.state, turn.worker) == ("waiting", None)
        reply = await socket.command("answer", question=question["question"], value="Ada")
        assert reply["type"] == "ok"
        end = await socket.until("turn_end")
    view = View()
    for frame in socket.frames:
        view.apply(frame)
    assert text_of(end["message"]["parts"]) == "Model says one hello.|Between.|Model says two Ada."
    assert view.last_shown == end["message"]["parts"]


async def test_a_socket_that_comes_during_an_outage_is_told_of_it(staged):
    stage = await staged(ANSWERS)
    one = await stage.worker()
    before = await stage.tab(one)
    one.manager.hub.on_degraded(True)
    during = await stage.tab(one)
    told = await before.until(lambda: [frame for frame in before.frames if frame["type"] == "degraded"])
    assert [frame["type"] for frame in during.frames] == ["welcome", "degraded", "snapshot"]
    assert during.frames[1] == told[0]
    one.manager.hub.on_degraded(False)
    after = await stage.tab(one)
    assert [frame["type"] for frame in after.frames] == ["welcome", "snapshot"]
