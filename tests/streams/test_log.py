"""The two scripts, sentence by sentence, and how appends reach them."""

import asyncio
import uuid

import pytest

from streams import redis
from streams.errors import WireError
from streams.log import Appended, Batch, Fenced, Log, NewEpoch
from tests.streams.conftest import OwnStore, batch, frame
from tests.waiting import until

TURN = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


async def epoch_of(log: Log, chat: str) -> str:
    return (await log.read(chat, 0)).epoch


async def texts(log: Log, chat: str) -> list[bytes]:
    return [entry for _, entry in (await log.read(chat, 0)).entries]


# ------------------------------------------------------------------------------------- epochs


async def test_a_read_begins_an_epoch_where_there_is_none(log: Log, chat: str):
    read = await log.read(chat, 0)
    assert len(read.epoch) == 16 and read.top == 0 and read.entries == [] and read.first is None
    assert await log.read(chat, 0) == read


async def test_events_are_numbered_from_one_and_read_as_they_go_to_sockets(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "a", "b")) == Appended(epoch, 1, 2)
    assert await log.append(batch(chat, epoch, "", 0, 0, "c")) == Appended(epoch, 3, 3)
    read = await log.read(chat, 1)
    assert read.top == 3 and read.first == 1
    assert read.entries == [(2, b'{"seq":2,' + frame("b")), (3, b'{"seq":3,' + frame("c"))]


async def test_an_append_to_another_epoch_writes_nothing_and_names_the_present_one(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    assert await log.append(batch(chat, "0" * 16, TURN, 1, 1, "a")) == NewEpoch(epoch)
    assert (await log.read(chat, 0)).top == 0
    # not even the attempt was raised
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "a")) == Appended(epoch, 1, 1)


async def test_an_append_to_a_log_that_is_gone_begins_an_epoch_and_writes_nothing(log: Log, chat: str, plain, keys):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    await plain.delete(*keys)
    answer = await log.append(batch(chat, epoch, TURN, 1, 2, "m"))
    assert isinstance(answer, NewEpoch) and answer.epoch != epoch
    assert await log.read(chat, 0) == await log.read(chat, 0)
    assert (await log.read(chat, 0)).epoch == answer.epoch and (await log.read(chat, 0)).top == 0


@pytest.mark.parametrize("is_read", [True, False])
async def test_another_history_of_the_server_is_another_epoch(log: Log, chat: str, plain, keys, is_read: bool):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    await plain.hset(keys[0], "replid", "another")
    if is_read:
        read = await log.read(chat, 0)
        assert (read.epoch != epoch, read.top) == (True, 0)
    else:
        assert isinstance(await log.append(batch(chat, epoch, TURN, 1, 2, "b")), NewEpoch)


@pytest.mark.parametrize("rolled_back", ["log", "meta", "log gone"])
async def test_a_log_whose_last_id_is_not_metas_seq_is_another_epoch(log: Log, chat: str, plain, keys, rolled_back):
    meta, stream = keys
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a", "b", "c"))
    if rolled_back == "log":
        await plain.xdel(stream, "3-0")
    elif rolled_back == "meta":
        await plain.hset(meta, "seq", 2)
    else:
        await plain.delete(stream)
    read = await log.read(chat, 0)
    assert read.epoch != epoch and read.top == 0 and read.entries == []


async def test_trace_02c_an_epoch_id_is_never_given_twice(log: Log, chat: str, plain, keys):
    seen = set()
    for _ in range(20):
        seen.add(await epoch_of(log, chat))
        await plain.delete(*keys)
    assert len(seen) == 20


async def test_a_restarted_server_has_another_epoch_although_its_data_stand(own_store: OwnStore, log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    own_store.run("CONFIG", "SET", "save", "3600 1")
    own_store.run("SAVE")
    own_store.kill()
    own_store.start()
    assert len(own_store.run("KEYS", "*")) == 2
    assert (await log.read(chat, 0)).epoch != epoch


# ------------------------------------------------------------------------------------- fence, numbers, ends


async def test_an_older_attempt_is_fenced(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 2, 1, "new"))
    assert await log.append(batch(chat, epoch, TURN, 1, 5, "old")) == Fenced()
    assert await log.append(batch(chat, epoch, TURN, 1, 0, "old")) == Fenced()
    assert await log.append(batch(chat, epoch, OTHER, 1, 1, "other turns go on")) == Appended(epoch, 2, 2)


