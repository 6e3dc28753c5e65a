/** Where one writes to a debug run: Enter sends, Shift+Enter breaks the line; no draft is kept, nothing is attached. */

export class Sayer {
  constructor(form, { onSend, onStop }) {
    this.area = form.querySelector("textarea");
    this.sendButton = form.querySelector("[data-send]");
    this.stopButton = form.querySelector("[data-stop]");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.area.value;
      if (!text.trim() || this.isClosed) return;
      this.area.value = "";
      this.allow();
      onSend(text);
      this.area.focus();
    });
    this.stopButton.addEventListener("click", () => {
      onStop();
      this.area.focus();
    });
    this.area.addEventListener("input", () => this.allow());
    this.area.addEventListener("keydown", (event) => {
      // keyCode 229: Safari tells the end of a composition before the key that ended it
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      form.requestSubmit();
    });
  }

  update({ state, isStopping, isClosed, placeholder }) {
    this.isClosed = isClosed;
    this.stopButton.hidden = state === "idle" || isClosed;
    this.stopButton.disabled = isStopping;
    this.area.disabled = isClosed;
    if (this.area.placeholder !== placeholder) this.area.placeholder = placeholder;
    this.allow();
  }

  allow() {
    this.sendButton.disabled = this.isClosed || !this.area.value.trim();
  }

  giveBack(text) {
    this.area.value = [text, this.area.value].filter(Boolean).join("\n");
    this.allow();
    this.area.focus();
  }
}
