// A client of the kvstore, written after proto/PROTOCOL.md: frames, side socket, session, lease, numbers and resends.
//
// One request is in flight at a time. Heartbeats have a socket of their own, but they share this thread's event loop: work
// that does not return to it for a lease loses the session, and the kvstore kills a process that is silent for longer
// (sections 4 and 15). An engine with long computations puts the heartbeats into a worker thread.

import { randomBytes } from "node:crypto";
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { join } from "node:path";
import { decode, encode } from "@msgpack/msgpack";
import { SeqpacketSocket } from "node-unix-socket"; // node:net knows SOCK_STREAM only
import { Dealer } from "zeromq";

const VERSION = 2;
const UNORDERED_FROM = 2 ** 52; // below 2^53 every whole number is exact here
const EMPTY = new Uint8Array();
export const OK = 0;
export const ITEM_CODES = ["OK", "NO_SUCH", "CONFLICT", "NO_SPACE", "UNPUBLISHED", "RETRY", "CLAIMED"];

export const u32s = (numbers) => {
  const bytes = Buffer.alloc(4 * numbers.length);
  numbers.forEach((number, i) => bytes.writeUInt32LE(number, 4 * i));
  return bytes;
};
export const fromU32s = (bytes = EMPTY) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.byteLength / 4 }, (_, i) => view.getUint32(4 * i, true));
};
export const rows = (bytes, width) => {
  const numbers = fromU32s(bytes);
  return Array.from({ length: numbers.length / width }, (_, i) => numbers.slice(i * width, (i + 1) * width));
};

export class KvstoreError extends Error {
  constructor(op, code, body) {
    super(`${op}: ${code}: ${body.message}`);
    Object.assign(this, { op, code, detail: body.detail });
  }
}

// One DEALER socket. A request without an answer is sent again, the same bytes, until `timeout` (ms).
class Wire {
  constructor(runDir, timeout = 5000, resend = 1000) {
    Object.assign(this, { timeout, resend, boot: EMPTY, session: EMPTY, ordered: 0, unordered: UNORDERED_FROM });
    this.dealer = new Dealer({ linger: 0, maxMessageSize: 16 * 2 ** 20, heartbeatInterval: 2000, sendTimeout: 0 });
    this.dealer.connect(`ipc://${join(runDir, "kvstore.sock")}`);
    this.turn = Promise.resolve();
    this.waiting = new Map(); // by number: a reply that answers nothing here is dropped
    this.receive();
  }

  call(op, body = {}, ordered = false) {
    const answer = this.turn.then(() => this.exchange(op, body, ordered));
    this.turn = answer.catch(() => {});
    return answer;
  }

  async exchange(op, body, ordered) {
    const number = ordered ? ++this.ordered : this.unordered++;
    const frame = encode([VERSION, this.boot, this.session, number, op, this.timeout, body]);
    const [code, reply] = await new Promise((resolve, reject) => {
      const send = () => this.dealer.send(frame).catch(() => {}); // what cannot be queued now goes out with a resend
      const again = setInterval(send, this.resend);
      const giveUp = setTimeout(() => reject(new Error(`${op}: no reply within ${this.timeout} ms`)), this.timeout);
      this.waiting.set(number, { resolve, reject, send, timers: [again, giveUp] });
      send();
    }).finally(() => this.forget(number));
    if (code) throw new KvstoreError(op, code, reply);
    return reply;
  }

  forget(number) {
    for (const timer of this.waiting.get(number)?.timers ?? []) clearTimeout(timer);
    this.waiting.delete(number);
  }

  async receive() {
    for await (const [frame] of this.dealer) {
      const [, , number, code, body] = decode(frame);
      const request = this.waiting.get(number);
      if (code === "BUSY") setTimeout(() => request?.send(), body.detail.retry_after_ms ?? 100);
      else request?.resolve([code, body]);
    }
  }

  close(reason = new Error("closed")) {
    for (const { reject } of this.waiting.values()) reject(reason);
    setImmediate(() => this.dealer.close()); // not from within its own receive, or another socket's callback
  }
}

