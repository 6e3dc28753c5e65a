/** REST by the page's session. Throws `RestError` with the catalogue's code and sentence. */

export class RestError extends Error {
  constructor(error) {
    super(error.text);
    this.code = error.code;
    this.trace = error.trace;
  }
}

export class Rest {
  constructor({ api, csrf }) {
    this.api = api;
    this.csrf = csrf;
  }

  get(path) {
    return this.call("GET", path);
  }

  /** `outlives`: it is to arrive although the page is left. */
  async call(method, path, body, outlives = false) {
    const url = path.startsWith("/") || path.startsWith("http") ? path : this.api + path;
    const headers = { Accept: "application/json" };
    if (method !== "GET") headers["X-CSRFToken"] = this.csrf;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin", keepalive: outlives });
    const answer = response.status === 204 ? null : await response.json().catch(() => null);
    if (!response.ok) throw new RestError(answer?.error ?? { code: String(response.status), text: response.statusText });
    return answer;
  }
}
