/** What a page keeps in the browser. Storage may be full or forbidden: then it lives as long as the page. */

export function read(storage, key) {
  try {
    return storage.getItem(key);
  } catch {
    return null;
  }
}

/** Null takes it away. */
export function keep(storage, key, value) {
  try {
    if (value === null) storage.removeItem(key);
    else storage.setItem(key, value);
  } catch {
    // see above
  }
}

/** A set of texts under one key, the same in all tabs. */
export class KeptSet {
  constructor(key, onChange) {
    this.key = key;
    addEventListener("storage", (event) => event.key === key && onChange());
  }

  all() {
    try {
      return new Set(JSON.parse(read(localStorage, this.key) ?? "[]"));
    } catch {
      return new Set();
    }
  }

  has(text) {
    return this.all().has(text);
  }

  add(text) {
    const all = this.all();
    if (!all.has(text)) this.save(all.add(text));
  }

  remove(text) {
    const all = this.all();
    if (all.delete(text)) this.save(all);
  }

  save(all) {
    keep(localStorage, this.key, all.size ? JSON.stringify([...all].slice(-200)) : null);
  }
}
