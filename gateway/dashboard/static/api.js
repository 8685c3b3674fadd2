// The REST API. A failure becomes an ApiError with the detail of the answer. On 401 the user is asked for an API key.

import { askForKey, key } from "./key.js";

const TIMEOUT_MS = 20_000;

export class ApiError extends Error {
  // `errors`: [{where, what}], e.g. where = "body.number". `status` 0: there was no answer.
  constructor(message, status, errors = []) {
    super(message);
    this.status = status;
    this.errors = errors;
  }
}

export const get = (path) => call("GET", path);
export const remove = (path) => call("DELETE", path);
export const post = (path, body, headers) => call("POST", path, body, headers);

async function call(method, path, body, headers = {}) {
  for (;;) {
    const used = key();
    const answer = await fetched(method, path, body, used ? { ...headers, Authorization: `Bearer ${used}` } : headers);
    if (answer.status !== 401) return read(answer);
    // While one asks, the others wait for the same answer.
    if (key() === used && !(await askForKey(used ? "This key is not accepted." : ""))) {
      throw new ApiError("This needs an API key.", 401);
    }
  }
}

async function fetched(method, path, body, headers) {
  const init = { method, headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json", ...headers };
  }
  try {
    return await fetch(path, init);
  } catch {
    throw new ApiError("The gateway does not answer.", 0);
  }
}

async function read(answer) {
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  const wait = answer.headers.get("Retry-After");
  const detail = body?.detail ?? `The gateway answered ${answer.status}.`;
  throw new ApiError(wait ? `${detail} (in ${wait} s)` : detail, answer.status, body?.errors ?? []);
}
