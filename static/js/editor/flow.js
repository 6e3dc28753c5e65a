/** The flow on the server. A draft travels as text both ways, so that no number is rounded on its way. */

import { RestError } from "../rest.js";
import { find, parse } from "./json.js";

export class FlowRest {
  constructor({ api, csrf, flow }) {
    this.csrf = csrf;
    this.api = api;
    this.base = `${api}flows/${flow.id}/`;
  }

  /** `{flow, draft}`: what is told of the flow, and the draft's tree. */
  async load() {
    return this.split(await this.text("GET", this.base));
  }

  async kinds() {
    return (await this.json("GET", `${this.api}nodes/`)).results;
  }

  /** Saves over `revision`; throws `conflict` where somebody saved meanwhile. */
  async save(text, revision) {
    return this.split(await this.text("PATCH", this.base, `{"draft": ${text}}`, { "If-Match": `"${revision}"` }));
  }

  async check(text, signal) {
    return JSON.parse(await this.text("POST", `${this.base}check/`, `{"graph": ${text}}`, {}, signal)).faults;
  }

  startBuild() {
    return this.json("POST", `${this.base}build/`, {});
  }

  build() {
    return this.json("GET", `${this.base}build/`);
  }

  publish(note) {
    return this.json("POST", `${this.base}publish/`, { note });
  }

  offline() {
    return this.json("POST", `${this.base}offline/`);
  }

  versions(url = null) {
    return this.json("GET", url ?? `${this.base}versions/`);
  }

  /** The tree of a version's graph. */
  async version(number) {
    return find(parse(await this.text("GET", `${this.base}versions/${number}/`)).root, ["graph"]);
  }

  async restore(number, revision) {
    return this.split(await this.text("POST", `${this.base}versions/${number}/restore/`, "{}", { "If-Match": `"${revision}"` }));
  }

  split(text) {
    return { flow: JSON.parse(text), draft: find(parse(text).root, ["draft"]) };
  }

  async json(method, url, body) {
    return JSON.parse(await this.text(method, url, body === undefined ? undefined : JSON.stringify(body)));
  }

  /** The answer's text. Throws RestError with `code`, `faults`. */
  async text(method, url, body, headers = {}, signal = undefined) {
    const response = await fetch(url, {
      method,
      body,
      signal,
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        ...(method === "GET" ? {} : { "X-CSRFToken": this.csrf }),
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
    });
    const answer = await response.text();
    if (!response.ok) throw refusal(response, answer);
    return answer;
  }
}

function refusal(response, answer) {
  let told = null;
  try {
    told = JSON.parse(answer).error;
  } catch {
    // no body of ours: a proxy's
  }
  const error = new RestError(told ?? { code: String(response.status), text: response.statusText || String(response.status) });
  error.faults = told?.faults ?? null;
  error.status = response.status;
  return error;
}
