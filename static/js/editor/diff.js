/** The difference of two texts by lines (Myers' algorithm, in its plain form). Pure. */

const MOST_EDITS = 4000; // beyond it the two are shown as wholly different

/** `[{kind: "same" | "less" | "more", text}]`, in order. */
export function lines(before, after) {
  const a = split(before);
  const b = split(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const same = (texts) => texts.map((text) => ({ kind: "same", text }));
  return [...same(a.slice(0, start)), ...middle(a.slice(start, a.length - end), b.slice(start, b.length - end)), ...same(a.slice(a.length - end))];
}

function split(text) {
  return text.replace(/\n$/, "").split("\n");
}

function middle(a, b) {
  const traces = walk(a, b);
  if (!traces) return [...a.map((text) => ({ kind: "less", text })), ...b.map((text) => ({ kind: "more", text }))];
  const found = [];
  let x = a.length;
  let y = b.length;
  for (let depth = traces.length - 1; depth >= 0; depth -= 1) {
    const reach = traces[depth];
    const diagonal = x - y;
    const goesDown = diagonal === -depth || (diagonal !== depth && reach.get(diagonal - 1) < reach.get(diagonal + 1));
    const from = goesDown ? diagonal + 1 : diagonal - 1;
    const fromX = depth ? reach.get(from) : 0;
    const fromY = depth ? fromX - from : 0;
    while (x > fromX && y > fromY) {
      x -= 1;
      y -= 1;
      found.push({ kind: "same", text: a[x] });
    }
    if (!depth) break;
    if (goesDown) found.push({ kind: "more", text: b[(y -= 1)] });
    else found.push({ kind: "less", text: a[(x -= 1)] });
  }
  return found.reverse();
}

/** How far each diagonal was reached before each further edit; null where it takes too many. */
function walk(a, b) {
  const reach = new Map([[1, 0]]);
  const traces = [];
  for (let depth = 0; depth <= Math.min(a.length + b.length, MOST_EDITS); depth += 1) {
    traces.push(new Map(reach));
    for (let diagonal = -depth; diagonal <= depth; diagonal += 2) {
      const goesDown = diagonal === -depth || (diagonal !== depth && reach.get(diagonal - 1) < reach.get(diagonal + 1));
      let x = goesDown ? reach.get(diagonal + 1) : reach.get(diagonal - 1) + 1;
      while (x < a.length && x - diagonal < b.length && a[x] === b[x - diagonal]) x += 1;
      reach.set(diagonal, x);
      if (x >= a.length && x - diagonal >= b.length) return traces;
    }
  }
  return null;
}

/** Runs of unchanged lines longer than twice `around` become `{kind: "gap", count}`. */
export function folded(found, around = 3) {
  const shown = [];
  for (let at = 0; at < found.length; ) {
    let end = at;
    while (end < found.length && found[end].kind === "same") end += 1;
    const head = at === 0 ? 0 : around;
    const tail = end === found.length ? 0 : around;
    if (end - at > head + tail + 1) {
      shown.push(...found.slice(at, at + head), { kind: "gap", count: end - at - head - tail }, ...found.slice(end - tail, end));
    } else shown.push(...found.slice(at, end));
    while (end < found.length && found[end].kind !== "same") shown.push(found[end++]);
    at = end;
  }
  return shown;
}
