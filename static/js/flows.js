/** The list of flows: a new one, or one from a file; both open in the editor. */

import { W } from "./editor/words.js";
import { interpolate } from "./i18n.js";
import { rest } from "./page.js";

const $ = (name) => document.querySelector(`[data-${name}]`);
const form = $("new-form");

$("new-flow").addEventListener("click", () => {
  form.hidden = !form.hidden;
  if (!form.hidden) form.elements.name.focus();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = form.elements.name.value.trim();
  if (name) made(rest.call("POST", "flows/", { name }));
});

$("import").addEventListener("click", () => $("import-file").click());

$("import-file").addEventListener("change", async () => {
  const [file] = $("import-file").files;
  $("import-file").value = "";
  if (!file) return;
  let exported;
  try {
    exported = JSON.parse(await file.text());
  } catch (error) {
    refuse(interpolate(W.importBad, { why: error.message }));
    return;
  }
  made(rest.call("POST", "flows/import/", exported));
});

async function made(asking) {
  try {
    const flow = await asking;
    location.href = `/edit/${flow.id}/`;
  } catch (error) {
    refuse(interpolate(W.importBad, { why: error.message }));
  }
}

function refuse(text) {
  $("new-error").textContent = text;
  $("new-error").hidden = false;
}
