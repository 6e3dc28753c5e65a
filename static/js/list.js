/** Past chats: grouped by day, the newest first, with a mark where an answer is being written or a question waits. */

import { el, icon, setText } from "./dom.js";
import { gettext } from "./i18n.js";
import { groupsOf } from "./days.js";

const STALE_MS = 10000;

export class ChatList {
  constructor(node, rest, current) {
    this.node = node;
    this.rest = rest;
    this.current = current;
    this.chats = new Map();
    this.next = null;
    this.readAt = -Infinity;
    addEventListener("focus", () => this.refresh());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh());
  }

  /** Reads the first page; what was told meanwhile by the socket may have been lost. */
  async refresh(isForced = false) {
    if (!isForced && performance.now() - this.readAt < STALE_MS) return;
    this.readAt = performance.now();
    try {
      const page = await this.rest.get("chats/");
      for (const chat of page.results) this.chats.set(chat.id, { ...this.chats.get(chat.id), ...chat });
      if (this.next === null || this.isFirstPage) this.next = page.next;
      this.isFirstPage = true;
      this.hasFailed = false;
    } catch {
      this.hasFailed = true;
    }
    this.paint();
  }

  async readMore() {
    const page = await this.rest.get(this.next);
    this.isFirstPage = false;
    this.next = page.next;
    for (const chat of page.results) if (!this.chats.has(chat.id)) this.chats.set(chat.id, chat);
    this.paint();
  }

  /** A `chats` frame. */
  told(chat) {
    if (chat.deleted) this.chats.delete(chat.id);
    else {
      const known = this.chats.get(chat.id);
      const hasMoved = !known || (chat.state && chat.state !== known.state);
      this.chats.set(chat.id, { ...known, ...chat, ...(hasMoved ? { last_turn: new Date().toISOString() } : {}) });
    }
    this.paint();
  }

  /** What this page knows of its own chat, sooner than any list. */
  mark(id, state) {
    const chat = this.chats.get(id);
    if (!chat || (chat.state ?? null) === state) return;
    chat.state = state;
    this.paint();
  }

  paint() {
    const groups = groupsOf([...this.chats.values()], new Date());
    this.node.replaceChildren(
      ...groups.map(({ title, chats }) =>
        el("section", { class: "chat-group" }, el("h2", {}, title), el("ul", {}, ...chats.map((chat) => this.row(chat)))),
      ),
    );
    if (!this.chats.size) {
      this.node.append(
        el("p", { class: "hint empty" }, this.hasFailed ? gettext("The list of chats could not be read.") : gettext("Your chats will be listed here.")),
      );
    }
    if (this.next) {
      this.node.append(el("button", { type: "button", class: "button quiet more", onclick: () => this.readMore() }, gettext("Show more")));
    }
  }

  row(chat) {
    const link = el(
      "a",
      { href: `/c/${chat.id}/`, "aria-current": chat.id === this.current ? "page" : null, title: chat.title || null },
      chat.pinned ? icon("pin") : null,
      el("span", { class: "chat-title" }),
      chat.state === "waiting"
        ? el("span", { class: "chat-mark waiting", role: "img", "aria-label": gettext("A question waits") })
        : chat.state
          ? el("span", { class: "chat-mark running", role: "img", "aria-label": gettext("An answer is being written") })
          : null,
    );
    setText(link.querySelector(".chat-title"), chat.title || gettext("New chat"));
    return el("li", {}, link);
  }
}
