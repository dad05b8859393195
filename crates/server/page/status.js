// The status view: GET /stats once a second while somebody looks at it.

import { stats } from "./api.js";
import { BarChart, LineChart, WINDOW_SECONDS } from "./chart.js";
import { askForKey } from "./dialogs.js";
import { byId, el, setText } from "./dom.js";
import { bytes, count, decimal, duration, percent, plural, rate } from "./format.js";

const EVERY_MS = 1000;
/** After failures the next attempt waits longer, up to this. */
const SLOWEST_MS = 10_000;
/** Shares of events that are rare within one second are taken over this many. */
const SHARE_SECONDS = 30;

/**
 * The line charts. `values(now, before, earlier)` has a value for each line: `before` is the sample before this one, and
 * `earlier` that of half a minute ago, both null at the beginning and after a restart of the server.
 */
const CHARTS = [
  {
    title: "Generated",
    lines: ["rate"],
    format: rate,
    values: (now, before) => [perSecond(now, before, "generation_tokens_total")],
  },
  {
    title: "Prompts read",
    lines: ["rate"],
    format: rate,
    values: (now, before) => [perSecond(now, before, "prompt_tokens_total")],
  },
  {
    title: "Time to the first token",
    lines: ["median", "p95"],
    format: duration,
    values: (now) => [now.ttft_seconds.p50, now.ttft_seconds.p95],
    note: (now) => over(now.ttft_seconds),
  },
  {
    title: "Time between tokens",
    lines: ["median", "p95"],
    format: duration,
    values: (now) => [now.itl_seconds.p50, now.itl_seconds.p95],
    note: (now) => over(now.itl_seconds, "gap"),
  },
  {
    title: "Requests",
    lines: ["running", "waiting"],
    format: count,
    least: 4,
    values: (now) => [now.running, now.waiting],
    note: (now) => `A step takes up to ${plural(now.max_batch_size, "request")}.`,
  },
  {
    title: "Cache",
    lines: ["in use", "kept"],
    format: percent,
    max: 1,
    values: (now) => [now.kv_blocks_in_use / now.kv_blocks, now.kv_blocks_used / now.kv_blocks],
    note: (now) =>
      `${count(now.kv_blocks_in_use)} blocks in use and ${count(now.kv_blocks_used)} kept of ${count(now.kv_blocks)}, ` +
      `each ${plural(now.kv_block_tokens, "token")}.`,
  },
  {
    title: "Prompt tokens found in the cache",
    lines: [`last ${SHARE_SECONDS} s`],
    format: percent,
    max: 1,
    values: (now, _, earlier) => [share(now, earlier, "cached_tokens_total", "queried_tokens_total")],
    note: (now) => `${percent(now.cached_tokens_total / now.queried_tokens_total)} since the start.`,
  },
  {
    title: "Proposed tokens accepted",
    lines: [`last ${SHARE_SECONDS} s`],
    format: percent,
    max: 1,
    has: (now) => now.mtp !== null,
    values: (now, _, earlier) => [share(now.mtp, earlier?.mtp, "accepted_total", "proposed_total")],
    note: ({ mtp }) =>
      `${percent(mtp.accepted_total / mtp.proposed_total)} of ${count(mtp.proposed_total)} since the start; ` +
      (mtp.speedup === null ? "its gain is not measured yet." : `${decimal(mtp.speedup)} times as fast with them.`),
  },
  {
    title: "Cache on disk",
    lines: ["filled"],
    format: percent,
    max: 1,
    has: (now) => now.kv_disk !== null,
    values: ({ kv_disk: disk }) => [disk.bytes / disk.quota_bytes],
    note: ({ kv_disk: disk }) =>
      `${bytes(disk.bytes)} of ${bytes(disk.quota_bytes)}; ${plural(disk.hits_total, "hit")}, ` +
      `${plural(disk.writes_total, "write")}, ${plural(disk.evictions_total, "eviction")}, ${count(disk.damaged_total)} damaged.`,
  },
];

const FACTS = [
  ["State", (now) => now.state],
  ["Model", (now) => now.model],
  ["Version", (now) => now.version],
  ["Running for", (now) => duration(now.uptime_seconds)],
  ["Context", (now) => plural(now.max_model_len, "token")],
  ["Requests", (now) => count(now.requests_total)],
  ["Failed", (now) => count(now.failed_total)],
  ["Rejected", (now) => count(now.rejected_total)],
  ["Cancelled", (now) => count(now.cancelled_total)],
  ["Preemptions", (now) => count(now.preemptions_total)],
  ["Request, median", (now) => duration(now.e2e_seconds.p50)],
  ["Request, p95", (now) => duration(now.e2e_seconds.p95)],
];

