// The page: the token, the stream, and everything but the pool's picture (pool.js). Names come from users: text, never HTML.
import { KINDS, Picture, Pool, accountColour, kind } from "/pool.js";

const $ = (id) => document.getElementById(id);
const KEY = "quire.admin.token", KEPT_S = 300, ROWS = 200, LINES = 200, RETRY_MS = 2000;
const pool = new Pool(), picture = new Picture($("pool"), pool);
const decimals = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
let token = sessionStorage.getItem(KEY) ?? "", before = null, samples = [], dirty = null, drawn = true;

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(text, bad = false) { $("status").textContent = text; $("status").className = bad ? "bad" : ""; }

// --- the token and the stream --------------------------------------------------------------------------------------

const ask = (path, options = {}) =>
  fetch(path, { headers: { authorization: `Bearer ${token}` }, cache: "no-store", credentials: "omit", ...options });

function enter(refusal = "") {
  sessionStorage.removeItem(KEY);
  token = "";
  $("enter").hidden = false; $("main").hidden = true; $("leave").hidden = true;
  $("refusal").textContent = refusal;
  say("not connected");
  $("token").focus();
}

async function follow() {
  while (token) {
    try {
      const answer = await ask("/admin/live");
      if (answer.status === 401) return enter("That is not the token of this gateway.");
      if (!answer.ok) throw new Error((await answer.json()).error.message);
      sessionStorage.setItem(KEY, token);
      $("enter").hidden = true; $("main").hidden = false; $("leave").hidden = false;
      say("live");
      let rest = "";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done && token; part = await reader.read()) {
        const events = (rest + part.value).split("\n\n");
        rest = events.pop();
        for (const event of events) take(event);
      }
      say("the gateway ended the stream; trying again", true);
    } catch (error) {
      say(`no connection: ${error.message}; trying again`, true);
    }
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

function take(event) {
  const [, name, data] = event.match(/^event: (\w+)\ndata: (.*)$/s) ?? [];
  if (!name) return;
  const value = JSON.parse(data);
  if (name === "pool") { say("live"); changed(pool.take(value)); }
  else if (name === "away") say(value.reason, true);
  else if (name === "overview") overview(value);
  else if (name === "happened") happened(value.lines);
}

// --- the pool ------------------------------------------------------------------------------------------------------

/** Paint once a frame, however many answers came. */
function changed(blocks) {
  dirty = blocks === null || dirty === null && !drawn ? null : drawn ? [...blocks] : [...dirty, ...blocks];
  if (drawn) requestAnimationFrame(draw);
  drawn = false;
}

function draw() {
  drawn = true;
  picture.paint(dirty);
  const totals = pool.totals(), { mode } = picture;
  $("number").max = pool.cells.length - 1;
  document.documentElement.dataset.version = String(+(document.documentElement.dataset.version ?? 0) + 1);
  const legend = mode === "state"
    ? KINDS.map((name, at) => [getComputedStyle(document.documentElement).getPropertyValue(`--${name}`), `${name} ${totals[at]}`])
    : ranked().slice(0, 12).map(([number, row]) =>
      [accountColour(number, picture.dark.matches, false), `${pool.name(number)} ${row.reduce((sum, one) => sum + one)}`]);
  fill($("legend"), legend, ([colour, text]) => {
    const item = make("li"), patch = make("i", "", { "aria-hidden": "true" });
    patch.style.background = colour;
    item.append(patch, text);
    return item;
  }, ([colour, text]) => colour + text);
  table("accounts", ["tenant or share domain", ...KINDS.slice(1)], ranked().slice(0, ROWS).map(([number, row]) => [pool.name(number), ...row.slice(1)]));
}

const ranked = () => [...pool.counts].filter(([number, row]) => number >= 0 && row.some(Boolean))
  .sort((a, b) => b[1].reduce((s, n) => s + n) - a[1].reduce((s, n) => s + n));

let asked = 0;
function show(block) {
  if (block < 0 || block >= pool.cells.length) return;
  picture.select(block);
  $("number").value = block;
  clearTimeout(asked);
  asked = setTimeout(() => whose(block), 120); // not for each block that a pointer passes
}

async function whose(block) {
  const box = $("block"), cell = pool.cells[block];
  let found;
  try {
    const answer = await ask(`/admin/pool/blocks/${block}`);
    found = await answer.json();
    if (!answer.ok) throw new Error(found.error.message);
  } catch (error) {
    return box.replaceChildren(make("p", `Block ${block}: ${error.message}`));
  }
  if (picture.cursor !== block) return; // the pointer has gone on
  const said = [`Block ${block}: ${found.state}`, kind(cell) === 4 ? "claimed" : "", found.sealed ? "sealed" : "",
    found.account && `charged to ${found.account}`, `${found.references} references`,
    found.quarantined ? `${found.quarantined} of them of fenced sessions` : "",
    found.publications.length ? `published as ${found.publications.join(", ")}` : ""].filter(Boolean).join(", ");
  const list = make("ul");
  for (const one of found.holders) {
    const how = { table: "", pin: " (pinned)", copy: " (copied from)" }[one.holds];
    list.append(make("li", `${one.tenant}: sequence ${one.sequence} of ${one.session} (${one.state}), place ${one.place}${how}`));
  }
  if (found.more) list.append(make("li", `and ${found.more} more`));
  box.replaceChildren(make("p", said), list);
}

function keys(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -picture.columns, ArrowDown: picture.columns }[event.key];
  const last = pool.cells.length - 1, from = Math.max(0, picture.cursor);
  const to = event.key === "Home" ? 0 : event.key === "End" ? last : step && picture.cursor < 0 ? 0 : from + step;
  if (Number.isNaN(to) || to === undefined) return;
  event.preventDefault();
  show(Math.max(0, Math.min(last, to)));
}

