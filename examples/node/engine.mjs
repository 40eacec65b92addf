// An engine in Node: npm install --ignore-scripts && node engine.mjs RUN_DIR
//
// It attaches, allocates a sequence for a prompt, writes its keys and values into the arena, acknowledges and seals them,
// forks the sequence and does the copy that copy-on-write asks for, and asks for the same prompt again: that is a prefix
// hit, and the bytes are there. The "model" makes bytes up from (token, position, plane). Facts are printed as JSON.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { blake2b } from "@noble/hashes/blake2.js";
import { Client, OK, fromU32s, rows, u32s } from "./client.mjs";

const TENANT = "node";
const DTYPE_BYTES = { float32: 4, bfloat16: 2, float16: 2, float8_e4m3fn: 1 };

// Digests of the full blocks, section 9.
function chain(key, tokens, blockSize) {
  const personalization = Buffer.alloc(16);
  personalization.write("quire.digest.v1");
  const digests = [];
  let parent = Buffer.alloc(32);
  for (let end = blockSize; end <= tokens.length; end += blockSize) {
    const block = u32s(tokens.slice(end - blockSize, end));
    parent = Buffer.from(blake2b(Buffer.concat([parent, block]), { key, dkLen: 32, personalization }));
    digests.push(parent);
  }
  return Buffer.concat(digests);
}

// Keys and values in the arena, section 7: of each (layer, keys or values, head) a plane of [block, slot, d].
class Arena {
  constructor({ arena, layout, blocks, handle }) {
    Object.assign(this, { fd: arena, layout, blocks, offset: handle.offset ?? 0 });
    this.planes = layout.num_layers * 2 * layout.num_kv_heads;
    this.width = layout.head_dim * DTYPE_BYTES[layout.dtype];
  }
  place(plane, block, slot) {
    return this.offset + ((plane * this.blocks + block) * this.layout.block_size + slot) * this.width;
  }
  read(plane, block, slot, slots = 1) {
    const bytes = Buffer.alloc(slots * this.width);
    readSync(this.fd, bytes, 0, bytes.length, this.place(plane, block, slot));
    return bytes;
  }
  write(plane, block, slot, bytes) {
    writeSync(this.fd, bytes, 0, bytes.length, this.place(plane, block, slot));
  }
  // What a reply that grants blocks asks for before the first write: zero, then copy.
  prepare({ scrub, copies }) {
    const { block_size } = this.layout;
    const every = [...Array(this.planes).keys()];
    for (const block of fromU32s(scrub)) {
      for (const plane of every) this.write(plane, block, 0, Buffer.alloc(block_size * this.width));
    }
    for (const [, src, dst, slots] of rows(copies, 4)) {
      for (const plane of every) this.write(plane, dst, 0, this.read(plane, src, 0, slots));
    }
    return rows(copies, 4).map(([id]) => id);
  }
  *cells(table, tokens, first = 0) {
    for (let p = first; p < tokens.length; p++) {
      const [block, slot] = [table[Math.floor(p / this.layout.block_size)], p % this.layout.block_size];
      for (let plane = 0; plane < this.planes; plane++) {
        const model = createHash("shake128", { outputLength: this.width }).update(`${tokens[p]} ${p} ${plane}`);
        yield [plane, block, slot, model.digest()];
      }
    }
  }
  compute(table, tokens, first) {
    for (const [plane, block, slot, bytes] of this.cells(table, tokens, first)) this.write(plane, block, slot, bytes);
  }
  correct(table, tokens) {
    return [...this.cells(table, tokens)].every(([plane, block, slot, b]) => this.read(plane, block, slot).equals(b));
  }
}

if (process.argv.length !== 3) {
  console.error("usage: node engine.mjs RUN_DIR");
  process.exit(2);
}
process.on("uncaughtException", (error) => {
  console.error(`engine: ${error.message}`);
  process.exit(1);
});

const client = await Client.attach(process.argv[2], "node");
const arena = new Arena(client);
const size = client.layout.block_size;
const prompt = Array.from({ length: 2 * size + 1 }, (_, i) => (7 * i) % 97);
const { key } = await client.read("domain", { tenant: TENANT });
const digests = chain(key, prompt, size);
const request = { tenant: TENANT, tokens: prompt.length, digests };

const cold = await client.say("allocate", { sequence: 1, ...request });
const table = fromU32s(cold.blocks);
arena.prepare(cold);
arena.compute(table, prompt, cold.computed ?? 0);

// Written (writeSync has returned): acknowledge, seal, fork and ask for room for the child's next token, in one message.
const stepped = await client.say("step", {
  fills: u32s([1, prompt.length]),
  seals: [{ sequence: 1, first: 0, digests }],
  forks: [{ parent: 1, children: u32s([2]), tokens: prompt.length }],
  extends: u32s([2, prompt.length + 1]),
});
const codes = [...stepped.fills, ...stepped.extends, stepped.seals[0].code, stepped.forks[0].code];
assert.deepEqual(codes, [OK, OK, OK, OK]);
const child = [...table];
for (const [, index, block] of rows(stepped.blocks, 3)) child[index] = block;
const copied = arena.prepare(stepped);
const branch = [...prompt, 1001];
arena.compute(child, branch, prompt.length);
await client.say("step", { copies_done: u32s(copied), fills: u32s([2, branch.length]) });

const warm = await client.say("allocate", { sequence: 3, ...request });
arena.prepare(warm);
const hit = prompt.slice(0, warm.computed);

while (!client.lost && client.acknowledged < 2) await sleep(20); // the lease is kept from beside all this
client.check();
const facts = {
  block_size: size,
  blocks: client.blocks,
  arena: client.handle.name,
  cold: cold.computed ?? 0,
  sealed: stepped.seals[0].sealed,
  copies: copied.length,
  shared: table.filter((block, i) => block === child[i]).length,
  branches_correct: arena.correct(table, prompt) && arena.correct(child, branch),
  warm: warm.computed,
  warm_correct: hit.length > 0 && arena.correct(fromU32s(warm.blocks), hit),
  freed: [...(await client.say("free", { sequences: u32s([1, 2, 3]) })).codes],
  lookup: (await client.read("lookup", { digests })).tokens,
  references_left: (await client.detach()).references,
};
console.log(JSON.stringify(facts));
process.exitCode = facts.branches_correct && facts.warm_correct ? 0 : 1;
