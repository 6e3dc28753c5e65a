/** The draft as it stands in this browser: kept at each pause of writing, given back after a reload or a crash. */

const PAUSE_MS = 300;

export class Local {
  /** One draft for each user and flow. `storage`: localStorage, or what stands for it. */
  constructor(user, flow, storage) {
    this.key = `headrace.flow.${user}.${flow}`;
    this.storage = storage;
    this.pending = null;
  }

  /** `{text, revision}` of changes that were never saved, or null. */
  read() {
    try {
      const kept = JSON.parse(this.storage.getItem(this.key));
      return typeof kept?.text === "string" && typeof kept.revision === "number" ? kept : null;
    } catch {
      return null;
    }
  }

  keepSoon(text, revision) {
    this.pending = { text, revision };
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.keep(), PAUSE_MS);
  }

  keep() {
    clearTimeout(this.timer);
    if (!this.pending) return;
    const { text, revision } = this.pending;
    this.pending = null;
    try {
      this.storage.setItem(this.key, JSON.stringify({ text, revision }));
    } catch {
      // storage is full or forbidden: the draft lives as long as the page
    }
  }

  forget() {
    clearTimeout(this.timer);
    this.pending = null;
    try {
      this.storage.removeItem(this.key);
    } catch {
      // as above
    }
  }
}