// --- tables, tiles, events -----------------------------------------------------------------------------------------

/** Make the children anew only if what they show is another: focus and selections stay. */
function fill(parent, items, element, key = String) {
  const shown = items.map(key).join("\u0000");
  if (parent.dataset.shown === shown) return;
  parent.dataset.shown = shown;
  parent.replaceChildren(...items.map(element));
}

function table(id, heads, rows) {
  const of = $(id);
  fill(of.tHead, [heads], (names) => {
    const row = make("tr");
    row.append(...names.map((name) => make("th", name, { scope: "col" })));
    return row;
  });
  fill(of.tBodies[0], rows.length ? rows : [["none"]], (cells) => {
    const row = make("tr");
    cells.forEach((cell, at) => {
      const field = make(at ? "td" : "th", cell instanceof Object ? "" : typeof cell === "number" ? decimals.format(cell) : cell, at ? {} : { scope: "row" });
      if (cell instanceof Object) {
        field.append(make("meter", "", { min: 0, max: cell.max, value: cell.value, "aria-label": cell.label }), ` ${cell.label}`);
      }
      row.append(field);
    });
    return row;
  }, (cells) => JSON.stringify(cells));
}

const clock = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleTimeString() : "not yet");
const after = (at, from) => (at ? `${decimals.format(Math.max(0, at - from))} s` : "not yet");
const share = (part, whole) => (whole ? `${decimals.format(100 * part / whole)} %` : "no prompts");

function overview(now) {
  const kv = now.kvstore;
  table("engines", ["engine", "pid", "state", "running", "waiting", "free places", "tokens/s", "session", "since"], now.engines.map((one) =>
    [one.name, String(one.pid), one.state, one.running, one.waiting, one.free_slots, one.tokens_per_s, one.session.slice(0, 8), clock(one.since)]));
  table("deaths", ["engine", "pid", "at", "requests' continuations moved", "most blocks in quarantine", "references given back",
    "blocks back after", "ready again after"], now.deaths.map((one) => [one.engine, String(one.pid), clock(one.at), one.continuations,
    one.quarantined, one.references, after(one.reclaimed_at, one.at), after(one.back_at, one.at)]));
  const tiles = [["engines ready", now.engines.filter((one) => one.state === "ready").length],
    ["running", now.engines.reduce((sum, one) => sum + one.running, 0)],
    ["waiting", now.engines.reduce((sum, one) => sum + one.waiting, 0) + now.held]];
  if (kv) {
    $("model").textContent = `${kv.model}, ${kv.blocks.total} blocks of ${kv.block_tokens} tokens, kvstore ${kv.version}`;
    const c = kv.counters;
    for (const name of ["free", "held", "cached", "quarantined"]) tiles.push([`${name} blocks`, kv.blocks[name]]);
    tiles.push(["hit rate since start", share(c.hit_tokens, c.prompt_tokens)], ["evictions", c.evictions],
      ["publications", kv.publications.length], ["claims", kv.claims], ["wait for one", kv.waits]);
    table("sessions", ["session", "pid", "state", "sequences", "references", "lease left"], kv.sessions.map((one) =>
      [one.name || "(no name)", String(one.pid), one.state, one.sequences, one.blocks, `${Math.round(one.lease_ms_left / 1000)} s`]));
    const rows = kv.tenants.map((one) => [one.tenant, one.held, one.cached,
      one.limit ? { value: one.held + one.cached, max: one.limit, label: `${one.held + one.cached} of ${one.limit}` } : "no limit",
      one.guarantee, one.weight, one.sequences, share(one.cached_tokens, one.prompt_tokens)]);
    if (kv.more_tenants) rows.push([`and ${kv.more_tenants} more`]);
    table("tenants", ["tenant", "held", "cached", "limit", "guarantee", "weight", "sequences", "hit rate"], rows);
    sample(now);
  }
  fill($("tiles"), tiles, ([name, value]) => {
    const group = make("div");
    group.append(make("dt", name), make("dd", typeof value === "number" ? decimals.format(value) : value));
    return group;
  });
}

