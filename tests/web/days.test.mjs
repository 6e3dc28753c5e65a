import assert from "node:assert/strict";
import { test } from "node:test";
import { goneFrom } from "../../static/js/days.js";

const chat = (id, day, pinned = false) => ({ id, pinned, last_turn: `2026-11-${day}T10:00:00.000Z` });

test("a chat that the first page would hold and does not is gone", () => {
  const page = { results: [chat("p", "01", true), chat("a", "20"), chat("c", "18")], next: "…" };
  const known = [...page.results, chat("q", "02", true), chat("b", "19"), chat("old", "17"), chat("even", "18")];
  assert.deepEqual(goneFrom(known, page), ["q", "b"]);
});

test("whatever the only page has not is gone", () => {
  assert.deepEqual(goneFrom([chat("a", "20"), chat("b", "01")], { results: [chat("a", "20")], next: null }), ["b"]);
  assert.deepEqual(goneFrom([chat("a", "20")], { results: [], next: null }), ["a"]);
});
