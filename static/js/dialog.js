/** Dialogs and passing notices. A dialog holds the focus until it closes; Escape closes it. */

import { el, iconButton } from "./dom.js";
import { gettext } from "./i18n.js";

let count = 0;

/** Shows `nodes` under a heading. Returns the dialog; its `close()` ends it. */
export function openDialog(title, nodes, className = "") {
  const id = `dialog-${(count += 1)}`;
  const dialog = el(
    "dialog",
    { class: `dialog ${className}`.trim(), "aria-labelledby": id },
    el("div", { class: "dialog-top" }, el("h2", { id }, title), iconButton("close", gettext("Close"), () => dialog.close())),
    ...nodes,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks for one line; `onDone(text)` with what was written, if it was sent. */
export function askLine(title, label, value, maxLength, onDone) {
  const input = el("input", { id: `line-${(count += 1)}`, maxlength: maxLength, autocomplete: "off" });
  input.value = value;
  const form = el(
    "form",
    {
      class: "dialog-form",
      onsubmit: (event) => {
        event.preventDefault();
        dialog.close();
        onDone(input.value.trim());
      },
    },
    el("div", { class: "field" }, el("label", { for: input.id }, label), input),
    el("div", { class: "form-end" }, el("button", { type: "submit", class: "button" }, gettext("Save"))),
  );
  const dialog = openDialog(title, [form]);
  input.select();
  input.focus();
}

/** A sentence at the foot of the page for a while, with one thing to do. Returns a function that takes it away. */
export function notice(text, action = null, seconds = 6) {
  const box = document.querySelector("[data-notices]") ?? document.body.appendChild(el("div", { class: "notices", "data-notices": "", role: "status" }));
  const node = el("div", { class: "notice-line" }, el("span", {}, text));
  const gone = () => {
    clearTimeout(timer);
    node.remove();
  };
  if (action) {
    const run = () => {
      gone();
      action.run();
    };
    node.append(el("button", { type: "button", class: "button small", onclick: run }, action.label));
  }
  node.append(iconButton("close", gettext("Close"), gone));
  const timer = setTimeout(gone, seconds * 1000);
  box.append(node);
  return gone;
}
