/**
 * Where one writes: Enter sends, Shift+Enter breaks, an input method's Enter does neither. Drafts are kept; a text that
 * cannot be sent says why; one that would throw something away is asked about first.
 */

import { el, setText } from "./dom.js";
import { gettext, interpolate } from "./i18n.js";
import { keep, read } from "./kept.js";

const DRAFT_MS = 400;
const NEAR = 500; // so many characters before the limit it is told

export class Composer {
  /**
   * `onSend(text, secret)`, `onStop()`, `onEditLast()`; `doubt(text)`: a sentence that is to be answered before the text is
   * sent, or null; `files`: what goes with it.
   */
  constructor(form, { onSend, onStop, onEditLast, doubt, files }) {
    this.form = form;
    this.area = form.querySelector("textarea");
    this.sendButton = form.querySelector("[data-send]");
    this.stopButton = form.querySelector("[data-stop]");
    this.attachButton = form.querySelector("[data-attach]");
    this.count = form.querySelector("[data-count]");
    this.said = form.parentNode.querySelector("[data-said]");
    this.files = files;
    this.doubt = doubt;
    this.onSend = onSend;
    this.limit = 32000;
    this.secret = null; // the open question whose answer is kept nowhere
    this.before = ""; // what was written when it came
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.stopButton.addEventListener("click", () => {
      onStop();
      this.area.focus();
    });
    this.area.addEventListener("input", () => {
      this.isChanged = true;
      this.say(null);
      this.changed();
      clearTimeout(this.draftTimer);
      this.draftTimer = setTimeout(() => this.keepDraft(), DRAFT_MS);
    });
    this.area.addEventListener("keydown", (event) => {
      if (event.key === "ArrowUp" && !this.area.value && !event.isComposing && onEditLast()) event.preventDefault();
      // keyCode 229: Safari tells the end of a composition before the key that ended it
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    addEventListener("pagehide", () => this.keepDraft());
    addEventListener("storage", (event) => {
      const isOurs = event.key === this.draftKey && !this.isChanged && document.activeElement !== this.area;
      if (isOurs) this.fill(event.newValue ?? "", false);
    });
  }

  /** `state` as the view says; `isClosed`: nothing can be sent here any more. */
  update({ state, isStopping, isClosed, placeholder }) {
    const isBusy = state !== "idle";
    this.isClosed = isClosed;
    this.stopButton.hidden = !isBusy || isClosed;
    this.stopButton.disabled = isStopping;
    this.area.disabled = isClosed;
    this.attachButton.disabled = isClosed;
    if (this.area.placeholder !== placeholder) this.area.placeholder = placeholder;
    this.form.classList.toggle("busy", isBusy);
    this.allow();
  }

  /** For a secret question nothing is kept: what was written for it goes with it, and what was there before is back. */
  standFor(secret) {
    if (secret?.question === this.secret?.question) return;
    const wasSecret = this.secret !== null;
    this.secret = null;
    if (wasSecret && this.area.value !== this.before) this.fill(this.before);
    this.keepDraft();
    this.secret = secret;
    this.before = this.area.value;
  }

  submit() {
    const text = this.area.value;
    const fault = this.fault(text);
    if (fault !== null) {
      if (fault) this.say(fault);
      return;
    }
    const doubt = this.doubt(text);
    if (doubt) this.ask(doubt, () => this.send(text));
    else this.send(text);
  }

  send(text) {
    this.say(null);
    this.before = "";
    this.fill("");
    this.keepDraft();
    this.onSend(text, this.secret);
    this.area.focus();
  }

  /** Why it cannot be sent: a sentence, "" where that is plain to see, null where it can. */
  fault(text) {
    if (this.isClosed) return "";
    const over = this.over();
    if (over > 0) {
      return interpolate(gettext("The text is too long by %(over)s characters: at most %(limit)s go into one message."), { over, limit: this.limit });
    }
    if (this.files.isBusy) return gettext("A file is still on its way. Wait for it, or remove it.");
    if (this.files.hasFailed) {
      return this.files.mayGoAgain ? gettext("A file was not taken. Send it again, or remove it.") : gettext("A file was not taken. Remove it to send the message.");
    }
    if (!text.trim()) return this.files.list.length ? gettext("Write something about the files.") : "";
    return null;
  }

  changed() {
    const left = -this.over();
    this.count.hidden = left > NEAR;
    setText(this.count, String(left));
    this.count.classList.toggle("over", left < 0);
    if (left < 0) this.say(this.fault(this.area.value));
    this.allow();
  }

  /** By characters as the server counts them: a pair of surrogates is one. */
  over() {
    const { value } = this.area;
    return (value.length > this.limit ? [...value].length : value.length) - this.limit;
  }

  /** The button stays alive where a sentence can say what is wrong. */
  allow() {
    this.sendButton.disabled = this.isClosed || (!this.area.value.trim() && this.files.areRefused);
  }

  say(sentence) {
    this.said.replaceChildren(...(sentence ? [el("p", { class: "field-error" }, sentence)] : []));
  }

  ask(sentence, onYes) {
    this.said.replaceChildren(
      el("p", {}, sentence),
      el(
        "div",
        { class: "form-end" },
        el("button", { type: "button", class: "button small", onclick: () => this.back() }, gettext("Go back")),
        el("button", { type: "button", class: "button small quiet", onclick: onYes }, gettext("Send all the same")),
      ),
    );
    this.said.querySelector("button").focus();
  }

  back() {
    this.say(null);
    this.area.focus();
  }

  /** Gives a text back, before what is there already. */
  giveBack(text) {
    this.before = [text, this.before].filter(Boolean).join("\n");
    this.fill([text, this.area.value].filter(Boolean).join("\n"));
    this.keepDraft();
    this.area.focus();
  }

  useDraft(key) {
    this.draftKey = key;
    const kept = read(localStorage, key);
    if (kept && !this.area.value) this.fill(kept, false);
    else this.changed();
  }

  /** The chat has its own address now, and what is written goes with it. */
  moveDraft(key) {
    keep(localStorage, this.draftKey, null);
    this.draftKey = key;
    this.isChanged = true;
    this.keepDraft();
  }

  fill(text, isChanged = true) {
    this.area.value = text;
    this.area.dispatchEvent(new Event("input", { bubbles: true }));
    if (!isChanged) {
      clearTimeout(this.draftTimer);
      this.isChanged = false;
    }
  }

  /** Only what was written here: another tab's draft is not ours to overwrite. */
  keepDraft() {
    clearTimeout(this.draftTimer);
    if (!this.draftKey || !this.isChanged || this.secret) return;
    this.isChanged = false;
    keep(localStorage, this.draftKey, this.area.value || null);
  }
}
