/** What was published: a list to compare with the draft and to go back to. */

import { el, setText } from "../dom.js";
import { interpolate } from "../i18n.js";
import { timeOf } from "../times.js";
import { ask, difference } from "./dialogs.js";
import { W } from "./words.js";

export class Versions {
  /** `actions`: `draftText()`, `format(tree)`, `restore(number)`, `failed(error)`. */
  constructor(box, flow, actions) {
    this.box = box;
    this.flow = flow;
    this.actions = actions;
    this.rows = [];
    this.next = null;
  }

  async refresh() {
    try {
      const page = await this.flow.versions();
      this.rows = page.results;
      this.next = page.next;
      this.paint();
    } catch (error) {
      this.box.replaceChildren(el("p", { class: "hint" }, error.message));
    }
  }

  async more() {
    const page = await this.flow.versions(this.next);
    this.rows.push(...page.results);
    this.next = page.next;
    this.paint();
  }

  paint() {
    if (!this.rows.length) {
      this.box.replaceChildren(el("p", { class: "hint empty" }, W.noVersions));
      return;
    }
    const list = el("ol", { class: "versions" }, ...this.rows.map((row) => this.row(row)));
    const more = this.next ? el("button", { type: "button", class: "button small", onclick: () => this.more().catch(this.actions.failed) }, W.showMore) : null;
    this.box.replaceChildren(...[list, more].filter(Boolean));
  }

  row({ number, note, author, created, published }) {
    const time = timeOf(created);
    const badge = published ? el("span", { class: this.isOnline ? "badge online" : "badge" }, this.isOnline ? W.isPublished : W.lastPublished) : null;
    return el(
      "li",
      { "data-version": String(number) },
      el("div", { class: "version-head" }, el("h3", {}, interpolate(W.version, { number })), badge),
      note ? el("p", { class: "version-note" }, note) : null,
      el("p", { class: "hint" }, el("time", { datetime: created }, time), author ? ` ${interpolate(W.by, { name: author.name })}` : ""),
      el(
        "div",
        { class: "version-end" },
        el("button", { type: "button", class: "button small", onclick: () => this.compare(number).catch(this.actions.failed), "aria-label": interpolate(W.compareVersion, { number }) }, W.compare),
        el("button", { type: "button", class: "button small quiet", onclick: () => this.actions.restore(number), "aria-label": interpolate(W.restoreVersion, { number }) }, W.restore),
      ),
    );
  }

  /** The online version's text in the canonical form, or null. */
  async online() {
    const row = this.rows.find((one) => one.published);
    return row ? { number: row.number, text: this.actions.format(await this.flow.version(row.number)) } : null;
  }

  async compare(number) {
    const text = this.actions.format(await this.flow.version(number));
    const choice = await ask({
      title: interpolate(W.versionToDraft, { number }),
      body: difference(text, this.actions.draftText()),
      isWide: true,
      actions: [
        { value: "restore", label: interpolate(W.restoreVersion, { number }), look: "small" },
        { value: "close", label: W.close },
      ],
    });
    if (choice === "restore") await this.actions.restore(number);
  }

  told(flow) {
    this.isOnline = flow.status === "online";
    setText(this.box.ownerDocument.querySelector("[data-version-count]"), flow.version ? String(flow.version) : "");
  }
}
