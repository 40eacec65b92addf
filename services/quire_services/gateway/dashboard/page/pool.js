// The pool: cells as the kvstore tells them, their counts, and the canvas that draws them. PROTOCOL.md says what a cell is.
export const KINDS = ["free", "held", "shared", "published", "claimed", "cached", "quarantined"];
const FREE = 0, HELD = 1, CACHED = 2, CLAIMED = 8, PUBLISHED = 16;
const SMALLEST = 3, LARGEST = 26, MARKED = 8; // pixels of a cell; from MARKED on its kind shows in another way than colour, too

export const state = (cell) => cell & 3;
export const references = (cell) => (cell >>> 8) & 255;
export const account = (cell) => (cell >>> 16) - 1;

/** Index in KINDS: what a block is first of all. */
export function kind(cell) {
  if (state(cell) === FREE) return 0;
  if (state(cell) === CACHED) return 5;
  if (state(cell) !== HELD) return 6;
  if (cell & PUBLISHED) return 3;
  if (cell & CLAIMED) return 4;
  return references(cell) > 1 ? 2 : 1;
}

function numbers(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint32Array(bytes.buffer); // little-endian, as every machine with a browser is
}

/** The cells as they are now, and how many blocks of which kind each account has. */
export class Pool {
  constructor() { this.boot = ""; this.cells = new Uint32Array(0); this.names = []; this.counts = new Map(); this.states = {}; }

  /** Take an event in; the blocks that changed, or null for all. */
  take(event) {
    const all = event.boot !== this.boot || event.num_blocks !== this.cells.length;
    if (all) { this.boot = event.boot; this.names = []; this.cells = new Uint32Array(event.num_blocks); this.recount(); }
    this.names.splice(event.first_account, event.accounts.length, ...event.accounts);
    this.states = event.blocks_by_state;
    const cells = numbers(event.cells), blocks = numbers(event.blocks);
    if (blocks.length) {
      blocks.forEach((block, at) => { this.count(this.cells[block], -1); this.cells[block] = cells[at]; this.count(cells[at], 1); });
      return all ? null : blocks;
    }
    if (!cells.length) return all ? null : blocks;
    this.cells = cells;
    this.recount();
    return null;
  }

  recount() { this.counts = new Map(); for (const cell of this.cells) this.count(cell, 1); }

  count(cell, more) {
    const key = account(cell);
    let row = this.counts.get(key);
    if (!row) this.counts.set(key, row = new Array(KINDS.length).fill(0));
    row[kind(cell)] += more;
  }

  /** Blocks of each kind. */
  totals() {
    const sums = new Array(KINDS.length).fill(0);
    for (const row of this.counts.values()) row.forEach((count, at) => { sums[at] += count; });
    return sums;
  }

  name(number) { return number < 0 ? "" : this.names[number] ?? `account ${number}`; }
}

function rgb(css) { // #rrggbb as a pixel of ImageData
  const value = parseInt(css.trim().slice(1), 16);
  return (255 << 24 | (value & 255) << 16 | (value >> 8 & 255) << 8 | value >> 16) >>> 0;
}

/** An account's colour: neighbours in number are far apart in hue. */
export function accountColour(number, dark, cached) {
  const hue = (number * 137.508 + 210) % 360, light = dark ? (cached ? 34 : 60) : (cached ? 74 : 46);
  const c = (1 - Math.abs(2 * light / 100 - 1)) * 0.6, part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light / 100 - c / 2 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return "#" + [0, 8, 4].map((n) => Math.max(0, Math.min(255, part(n))).toString(16).padStart(2, "0")).join("");
}

/** Draws a pool. Only what changed is painted anew. */
export class Picture {
  constructor(canvas, pool) {
    this.canvas = canvas; this.pool = pool; this.mode = "state"; this.cursor = -1;
    this.context = canvas.getContext("2d", { alpha: false });
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.colours();
  }

  colours() {
    const style = getComputedStyle(document.documentElement), of = (name) => rgb(style.getPropertyValue(`--${name}`));
    this.kinds = KINDS.map(of); this.ground = of("panel"); this.ink = of("cursor"); this.accounts = new Map();
  }