async def test_an_empty_append_raises_the_attempt_and_writes_nothing(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    assert await log.append(batch(chat, epoch, TURN, 2, 0)) == Appended(epoch, 2, 1)
    assert await log.append(batch(chat, epoch, TURN, 1, 2, "zombie")) == Fenced()
    assert await log.append(batch(chat, epoch, TURN, 2, 1, "b")) == Appended(epoch, 2, 2)


async def test_trace_01_a_batch_sent_again_is_written_once_and_answered_with_its_position(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    first = await log.append(batch(chat, epoch, TURN, 1, 1, "0", "1"))
    await log.append(batch(chat, epoch, OTHER, 1, 1, "between"))
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "0", "1")) == first
    second = await log.append(batch(chat, epoch, TURN, 1, 2, "2"))
    assert second == Appended(epoch, 4, 4)
    assert await log.append(batch(chat, epoch, TURN, 1, 2, "2")) == second
    assert (await log.read(chat, 0)).top == 4


async def test_trace_01_a_first_sending_that_arrives_behind_the_batch_after_it_writes_nothing(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    for n in (1, 2, 3):
        await log.append(batch(chat, epoch, TURN, 1, n, str(n)))
    before = await texts(log, chat)
    for n in (1, 2):  # they lay in a server that stood still, and their retries were answered
        assert isinstance(await log.append(batch(chat, epoch, TURN, 1, n, str(n))), Appended)
    assert await texts(log, chat) == before


async def test_numbers_begin_anew_with_each_attempt(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    await log.append(batch(chat, epoch, TURN, 1, 2, "b"))
    assert await log.append(batch(chat, epoch, TURN, 2, 1, "c")) == Appended(epoch, 3, 3)


async def test_owed_events_are_not_numbered_and_disturb_no_numbers(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    first = await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    assert await log.append(batch(chat, epoch, TURN, 1, 0, "owed")) == Appended(epoch, 2, 2)
    assert await log.append(batch(chat, epoch, TURN, 1, 0, "owed")) == Appended(epoch, 3, 3)
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "a")) == first


async def test_trace_11_what_waits_as_attempt_0_is_refused_once_the_turn_runs(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    assert await log.append(batch(chat, epoch, TURN, 0, 0, "message", "turn_queued")) == Appended(epoch, 1, 2)
    await log.append(batch(chat, epoch, TURN, 1, 1, "turn_start"))
    assert await log.append(batch(chat, epoch, TURN, 0, 0, "message", "turn_queued")) == Fenced()


@pytest.mark.parametrize(("attempt", "n"), [(1, 0), (1, 2), (1, 9), (2, 1), (7, 0)])
async def test_another_end_gets_the_first_ones_position(log: Log, chat: str, attempt: int, n: int):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    end = await log.append(batch(chat, epoch, TURN, 1, 2, "turn_end", ends=True))
    assert end == Appended(epoch, 2, 2)
    assert await log.append(batch(chat, epoch, TURN, attempt, n, "turn_start", "turn_end", ends=True)) == end
    assert (await log.read(chat, 0)).top == 2


@pytest.mark.parametrize(("attempt", "n"), [(0, 0), (1, 0), (1, 2), (1, 3), (2, 1), (9, 0)])
async def test_after_the_end_anything_else_is_fenced(log: Log, chat: str, attempt: int, n: int):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    await log.append(batch(chat, epoch, TURN, 1, 2, "turn_end", ends=True))
    assert await log.append(batch(chat, epoch, TURN, attempt, n, "late")) == Fenced()
    assert await log.append(batch(chat, epoch, TURN, attempt, 0)) == Fenced()


async def test_a_turn_that_never_ran_ends_once(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    end = await log.append(batch(chat, epoch, TURN, 0, 0, "turn_start", "turn_end", ends=True))
    assert await log.append(batch(chat, epoch, TURN, 0, 0, "turn_end", ends=True)) == end
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "turn_start")) == Fenced()


async def test_an_old_end_of_an_older_attempt_is_fenced(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 2, 1, "turn_start"))
    assert await log.append(batch(chat, epoch, TURN, 1, 3, "turn_end", ends=True)) == Fenced()


