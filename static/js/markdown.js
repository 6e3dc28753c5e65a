/**
 * Markdown as safe nodes. What a model writes is hostile until proven otherwise: raw HTML is shown as text, images
 * are never fetched (an address can carry a secret away), links say where they lead, and DOMPurify has the last word.
 */

import { Parser, Renderer } from "../vendor/marked-18.2.1/marked.esm.js";
import "../vendor/dompurify-3.4.18/purify.min.js";
import { Blocks } from "./blocks.js";
import { copyButton, el, icon, iconButton } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";
import { colour } from "./highlight.js";

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
  "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["href", "align", "start", "class", "data-language"];
const CLASSES = new Set(["image", "task"]);
const purify = globalThis.DOMPurify;

/** A text that grows in its own element: `update` with all of it so far, `finish` when it is whole. */
export class Growing {
  constructor(element) {
    this.element = element;
    this.blocks = new Blocks();
    this.painted = []; // {raw, node} of whole blocks, in order
    this.open = null; // the node of the tail
    this.openKind = "";
  }

  update(text) {
    if (text === this.blocks.text && !this.isFinished) return;
    this.isFinished = false;
    if (this.blocks.update(text)) this.clear();
    this.paintWhole();
    this.paintTail();
  }

  finish(text) {
    if (this.isFinished && text === this.blocks.text) return;
    this.update(text);
    this.blocks.finish();
    this.isFinished = true;
    this.open?.remove();
    this.open = null;
    const { whole } = this.blocks;
    whole.forEach((block, index) => {
      const painted = this.painted[index];
      const html = htmlOf(block.token);
      if (painted && painted.html === html) return;
      const node = nodeOf(block.token, html, true);
      if (painted) painted.node.replaceWith(node);
      else this.element.append(node);
      this.painted[index] = { html, node };
    });
    for (const extra of this.painted.splice(whole.length)) extra.node.remove();
  }

  paintWhole() {
    const { whole } = this.blocks;
    for (let index = this.painted.length; index < whole.length; index += 1) {
      const { token } = whole[index];
      const html = htmlOf(token);
      const node = nodeOf(token, html, true);
      if (this.open) {
        this.open.replaceWith(node);
        this.open = null;
      } else this.element.append(node);
      this.painted.push({ html, node });
    }
  }

  paintTail() {
    const token = this.blocks.tail?.token;
    if (!token || token.type === "space") return;
    if (this.open && token.type === "code" && this.openKind === "code") {
      const code = this.open.querySelector("code");
      const line = code.firstChild;
      if (line && token.text.startsWith(line.data)) line.appendData(token.text.slice(line.data.length));
      else code.textContent = token.text;
      return;
    }
    const node = nodeOf(token, htmlOf(token), false);
    if (this.open) this.open.replaceWith(node);
    else this.element.append(node);
    this.open = node;
    this.openKind = token.type;
  }

  clear() {
    this.element.replaceChildren();
    this.painted = [];
    this.open = null;
  }
}

// ------------------------------------------------------------------ one block

class Plain extends Renderer {
  html({ text }) {
    return escape(text);
  }

  code({ text, lang }) {
    const language = (lang ?? "").match(/^[\w+#.-]{1,20}/)?.[0] ?? "";
    return `<pre data-language="${escape(language)}"><code>${escape(text)}</code></pre>`;
  }

  image({ href, text }) {
    return `<a class="image" href="${escape(href)}">${escape(text || "")}</a>`;
  }

  checkbox({ checked }) {
    return `<span class="task">${checked ? "☑" : "☐"}</span> `;
  }
}

const parser = new Parser({ renderer: new Plain(), gfm: true });

function htmlOf(token) {
  return parser.parse([token]).trim();
}

function nodeOf(token, html, isWhole) {
  const fragment = purify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ADD_URI_SAFE_ATTR: ["align", "start", "data-language"],
    ALLOW_DATA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|\/(?!\/)|#)/i,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const node of fragment.querySelectorAll("[class]")) if (!CLASSES.has(node.className)) node.removeAttribute("class");
  for (const link of fragment.querySelectorAll("a")) finishLink(link);
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", { class: "table", tabindex: "0", role: "region", "aria-label": gettext("Table") });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll("pre")) finishCode(pre, isWhole);
  if (fragment.children.length === 1 && fragment.childNodes.length === 1) return fragment.firstChild;
  const block = el("div", {});
  block.append(fragment);
  if (token.type === "html") block.className = "raw";
  return block;
}

/** Opens elsewhere, tells nothing of us, and says its host where its text does not. */
function finishLink(link) {
  const isImage = link.classList.contains("image");
  let url = null;
  try {
    url = new URL(link.getAttribute("href"), location.href);
  } catch {
    // without a valid address it stays text
  }
  if (!url || !link.hasAttribute("href")) {
    link.replaceWith(...(isImage ? [el("span", { class: "image" }, icon("image"), link.textContent)] : link.childNodes));
    return;
  }
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  link.referrerPolicy = "no-referrer";
  const isForeign = url.host !== location.host;
  if (isImage) {
    const text = link.textContent || gettext("image");
    link.replaceChildren(icon("image"), text);
    link.title = interpolate(gettext("This image is not loaded, so that its server learns nothing. Open %(host)s"), {
      host: url.host,
    });
  }
  if (isForeign && url.host && !link.textContent.includes(url.host)) {
    link.append(el("span", { class: "host" }, url.host));
  }
}

function finishCode(pre, isWhole) {
  const language = pre.dataset.language ?? "";
  const code = pre.querySelector("code");
  const wrap = iconButton("wrap", gettext("Wrap long lines"), () => {
    wrap.setAttribute("aria-pressed", String(pre.classList.toggle("wrapped")));
  });
  wrap.setAttribute("aria-pressed", "false");
  const frame = el(
    "div",
    { class: "code" },
    el(
      "div",
      { class: "code-bar" },
      el("span", { class: "code-language" }, language || gettext("text")),
      el("span", { class: "code-tools" }, wrap, copyButton(() => code.textContent)),
    ),
  );
  pre.removeAttribute("data-language");
  pre.tabIndex = 0;
  pre.replaceWith(frame);
  frame.append(pre);
  if (isWhole) colour(code, language);
}

function escape(text) {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
