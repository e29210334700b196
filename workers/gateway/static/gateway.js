/** The REST side of one gateway: sends a request, gives back its JSON, or throws a GatewayError. */

const PATIENCE = 15_000;

export class GatewayError extends Error {
  /** @param {number} status HTTP status, or 0 when there was no answer at all */
  constructor(status, message) {
    super(message);
    this.name = "GatewayError";
    this.status = status;
  }
}

export class Gateway {
  /**
   * @param {string} source base URL of the gateway; empty: the page's own origin
   * @param {string} token JWT of the embedding application; empty: its cookie
   */
  constructor(source = "", token = "") {
    this.source = source.replace(/\/+$/, "");
    this.token = token;
  }

  url(path, query = {}) {
    const given = Object.entries(query).filter(
      ([, value]) => value !== null && value !== undefined && value !== "",
    );
    const search = new URLSearchParams(given).toString();
    return this.source + path + (search && `?${search}`);
  }

  get(path, query) {
    return this.#request("GET", path, { query });
  }

  /** `outlive`: the request is finished even if the page is left meanwhile. */
  post(path, { body, outlive = false } = {}) {
    return this.#request("POST", path, { body, outlive });
  }

  put(path, body) {
    return this.#request("PUT", path, { body });
  }

  delete(path) {
    return this.#request("DELETE", path, {});
  }

  async #request(method, path, { query, body, outlive = false }) {
    const headers = { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    let response;
    try {
      response = await fetch(this.url(path, query), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: this.token ? "omit" : "include",
        cache: "no-store",
        keepalive: outlive,
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch (error) {
      throw new GatewayError(0, error.name === "TimeoutError" ? "no answer in time" : "no connection");
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) {
      const error = new GatewayError(
        response.status,
        answer.detail ?? answer.title ?? `status ${response.status}`,
      );
      error.answer = answer;
      throw error;
    }
    return answer;
  }
}
