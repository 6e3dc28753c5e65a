import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { TIMES, Wire, newId } from "../../static/js/wire.js";

/** A clock that moves when told, sockets that do what the test says. */
class World {
  constructor() {
    this.time = 0;
    this.timers = [];
    this.sockets = [];
    this.online = true;
    this.seen = true;
    const world = this;
    this.Socket = class {
      constructor(url, protocols) {
        this.url = url;
        this.protocols = protocols;
        this.readyState = 1;
        this.sent = [];
        world.sockets.push(this);
      }
      send(text) {
        this.sent.push(JSON.parse(text));
      }
      close() {
        this.isClosed = true;
      }
      say(frame) {
        this.onmessage?.({ data: JSON.stringify(frame) });
      }
      drop(code = 1006, reason = "") {
        this.onclose?.({ code, reason });
      }
    };
    this.clock = {
      now: () => this.time,
      setTimeout: (fn, ms) => this.timers[this.timers.push({ fn, at: this.time + ms }) - 1],
      clearTimeout: (timer) => (this.timers = this.timers.filter((t) => t !== timer)),
    };
    this.random = () => 1;
    this.isOnline = () => this.online;
    this.isSeen = () => this.seen;
  }
  get socket() {
    return this.sockets.at(-1);
  }
  pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const next = this.timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.timers = this.timers.filter((t) => t !== next);
      this.time = next.at;
      next.fn();
    }
    this.time = end;
  }
}

const WELCOME = { type: "welcome", epoch: "e1", seq: 0, trace: "t1", chat: "c", resumed: false };
const SNAPSHOT = { type: "snapshot", epoch: "e1", seq: 10, chat: {}, messages: [], turns: [], more: false };
const delta = (seq) => ({ seq, type: "delta", part: "1.a#1", text: "x" });

let world, wire, frames, replies, outbox;

beforeEach(() => {
  world = new World();
  frames = [];
  replies = [];
  wire = new Wire(
    (position) => `ws://x/${position ? `?epoch=${position.epoch}&seq=${position.seq}` : ""}`,
    {
      onFrame: (frame) => frames.push(frame),
      onReply: (command, frame) => replies.push([command.id, frame.type]),
      onOutbox: (commands) => (outbox = commands),
    },
    world,
  );
});

function live() {
  wire.open();
  world.socket.say(WELCOME);
  world.socket.say(SNAPSHOT);
}

function seqs() {
  return frames.filter((f) => f.type === "delta").map((f) => f.seq);
}

test("it asks for the subprotocol and comes without a position at first", () => {
  wire.open();
  assert.deepEqual(world.socket.protocols, ["headrace.v1"]);
  assert.equal(world.socket.url, "ws://x/");
});

test("after a cut it resumes from the last event", () => {
  live();
  world.socket.say(delta(11));
  world.socket.drop();
  assert.equal(wire.state.name, "reconnecting");
  world.pass(TIMES.firstRetryMs);
  assert.equal(world.socket.url, "ws://x/?epoch=e1&seq=11");
  world.socket.say({ ...WELCOME, resumed: true });
  world.socket.say(delta(12));
  assert.deepEqual(seqs(), [11, 12]);
});

test("an event that was had is not applied twice", () => {
  live();
  world.socket.say(delta(11));
  world.socket.say(delta(11));
  world.socket.say(delta(9));
  assert.deepEqual(seqs(), [11]);
});

test("a gap ends the socket and the next one resumes before it", () => {
  live();
  world.socket.say(delta(13));
  assert.deepEqual(seqs(), []);
  assert.ok(world.socket.isClosed);
  world.pass(TIMES.firstRetryMs);
  assert.equal(world.socket.url, "ws://x/?epoch=e1&seq=10");
});

test("a snapshot of another epoch moves the position there", () => {
  live();
  world.socket.say({ ...SNAPSHOT, epoch: "e2", seq: 3 });
  world.socket.say(delta(4));
  assert.deepEqual(wire.position, { epoch: "e2", seq: 4 });
});

