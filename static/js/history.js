/** A chat as it is stored, read by REST, in the form of a snapshot: for chats whose socket is refused. */

/** The newest page. `isUnended`: a turn still runs or waits, so more will come. */
export async function history(rest, chat) {
  const [row, page] = await Promise.all([rest.get(`chats/${chat}/`), rest.get(`chats/${chat}/messages/`)]);
  return {
    type: "snapshot",
    epoch: "",
    seq: 0,
    chat: { id: row.id, rev: row.rev, title: row.title, head: headOf(row.head, page.results) },
    messages: page.results.toReversed(),
    more: Boolean(page.next),
    turns: [],
    isUnended: row.state === "running",
  };
}

/** The head may name an answer that is not stored yet: then the newest message is shown. */
function headOf(head, newestFirst) {
  return newestFirst.some(({ id }) => id === head) ? head : (newestFirst.find(({ role }) => role !== "notice")?.id ?? head);
}