async def test_trace_b1_a_turn_whose_events_were_trimmed_is_still_known(log: Log, chat: str, bounds):
    """Neither a ghost of it nor a second end is written."""
    bounds(log_events=10)
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 2, 1, "turn_start"))
    end = await log.append(batch(chat, epoch, TURN, 2, 2, "turn_end", ends=True))
    await fill(log, chat, epoch, 2000)
    assert (await log.read(chat, 0)).first > end.last
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "turn_start")) == Fenced()
    assert await log.append(batch(chat, epoch, TURN, 0, 0, "message", "turn_queued")) == Fenced()
    assert await log.append(batch(chat, epoch, TURN, 2, 0, "turn_end", ends=True)) == end


async def test_trace_16_what_is_known_of_ended_turns_is_little_and_goes_with_the_log(
    log: Log, chat: str, plain, keys, settings
):
    """The fence must know them (trace B1), so their entries stay: for as long as the log, a line each."""
    epoch = await epoch_of(log, chat)
    before = await plain.hlen(keys[0])
    for number in range(100):
        turn = str(uuid.UUID(int=number + 1))
        await log.append(batch(chat, epoch, turn, 1, 1, "turn_start"))
        await log.append(batch(chat, epoch, turn, 1, 2, "turn_end", ends=True))
    meta = await plain.hgetall(keys[0])
    entries = {name: value for name, value in meta.items() if name.startswith(b"t")}
    assert len(entries) == 100 and len(meta) <= before + 103
    assert max(len(name) + len(value) for name, value in entries.items()) <= 40
    assert meta[b"open"] == b""
    assert 0 < await plain.ttl(keys[0]) <= 2 * settings.HEADRACE.log_kept_s


# ------------------------------------------------------------------------------------- trimming, time to live


async def fill(log: Log, chat: str, epoch: str, events: int) -> None:
    for _ in range(events // 100):
        await log.append(batch(chat, epoch, "", 0, 0, *["x" * 100] * 100))


async def test_at_least_the_last_events_are_kept(log: Log, chat: str, settings):
    epoch = await epoch_of(log, chat)
    await fill(log, chat, epoch, 2000)
    read = await log.read(chat, 0)
    assert 1 < read.first <= 2000 - settings.HEADRACE.log_events + 1
    assert [seq for seq, _ in read.entries] == list(range(read.first, 2001))


async def test_everything_since_the_start_of_the_oldest_unfinished_turn_is_kept(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await fill(log, chat, epoch, 1000)
    start = await log.append(batch(chat, epoch, TURN, 1, 1, "turn_start"))
    await log.append(batch(chat, epoch, OTHER, 1, 1, "turn_start"))
    await fill(log, chat, epoch, 2000)
    await log.append(batch(chat, epoch, TURN, 2, 1, "turn_start"))  # a takeover: the start is the turn's
    await log.append(batch(chat, epoch, OTHER, 1, 2, "turn_end", ends=True))
    await fill(log, chat, epoch, 1000)
    assert 1 < (await log.read(chat, 0)).first <= start.first
    await log.append(batch(chat, epoch, TURN, 2, 2, "turn_end", ends=True))
    await fill(log, chat, epoch, 1000)
    assert (await log.read(chat, 0)).first > start.first


async def test_every_key_has_a_time_to_live_of_at_least_an_hour_after_each_event_and_read(
    log: Log, chat: str, plain, keys, settings
):
    kept_s = settings.HEADRACE.log_kept_s
    epoch = await epoch_of(log, chat)
    assert await plain.ttl(keys[0]) >= kept_s
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    assert min([await plain.ttl(key) for key in keys]) >= kept_s
    for touch in (log.read(chat, 1), log.append(batch(chat, epoch, TURN, 1, 2, "b")), log.read(chat, 0, limit=0)):
        for key in keys:
            await plain.expire(key, 60)
        await touch
        assert min([await plain.ttl(key) for key in keys]) >= kept_s
    assert sorted(await plain.keys(settings.REDIS_PREFIX + "*")) == sorted(key.encode() for key in keys)


async def test_keys_of_one_chat_share_a_hash_tag_of_32_hex_digits(log: Log, chat: str, plain, prefix: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    tag = "{" + uuid.UUID(chat).hex + "}"
    assert set(await plain.keys(f"{prefix}*")) == {f"{prefix}{tag}:log".encode(), f"{prefix}{tag}:meta".encode()}


# ------------------------------------------------------------------------------------- reading


async def test_a_read_is_bounded_by_events_and_bytes_and_gives_one_at_least(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, *["x" * 1000] * 10))
    assert [seq for seq, _ in (await log.read(chat, 2, limit=3)).entries] == [3, 4, 5]
    assert [seq for seq, _ in (await log.read(chat, 2, max_bytes=2500)).entries] == [3, 4]
    assert [seq for seq, _ in (await log.read(chat, 2, max_bytes=1)).entries] == [3]
    assert (await log.read(chat, 2, limit=0)).entries == []
    assert (await log.read(chat, 2, limit=0)).top == 10


@pytest.mark.parametrize("after", [10, 11, 10**12, 10**30])
async def test_a_read_at_or_past_the_top_has_no_entries(log: Log, chat: str, after: int):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, *["x"] * 10))
    read = await log.read(chat, after)
    assert (read.epoch, read.top, read.entries) == (epoch, 10, [])