  colour(cell) {
    const what = kind(cell);
    if (this.mode === "state" || what === 0 || what === 6) return this.kinds[what];
    const key = account(cell) * 2 + (what === 5);
    let found = this.accounts.get(key);
    if (found === undefined) this.accounts.set(key, found = rgb(accountColour(account(cell), this.dark.matches, what === 5)));
    return found;
  }

  /** Fit the canvas to its width and paint all. */
  layout() {
    const count = this.pool.cells.length, ratio = Math.max(1, Math.round(devicePixelRatio));
    const width = this.canvas.clientWidth * ratio, most = Math.max(240, innerHeight * 0.6) * ratio;
    if (!width || !count) return;
    let size = Math.floor(Math.sqrt(width * most / count));
    size = Math.max(SMALLEST * ratio, Math.min(LARGEST * ratio, size));
    this.size = size; this.gap = size >= 6 ? Math.max(1, size >> 3) : size > 3 ? 1 : 0;
    this.columns = Math.max(1, Math.floor(width / size));
    this.canvas.width = this.columns * size;
    this.canvas.height = Math.ceil(count / this.columns) * size;
    this.canvas.style.width = `${this.canvas.width / ratio}px`;
    this.ratio = ratio;
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.paint(null);
  }

  paint(blocks) {
    if (!this.pixels || this.shown !== this.pool.cells.length) {
      this.shown = this.pool.cells.length;
      this.canvas.style.width = "";
      this.layout();
      return;
    }
    let top = 0, bottom = this.canvas.height;
    if (blocks) {
      if (!blocks.length) return;
      top = bottom = Math.floor(blocks[0] / this.columns) * this.size;
      for (const block of blocks) { const y = this.cell(block); top = Math.min(top, y); bottom = Math.max(bottom, y + this.size); }
    } else {
      this.pixels.fill(this.ground);
      for (let block = 0; block < this.shown; block++) this.cell(block);
    }
    this.context.putImageData(this.image, 0, 0, 0, top, this.canvas.width, bottom - top);
  }

  cell(block) {
    const { size, gap, pixels } = this, width = this.canvas.width, cell = this.pool.cells[block];
    const left = (block % this.columns) * size, y = Math.floor(block / this.columns) * size, inner = size - gap;
    const colour = block === this.cursor ? this.ink : this.colour(cell);
    for (let row = 0; row < inner; row++) pixels.fill(colour, (y + row) * width + left, (y + row) * width + left + inner);
    if (size >= MARKED * this.ratio) this.mark(cell, left, y, inner);
    return y;
  }

  /** In large cells: a square in the middle, the larger the more share the block; a bar below what is published. */
  mark(cell, left, y, inner) {
    const width = this.canvas.width, holders = state(cell) === HELD ? references(cell) : 0;
    const fill = (x, top, w, h) => {
      for (let row = top; row < top + h; row++) this.pixels.fill(this.ground, row * width + x, row * width + x + w);
    };
    if (holders > 1) {
      const side = Math.min(inner - 4, Math.max(2, Math.round(inner * Math.min(6, 1 + Math.log2(holders)) / 10)));
      const at = (inner - side) >> 1;
      fill(left + at, y + at, side, side);
    }
    if (cell & PUBLISHED) fill(left + 1, y + inner - Math.max(2, inner >> 3) - 1, inner - 2, Math.max(1, inner >> 3));
    if (state(cell) === 3) for (let d = 1; d < inner - 1; d++) fill(left + d, y + d, 1, 1); // struck through
  }

  /** The block at a place on the canvas, -1 for none. */
  at(x, y) {
    const column = Math.floor(x * this.ratio / this.size), block = Math.floor(y * this.ratio / this.size) * this.columns + column;
    return column >= 0 && column < this.columns && block >= 0 && block < this.shown ? block : -1;
  }

  select(block) {
    const before = this.cursor;
    this.cursor = block;
    this.paint([before, block].filter((one) => one >= 0 && one < this.shown));
  }
}