export class Client {
  static async attach(runDir, name) {
    const client = new Client();
    const hello = await client.greet(join(runDir, "attach.sock"));
    if (hello.version !== VERSION) throw new Error(`the kvstore speaks version ${hello.version}`);
    client.wire = new Wire(runDir);
    client.beats = new Wire(runDir);
    client.wire.boot = client.beats.boot = hello.boot;
    const sent = performance.now();
    const attached = await client.wire.call("attach", { nonce: randomBytes(16), token: hello.token, name });
    client.wire.session = client.beats.session = attached.session;
    Object.assign(client, { layout: attached.layout, blocks: attached.num_blocks, handle: attached.arena });
    client.keepAlive(sent, attached.lease_ms);
    client.arena = openArena(attached.arena);
    await client.wire.call("ready", {}, true);
    return client;
  }

  // The side socket: its one packet, and its end, which says that the kvstore is gone.
  greet(path) {
    this.side = new SeqpacketSocket();
    return new Promise((resolve, reject) => {
      this.side.on("data", (packet) => resolve(decode(packet)));
      this.side.on("end", () => this.lose("the kvstore closed the side socket"));
      this.side.on("error", reject);
      this.side.on("end", () => reject(new Error("no hello: try again")));
      try {
        this.side.connect(path);
      } catch (error) {
        reject(new Error(`${path}: ${error.message}`));
      }
    });
  }

  // The lease counts from when the last acknowledged heartbeat was sent.
  keepAlive(sent, lease) {
    this.acknowledged = 0;
    this.leaseUntil = sent + lease;
    this.beating = setInterval(async () => {
      if (performance.now() > this.leaseUntil) return this.lose("the lease passed");
      const began = performance.now();
      try {
        const alive = await this.beats.call("heartbeat", { progress: this.wire.ordered });
        this.leaseUntil = began + alive.lease_ms;
        this.acknowledged += 1;
      } catch (error) {
        if (error.code === "STALE_SESSION") this.lose(error.message);
      }
    }, lease / 4);
  }

  // Launch nothing more: every call from here on fails.
  lose(reason) {
    this.lost ??= new Error(reason);
    this.wire?.close(this.lost);
    this.close();
  }

  // Before what a lost session may not do: ask, launch, or touch the arena.
  check() {
    if (this.lost) throw this.lost;
  }

  async read(op, body) {
    this.check();
    return this.wire.call(op, body);
  }

  // An ordered op. What is about one item must have been done; a step has a code for each of its items.
  async say(op, body) {
    this.check();
    const reply = await this.wire.call(op, body, true).catch((error) => {
      // Without an answer it is not known whether it was applied: the session is over, as it is when it went stale.
      if (!(error instanceof KvstoreError) || error.code === "STALE_SESSION") this.lose(error.message);
      throw error;
    });
    const codes = op === "free" ? [...reply.codes] : op === "step" ? [] : [reply.code];
    const failed = codes.find((code) => code !== OK);
    if (failed !== undefined) throw new KvstoreError(op, ITEM_CODES[failed], { message: "not done", detail: reply });
    return reply;
  }

  async detach() {
    clearInterval(this.beating); // first: a heartbeat after the detach would find no session
    try {
      return await this.wire.call("detach", {}, true);
    } finally {
      this.wire.close();
      this.close();
    }
  }

  close() {
    clearInterval(this.beating);
    this.beats?.close();
    if (this.arena !== undefined) closeSync(this.arena); // unmap, then hang up: the end of the connection says so
    this.arena = undefined;
    this.side.destroy();
  }
}

// Node has no mmap. Reading and writing the segment's file is the same memory, and needs no more than a descriptor.
function openArena({ type, name, size, offset = 0 }) {
  if (type !== "shm") throw new Error(`an arena of type ${type}: Node can neither take its descriptor nor map it`);
  const fd = openSync(`/dev/shm/${name.replace(/^\//, "")}`, constants.O_RDWR | constants.O_NOFOLLOW);
  const { uid, size: there } = fstatSync(fd);
  if (uid !== process.geteuid() || there < offset + size) throw new Error(`${name}: not the kvstore's segment`);
  return fd;
}
