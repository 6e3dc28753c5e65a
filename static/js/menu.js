/** A menu under a button: arrows walk it, Escape and a click elsewhere close it, focus goes back to the button. */

import { el, icon } from "./dom.js";

let open = null;

/** `items()`: `[{label, icon, run, isChecked, isGrave}]`, asked for each time the menu opens; null ones are left out. */
export function menuOf(button, items) {
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => (open?.button === button ? close() : show(button, items().filter(Boolean))));
}

function show(button, items) {
  close();
  const list = el("div", { class: "menu", role: "menu", "aria-label": button.getAttribute("aria-label") });
  for (const item of items) list.append(entry(item));
  list.addEventListener("keydown", walk);
  document.body.append(list);
  place(list, button.getBoundingClientRect());
  button.setAttribute("aria-expanded", "true");
  open = { button, list };
  list.firstElementChild.focus();
  document.addEventListener("pointerdown", closeElsewhere, true);
  addEventListener("resize", close);
}

function entry({ label, icon: name, run, isChecked, isGrave }) {
  const isChoice = isChecked !== undefined;
  return el(
    "button",
    {
      type: "button",
      class: isGrave ? "menu-item grave" : "menu-item",
      role: isChoice ? "menuitemradio" : "menuitem",
      "aria-checked": isChoice ? String(isChecked) : null,
      tabindex: "-1",
      onclick: () => {
        close();
        run();
      },
    },
    icon(isChoice ? (isChecked ? "check" : "none") : name),
    el("span", {}, label),
  );
}

/** Below the button, or above it where there is no room; never beyond the window. */
function place(list, at) {
  const { offsetWidth: width, offsetHeight: height } = list;
  const left = Math.min(Math.max(8, at.right - width), innerWidth - width - 8);
  const isBelow = at.bottom + height + 8 <= innerHeight;
  list.style.left = `${Math.max(8, left)}px`;
  list.style.top = `${Math.max(8, isBelow ? at.bottom + 4 : at.top - height - 4)}px`;
}

function walk(event) {
  const items = [...open.list.children];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    items.at(to % items.length).focus();
  } else if (event.key === "Escape" || event.key === "Tab") {
    event.preventDefault();
    event.stopPropagation();
    close();
  }
}

function close() {
  if (!open) return;
  const { button, list } = open;
  open = null;
  const hadFocus = list.contains(document.activeElement);
  list.remove();
  button.setAttribute("aria-expanded", "false");
  if (hadFocus) (button.isConnected ? button : document.querySelector(`[data-key="${button.dataset.key}"]`))?.focus();
  document.removeEventListener("pointerdown", closeElsewhere, true);
  removeEventListener("resize", close);
}

function closeElsewhere(event) {
  if (open && !open.list.contains(event.target) && !open.button.contains(event.target)) close();
}