async def test_a_frame_is_carried_byte_for_byte(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    odd = '"type":"delta","text":"\\n\\u0000 ü 漢 😀 %s {} \x7f"}'.encode()
    await log.append(Batch(chat, epoch, TURN, 1, 1, (odd, odd)))
    assert await texts(log, chat) == [b'{"seq":1,' + odd, b'{"seq":2,' + odd]


async def test_trace_10_epoch_and_entries_come_of_one_step_while_the_log_is_lost_again_and_again(
    log: Log, other: Log, chat, plain, keys
):
    told: dict[str, list[bytes]] = {}

    async def write() -> None:
        for _ in range(30):
            epoch = await epoch_of(other, chat)
            told[epoch] = [b'{"seq":1,' + frame(epoch)]
            await other.append(batch(chat, epoch, "", 0, 0, epoch))
            await plain.delete(*keys)

    writing = asyncio.create_task(write())
    while not writing.done():
        read = await log.read(chat, 0)
        if read.entries:
            assert [entry for _, entry in read.entries] == told[read.epoch]
    await writing


# ------------------------------------------------------------------------------------- the way there


async def test_all_that_wait_go_out_together_while_one_flight_is_out(log: Log, plain):
    chats = [str(uuid.uuid4()) for _ in range(100)]
    epochs = [read.epoch for read in await asyncio.gather(*(log.read(chat, 0) for chat in chats))]
    flights = []
    launch = log._appends._launch

    def count() -> None:
        launch()
        flights.append(len(log._appends._flight))

    log._appends._launch = count
    await log.append(batch(chats[0], epochs[0], "", 0, 0, "connects"))
    flights.clear()
    answers = await asyncio.gather(
        *(log.append(batch(chat, epoch, TURN, 1, 1, "a")) for chat, epoch in zip(chats, epochs, strict=True))
    )
    assert all(isinstance(answer, Appended) for answer in answers)
    assert sum(flights) == 100 and len(flights) <= 2


async def test_a_batch_whose_answer_was_lost_is_in_the_log_once(log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "connects"))
    lane = log._appends
    lost = []

    def lose(reply: object) -> None:
        lost.append(reply)
        lane._on_reply = answer
        link._on_reply = answer
        link.abort()

    answer, link = lane._on_reply, lane._link
    link._on_reply = lose
    assert await log.append(batch(chat, epoch, TURN, 1, 2, "0")) == Appended(epoch, 2, 2)
    assert len(lost) == 1
    assert (await log.read(chat, 0)).top == 2


