/** Where one writes: Enter sends, Shift+Enter breaks, an input method's Enter does neither; drafts are kept. */

const DRAFT_MS = 400;

export class Composer {
  /** `onSend(text)` and `onStop()`; `draftKey` names the draft of this user and chat. */
  constructor(form, { onSend, onStop }) {
    this.form = form;
    this.area = form.querySelector("textarea");
    this.sendButton = form.querySelector("[data-send]");
    this.stopButton = form.querySelector("[data-stop]");
    this.count = form.querySelector("[data-count]");
    this.limit = 32000;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.area.value;
      if (!text.trim() || this.isTooLong() || this.isClosed) return;
      this.fill("");
      this.keepDraft();
      onSend(text);
      this.area.focus();
    });
    this.stopButton.addEventListener("click", () => {
      onStop();
      this.area.focus();
    });
    this.area.addEventListener("input", () => {
      this.changed();
      clearTimeout(this.draftTimer);
      this.draftTimer = setTimeout(() => this.keepDraft(), DRAFT_MS);
    });
    this.area.addEventListener("keydown", (event) => {
      // keyCode 229: Safari tells the end of a composition before the key that ended it
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    addEventListener("pagehide", () => this.keepDraft());
  }

  /** `state` as the view says; `isClosed`: nothing can be sent here any more. */
  update({ state, isStopping, isClosed, placeholder }) {
    const isBusy = state !== "idle";
    this.isClosed = isClosed;
    this.stopButton.hidden = !isBusy;
    this.stopButton.disabled = isStopping;
    this.area.disabled = isClosed;
    if (this.area.placeholder !== placeholder) this.area.placeholder = placeholder;
    this.form.classList.toggle("busy", isBusy);
    this.allow();
  }

  changed() {
    const left = this.limit - this.area.value.length;
    this.count.hidden = left > 500;
    this.count.textContent = String(left);
    this.count.classList.toggle("over", left < 0);
    this.allow();
  }

  allow() {
    this.sendButton.disabled = this.isClosed || !this.area.value.trim() || this.isTooLong();
  }

  isTooLong() {
    return this.area.value.length > this.limit;
  }

  /** Gives a text back, before what is there already. */
  giveBack(text) {
    this.fill([text, this.area.value].filter(Boolean).join("\n"));
    this.keepDraft();
    this.area.focus();
  }

  useDraft(key) {
    this.draftKey = key;
    const kept = read(key);
    if (kept && !this.area.value) this.fill(kept);
    else this.changed();
  }

  fill(text) {
    this.area.value = text;
    this.area.dispatchEvent(new Event("input", { bubbles: true }));
  }

  keepDraft() {
    clearTimeout(this.draftTimer);
    if (!this.draftKey) return;
    try {
      if (this.area.value) localStorage.setItem(this.draftKey, this.area.value);
      else localStorage.removeItem(this.draftKey);
    } catch {
      // storage is full or forbidden: the draft lives as long as the page
    }
  }
}

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}
