import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { View, textOf } from "../../static/js/view.js";

let view, clock;

beforeEach(() => {
  view = new View();
  clock = 0;
  view.apply({ type: "snapshot", epoch: "e", seq: 0, chat: { id: "c", rev: 1, title: "", head: null }, messages: [], more: false, turns: [] });
});

function message(id, role, parent, text, more = {}) {
  clock += 1;
  const created = `2026-11-01T10:00:${String(clock).padStart(2, "0")}.000Z`;
  const parts = text === null ? [] : [{ id: `${id}.p`, kind: "text", text }];
  return { id, chat: "c", role, parts, parent, turn: null, status: "done", client_id: null, feedback: null, created, ...more };
}

function start(turn, user, answer, more = {}) {
  view.apply({ type: "turn_start", turn, message: user, answer, attempt: 1, version: 1, skill: "flow", parts: [], ...more });
}

function stream(turn, part, ...texts) {
  view.apply({ type: "part", turn, part, kind: "text" });
  for (const text of texts) view.apply({ type: "delta", part, text });
}

function end(turn, stored, more = {}) {
  view.apply({ type: "turn_end", turn, status: "done", message: stored, data: null, usage: null, error: null, ...more });
}

function shown() {
  return view.items().map((item) => `${item.role}/${item.status}: ${textOf(item.parts)}`);
}

test("a turn grows from its start to its stored answer under one key", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  stream("t1", "1.llm#1", "Hel", "lo");
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/running: Hello"]);
  const key = view.items()[1].key;
  end("t1", message("a1", "assistant", "u1", "Hello", { turn: "t1" }));
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/done: Hello"]);
  assert.equal(view.items()[1].key, key);
});

test("turn_start replaces what is shown of its turn", () => {
  const user = message("u1", "user", null, "Hi");
  start("t1", user, "a1");
  stream("t1", "1.llm#1", "lost text");
  start("t1", user, "a1", { attempt: 2, parts: [{ id: "1.m#1", kind: "text", text: "kept" }] });
  stream("t1", "1.llm#1", "again");
  assert.deepEqual(shown().at(-1), "assistant/running: kept\n\nagain");
});

test("events of an ended turn are ignored", () => {
  const user = message("u1", "user", null, "Hi");
  start("t1", user, "a1");
  stream("t1", "1.llm#1", "Hello");
  end("t1", message("a1", "assistant", "u1", "Hello"));
  start("t1", user, "a1", { attempt: 3 });
  view.apply({ type: "delta", part: "1.llm#1", text: "!" });
  end("t1", message("a1", "assistant", "u1", "Other"));
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/done: Hello"]);
});

test("a turn that a snapshot shows as ended is not begun again", () => {
  view.apply({
    type: "snapshot", epoch: "f", seq: 0, chat: { id: "c", rev: 1, title: "", head: "a1" }, more: false, turns: [],
    messages: [message("u1", "user", null, "Hi"), message("a1", "assistant", "u1", "Hello", { turn: "t1" })],
  });
  start("t1", message("u1", "user", null, "Hi"), "a1");
  assert.equal(view.active, null);
});

test("a part or message that is known is not added twice", () => {
  const user = message("u1", "user", null, "Hi");
  view.apply({ type: "message", message: user });
  start("t1", user, "a1");
  stream("t1", "1.llm#1", "one");
  view.apply({ type: "part", turn: "t1", part: "1.llm#1", kind: "text" });
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/running: one"]);
});

test("turn_end without parts keeps what was streamed", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  stream("t1", "1.llm#1", "long");
  end("t1", { ...message("a1", "assistant", "u1", ""), parts: null });
  assert.deepEqual(shown().at(-1), "assistant/done: long");
});

test("a snapshot in mid-answer goes on by deltas", () => {
  const user = message("u1", "user", null, "Hi");
  view.apply({
    type: "snapshot", epoch: "e", seq: 9, chat: { id: "c", rev: 1, title: "T", head: "u1" }, messages: [user], more: false,
    turns: [{ turn: "t1", message: user, answer: "a1", state: "running", place: null, attempt: 1, version: 1, skill: "flow", question: null,
      parts: [{ id: "1.llm#1", kind: "text", text: "Hel" }] }],
  });
  view.apply({ type: "delta", part: "1.llm#1", text: "lo" });
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/running: Hello"]);
});

test("what was said is shown at once, and once", () => {
  view.sent({ id: "k", type: "say", text: "Hi" });
  assert.deepEqual(shown(), ["user/sending: Hi", "assistant/starting: "]);
  assert.equal(view.state, "starting");
  view.replied({ id: "k", type: "say" }, { type: "ok", id: "k", message: "u1", turn: "t1", answer: "a1" });
  assert.equal(shown().length, 2);
  start("t1", message("u1", "user", null, "Hi", { client_id: "k" }), "a1");
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/running: "]);
});

test("the reply may come after the events", () => {
  view.sent({ id: "k", type: "say", text: "Hi" });
  start("t1", message("u1", "user", null, "Hi", { client_id: "k" }), "a1");
  end("t1", message("a1", "assistant", "u1", "Hello"));
  view.replied({ id: "k", type: "say" }, { type: "ok", id: "k", message: "u1", turn: "t1", answer: "a1" });
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/done: Hello"]);
});

test("a refused say stays, with its cause, until it is dropped", () => {
  view.sent({ id: "k", type: "say", text: "Hi" });
  view.replied({ id: "k", type: "say" }, { type: "error", id: "k", code: "busy", text: "Busy." });
  assert.deepEqual(shown(), ["user/failed: Hi"]);
  assert.equal(view.items()[0].error.code, "busy");
  assert.equal(view.drop("k"), "Hi");
  assert.deepEqual(shown(), []);
});