export class Status {
  /** The stats of the last minutes, each with `at`, the second it came at. Another start of the server begins anew. */
  #history = [];
  #active = false;
  #timer = null;
  #failures = 0;
  #asking = false;
  #facts = FACTS.map(([name, value]) => ({ name, value, place: el("dd") }));
  #charts = CHARTS.map((about) => ({ ...about, chart: new LineChart(about), samples: [] }));
  #experts = new BarChart({
    title: "Balance of experts",
    about: "Mean load of a layer's experts beside its largest: 1 is even. Dense layers have none.",
  });
  #error = byId("status-error");

  constructor() {
    byId("facts").append(...this.#facts.map(({ name, place }) => el("div", {}, el("dt", {}, name), place)));
    byId("cards").append(...this.#charts.map(({ chart }) => chart.root), this.#experts.root);
    this.#error.querySelector(".retry").addEventListener("click", () => this.#poll());
    document.addEventListener("visibilitychange", () => this.#schedule(0));
  }

  start() {
    this.#active = true;
    this.#schedule(0);
  }

  stop() {
    this.#active = false;
    clearTimeout(this.#timer);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (this.#active && !document.hidden) this.#timer = setTimeout(() => this.#poll(), delay);
  }

  async #poll() {
    clearTimeout(this.#timer);
    if (this.#asking) return;
    this.#asking = true;
    const began = performance.now();
    try {
      this.#take(await stats(), began / 1000);
      this.#failures = 0;
      this.#error.hidden = true;
    } catch (error) {
      this.#failures += 1;
      setText(this.#error.querySelector(".message"), error.message);
      this.#error.hidden = false;
      if (error.status === 401) {
        // Whoever has no key is asked once, and not again every few seconds.
        if (!(await askForKey(error.message))) return;
        this.#failures = 0;
      }
    } finally {
      this.#asking = false;
    }
    const pause = Math.min(SLOWEST_MS, EVERY_MS * 2 ** this.#failures);
    const spent = performance.now() - began;
    this.#schedule(Math.max(0, (this.#failures === 0 ? EVERY_MS : pause) - spent));
  }

  #take(now, at) {
    const last = this.#history.at(-1);
    if (last !== undefined && now.uptime_seconds < last.uptime_seconds) this.#history = [];
    const before = this.#history.at(-1) ?? null;
    const earlier = this.#history.find((sample) => sample.at >= at - SHARE_SECONDS) ?? null;
    now.at = at;
    this.#history.push(now);
    this.#history = this.#history.filter((sample) => sample.at >= at - WINDOW_SECONDS);

    byId("facts").hidden = false;
    byId("cards").hidden = false;
    for (const { value, place } of this.#facts) setText(place, value(now));
    for (const each of this.#charts) {
      const shown = each.has?.(now) ?? true;
      each.chart.root.hidden = !shown;
      if (!shown) continue;
      const values = each.values(now, before, earlier).map((value) => (Number.isFinite(value) ? value : null));
      each.samples.push({ at, values });
      each.samples = each.samples.filter((sample) => sample.at >= at - WINDOW_SECONDS);
      each.chart.update(each.samples, each.note?.(now) ?? "");
    }
    this.#showExperts(now.experts);
  }

  #showExperts(experts) {
    const measured = (experts?.balancedness ?? []).map((value, layer) => ({ value, layer }));
    const routed = measured.filter(({ value }) => value !== null);
    this.#experts.root.hidden = experts === null;
    if (experts === null) return;
    let summary = "no token was routed yet";
    if (routed.length > 0) {
      const mean = routed.reduce((sum, { value }) => sum + value, 0) / routed.length;
      const worst = routed.reduce((least, each) => (each.value < least.value ? each : least));
      summary = `mean ${mean.toFixed(2)}, lowest ${worst.value.toFixed(2)} in layer ${worst.layer}`;
    }
    this.#experts.update(experts.balancedness, (layer) => `layer ${layer}`, summary);
  }
}

/** Growth of a total each second, by the server's own clock. */
function perSecond(now, before, name) {
  if (before === null) return null;
  const seconds = now.uptime_seconds - before.uptime_seconds;
  return seconds > 0 ? (now[name] - before[name]) / seconds : null;
}

/** Growth of one total as a share of that of another. */
function share(now, earlier, part, whole) {
  if (!earlier) return null;
  const grown = now[whole] - earlier[whole];
  return grown > 0 ? (now[part] - earlier[part]) / grown : null;
}

function over({ count: number }, what = "request") {
  return number === 0 ? "None in the last minute." : `${plural(number, what)} in the last minute.`;
}
