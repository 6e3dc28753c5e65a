/** Dialogs of the editor, and the difference of two drafts as people read it. */

import { el, icon, iconButton } from "../dom.js";
import { interpolate } from "../i18n.js";
import { folded, lines } from "./diff.js";
import { W } from "./words.js";

/**
 * Asks, and resolves with the chosen action's `value`, null where it was left by Escape.
 * `actions`: `[{value, label, look}]`, the last one is the main one.
 */
export function ask({ title, hint = null, body = null, actions, isWide = false }) {
  return new Promise((resolve) => {
    const name = `dialog-${Date.now()}`;
    const dialog = el("dialog", { class: `dialog${isWide ? " wide" : ""}`, "aria-labelledby": name });
    const finish = (value) => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    const buttons = actions.map(({ value, label, look = "" }) => el("button", { type: "button", class: `button ${look}`.trim(), onclick: () => finish(value) }, label));
    dialog.append(
      el("header", { class: "dialog-head" }, el("h2", { id: name }, title), iconButton("close", W.close, () => finish(null))),
      el("div", { class: "dialog-body" }, hint ? el("p", { class: "hint" }, hint) : null, body),
      el("footer", { class: "dialog-end" }, ...buttons),
    );
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      finish(null);
    });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("textarea, input") ?? buttons.at(-1))?.focus();
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

/** A line at the foot of the page that says what happened, and goes. */
export function toast(box, text, { isBad = false, action = null } = {}) {
  const note = el("div", { class: `toast${isBad ? " bad" : ""}` }, icon(isBad ? "alert" : "check"), el("p", {}, text));
  if (action) {
    const button = el("button", { type: "button", class: "button small" }, action.label);
    button.addEventListener("click", () => {
      note.remove();
      action.run();
    });
    note.append(button);
  }
  note.append(iconButton("close", W.close, () => note.remove()));
  box.replaceChildren(note);
  if (!isBad && !action) setTimeout(() => note.remove(), 6000);
}