async def test_a_batch_waits_while_the_server_is_frozen_and_is_written_once(
    own_store: OwnStore, log: Log, chat, bounds
):
    bounds(redis_timeout_s=0.2)
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    own_store.freeze()
    appending = asyncio.create_task(log.append(batch(chat, epoch, TURN, 1, 2, "b")))
    await until(lambda: log.is_in_trouble, what="the log is in trouble")
    assert not appending.done()
    own_store.thaw()
    assert await appending == Appended(epoch, 2, 2)
    await until(lambda: not log.is_in_trouble, what="the trouble is over")
    assert (await log.read(chat, 0)).top == 2


async def test_a_writer_is_let_go_past_its_bound_and_a_reader_too(own_store: OwnStore, log: Log, chat: str, bounds):
    epoch = await epoch_of(log, chat)
    bounds(redis_timeout_s=0.1, command_hop_s=0.3, pending_events_s=0.3)
    own_store.freeze()
    with pytest.raises(WireError, match="unavailable"):
        await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    with pytest.raises(WireError, match="unavailable"):
        await log.read(chat, 0)
    own_store.thaw()
    bounds(redis_timeout_s=1, command_hop_s=10)
    assert (await log.read(chat, 0)).epoch == epoch


async def test_trace_03a_a_writer_learns_of_an_emptied_server_before_it_writes(
    own_store: OwnStore, log: Log, chat: str
):
    """What is written must not stand before the state so far."""
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "turn_start"))
    own_store.run("FLUSHALL")
    answer = await log.append(batch(chat, epoch, TURN, 1, 2, "m"))
    assert isinstance(answer, NewEpoch)
    # n goes on: the turn is unknown in the new epoch
    assert await log.append(batch(chat, answer.epoch, TURN, 1, 2, "turn_start")) == Appended(answer.epoch, 1, 1)


async def test_trace_02a_a_rolled_back_server_gives_no_number_twice_in_one_epoch(
    log: Log, other: Log, chat: str, plain, keys
):
    """The server falls back to 7, and a writer that never saw more goes on with 8."""
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, *"1234567"))
    dumps = [await plain.dump(key) for key in keys]
    await log.append(batch(chat, epoch, TURN, 1, 2, *"89"))
    for key, dump in zip(keys, dumps, strict=True):
        await plain.restore(key, 3600_000, dump, replace=True)
    await plain.hset(keys[0], "replid", "of the history before")  # what a restart or a promotion changes
    assert isinstance(await other.append(batch(chat, epoch, OTHER, 1, 1, "8'")), NewEpoch)


async def test_lost_scripts_are_loaded_again(log: Log, chat: str, own_store: OwnStore):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    own_store.run("SCRIPT", "FLUSH")
    assert await log.append(batch(chat, epoch, TURN, 1, 2, "b")) == Appended(epoch, 2, 2)
    own_store.run("SCRIPT", "FLUSH")
    assert (await log.read(chat, 0)).top == 2


async def test_a_full_server_lets_events_wait_until_there_is_room(own_store: OwnStore, log: Log, chat: str):
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, TURN, 1, 1, "a"))
    own_store.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
    own_store.run("CONFIG", "SET", "maxmemory", "1")
    appending = asyncio.create_task(log.append(batch(chat, epoch, TURN, 1, 2, "b")))
    await until(lambda: log.is_in_trouble)
    own_store.run("CONFIG", "SET", "maxmemory", "0")
    assert await appending == Appended(epoch, 2, 2)


