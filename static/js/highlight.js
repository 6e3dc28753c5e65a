/** A little colour for code that is whole: comments, strings, numbers, keywords. Not a parser, and never a risk. */

const WORDS =
  "abstract and as assert async await begin bool boolean break case catch char class const continue def default del do done double elif else end enum except export extends false fi finally float fn for from func function global if impl implements import in instanceof int interface is lambda let loop match mod module mut new nil none not null of or package pass private protected pub public raise return select self static string struct super switch then this throw throws true try type typeof undefined union unless until use var void when where while with yield " +
  "create table insert into values update set delete join left right inner outer on group by order limit having distinct primary key references index";
const KEYWORDS = new Set(WORDS.split(" "));
const HASH = new Set(["py", "python", "sh", "bash", "shell", "zsh", "yaml", "yml", "toml", "ruby", "rb", "ini", "env", "dockerfile", "makefile"]);
const DASHES = new Set(["sql", "lua", "haskell"]);
const PLAIN = new Set(["", "text", "txt", "plain", "console", "output", "markdown", "md"]);
const LIMIT = 40000;

export function colour(code, language) {
  const name = language.toLowerCase();
  const text = code.textContent;
  if (PLAIN.has(name) || text.length > LIMIT) return;
  const comment = HASH.has(name) ? "#[^\\n]*" : DASHES.has(name) ? "--[^\\n]*" : "\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?\\*\\/|<!--[\\s\\S]*?-->";
  const pattern = new RegExp(
    `(${comment})|("""[\\s\\S]*?"""|'''[\\s\\S]*?'''|"(?:\\\\.|[^"\\\\\\n])*"|'(?:\\\\.|[^'\\\\\\n])*'|\`(?:\\\\.|[^\`\\\\])*\`)|\\b(\\d[\\d_.]*(?:e[+-]?\\d+)?)\\b|([A-Za-z_]\\w*)`,
    "g",
  );
  const fragment = document.createDocumentFragment();
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    const kind = match[1] ? "comment" : match[2] ? "string" : match[3] ? "number" : KEYWORDS.has(match[4].toLowerCase()) ? "keyword" : null;
    if (!kind) continue;
    fragment.append(text.slice(at, match.index));
    const span = document.createElement("span");
    span.className = `hl-${kind}`;
    span.textContent = match[0];
    fragment.append(span);
    at = match.index + match[0].length;
  }
  fragment.append(text.slice(at));
  code.replaceChildren(fragment);
}
