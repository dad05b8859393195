// A conversation is a tree of turns: another answer to the same question, or a question asked differently, stands beside
// the first one and loses nothing. What is shown and sent is one path through it.

/** Sampling settings: the name in the request and the range that the server accepts. `whole` numbers have no fraction. */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "share of probability kept, above 0" },
  { name: "top_k", label: "Top k", min: 1, max: 1_000_000, step: 1, whole: true, hint: "number of tokens kept" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "relative to the likeliest token" },
  { name: "max_tokens", label: "Longest answer", min: 1, max: 10_000_000, step: 1, whole: true, hint: "tokens" },
  { name: "seed", label: "Seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, whole: true, hint: "the same answer again" },
];

const ROOT = 0;
const TITLE = 80;

/**
 * An empty conversation. `turns` are `{id, parent, role, content, ...}` with ids that increase from 1, so a parent comes
 * before its children; `chosen` has for a parent the child that is shown, where that is not the last one. Answers have
 * `reasoning`, `finish`, `error` and `stats` besides. `thinking` is true, false, or null for the model's own default.
 */
export function newConversation(settings = {}) {
  const now = Date.now();
  return {
    id: Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join(""),
    title: "",
    created: now,
    updated: now,
    model: settings.model ?? null,
    system: settings.system ?? "",
    thinking: settings.thinking ?? null,
    sampling: { ...settings.sampling },
    turns: [],
    chosen: {},
  };
}

/** Adds a turn behind `parent` (a turn, or null for the beginning) and shows it. */
export function addTurn(conversation, parent, role, content) {
  const turn = { id: (conversation.turns.at(-1)?.id ?? ROOT) + 1, parent: parent?.id ?? ROOT, role, content };
  if (role === "assistant") Object.assign(turn, { reasoning: "", finish: null, error: null, stats: null });
  conversation.turns.push(turn);
  choose(conversation, turn);
  return turn;
}

/** The turns that are shown, from the first to the last. */
export function path(conversation) {
  const children = Map.groupBy(conversation.turns, (turn) => turn.parent);
  const shown = [];
  for (let at = ROOT; children.has(at); at = shown.at(-1).id) {
    const among = children.get(at);
    shown.push(among.find((turn) => turn.id === conversation.chosen[at]) ?? among.at(-1));
  }
  return shown;
}

/** The turns that stand at the place of this one, itself included. */
export function siblings(conversation, turn) {
  return conversation.turns.filter((other) => other.parent === turn.parent);
}

/** Shows this turn, and not those beside it. */
export function choose(conversation, turn) {
  conversation.chosen[turn.parent] = turn.id;
}

export function parentOf(conversation, turn) {
  return conversation.turns.find((other) => other.id === turn.parent) ?? null;
}

/** The name it was given, or how its first question begins. */
export function titleOf(conversation) {
  if (conversation.title !== "") return conversation.title;
  const first = path(conversation)[0]?.content.trim().split("\n", 1)[0] ?? "";
  const start = Array.from(first.slice(0, 2 * TITLE)).slice(0, TITLE).join("");
  return start === "" ? "New conversation" : start.length < first.length ? `${start}…` : start;
}

/**
 * The body of a request for this answer. What was not set is not sent, and the server's defaults hold. Earlier reasoning
 * is left out, as the models' own templates do.
 */
export function requestBody(conversation, answer, model) {
  const shown = path(conversation);
  const before = shown.slice(0, shown.indexOf(answer)).filter((turn) => turn.content !== "");
  const messages = before.map(({ role, content }) => ({ role, content }));
  if (conversation.system.trim() !== "") messages.unshift({ role: "system", content: conversation.system });
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, return_progress: true };
  if (conversation.thinking !== null) body.chat_template_kwargs = { thinking: conversation.thinking };
  return Object.assign(body, conversation.sampling);
}

/**
 * Checks what was stored or is imported and copies what is known of it. Throws an error that says what is wrong.
 */
export function readConversation(value) {
  check(isObject(value), "it is no object");
  check(typeof value.id === "string" && /^[0-9a-f]{16}$/.test(value.id), "`id` is not 16 hexadecimal digits");
  check(Array.isArray(value.turns), "`turns` is no list");
  const ids = new Set([ROOT]);
  let last = ROOT;
  const turns = value.turns.map((turn, index) => {
    const where = `turn ${index + 1}`;
    check(isObject(turn), `${where} is no object`);
    check(Number.isSafeInteger(turn.id) && turn.id > last, `${where}: \`id\` does not increase`);
    check(ids.has(turn.parent), `${where}: \`parent\` is no earlier turn`);
    check(turn.role === "user" || turn.role === "assistant", `${where}: \`role\` is neither user nor assistant`);
    check(typeof turn.content === "string", `${where}: \`content\` is no text`);
    last = turn.id;
    ids.add(turn.id);
    const { id, parent, role, content } = turn;
    if (role === "user") return { id, parent, role, content };
    return { id, parent, role, content, reasoning: text(turn.reasoning), ...readOutcome(turn) };
  });
  const sampling = {};
  for (const { name, min, max, whole } of SAMPLING) {
    const number = value.sampling?.[name];
    if (number === undefined) continue;
    check(isNumber(number) && number >= min && number <= max, `\`${name}\` is not from ${min} to ${max}`);
    check(!whole || Number.isInteger(number), `\`${name}\` is not whole`);
    sampling[name] = number;
  }
  const chosen = Object.entries(isObject(value.chosen) ? value.chosen : {}).filter(([, id]) => ids.has(id));
  return {
    id: value.id,
    title: text(value.title).slice(0, TITLE),
    created: isNumber(value.created) ? value.created : 0,
    updated: isNumber(value.updated) ? value.updated : 0,
    model: typeof value.model === "string" ? value.model : null,
    system: text(value.system),
    thinking: typeof value.thinking === "boolean" ? value.thinking : null,
    sampling,
    turns,
    chosen: Object.fromEntries(chosen),
  };
}

function readOutcome({ finish, error, stats }) {
  const numbers = isObject(stats) ? Object.entries(stats).filter(([, value]) => isNumber(value)) : null;
  return {
    finish: typeof finish === "string" ? finish : null,
    error: isObject(error) ? { message: text(error.message), requestId: text(error.requestId) || null } : null,
    stats: numbers === null ? null : { ...Object.fromEntries(numbers), isEstimate: stats.isEstimate === true },
  };
}

function text(value) {
  return typeof value === "string" ? value : "";
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function check(holds, message) {
  if (!holds) throw new Error(message);
}
