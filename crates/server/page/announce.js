// What a screen reader says on its own. A streamed answer is not a live region itself, or every piece would be read
// again and again; its sentences are handed over every few seconds instead.

import { byId } from "./dom.js";

const EVERY_MS = 4000;
/** Of a long rest the beginning is said; the answer itself can be read as any text. */
const LONGEST = 600;

/** Says something, politely: after what is being said. */
export function announce(text) {
  const region = byId("announcer");
  // The same words twice would be no change.
  region.textContent = region.textContent === text ? `${text}\u00A0` : text;
}

/** Follows one answer. */
export class Speaker {
  #said = 0;
  #last = performance.now();

  /** Takes the answer so far, and says its whole sentences that are new if enough time has passed. */
  hear(text) {
    const now = performance.now();
    if (now - this.#last < EVERY_MS) return;
    this.#last = now;
    const end = this.#said + lastSentenceEnd(text.slice(this.#said));
    if (end === this.#said) return;
    this.#say(text.slice(this.#said, end), "");
    this.#said = end;
  }

  /** Says the rest, and how the answer ended. */
  end(text, outcome) {
    this.#say(text.slice(this.#said), outcome);
    this.#said = text.length;
  }

  #say(text, outcome) {
    const plain = text.replaceAll(/[*_#`|>~]+/g, " ").replaceAll(/\s+/g, " ").trim();
    const shortened = plain.length > LONGEST ? `${plain.slice(0, LONGEST)}…` : plain;
    announce(`${shortened} ${outcome}`.trim());
  }
}

function lastSentenceEnd(text) {
  let end = 0;
  for (const found of text.matchAll(/[.!?:](?=\s)|[。！？]|\n/g)) end = found.index + 1;
  return end;
}
