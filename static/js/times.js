/** Times as the reader's clock and language tell them. */

const OF_SENTENCES = /\b(\d{4}-\d\d-\d\d) (\d\d:\d\d) UTC\b/g;

export function timeOf(at) {
  return new Date(at).toLocaleString(document.documentElement.lang || undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** The server's sentences hold times in one form ("2026-11-22 00:00 UTC"): those are told anew. */
export function localTimes(text) {
  return text.replace(OF_SENTENCES, (told, day, clock) => {
    const at = Date.parse(`${day}T${clock}Z`);
    return Number.isNaN(at) ? told : timeOf(at);
  });
}