function happened(lines) {
  const list = $("events");
  for (const line of lines) {
    if (list.querySelector(`[data-number="${line.number}"]`)) continue; // the stream began anew
    const item = make("li", "", { "data-number": line.number });
    item.append(make("time", clock(line.at), { datetime: new Date(line.at * 1000).toISOString() }), make("span", line.kind), make("span", line.text, line.bad ? { class: "bad" } : {}));
    list.prepend(item);
  }
  while (list.children.length > LINES) list.lastChild.remove();
}

// --- plots ---------------------------------------------------------------------------------------------------------

const LATENCIES = { ttft: "time_to_first_token_seconds", gap: "inter_token_latency_seconds", whole: "e2e_request_latency_seconds" };

/** What was counted between two overviews, over all engines that were connected in both. */
function between(now, name) {
  let sums = null, bounds = [];
  for (const [engine, found] of Object.entries(now.latencies)) {
    const old = before.latencies[engine];
    if (!old || old.pid !== found.pid || !found[name]) continue;
    const more = found[name].counts.map((count, at) => count - old[name].counts[at]);
    if (more.some((count) => count < 0)) continue;
    bounds = found[name].bounds;
    sums = sums ? sums.map((sum, at) => sum + more[at]) : more;
  }
  return { bounds, counts: sums ?? [] };
}

function quantile({ bounds, counts }, part) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  let left = part * all;
  for (let at = 0; at < counts.length; at++) {
    if (left <= counts[at]) {
      const low = at ? bounds[at - 1] : 0, high = bounds[at] ?? low;
      return 1000 * (low + (high - low) * (counts[at] ? left / counts[at] : 0));
    }
    left -= counts[at];
  }
  return null;
}

function sample(now) {
  const same = before?.kvstore && before.kvstore.boot === now.kvstore.boot;
  if (same) {
    const c = now.kvstore.counters, was = before.kvstore.counters, prompts = c.prompt_tokens - was.prompt_tokens;
    const one = { at: Date.now(), hits: prompts ? 100 * (c.hit_tokens - was.hit_tokens) / prompts : null,
      tokens: now.engines.reduce((sum, engine) => sum + engine.tokens_per_s, 0), used: now.kvstore.blocks.held };
    for (const [short, name] of Object.entries(LATENCIES)) {
      const found = between(now, name);
      one[`${short}50`] = quantile(found, 0.5); one[`${short}95`] = quantile(found, 0.95);
    }
    samples = [...samples.filter((old) => old.at > one.at - KEPT_S * 1000), one];
  }
  before = now;
  plots();
}

const PLOTS = [
  ["Prompt tokens that were cached, %", ["hits"], ["of each second's prompts"]],
  ["Generated tokens a second", ["tokens"], ["all engines"]],
  ["Blocks held", ["used"], ["blocks"]],
  ["Time to first token, ms", ["ttft50", "ttft95"], ["median", "95th of 100"]],
  ["Between tokens, ms", ["gap50", "gap95"], ["median", "95th of 100"]],
  ["Whole requests, ms", ["whole50", "whole95"], ["median", "95th of 100"]],
];

function plots() {
  const figures = PLOTS.map(([title, names, labels]) => {
    const figure = make("figure"), caption = make("figcaption"), svg = shape("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    const top = Math.max(1e-9, ...samples.flatMap((one) => names.map((name) => one[name] ?? 0))), end = Date.now();
    caption.append(make("strong", title));
    svg.append(shape("line", { class: "grid", x1: 0, x2: 300, y1: 50, y2: 50 }));
    names.forEach((name, at) => {
      const points = samples.filter((one) => one[name] !== null), last = points.at(-1), series = at ? "second" : "first";
      const line = points.map((one) => `${(300 - (end - one.at) / KEPT_S * 0.3).toFixed(1)},${(98 - 94 * one[name] / top).toFixed(1)}`).join(" ");
      svg.append(shape("polyline", { class: series, points: line }));
      caption.append(make("span", `${labels[at]}: ${last ? decimals.format(last[name]) : "nothing yet"}`, { class: series }));
    });
    caption.append(make("span", top > 1e-9 ? `top of the plot ${decimals.format(top)}` : "", { class: "hint" }));
    figure.append(caption, svg);
    return figure;
  });
  $("plots").replaceChildren(...figures);
}

function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// --- what the user does --------------------------------------------------------------------------------------------

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  follow();
});
$("leave").addEventListener("click", () => { enter(); location.reload(); }); // whatever was shown goes with it
$("find").addEventListener("submit", (event) => { event.preventDefault(); show(Number($("number").value)); });
$("pool").addEventListener("pointermove", (event) => {
  const block = picture.pixels ? picture.at(event.offsetX, event.offsetY) : -1;
  if (block !== picture.cursor) show(block);
});
$("pool").addEventListener("keydown", keys);
for (const input of document.querySelectorAll("[name=mode]")) {
  input.addEventListener("change", () => { picture.mode = input.value; changed(null); });
}
picture.dark.addEventListener("change", () => { picture.colours(); changed(null); });
let resized = 0;
new ResizeObserver(() => { cancelAnimationFrame(resized); resized = requestAnimationFrame(() => { picture.shown = -1; changed(null); }); }).observe($("main"));
if (token) follow(); else enter();
