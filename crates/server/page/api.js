// The server's paths that the page uses, its key and its errors.

import { events } from "./sse.js";

const KEY = "hadal.key";

/** Why a request failed, in the server's words where it had any. */
export class ApiError extends Error {
  /**
   * `status` is the HTTP status, 0 without a response; `retryAfter` is in seconds, or null; `code` and `requestId` are
   * strings or null.
   */
  constructor(message, { status = 0, code = null, retryAfter = null, requestId = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }
}

/** The key of this tab: it is kept until the tab closes, and sent to this server alone. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value === "" ? sessionStorage.removeItem(KEY) : sessionStorage.setItem(KEY, value)),
};

/** The models that can be asked: `[{id, max_model_len}]`. */
export async function models() {
  const list = await json("v1/models");
  if (!Array.isArray(list?.data)) throw new ApiError("GET /v1/models returned no list of models");
  return list.data;
}

/** What GET /stats says now. */
export function stats() {
  return json("stats", { signal: AbortSignal.timeout(8000) });
}

/** The chunks of a streamed answer. Ends normally only after `[DONE]`; an error within the stream is thrown. */
export async function* chat(body, signal) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const requestId = response.headers.get("x-request-id");
  try {
    for await (const { data } of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = parse(data);
      if (chunk.error) throw told(chunk.error, { requestId });
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke in the middle of the answer.", { code: "broken_stream", requestId });
  }
  throw new ApiError("The connection ended before the answer did.", { code: "broken_stream", requestId });
}

/** `Retry-After` in seconds: it is a number of them or a date. */
export function retryAfter(header, now = Date.now()) {
  if (header === null) return null;
  const seconds = /^\d+$/.test(header.trim()) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}

async function json(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch {
    throw new ApiError(`/${path} did not return JSON`, { status: response.status });
  }
}

// Paths are relative to the page, so that the server can stand behind a prefix.
async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get() !== "") headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new ApiError("The server did not answer in time.", { code: "timeout" });
    throw new ApiError("The server cannot be reached. Is it running?", { code: "unreachable" });
  }
  if (response.ok) return response;

  const about = {
    status: response.status,
    requestId: response.headers.get("x-request-id"),
    retryAfter: retryAfter(response.headers.get("retry-after")),
  };
  const text = await response.text().catch(() => "");
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy in between may answer with a page of its own; its status is what can be told.
  }
  if (body?.error) throw told(body.error, about);
  throw new ApiError(`HTTP ${response.status} ${response.statusText}`.trim(), about);
}

function told(error, about) {
  const message = typeof error.message === "string" ? error.message : JSON.stringify(error);
  return new ApiError(message, { ...about, code: typeof error.code === "string" ? error.code : null });
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The server sent an event that is not JSON.", { code: "broken_stream" });
  }
}
