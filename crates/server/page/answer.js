// One answer, from the request to its last token.

import { chat } from "./api.js";
import { requestBody } from "./conversation.js";

/**
 * An answer that is coming. `phase` is `waiting`, `reading` (the prompt), `reasoning` or `writing`; `progress` is the
 * server's last word on the prompt; `rate` is an estimate while no usage is known.
 */
export class Run {
  phase = "waiting";
  progress = null;
  #conversation;
  #turn;
  #onchange;
  #abort = new AbortController();
  #started = performance.now();
  #first = null;
  #wroteFirst = null;
  #last = null;
  #pieces = 0;
  #usage = null;

  constructor(conversation, turn, onchange) {
    this.#conversation = conversation;
    this.#turn = turn;
    this.#onchange = onchange;
  }

  stop() {
    this.#abort.abort();
  }

  /** Fills the turn, asking `model`. Never throws: what went wrong stands in `turn.error`, with `retryAt` if the server named a time. */
  async finish(model) {
    const turn = this.#turn;
    Object.assign(turn, { content: "", reasoning: "", finish: null, error: null, stats: null });
    try {
      for await (const chunk of chat(requestBody(this.#conversation, turn, model), this.#abort.signal)) {
        this.#take(chunk);
        this.#onchange();
      }
    } catch (error) {
      if (error.name === "AbortError") turn.finish = "stopped";
      else turn.error = describe(error);
    }
    turn.stats = this.#stats();
  }

  /** Tokens each second so far. One piece of the stream may hold more than one token, so this is a lower estimate. */
  get rate() {
    return this.#pieces < 2 ? null : ((this.#pieces - 1) / (performance.now() - this.#first)) * 1000;
  }

  #take(chunk) {
    if (chunk.usage) this.#usage = chunk.usage;
    if (chunk.prompt_progress) {
      this.progress = chunk.prompt_progress;
      if (this.phase === "waiting") this.phase = "reading";
    }
    const choice = chunk.choices?.[0];
    if (choice === undefined) return;
    const { reasoning_content: reasoning, content } = choice.delta ?? {};
    if (reasoning || content) {
      this.#last = performance.now();
      this.#first ??= this.#last;
      this.#pieces += 1;
    }
    if (reasoning) {
      this.phase = "reasoning";
      this.#turn.reasoning += reasoning;
    }
    if (content) {
      this.phase = "writing";
      this.#wroteFirst ??= this.#last;
      this.#turn.content += content;
    }
    if (choice.finish_reason) this.#turn.finish = choice.finish_reason;
  }

  /** What is worth knowing afterwards: seconds, and tokens as the server counted them, or else as pieces came. */
  #stats() {
    if (this.#first === null && this.#usage === null) return null;
    const usage = this.#usage;
    const tokens = usage?.completion_tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    const stats = { tokens, isEstimate: usage === null };
    if (this.#first !== null) stats.firstToken = (this.#first - this.#started) / 1000;
    if (tokens > 1 && seconds > 0) stats.rate = (tokens - 1) / seconds;
    if (this.#turn.reasoning !== "") stats.reasoning = ((this.#wroteFirst ?? this.#last) - this.#first) / 1000;
    if (usage !== null) {
      stats.context = usage.total_tokens;
      stats.prompt = usage.prompt_tokens;
      stats.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
      stats.reasoningTokens = usage.completion_tokens_details?.reasoning_tokens ?? 0;
    }
    return stats;
  }
}

/**
 * The state of reading a prompt: the share that is read, tokens each second and seconds to go, the last two null until
 * something was read. `processed` counts cached tokens too, which took no time.
 */
export function readingState({ total, cache, processed, time_ms: elapsed }) {
  const read = processed - cache;
  const rate = read > 0 && elapsed > 0 ? (read / elapsed) * 1000 : null;
  return { share: total > 0 ? processed / total : 0, rate, left: rate === null ? null : (total - processed) / rate };
}

/** What a turn keeps of an error. `retryAt` is when the server wants to be asked again, in ms of `Date.now()`, or null. */
export function describe(error) {
  const { message, status = 0, code = null, requestId = null, retryAfter = null } = error;
  const busy = (status === 429 || status === 503) && retryAfter !== null;
  return { message, status, code, requestId, retryAt: busy ? Date.now() + retryAfter * 1000 : null };
}
