/** Dialogs of the editor, and the difference of two drafts as people read it. */

import { openDialog } from "../dialog.js";
import { el } from "../dom.js";
import { interpolate } from "../i18n.js";
import { folded, lines } from "./diff.js";
import { W } from "./words.js";

/**
 * Asks, and resolves with the chosen action's `value`, null where it was left by Escape.
 * `actions`: `[{value, label, look}]`, the last one is the main one.
 */
export function ask({ title, hint = null, body = null, actions, isWide = false }) {
  return new Promise((resolve) => {
    let chosen = null;
    const finish = (value) => {
      chosen = value;
      dialog.close();
    };
    const buttons = actions.map(({ value, label, look = "" }) => el("button", { type: "button", class: `button ${look}`.trim(), onclick: () => finish(value) }, label));
    const content = el("div", { class: "ask-body" }, hint ? el("p", { class: "hint" }, hint) : null, body);
    const dialog = openDialog(title, [content, el("div", { class: "ask-end" }, ...buttons)], isWide ? "ask wide" : "ask");
    dialog.addEventListener("close", () => resolve(chosen));
    (dialog.querySelector("textarea, input") ?? buttons.at(-1)).focus();
  });
}

/** Changed lines under each other, with what was left out between them. */
export function difference(before, after) {
  const found = lines(before, after);
  if (found.every((line) => line.kind === "same")) return el("p", { class: "hint" }, W.noDifference);
  const list = el("div", { class: "difference", role: "list", tabindex: "0" });
  for (const line of folded(found)) {
    if (line.kind === "gap") list.append(el("p", { class: "gap", role: "listitem" }, interpolate(W.unchangedLines, { count: line.count })));
    else list.append(lineOf(line));
  }
  return list;
}

const MARKS = { same: " ", less: "−", more: "+" };

function lineOf({ kind, text }) {
  const said = kind === "less" ? W.removed : kind === "more" ? W.added : null;
  return el(
    "p",
    { class: `diff-line ${kind}`, role: "listitem" },
    el("span", { class: "sign", "aria-hidden": "true" }, MARKS[kind]),
    said ? el("span", { class: "visually-hidden" }, `${said}: `) : null,
    el("code", {}, text),
  );
}

/** Two drafts side by side, each with what the other has not marked. */
export function sideBySide(theirs, mine, titles) {
  const found = folded(lines(theirs, mine));
  const column = (title, skipped) => {
    const list = el("div", { class: "difference", role: "list", tabindex: "0", "aria-label": title });
    for (const line of found) {
      if (line.kind === "gap") list.append(el("p", { class: "gap", role: "listitem" }, interpolate(W.unchangedLines, { count: line.count })));
      else if (line.kind !== skipped) list.append(lineOf(line));
    }
    return el("section", { class: "side-column" }, el("h3", {}, title), list);
  };
  return el("div", { class: "sides" }, column(titles.theirs, "more"), column(titles.mine, "less"));
}
