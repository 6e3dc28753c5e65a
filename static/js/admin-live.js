/** Keeps open pages of the admin up to date: single cells of live sessions, or a whole fragment. */

const SLOW = 4; // after a failure, this many times slower

/** Calls `work` every so many seconds while the page is visible, one at a time; ends where it returns false. */
function repeat(seconds, work) {
  const wait = (factor) => setTimeout(turn, 1000 * seconds * factor);
  async function turn() {
    if (document.hidden) return wait(1);
    try {
      if ((await work()) !== false) wait(1);
    } catch {
      wait(SLOW);
    }
  }
  wait(1);
}

async function ask(url) {
  const response = await fetch(url, { credentials: "same-origin", headers: { "X-Requested-With": "fetch" } });
  if (!response.ok || response.redirected) throw new Error(String(response.status));
  return response;
}

function show(id, row) {
  for (const [name, text] of Object.entries(row)) {
    for (const cell of document.querySelectorAll(`[data-cell="${id}.${name}"]`)) {
      if (cell.textContent !== text) cell.textContent = text;
      if (name === "state") cell.className = `state ${row.kind}`;
    }
  }
}

function live(holder) {
  repeat(Number(holder.dataset.every), async () => {
    const marks = [...holder.querySelectorAll("[data-session][data-is-live]")];
    if (!marks.length) return false;
    const ids = marks.map((mark) => mark.dataset.session);
    const { rows } = await (await ask(`${holder.dataset.live}?ids=${ids.join(",")}`)).json();
    for (const mark of marks) {
      const row = rows[mark.dataset.session];
      if (row) show(mark.dataset.session, row);
      if (!row?.is_live) mark.removeAttribute("data-is-live");
    }
    return true;
  });
}

/** Without a beat it is read once, at once. */
function fragment(holder) {
  const read = async () => {
    const page = new DOMParser().parseFromString(await (await ask(holder.dataset.fragment)).text(), "text/html");
    if (holder.contains(document.activeElement)) return; // whoever stands on a link keeps it
    holder.replaceChildren(...page.body.childNodes);
  };
  if (holder.dataset.every) repeat(Number(holder.dataset.every), read);
  else read().catch(() => {}); // its link is still there
}

document.querySelectorAll("[data-live]").forEach(live);
document.querySelectorAll("[data-fragment]").forEach(fragment);

export { ask, repeat };
