/** Past chats: found, renamed, pinned, exported and deleted; grouped by day, with a mark where something goes on. */

import { goneFrom, groupsOf } from "./days.js";
import { askLine, notice } from "./dialog.js";
import { el, icon, iconButton, setText } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";
import { KeptSet } from "./kept.js";
import { menuOf } from "./menu.js";

const STALE_MS = 10000;
const SEARCH_MS = 250;
const UNDO_S = 10;
const TITLE_CHARS = 200;

export class ChatList {
  /**
   * @param node where the list is painted
   * @param search its input
   * @param current the chat that this page shows
   * @param onBack called when that one was deleted and is back
   */
  constructor(node, search, rest, { current, userId, onBack }) {
    this.node = node;
    this.search = search;
    this.rest = rest;
    this.current = current;
    this.chats = new Map();
    this.toldAt = new Map(); // by id: when the socket last said something of it
    this.found = null; // ids, while something is searched
    this.onBack = onBack;
    this.next = null;
    this.readAt = -Infinity;
    this.unread = new KeptSet(`headrace.unread.${userId}`, () => {
      this.seen();
      this.paint();
    });
    addEventListener("focus", () => this.refresh());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      this.seen();
      this.refresh();
    });
    search.addEventListener("input", () => {
      clearTimeout(this.searching);
      this.searching = setTimeout(() => this.find(search.value.trim()), SEARCH_MS);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !search.value) return;
      event.stopPropagation();
      search.value = "";
      this.find("");
    });
    this.seen();
  }

  // ------------------------------------------------------------------ reading

  /** Reads the first page; what was told meanwhile by the socket may have been lost. */
  async refresh(isForced = false) {
    if (!isForced && performance.now() - this.readAt < STALE_MS) return;
    const askedAt = (this.readAt = performance.now());
    try {
      const page = await this.rest.get("chats/");
      for (const id of goneFrom([...this.chats.values()], page)) {
        if (!(this.toldAt.get(id) >= askedAt)) this.forget(id); // what was told since is newer than the page
      }
      for (const chat of page.results) this.chats.set(chat.id, { ...this.chats.get(chat.id), ...chat });
      if (this.next === null || this.isFirstPage) this.next = page.next;
      this.isFirstPage = true;
      this.hasFailed = false;
      if (page.results.some((chat) => chat.id === this.current)) this.onBack(); // restored elsewhere
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

  /** Titles and texts, by the server; an answer that comes after the next question is not shown. */
  async find(query) {
    this.query = query;
    if (!query) {
      this.found = null;
      this.paint();
      return;
    }
    try {
      const page = await this.rest.get(`chats/?q=${encodeURIComponent(query)}`);
      if (this.query !== query) return;
      for (const chat of page.results) this.chats.set(chat.id, { ...this.chats.get(chat.id), ...chat });
      this.found = page.results.map((chat) => chat.id);
    } catch (error) {
      notice(error.message);
    }
    this.paint();
  }

  /** A `chats` frame. */
  told(chat) {
    const known = this.chats.get(chat.id);
    this.toldAt.set(chat.id, performance.now());
    if (chat.deleted) this.forget(chat.id);
    else {
      const hasMoved = !known || (chat.state && chat.state !== known.state);
      this.chats.set(chat.id, { ...known, ...chat, ...(hasMoved ? { last_turn: new Date().toISOString() } : {}) });
      if (known?.state && !chat.state) this.unread.add(chat.id);
      this.seen();
    }
    this.paint();
  }

  forget(id) {
    this.chats.delete(id);
    this.unread.remove(id);
  }

  /** Whoever looks at a chat has read it. */
  seen() {
    if (document.visibilityState === "visible") this.unread.remove(this.current);
  }

  /** What this page knows of its own chat, sooner than any list. */
  mark(id, state) {
    const chat = this.chats.get(id);
    if (!chat || (chat.state ?? null) === state) return;
    chat.state = state;
    this.paint();
  }

  // ------------------------------------------------------------------ doing

  /** What can be done with a chat: entries of a menu. */
  actions(id) {
    const chat = this.chats.get(id);
    if (!chat) return [];
    return [
      { label: gettext("Rename"), icon: "pencil", run: () => this.rename(chat) },
      chat.pinned
        ? { label: gettext("Unpin"), icon: "pin", run: () => this.change(chat, { pinned: false }) }
        : { label: gettext("Pin"), icon: "pin", run: () => this.change(chat, { pinned: true }) },
      { label: gettext("Export as Markdown"), icon: "download", run: () => this.download(chat) },
      { label: gettext("Delete"), icon: "trash", isGrave: true, run: () => this.leave(chat) },
    ];
  }

  rename(chat) {
    askLine(gettext("Rename the chat"), gettext("Title"), chat.title ?? "", TITLE_CHARS, (title) => {
      if (title && title !== chat.title) this.change(chat, { title });
    });
  }

  /** Shown at once, taken back where the server refuses. */
  async change(chat, changes) {
    const before = { ...chat };
    this.chats.set(chat.id, { ...chat, ...changes });
    this.paint();
    try {
      const now = await this.rest.call("PATCH", `chats/${chat.id}/`, changes);
      this.chats.set(chat.id, { ...this.chats.get(chat.id), ...now });
    } catch (error) {
      this.chats.set(chat.id, before);
      notice(error.message);
    }
    this.paint();
  }

  download(chat) {
    const link = el("a", { href: `${this.rest.api}chats/${chat.id}/export/?as=md`, download: "" });
    document.body.append(link);
    link.click();
    link.remove();
  }

  /** Gone at once, and back as it was where the server refuses or it was a slip. */
  async leave(chat) {
    this.chats.delete(chat.id);
    this.paint();
    try {
      await this.rest.call("DELETE", `chats/${chat.id}/`, undefined, true);
    } catch (error) {
      if (error.code === "not_found") return;
      this.chats.set(chat.id, chat);
      this.paint();
      notice(error.message);
      return;
    }
    const text = interpolate(gettext("“%(title)s” is deleted."), { title: chat.title || gettext("New chat") });
    notice(text, { label: gettext("Undo"), run: () => this.bringBack(chat) }, UNDO_S);
  }

  async bringBack(chat) {
    try {
      const now = await this.rest.call("POST", `chats/${chat.id}/restore/`, {});
      this.chats.set(chat.id, { ...chat, ...now });
      if (chat.id === this.current) this.onBack();
    } catch (error) {
      notice(error.message);
    }
    this.paint();
  }

  // ------------------------------------------------------------------ painting

  paint() {
    const focused = this.node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const shown = [...this.chats.values()];
    this.isMixed = new Set(shown.map((chat) => chat.flow?.id).filter(Boolean)).size > 1;
    const groups = this.found ? [this.foundGroup(shown)] : groupsOf(shown, new Date());
    this.node.replaceChildren(
      ...groups.map(({ title, chats }) =>
        el("section", { class: "chat-group" }, el("h2", {}, title), el("ul", {}, ...chats.map((chat) => this.row(chat)))),
      ),
    );
    if (!this.found && !shown.length) {
      this.node.append(
        el("p", { class: "hint empty" }, this.hasFailed ? gettext("The list of chats could not be read.") : gettext("Your chats will be listed here.")),
      );
    }
    if (this.next && !this.found) {
      this.node.append(el("button", { type: "button", class: "button quiet more", onclick: () => this.readMore() }, gettext("Show more")));
    }
    if (focused) this.node.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  foundGroup(shown) {
    const chats = this.found.map((id) => shown.find((chat) => chat.id === id)).filter(Boolean);
    return { title: chats.length ? gettext("Found") : gettext("Nothing was found."), chats };
  }

  row(chat) {
    const title = chat.title || gettext("New chat");
    const link = el(
      "a",
      { href: `/c/${chat.id}/`, "aria-current": chat.id === this.current ? "page" : null, title: chat.title || null, "data-key": `open-${chat.id}` },
      chat.pinned ? icon("pin") : null,
      el("span", { class: "chat-name" }, el("span", { class: "chat-title" }), this.isMixed && chat.flow ? el("span", { class: "chat-flow" }, chat.flow.name) : null),
      this.markOf(chat),
    );
    setText(link.querySelector(".chat-title"), title);
    const more = iconButton("more", interpolate(gettext("What to do with “%(title)s”"), { title }), () => {}, "row-more");
    more.dataset.key = `more-${chat.id}`;
    menuOf(more, () => this.actions(chat.id));
    return el("li", {}, link, more);
  }

  markOf(chat) {
    const mark = (name, label) => el("span", { class: `chat-mark ${name}`, role: "img", "aria-label": label });
    if (chat.state === "waiting") return mark("waiting", gettext("A question waits"));
    if (chat.state) return mark("running", gettext("An answer is being written"));
    if (chat.id !== this.current && this.unread.has(chat.id)) return mark("unread", gettext("Not read yet"));
    return null;
  }
}