test("queued turns stand in their order and a larger place is ignored", () => {
  start("t1", message("u1", "user", null, "1"), "a1");
  view.apply({ type: "turn_queued", turn: "t3", message: message("u3", "user", "a2", "3"), place: 2 });
  view.apply({ type: "turn_queued", turn: "t2", message: message("u2", "user", "a1", "2"), place: 1 });
  view.apply({ type: "turn_queued", turn: "t2", message: message("u2", "user", "a1", "2"), place: 5 });
  assert.deepEqual(shown(), ["user/done: 1", "assistant/running: ", "user/queued: 2", "user/queued: 3"]);
});

test("a queued turn that is taken out before it ran leaves the head", () => {
  start("t1", message("u1", "user", null, "1"), "a1");
  const user = message("u2", "user", "a1", "2");
  view.apply({ type: "turn_queued", turn: "t2", message: user, place: 1 });
  start("t2", user, "a2", { attempt: 0 });
  end("t2", message("a2", "assistant", "u2", null, { status: "stopped" }), { status: "stopped" });
  assert.deepEqual(shown(), ["user/done: 1", "assistant/running: "]);
});

test("regenerate makes a sibling, and branches can be walked", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  end("t1", message("a1", "assistant", "u1", "first"));
  start("t2", message("u1", "user", null, "Hi"), "a2");
  end("t2", message("a2", "assistant", "u1", "second"));
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/done: second"]);
  assert.deepEqual(view.items()[1].siblings, ["a1", "a2"]);
  view.chat.head = view.newestLeaf("a1");
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/done: first"]);
});

test("edit makes a sibling of the question and shows only its branch", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  end("t1", message("a1", "assistant", "u1", "first"));
  view.sent({ id: "k", type: "edit", message: "u1", text: "Ho" });
  assert.deepEqual(shown(), ["user/sending: Ho"]);
  start("t2", message("u2", "user", null, "Ho", { client_id: "k" }), "a2");
  assert.deepEqual(shown(), ["user/done: Ho", "assistant/running: "]);
  assert.deepEqual(view.items()[0].siblings, ["u1", "u2"]);
});

test("a question waits, is answered once and is gone", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  view.apply({ type: "part", turn: "t1", part: "1.q#1", kind: "question", data: { question: "q1", text: "Which?", options: [{ id: "a", label: "Apple" }] } });
  view.apply({ type: "question", turn: "t1", question: "q1", text: "Which?", options: [{ id: "a", label: "Apple" }], schema: null, secret: false, expires: "" });
  assert.equal(view.state, "waiting");
  view.sent({ id: "k", type: "answer", question: "q1", value: "a" });
  assert.equal(view.items()[1].answering.value, "a");
  view.apply({ type: "answered", turn: "t1", question: "q1", action: "accept", value: "a", by: "7" });
  const [part] = view.items()[1].parts;
  assert.equal(part.data.label, "Apple");
  assert.equal(view.state, "running");
  assert.equal(view.answering.size, 0);
});

test("a say that answered a question leaves no message", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  view.apply({ type: "question", turn: "t1", question: "q1", text: "Name?", options: [], schema: null, secret: false, expires: "" });
  view.sent({ id: "k", type: "say", text: "Ann" });
  view.replied({ id: "k", type: "say" }, { type: "ok", id: "k", question: "q1", turn: "t1" });
  assert.deepEqual(shown(), ["user/done: Hi", "assistant/waiting: "]);
});

test("the answer to a secret question is kept nowhere, not even once the question has closed", () => {
  const answer = { id: "k", type: "answer", question: "q1", value: "7355608" };
  start("t1", message("u1", "user", null, "Hi"), "a1");
  assert.equal(view.isSecret(answer), false);
  view.apply({ type: "question", turn: "t1", question: "q1", text: "PIN?", options: [], schema: null, secret: true, expires: "" });
  assert.equal(view.openSecret.question, "q1");
  assert.equal(view.isSecret(answer), true);
  view.apply({ type: "answered", turn: "t1", question: "q1", action: "accept", value: null, by: "8" });
  assert.equal(view.openSecret, null);
  assert.equal(view.isSecret(answer), true);
});

test("an older revision of the chat is ignored", () => {
  view.apply({ type: "chat", rev: 5, title: "New" });
  view.apply({ type: "chat", rev: 4, title: "Old" });
  assert.equal(view.chat.title, "New");
});

test("steps, errors and usage stay with the answer after its end", () => {
  start("t1", message("u1", "user", null, "Hi"), "a1");
  view.apply({ type: "node", turn: "t1", node: "llm", visit: 1, kind: "llm", state: "start", title: "Think" });
  view.apply({ type: "node", turn: "t1", node: "llm", visit: 1, kind: "llm", state: "error", title: "Think", ms: 40, error: "provider_cut" });
  end("t1", message("a1", "assistant", "u1", "half", { status: "error" }), {
    status: "error", error: { code: "provider_cut", text: "Cut.", retryable: true },
  });
  const item = view.items()[1];
  assert.equal(item.steps.length, 1);
  assert.equal(item.error.code, "provider_cut");
});

test("stop may come before the turn is known", () => {
  view.sent({ id: "k", type: "say", text: "Hi" });
  view.sent({ id: "s", type: "stop" });
  start("t1", message("u1", "user", null, "Hi", { client_id: "k" }), "a1");
  assert.equal(view.items()[1].stopping, true);
  end("t1", message("a1", "assistant", "u1", null, { status: "stopped" }), { status: "stopped" });
  assert.equal(view.stopping.size, 0);
});