@pytest.mark.parametrize(
    ("error", "is_passing"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("ERR Error running script (call to f_5a0): @user_script:50: @user_script: 50: -OOM command not allowed", True),
        ("ERR Error running script (call to f_5a0): @user_script:50: -READONLY You can't write", True),
        ("ERR Error running script (call to f_5a0): @user_script:50: -WRONGTYPE Operation against a key", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
    ],
)
def test_what_passes_is_known_in_the_words_of_older_servers_too(error: str, is_passing: bool):
    assert redis._is_passing(error) is is_passing


async def test_one_refused_command_fails_alone(log: Log, chat: str, plain, prefix: str):
    bad = str(uuid.uuid4())
    await plain.set(f"{prefix}{{{uuid.UUID(bad).hex}}}:meta", "not a hash")
    epoch = await epoch_of(log, chat)
    refused, written = await asyncio.gather(
        log.append(batch(bad, epoch, TURN, 1, 1, "a")),
        log.append(batch(chat, epoch, TURN, 1, 1, "a")),
        return_exceptions=True,
    )
    assert isinstance(refused, Exception) and "WRONGTYPE" in str(refused)
    assert written == Appended(epoch, 1, 1)
    assert not log.is_in_trouble


async def test_a_caller_that_is_cancelled_leaves_no_answer_to_the_next(log: Log, chat: str):
    """redis-py's old fault: a cancelled command's reply was read by the next one."""
    epoch = await epoch_of(log, chat)
    await log.append(batch(chat, epoch, "", 0, 0, "connects"))
    for n in range(50):
        reads = [asyncio.create_task(log.read(chat, 0, limit=1)) for _ in range(4)]
        await asyncio.sleep(0)
        for read in reads[:3]:
            read.cancel()
        assert await log.append(batch(chat, epoch, "", 0, 0, str(n))) == Appended(epoch, n + 2, n + 2)
        assert (await reads[3]).entries == [(1, b'{"seq":1,' + frame("connects"))]


# ------------------------------------------------------------------------------------- trimming by bytes


async def large(log: Log, chat: str, epoch: str, turn: str, n: int, *, ends: bool = False) -> None:
    """Ten events of 1 KB in one batch."""
    reply = await log.append(batch(chat, epoch, turn, 1, n, *(10 * ["x" * 1000]), ends=ends))
    assert isinstance(reply, Appended)


async def test_a_log_of_large_events_is_trimmed_by_its_bytes(log: Log, chat: str, bounds):
    bounds(log_bytes=80_000)
    epoch = await epoch_of(log, chat)
    for number in range(40):
        await large(log, chat, epoch, str(uuid.UUID(int=number)), 1, ends=True)
    read = await log.read(chat, 0)
    held = sum(len(frame) for _, frame in read.entries)
    assert read.top == 400 and 80_000 <= held <= 80_000 + 2 * 11_000
    assert [seq for seq, _ in read.entries] == list(range(read.first, 401))


async def test_nothing_of_an_unfinished_turn_is_trimmed_by_bytes_before_it_ends(log: Log, chat: str, bounds):
    bounds(log_bytes=80_000)
    epoch = await epoch_of(log, chat)
    await large(log, chat, epoch, OTHER, 1, ends=True)
    for n in range(1, 31):
        await large(log, chat, epoch, TURN, n)
    assert (await log.read(chat, 0, limit=1)).first == 11
    await large(log, chat, epoch, TURN, 31, ends=True)
    read = await log.read(chat, 0)
    assert read.top == 320 and sum(len(frame) for _, frame in read.entries) <= 80_000 + 2 * 11_000


async def test_a_log_of_small_events_keeps_its_events_whatever_was_written_before(log: Log, chat: str, bounds):
    bounds(log_bytes=80_000)
    epoch = await epoch_of(log, chat)
    for number in range(100):
        await log.append(batch(chat, epoch, str(uuid.UUID(int=number)), 1, 1, *(10 * ["x"]), ends=True))
    assert len((await log.read(chat, 0)).entries) >= 500


async def test_trouble_ends_with_the_connection_though_nobody_waits_any_more(own_store: OwnStore, log: Log, chat: str):
    await log.read(chat, 0)
    own_store.kill()
    reading = asyncio.create_task(log.read(chat, 0))
    await until(lambda: log.is_in_trouble)
    reading.cancel()
    own_store.start()
    await until(lambda: not log.is_in_trouble)