test("a command waits for the line and is sent again after each cut until it has a reply", () => {
  const id = wire.send("say", { text: "hi" });
  wire.open();
  world.socket.say(WELCOME);
  assert.deepEqual(world.socket.sent, [{ type: "say", id, text: "hi" }]);
  world.socket.drop();
  world.pass(TIMES.firstRetryMs);
  world.socket.say({ ...WELCOME, resumed: true });
  assert.equal(world.socket.sent[0].id, id);
  world.socket.say({ type: "ok", id });
  world.socket.say({ type: "ok", id });
  assert.deepEqual(replies, [[id, "ok"]]);
  assert.deepEqual(outbox, []);
  world.socket.drop();
  world.pass(2 * TIMES.firstRetryMs);
  world.socket.say({ ...WELCOME, resumed: true });
  assert.deepEqual(world.socket.sent, []);
});

test("commands of an earlier life of the page are sent with their ids", () => {
  wire.restore([{ type: "say", id: "old", text: "hi" }]);
  live();
  assert.equal(world.socket.sent[0].id, "old");
});

test("an ack goes out 250 ms after the first event", () => {
  live();
  world.socket.say(delta(11));
  world.socket.say(delta(12));
  world.pass(TIMES.ackMs - 1);
  assert.deepEqual(world.socket.sent, []);
  world.pass(1);
  assert.deepEqual(world.socket.sent, [{ type: "ack", seq: 12 }]);
});

test("a burst is acknowledged every 32 events, at most each 50 ms", () => {
  live();
  for (let seq = 11; seq < 11 + 96; seq += 1) world.socket.say(delta(seq));
  assert.deepEqual(world.socket.sent, [{ type: "ack", seq: 42 }]);
  world.pass(TIMES.ackSpacingMs);
  assert.deepEqual(world.socket.sent.at(-1), { type: "ack", seq: 106 });
});

test("a half-open line is found by a ping without a pong", () => {
  live();
  world.pass(TIMES.quietMs);
  assert.equal(world.socket.sent.at(-1).type, "ping");
  world.pass(TIMES.pongMs);
  assert.equal(wire.state.name, "reconnecting");
});

test("a pong keeps the line", () => {
  live();
  world.pass(TIMES.quietMs);
  world.socket.say({ type: "pong", t: 1 });
  world.pass(TIMES.pongMs);
  assert.equal(wire.state.name, "live");
});

test("a page that nobody sees asks nothing until it wakes", () => {
  live();
  world.seen = false;
  world.pass(10 * TIMES.quietMs);
  assert.deepEqual(world.socket.sent, []);
  world.seen = true;
  wire.wake();
  assert.equal(world.socket.sent.at(-1).type, "ping");
});

test("a page that wakes asks at once", () => {
  live();
  world.pass(10000);
  wire.wake();
  assert.equal(world.socket.sent.at(-1).type, "ping");
  world.pass(TIMES.wakePongMs);
  assert.equal(wire.state.name, "reconnecting");
  wire.wake();
  assert.equal(wire.state.name, "connecting");
});

test("tries are further and further apart, up to a bound", () => {
  wire.open();
  const waits = [];
  for (let n = 0; n < 8; n += 1) {
    world.socket.drop();
    waits.push(wire.state.nextAt - world.time);
    world.pass(waits.at(-1));
  }
  assert.deepEqual(waits, [400, 800, 1600, 3200, 6400, 12800, 20000, 20000]);
});

test("a server that never says welcome is given up", () => {
  wire.open();
  world.pass(TIMES.openMs);
  assert.equal(wire.state.name, "reconnecting");
});

for (const [code, name] of [
  ["unauthorized", "signed_out"],
  ["flow_offline", "refused"],
  ["chat_not_found", "refused"],
  ["idle", "idle"],
  ["chat_deleted", "deleted"],
  ["slow_reader", "reconnecting"],
  ["unavailable", "reconnecting"],
]) {
  test(`a close for ${code} is told as ${name}`, () => {
    live();
    world.socket.say({ type: "error", code, text: "Sentence.", trace: "t" });
    world.socket.drop(1008, code);
    assert.equal(wire.state.name, name);
    assert.equal(wire.state.refusal.text, "Sentence.");
  });
}

test("a server that goes away says when to come back", () => {
  live();
  world.socket.say({ type: "going_away", retry_after: 3 });
  world.socket.drop(1012, "going_away");
  assert.ok(wire.state.isGoingAway);
  assert.equal(wire.state.nextAt - world.time, 3000);
});

test("without a network it says so", () => {
  live();
  world.online = false;
  world.socket.drop();
  assert.equal(wire.state.name, "offline");
});

test("ids are UUIDs of version 4", () => {
  assert.match(newId(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});
