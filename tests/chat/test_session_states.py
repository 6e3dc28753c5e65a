"""What operators see a socket do: by the events of its chat, whichever worker runs the turn."""

from streams.states import StreamState
from tests.chat.conftest import ASKS, TALK
from tests.chat.stage import Tab


def state_of(tab: Tab) -> StreamState:
    return tab.socket.session.state


async def test_sockets_of_every_worker_stream_while_a_turn_runs(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    assert (state_of(tab), state_of(looks_on)) == (StreamState.CONNECTED, StreamState.CONNECTED)
    turn = (await tab.say("hang"))["turn"]
    await looks_on.until_shown(turn, "One two")
    late = await stage.tab(two)
    assert [state_of(each) for each in (tab, looks_on, late)] == [StreamState.STREAMING] * 3
    await tab.command("stop")
    await looks_on.until_ended(turn)
    await stage.at_rest(one)
    assert [state_of(each) for each in (tab, looks_on, late)] == [StreamState.CONNECTED] * 3


async def test_a_socket_is_paused_while_its_turn_waits(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    await tab.until_question(turn)
    assert state_of(tab) == StreamState.PAUSED


async def test_a_socket_streams_on_with_the_next_turn_of_the_queue(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("hang"))["turn"]
    await tab.until_shown(first, "One two")
    second = (await tab.say("stuck"))["turn"]
    await tab.command("stop", turn=first)
    await tab.until_shown(second, "Five six")
    assert state_of(tab) == StreamState.STREAMING


async def test_a_window_that_opens_after_the_end_leaves_nothing_streaming(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    await tab.until_ended(turn)
    await stage.at_rest(one)
    tab.socket.pump.on_paused(True)
    assert state_of(tab) == StreamState.PAUSED
    tab.socket.pump.on_paused(False)
    assert state_of(tab) == StreamState.CONNECTED
