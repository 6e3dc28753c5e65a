/** The draft as a text: parsed with places, edited where it is meant, printed without loss. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { complete } from "../../static/js/editor/complete.js";
import { folded, lines } from "../../static/js/editor/diff.js";
import {
  addNode, branchesOf, duplicate, format, read, removeNode, rename, setEdge, setField, setKind, setTitle, variables,
} from "../../static/js/editor/graph.js";
import { applied, change, find, parse, print, treeOf, valueOf } from "../../static/js/editor/json.js";
import { curve, place } from "../../static/js/editor/layout.js";
import { nodeAt, pathOf, placeOf, rangeOf, targetOf, variableOf } from "../../static/js/editor/places.js";
import { Trace, readsOf } from "../../static/js/editor/trace.js";

const KINDS = new Map(JSON.parse(readFileSync(new URL("./kinds.json", import.meta.url))).map((kind) => [kind.kind, kind]));
const WORLD = { kinds: KINDS, providers: { scripted: [], openai: ["small", "large"] } };
const DRAFT = `{
  "schema": 1,
  "nodes": [
    {"id": "start", "kind": "start", "at": [0, 0]},
    {
      "id": "ask", "kind": "question",
      "fields": {"text": "Tea?", "options": [{"id": "yes", "label": "Yes"}, {"id": "no", "label": "No"}]}
    },
    {"id": "say", "kind": "message", "fields": {"text": "You said {{ ask.label }}, ask.label."}},
    {"id": "end", "kind": "end", "fields": {"data": {"big": 12345678901234567890, "n": 1.0, "v": "{{ ask.value }}"}}}
  ],
  "edges": [
    {"from": "start", "to": "ask"},
    {"from": "ask", "to": "say", "branch": "yes"},
    {"from": "ask", "to": "end", "branch": "no"},
    {"from": "say", "to": "end"}
  ]
}
`;

const edited = (text, changes) => read(applied(text, changes));

test("what JSON.parse takes is parsed to the same value, what it refuses has an error", () => {
  let seed = 7;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const make = (depth) => {
    const pick = random(depth > 3 ? 5 : 7);
    if (pick === 0) return null;
    if (pick === 1) return random(2) === 0;
    if (pick === 2) return random(1000) / 8 - 40;
    if (pick < 5) return ["", "a\"b\\", "zwölf 十二", "\n\t{{ x.y }}", "__proto__"][random(5)];
    const items = Array.from({ length: random(4) }, () => make(depth + 1));
    return pick === 5 ? items : Object.fromEntries(items.map((item, index) => [`k${index}${random(3) ? "" : "\u00e9"}`, item]));
  };
  for (let round = 0; round < 400; round += 1) {
    const value = make(0);
    for (const text of [JSON.stringify(value), JSON.stringify(value, null, random(4)), print(treeOf(value))]) {
      const { root, errors } = parse(text);
      assert.deepEqual(errors, []);
      assert.deepEqual(valueOf(root), value);
      const at = random(text.length + 1);
      const broken = [text.slice(0, at), text.slice(0, at) + ",]}\"x:"[random(6)] + text.slice(at)][random(2)];
      let isJson = true;
      try {
        JSON.parse(broken);
      } catch {
        isJson = false;
      }
      assert.equal(parse(broken).errors.length === 0, isJson, broken);
    }
  }
});

test("a form's edit touches nothing but its own place", () => {
  const graph = read(DRAFT);
  const after = edited(DRAFT, setField(graph, 1, ["text"], "Coffee?"));
  assert.equal(after.text, DRAFT.replace("Tea?", "Coffee?"));
  assert.equal(after.text.includes("12345678901234567890"), true);
  assert.equal(after.text.includes('"n": 1.0'), true);
});

test("a field is added in the manner of its object, taken away with its comma, its parents made where they are not there", () => {
  const graph = read(DRAFT);
  assert.match(edited(DRAFT, setField(graph, 2, ["more"], 1)).text, /ask\.label\.", "more": 1\}/);
  assert.match(edited(DRAFT, setField(graph, 0, ["greeting"], "Hi")).text, /\n      "at": \[0, 0\],\n      "fields": \{"greeting": "Hi"\}\n    \},/);
  assert.deepEqual(edited(DRAFT, setField(graph, 1, ["options", 0], undefined)).nodes[1].fields.options, [{ id: "no", label: "No" }]);
  assert.deepEqual(edited(DRAFT, setField(graph, 1, ["options", 1], undefined)).nodes[1].fields.options, [{ id: "yes", label: "Yes" }]);
  const alone = read('{"nodes": [{"id": "a", "kind": "end", "fields": {"data": 1}}]}');
  assert.deepEqual(edited(alone.text, setField(alone, 0, ["data"], undefined)).nodes[0].fields, {});
});

test("any field set and read again is what was set, whatever the text around looks like", () => {
  for (const text of [DRAFT, JSON.stringify(JSON.parse(DRAFT)), format(parse(DRAFT).root, KINDS)]) {
    const graph = read(text);
    for (const value of ["a \"b\" {{ x.y }}\n", 3, null, [1, "two"], { deep: [{ er: true }] }]) {
      const after = edited(text, setField(graph, 3, ["data", "v"], value));
      assert.deepEqual(after.nodes[3].fields.data.v, value);
      assert.deepEqual(after.nodes.slice(0, 3), graph.nodes.slice(0, 3));
    }
  }
});

test("formatting changes the order of keys and nothing of the values, and doing it twice is doing it once", () => {
  const shuffled = '{"edges":[{"to":"end","from":"start"}],"nodes":[{"at":[1.50,2],"kind":"end","fields":{"data":1e2},"id":"end"},{"kind":"start","id":"start"}],"schema":1}';
  const text = format(parse(shuffled).root, KINDS);
  assert.deepEqual(JSON.parse(text), JSON.parse(shuffled));
  assert.equal(format(parse(text).root, KINDS), text);
  assert.match(text, /\{"id": "end", "kind": "end", "fields": \{"data": 1e2\}, "at": \[1\.50, 2\]\}|"id": "end",\n {6}"kind": "end"/);
  assert.ok(text.indexOf('"schema"') < text.indexOf('"nodes"') && text.indexOf('"nodes"') < text.indexOf('"edges"'));
});

test("a rename goes through edges and templates, and leaves plain words alone", () => {
  const after = edited(DRAFT, rename(read(DRAFT), 1, "tea"));
  assert.deepEqual(after.edges.map((edge) => [edge.from, edge.to]), [["start", "tea"], ["tea", "say"], ["tea", "end"], ["say", "end"]]);
  assert.equal(after.nodes[2].fields.text, "You said {{ tea.label }}, ask.label.");
  assert.equal(after.nodes[3].fields.data.v, "{{ tea.value }}");
});

test("a new node is put between, a removed one is bridged", () => {
  const graph = read(DRAFT);
  const { id, changes } = addNode(graph, KINDS.get("message"), { after: "ask", branch: "no" });
  const after = edited(DRAFT, changes);
  assert.equal(id, "message");
  assert.deepEqual(after.nodes.at(-1).fields, { text: "" });
  assert.deepEqual(after.edges.filter((edge) => edge.branch === "no" || edge.from === id).map(({ from, to }) => [from, to]), [["ask", "message"], ["message", "end"]]);
  const back = edited(after.text, removeNode(after, after.nodes.length - 1));
  assert.deepEqual(back.edges.map(({ from, to, branch }) => [from, to, branch]), graph.edges.map(({ from, to, branch }) => [from, to, branch]));
  assert.deepEqual(back.nodes.map((node) => node.id), graph.nodes.map((node) => node.id));
});

test("edges are set, moved and taken away by branch; kind and title change in place; a copy has an id of its own", () => {
  const graph = read(DRAFT);
  assert.equal(edited(DRAFT, setEdge(graph, "ask", "yes", "end")).edges[1].to, "end");
  assert.equal(edited(DRAFT, setEdge(graph, "ask", "yes", null)).edges.length, 3);
  assert.deepEqual(edited(DRAFT, setEdge(graph, "ask", "expired", "end")).edges.at(-1), { from: "ask", to: "end", branch: "expired", index: 4 });
  assert.equal(edited(DRAFT, setTitle(graph, 0, "Begin")).nodes[0].title, "Begin");
  const prompt = edited(DRAFT, setKind(graph, 2, KINDS.get("prompt")));
  assert.deepEqual([prompt.nodes[2].kind, prompt.nodes[2].fields], ["prompt", { text: graph.nodes[2].fields.text }]);
  const copied = duplicate(graph, 2);
  assert.deepEqual(edited(DRAFT, copied.changes).nodes.at(-1), { ...graph.nodes[2], index: 4, id: "say_2" });
});

test("branches come from the fields that name them, variables from what leads to a node", () => {
  const graph = read(DRAFT);
  assert.deepEqual(branchesOf(graph.nodes[1], KINDS.get("question")).named, ["yes", "no"]);
  const condition = { fields: { cases: [{ branch: "many", when: {} }] } };
  assert.deepEqual(branchesOf(condition, KINDS.get("condition")), { named: ["many", "else"], optional: [], passes: false });
  const known = variables(graph, KINDS, "say");
  assert.ok(known.includes("ask.label") && known.includes("input.text") && !known.includes("say.text"));
});

test("faults are found in the text and in the form", () => {
  const graph = read(DRAFT);
  const unknown = { node: "say", field: "text", code: "unknown_variable", text: "There is nothing named ask.label to read here.", edge: null };
  assert.deepEqual(placeOf(graph, unknown), ["nodes", 2, "fields", "text"]);
  const { from, to } = rangeOf(graph, unknown, variableOf(graph, unknown));
  assert.equal(DRAFT.slice(from, to), "ask.label");
  assert.deepEqual(targetOf(graph, { node: "ask", field: "options[1].id", code: "bad_value" }), { index: 1, path: ["options", 1, "id"], edge: null });
  assert.deepEqual(targetOf(graph, { node: null, field: null, edge: 2, code: "dangling_edge" }), { index: 1, path: [], edge: 2 });
  assert.deepEqual(pathOf("cases[0].when.all[2].left"), ["cases", 0, "when", "all", 2, "left"]);
  const gone = rangeOf(graph, { node: "end", field: "nothing.here", code: "unknown_field" });
  assert.equal(DRAFT.slice(gone.from, gone.from + 6), '{"data');
  assert.equal(nodeAt(graph, DRAFT.indexOf("Tea?")), "ask");
  assert.equal(nodeAt(graph, DRAFT.indexOf('"branch": "yes"')), "ask");
});

const labels = (text, world = WORLD) => {
  const position = text.indexOf("|");
  const found = complete(read(text.replace("|", "")), position, world);
  return found ? found.options.map((one) => one.label) : [];
};

test("completion knows keys, kinds, ids, branches, choices and variables, also in a text that is no JSON yet", () => {
  assert.deepEqual(labels('{"nodes": [{"kind": "|"}]}'), [...KINDS.keys()]);
  assert.deepEqual(labels('{"nodes": [{"id": "a", |}]}'), ["kind", "title", "fields", "at"]);
  assert.ok(labels('{"nodes": [{"kind": "llm", "fields": {"|"}}]}').includes("temperature"));
  assert.deepEqual(labels('{"nodes": [{"kind": "llm", "fields": {"show": |}}]}'), ["answer", "hidden", "reasoning"]);
  assert.deepEqual(labels('{"nodes": [{"kind": "llm", "fields": {"provider": "|"}}]}'), ["scripted", "openai"]);
  assert.deepEqual(labels('{"nodes": [{"kind": "llm", "fields": {"provider": "openai", "model": "|"}}]}'), ["small", "large"]);
  assert.deepEqual(labels('{"nodes": [{"kind": "condition", "fields": {"cases": [{"branch": "x", "when": {"all": [{"|": 1}]}}]}}]}'), ["left", "op", "right"]);
  const draft = (edge) => DRAFT.replace('{"from": "say", "to": "end"}', edge);
  assert.deepEqual(labels(draft('{"from": "|"}')), ["start", "ask", "say", "end"]);
  assert.deepEqual(labels(draft('{"from": "ask", "branch": "|"}')), ["yes", "no", "declined", "expired"]);
  assert.ok(labels(DRAFT.replace("{{ ask.label }}", "{{ as|")).includes("ask.label"));
  assert.deepEqual(labels(DRAFT.replace("You said", "You| said")), []);
});

test("a completed key brings its value, and the range covers what was typed", () => {
  const text = '{"nodes": [{"id": "a", "ki"}]}';
  const position = text.indexOf('ki"') + 2;
  const found = complete(read(text), position, WORLD);
  const option = found.options.find((one) => one.label === "kind");
  assert.equal(text.slice(0, found.from) + option.insert + text.slice(found.to), '{"nodes": [{"id": "a", "kind": ""}]}');
});

test("a difference rebuilds both sides", () => {
  let seed = 3;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  for (let round = 0; round < 300; round += 1) {
    const before = Array.from({ length: random(12) + 1 }, () => "abc"[random(3)]).join("\n");
    const after = Array.from({ length: random(12) + 1 }, () => "abc"[random(3)]).join("\n");
    const found = lines(before, after);
    const side = (kind) => found.filter((line) => line.kind !== kind).map((line) => line.text).join("\n");
    assert.equal(side("more"), before);
    assert.equal(side("less"), after);
  }
  const long = Array.from({ length: 40 }, (_, index) => `line ${index}`);
  const shown = folded(lines(long.join("\n"), [...long.slice(0, 20), "new", ...long.slice(20)].join("\n")));
  assert.deepEqual(shown.map((line) => line.kind), ["gap", "same", "same", "same", "more", "same", "same", "same", "gap"]);
});

test("the picture has a place for every node and every edge that has two ends", () => {
  const placed = place(read(DRAFT.replace('"to": "say"', '"to": "nowhere"')));
  assert.deepEqual(placed.nodes.map((node) => node.id), ["start", "ask", "say", "end"]);
  assert.equal(placed.edges.length, 3);
  assert.ok(placed.nodes.find((node) => node.id === "ask").x > placed.nodes.find((node) => node.id === "start").x);
  assert.match(curve(placed.edges[0].points), /^M[\d. ]+(Q[\d. ]+|L[\d. ]+)+$/);
  assert.deepEqual(place(read("{}")).nodes, []);
});

test("a debug run's rows say what a node read, gave, took and cost", () => {
  const graph = read(DRAFT);
  const trace = new Trace();
  const event = (node, kind, state, more = {}) => trace.apply({ type: "node", turn: "t", node, visit: 1, kind, title: "", state, ...more });
  trace.apply({ type: "turn_start", turn: "t" });
  event("start", "start", "start");
  event("start", "start", "end", { ms: 1, output: { text: "hi" } });
  event("ask", "question", "start");
  trace.apply({ type: "question", turn: "t" });
  assert.equal(trace.last("ask").state, "wait");
  trace.apply({ type: "turn_start", turn: "t" });
  event("ask", "question", "end", { ms: 5, output: { value: "yes", label: "Yes" } });
  event("say", "message", "end", { ms: 2, output: { text: "x", usage: { cost_micros: 40, input_tokens: 3, output_tokens: 4 } } });
  assert.deepEqual(trace.inputsOf(trace.last("say"), graph, KINDS), [{ name: "ask.label", value: "Yes", isKnown: true }]);
  assert.deepEqual(trace.total, { ms: 8, cost: 40, tokens: 7 });
  trace.apply({ type: "turn_start", turn: "u" });
  assert.deepEqual(trace.rows, []);
  assert.deepEqual(readsOf({ a: ["{{ x.y | default: \"z.w\" }} p.q", "{% if m.n > 1 %}"] }), ["x.y", "m.n"]);
});

test("deep nesting and long texts do not break the parser", () => {
  assert.equal(parse("[".repeat(100_000)).errors.length > 0, true);
  assert.equal(find(parse('{"a": {"b": [1, 2]}}').root, ["a", "b", 1]).value, 2);
  assert.equal(change('{"a": 1}', parse('{"a": 1}').root, ["a"], 1), null);
});
