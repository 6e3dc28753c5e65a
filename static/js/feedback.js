/** Thumbs under an answer, and a line for why. A second click takes the thumb back. */

import { el, iconButton } from "./dom.js";
import { gettext } from "./i18n.js";

const COMMENT_CHARS = 2000;

export class Feedback {
  /** `onRate({value, comment} | null)` tells the server. */
  constructor(onRate) {
    this.onRate = onRate;
    this.value = null;
    this.up = this.thumb("up", gettext("Good answer"));
    this.down = this.thumb("down", gettext("Bad answer"));
    this.buttons = [this.up, this.down];
    this.comment = el("textarea", { class: "grows", rows: "2", maxlength: COMMENT_CHARS, "aria-label": gettext("What was good or bad about it?"), placeholder: gettext("What was good or bad about it?") });
    this.form = el(
      "form",
      { class: "feedback", hidden: true, onsubmit: (event) => this.submit(event) },
      this.comment,
      el(
        "div",
        { class: "form-end" },
        el("button", { type: "button", class: "button small quiet", onclick: () => this.fold() }, gettext("Close")),
        el("button", { type: "submit", class: "button small" }, gettext("Send")),
      ),
    );
  }

  thumb(value, label) {
    const button = iconButton(`thumb-${value}`, label, () => this.choose(value));
    button.setAttribute("aria-pressed", "false");
    return button;
  }

  /** What is stored, unless the reader is at it right now. */
  update(feedback) {
    const shown = JSON.stringify(feedback);
    if (shown === this.shown) return;
    this.shown = shown;
    this.value = feedback?.value ?? null;
    if (!this.form.contains(document.activeElement)) this.comment.value = feedback?.comment ?? "";
    this.press();
  }

  choose(value) {
    this.value = this.value === value ? null : value;
    this.press();
    this.form.hidden = this.value === null;
    this.onRate(this.value && { value: this.value, comment: this.comment.value.trim() });
    if (this.value) this.comment.focus();
  }

  submit(event) {
    event.preventDefault();
    this.onRate({ value: this.value, comment: this.comment.value.trim() });
    this.fold();
  }

  fold() {
    this.form.hidden = true;
    this.buttons.find((button) => button.getAttribute("aria-pressed") === "true")?.focus();
  }

  press() {
    this.up.setAttribute("aria-pressed", String(this.value === "up"));
    this.down.setAttribute("aria-pressed", String(this.value === "down"));
  }
}
