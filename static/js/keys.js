/** Keys of the whole page, the list of them, and the palette: chats, flows and what can be done, found by typing. */

import { openDialog } from "./dialog.js";
import { el, icon, setText } from "./dom.js";
import { gettext } from "./i18n.js";

const FIND_MS = 200;
const SHOWN = 12;
const IS_MAC = /Mac|iP(hone|ad)/.test(navigator.platform);
const CONTROL = IS_MAC ? "⌘" : "Ctrl";

/** `actions`: stop, newChat, focusComposer, palette. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const isControl = IS_MAC ? event.metaKey : event.ctrlKey;
    const key = event.key.toLowerCase();
    const isWriting = event.target.closest("input, textarea, select, [contenteditable]") !== null;
    const what = isControl
      ? { k: actions.palette, o: event.shiftKey ? actions.newChat : null }[key]
      : key === "escape"
        ? actions.stop
        : isWriting
          ? null
          : { "?": showKeys, "/": actions.focusComposer }[key];
    if (!what) return;
    if (key !== "escape") event.preventDefault();
    what();
  });
}

export function showKeys() {
  const rows = [
    [["Enter"], gettext("Send the message")],
    [["Shift", "Enter"], gettext("Begin a new line")],
    [["Esc"], gettext("Stop the answer")],
    [["↑"], gettext("Edit your last message, from an empty field")],
    [["/"], gettext("Go to the message field")],
    [[CONTROL, "K"], gettext("Find a chat, a flow, or something to do")],
    [[CONTROL, "Shift", "O"], gettext("New chat")],
    [["?"], gettext("Show these keys")],
  ];
  openDialog(gettext("Keys"), [
    el(
      "dl",
      { class: "keys" },
      ...rows.map(([keys, text]) => el("div", {}, el("dt", {}, ...keys.map((key) => el("kbd", {}, key))), el("dd", {}, text))),
    ),
  ]);
}

/**
 * @param sources `actions()`: `[{label, icon, run}]`, there at once; `find(query)`: more of the same, from the server
 */
export function openPalette({ actions, find }) {
  let shown = [];
  let at = 0;
  let timer = null;
  let query = "";
  const input = el("input", {
    type: "text", enterkeyhint: "go", role: "combobox", "aria-expanded": "true", "aria-controls": "palette-list", "aria-autocomplete": "list",
    "aria-label": gettext("Find a chat, a flow, or something to do"), placeholder: gettext("Find a chat, a flow, or something to do"), autocomplete: "off",
  });
  const list = el("ul", { id: "palette-list", class: "palette-list", role: "listbox", "aria-label": gettext("Found") });
  const nothing = el("p", { class: "hint palette-nothing", role: "status" });
  const dialog = openDialog(gettext("Go to"), [input, list, nothing], "palette");

  const paint = (entries) => {
    shown = entries.slice(0, SHOWN);
    at = Math.min(at, Math.max(0, shown.length - 1));
    list.replaceChildren(
      ...shown.map((entry, index) =>
        el(
          "li",
          { id: `palette-${index}`, role: "option", class: "palette-item", "aria-selected": String(index === at), onclick: () => run(index) },
          icon(entry.icon ?? "right"),
          el("span", {}, entry.label),
        ),
      ),
    );
    if (shown.length) input.setAttribute("aria-activedescendant", `palette-${at}`);
    else input.removeAttribute("aria-activedescendant");
  };
  const run = (index) => {
    const entry = shown[index];
    if (!entry) return;
    dialog.close();
    entry.run();
  };
  const look = async () => {
    const asked = query;
    const own = actions().filter(({ label }) => label.toLowerCase().includes(asked.toLowerCase()));
    paint(own);
    const found = await find(asked).catch(() => []);
    if (asked !== query || !dialog.open) return;
    paint([...own, ...found]);
    setText(nothing, shown.length ? "" : gettext("Nothing was found."));
  };
  input.addEventListener("input", () => {
    query = input.value.trim();
    at = 0;
    clearTimeout(timer);
    timer = setTimeout(look, FIND_MS);
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && shown.length) {
      event.preventDefault();
      at = (at + step + shown.length) % shown.length;
      paint(shown);
      list.children[at].scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      run(at);
    }
  });
  look();
  input.focus();
}
