/** Small makers of nodes. Text is always text: nothing here parses HTML. */

import { gettext } from "./i18n.js";

const SVG = "http://www.w3.org/2000/svg";

/** `el("p", {class: "x", onclick: fn}, child, "text")`; null children are left out. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

/** A picture of the sprite that every page holds; decoration, so hidden from readers by ear. */
export function icon(name, className = "icon") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

/** A button of one icon, named for those who do not see it. */
export function iconButton(name, label, onclick, className = "") {
  return el("button", { type: "button", class: `icon-button ${className}`.trim(), title: label, "aria-label": label, onclick }, icon(name));
}

/** Copies what `text()` says and shows that it did. */
export function copyButton(text, label = gettext("Copy"), name = "copy") {
  const button = iconButton(name, label, async () => {
    const done = await copy(text());
    button.replaceChildren(icon(done ? "check" : "alert"));
    button.setAttribute("aria-label", done ? gettext("Copied") : gettext("Copying failed"));
    setTimeout(() => {
      button.replaceChildren(icon(name));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyByHand(text);
  }
}

/** Without a secure context there is no clipboard object. */
function copyByHand(text) {
  const area = el("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** Sets text only where it differs, so that nothing is painted or announced for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
