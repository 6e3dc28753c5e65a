import assert from "node:assert/strict";
import { test } from "node:test";
import { Blocks, closeInline, closeTable, sentences } from "../../static/js/blocks.js";

const ANSWER = `# A head

First paragraph with **bold** and a [link](https://example.com).

- one
- two
  - deep

\`\`\`js
const x = 1;

// two blank lines follow

\`\`\`

| a | b |
|---|---|
| 1 | 2 |

> quote
> goes on

1. first
2. second

Last words.
`;

function raws(blocks) {
  return [...blocks.whole.map((block) => block.raw), ...(blocks.tail ? [blocks.tail.raw] : [])];
}

test("letter by letter gives the blocks that all at once gives", () => {
  const whole = new Blocks();
  whole.update(ANSWER);
  whole.finish();
  const grown = new Blocks();
  for (let end = 1; end <= ANSWER.length; end += 1) grown.update(ANSWER.slice(0, end));
  assert.deepEqual(raws(grown).map((raw) => raw.trim()), raws(whole).map((raw) => raw.trim()));
});

test("a block that is whole keeps its identity while the text grows", () => {
  const blocks = new Blocks();
  const seen = [];
  for (let end = 1; end <= ANSWER.length; end += 1) {
    blocks.update(ANSWER.slice(0, end));
    seen.forEach((block, index) => assert.equal(blocks.whole[index], block));
    seen.splice(0, seen.length, ...blocks.whole);
  }
  assert.ok(seen.length >= 6);
});

test("an open fence is code from its first line on", () => {
  const blocks = new Blocks();
  blocks.update("Look:\n\n```python\nprint(1)\n\nprint(2");
  assert.equal(blocks.tail.token.type, "code");
  assert.equal(blocks.tail.token.lang, "python");
  assert.equal(blocks.tail.token.text, "print(1)\n\nprint(2");
});

test("a fence that is about to close does not show its first back-ticks", () => {
  const blocks = new Blocks();
  blocks.update("```\ncode\n``");
  assert.equal(blocks.tail.token.text, "code");
});

test("a text that does not continue the one before begins anew", () => {
  const blocks = new Blocks();
  blocks.update("One.\n\nTwo.");
  assert.equal(blocks.update("Other.\n\nText."), true);
  assert.deepEqual(raws(blocks), ["Other.", "Text."]);
});

test("a link definition at the end reaches back at the end", () => {
  const blocks = new Blocks();
  blocks.update("See [this][1].\n\nMore.\n\n[1]: https://example.com\n");
  blocks.finish();
  assert.equal(blocks.whole[0].token.tokens[1].type, "link");
});

test("a half table row is a table head", () => {
  assert.equal(closeTable("| a | b |"), "| a | b |\n| --- | --- |");
  assert.equal(closeTable("| a | b |\n|--"), "| a | b |\n| --- | --- |");
  assert.equal(closeTable("text | pipe"), null);
});

for (const [open, closed] of [
  ["a **bold", "a **bold**"],
  ["a **bold*", "a **bold**"],
  ["a **", "a "],
  ["a *word", "a *word*"],
  ["a `code", "a `code`"],
  ["a `", "a "],
  ["`a` and **b** done", "`a` and **b** done"],
  ["a ~~gone", "a ~~gone~~"],
  ["see [the docs](https://exa", "see the docs"],
  ["see [the do", "see the do"],
  ["![pic](https://evil.example/?q=sec", ""],
  ["2 * 3 is 6", "2 * 3 is 6"],
  ["snake_case_name", "snake_case_name"],
  ["* item", "* item"],
  ["- [ ] task", "- [ ] task"],
  ["`**` is bold", "`**` is bold"],
]) {
  test(`an open line ends well: ${open}`, () => assert.equal(closeInline(open), closed));
}

test("sentences are told once, whole and without their marks", () => {
  const first = sentences("One **bold** thing. Two", 0);
  assert.deepEqual(first.found, ["One bold thing."]);
  const second = sentences("One **bold** thing. Two of 3.5 kg! And", first.at);
  assert.deepEqual(second.found, ["Two of 3.5 kg!"]);
});
