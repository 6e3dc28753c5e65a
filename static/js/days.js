/** Chats in groups by age, and which of them are gone. */

import { gettext } from "./i18n.js";

const DAY_MS = 86400000;

/** `[{title, chats}]`, pinned ones first, then by the day of their last turn. */
export function groupsOf(chats, now) {
  const today = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const bounds = [
    [gettext("Today"), today],
    [gettext("Yesterday"), today - DAY_MS],
    [gettext("Last 7 days"), today - 7 * DAY_MS],
    [gettext("Last 30 days"), today - 30 * DAY_MS],
    [gettext("Older"), -Infinity],
  ];
  const groups = [{ title: gettext("Pinned"), chats: [] }, ...bounds.map(([title]) => ({ title, chats: [] }))];
  for (const chat of [...chats].sort((a, b) => timeOf(b) - timeOf(a))) {
    if (chat.pinned) groups[0].chats.push(chat);
    else groups[1 + bounds.findIndex(([, from]) => timeOf(chat) >= from)].chats.push(chat);
  }
  return groups.filter((group) => group.chats.length);
}

/** Ids of the known chats that the first page of the server's list would hold, and does not: they are gone. */
export function goneFrom(known, page) {
  const listed = new Set(page.results.map((chat) => chat.id));
  const last = page.next === null ? null : page.results.at(-1);
  return known.filter((chat) => !listed.has(chat.id) && (!last || isAbove(chat, last))).map((chat) => chat.id);
}

/** In the order of `chats/`. */
function isAbove(chat, other) {
  return Boolean(chat.pinned) === Boolean(other.pinned) ? timeOf(chat) > timeOf(other) : Boolean(chat.pinned);
}

function timeOf(chat) {
  const at = Date.parse(chat.last_turn ?? chat.created ?? "");
  return Number.isNaN(at) ? 0 : at;
}
