// The official client for Node: chats, streams, tools, its runner, structured output, responses, errors.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = `${process.env.QUIRE_CLIENTS_URL}/v1`;
const client = new OpenAI({ baseURL, apiKey: "sk-acme", maxRetries: 0 });
const model = "puppet";
const SENTENCE = "Paris is the capital of France, as far as I know.";
const BERLIN = { city: "Berlin", degrees: 21 };
const Weather = z.object({ city: z.string(), degrees: z.number().int() });
const parameters = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather.", parameters } }];
const ask = (play, more = {}) => ({ model, messages: [{ role: "user", content: `play ${play}.` }], ...more });
const cities = (message) => message.tool_calls.map((call) => JSON.parse(call.function.arguments).city);

test("a chat has text and usage", async () => {
  const answer = await client.chat.completions.create(ask("nothing"));
  assert.equal(answer.choices[0].message.content, SENTENCE);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(answer.usage.completion_tokens > 0);
});

test("a stream has pieces and usage", async () => {
  let text = "", usage;
  const stream = await client.chat.completions.create(
    ask("nothing", { stream: true, stream_options: { include_usage: true } }));
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, SENTENCE);
  assert.ok(usage.completion_tokens > 0);
});

test("the stream's helper puts the answer together", async () => {
  const stream = client.chat.completions.stream(ask("pair", { tools }));
  const final = await stream.finalChatCompletion();
  assert.deepEqual(cities(final.choices[0].message), ["Oslo", "Rome"]);
  assert.equal(final.choices[0].finish_reason, "tool_calls");
});

test("two rounds of calls", async () => {
  const asked = ask("rounds", { tools });
  const seen = [];
  for (let round = 0; round < 2; round++) {
    const { message } = (await client.chat.completions.create(asked)).choices[0];
    seen.push(...cities(message));
    asked.messages.push(message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "21" });
  }
  assert.deepEqual(seen, ["Oslo", "Rome"]);
  const last = await client.chat.completions.create(asked);
  assert.equal(last.choices[0].message.content, "Rome is warmer than Oslo.");
});

test("the runner calls functions", async () => {
  const asked = [];
  const callable = {
    type: "function",
    function: {
      name: "get_weather", description: "Weather.", parameters, parse: JSON.parse,
      function: ({ city }) => { asked.push(city); return `sunny in ${city}`; },
    },
  };
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools(ask("rounds", { tools: [callable], stream }));
    assert.equal(await runner.finalContent(), "Rome is warmer than Oslo.");
  }
  assert.deepEqual(asked, ["Oslo", "Rome", "Oslo", "Rome"]);
});

test("a call can be required, and forbidden", async () => {
  for (const tool_choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
    const answer = await client.chat.completions.create(ask("call", { tools, tool_choice }));
    assert.deepEqual(cities(answer.choices[0].message), ["Berlin"]);
  }
  const none = await client.chat.completions.create(ask("call", { tools, tool_choice: "none" }));
  assert.equal(none.choices[0].message.tool_calls, undefined);
});

test("an object by its schema", async () => {
  const asked = ask("object", { response_format: zodResponseFormat(Weather, "weather") });
  assert.deepEqual((await client.chat.completions.parse(asked)).choices[0].message.parsed, BERLIN);
});

test("a tool's arguments are parsed", async () => {
  const asked = ask("record", { tools: [zodFunction({ name: "Weather", parameters: Weather })] });
  const { message } = (await client.chat.completions.parse(asked)).choices[0];
  assert.deepEqual(message.tool_calls[0].function.parsed_arguments, BERLIN);
});

test("responses, streamed and parsed", async () => {
  assert.equal((await client.responses.create({ model, input: "play nothing." })).output_text, SENTENCE);
  let text = "";
  for await (const event of await client.responses.create({ model, input: "play nothing.", stream: true }))
    if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal(text, SENTENCE);
  const format = zodTextFormat(Weather, "weather");
  const parsed = await client.responses.parse({ model, input: "play object.", text: { format } });
  assert.deepEqual(parsed.output_parsed, BERLIN);
});

test("responses call functions and go on from the last", async () => {
  const functions = [{ type: "function", name: "get_weather", parameters, strict: true }];
  const first = await client.responses.create({ model, input: "play call.", tools: functions });
  const call = first.output.find((item) => item.type === "function_call");
  assert.equal(call.arguments, '{"city": "Berlin"}');
  const output = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
  const second = await client.responses.create(
    { model, input: [output], tools: functions, previous_response_id: first.id });
  assert.equal(second.output_text, "It is sunny in Berlin: 21 degrees.");
});

test("models are listed", async () => {
  const names = [];
  for await (const one of client.models.list()) names.push(one.id);
  assert.deepEqual(names, [model]);
});

test("errors are the client's own", async () => {
  await assert.rejects(new OpenAI({ baseURL, apiKey: "sk-no", maxRetries: 0 }).models.list(), OpenAI.AuthenticationError);
  await assert.rejects(client.chat.completions.create({ ...ask("nothing"), model: "gpt-9" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create(ask("nothing", { temperature: 3 })), OpenAI.BadRequestError);
});

test("an answer can be given up", async () => {
  const stream = await client.chat.completions.create(ask("nothing", { stream: true }));
  for await (const _ of stream) break;
  assert.equal(stream.controller.signal.aborted, true);
  assert.ok(await client.models.list());
});
