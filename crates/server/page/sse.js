// Server-sent events over fetch, which unlike EventSource can send a body and a key.

/**
 * Takes an event stream apart, however it was cut into pieces, by the rules of the HTML standard ("event stream
 * interpretation"): lines end in LF, CR or both; `data` lines of one event are joined by LF; a blank line ends an event;
 * a line that begins with a colon is a comment; an event that the stream's end cuts off is dropped.
 */
export class EventParser {
  #line = "";
  #data = [];
  #event = "";
  #started = false;
  #afterCr = false;

  /** Takes the next piece and returns the events that it completes, as `{event, data}`. */
  push(text) {
    if (text === "") return [];
    if (!this.#started) {
      this.#started = true;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    // The LF of a CR LF that was cut in two.
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");

    const found = [];
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    for (const line of lines) this.#take(line, found);
    return found;
  }

  #take(line, found) {
    if (line === "") {
      if (this.#data.length > 0) found.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#data = [];
      this.#event = "";
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}

/** The events of a stream of bytes. Leaving the loop early cancels the stream. */
export async function* events(stream) {
  const parser = new EventParser();
  const reader = stream.getReader();
  // A character may be cut in two as well; the decoder keeps its first half. The parser removes a byte-order mark.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Fails only where the stream has failed before, which its reader has been told already.
    reader.cancel().catch(() => {});
  }
}
