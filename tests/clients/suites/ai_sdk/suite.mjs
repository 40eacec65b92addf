// Vercel's AI SDK: its provider for servers of this API, and OpenAI's own, which speaks the Responses API.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, isStepCount, Output, stepCountIs, streamText, ToolLoopAgent, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.env.QUIRE_CLIENTS_URL}/v1`;
const apiKey = "sk-acme";
const SENTENCE = "Paris is the capital of France, as far as I know.";
const BERLIN = { city: "Berlin", degrees: 21 };
const schema = z.object({ city: z.string(), degrees: z.number().int() });
const steps = (isStepCount ?? stepCountIs)(5);
const compatible = createOpenAICompatible({
  name: "quire", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey });
const models = {
  compatible: compatible("puppet"), chat: openai.chat("puppet"), responses: openai("puppet"),
};

function weather() {
  const asked = [];
  const get_weather = tool({
    description: "Weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: ({ city }) => { asked.push(city); return `sunny in ${city}`; },
  });
  return { asked, tools: { get_weather } };
}

for (const [name, model] of Object.entries(models)) {
  const common = { model, maxRetries: 0, system: "Be brief." };

  test(`${name}: text and usage`, async () => {
    const { text, usage, finishReason } = await generateText({ ...common, prompt: "play nothing." });
    assert.equal(text, SENTENCE);
    assert.equal(finishReason, "stop");
    assert.ok(usage.outputTokens > 0);
  });

  test(`${name}: a stream`, async () => {
    const { textStream, usage } = streamText({ ...common, prompt: "play nothing." });
    const pieces = [];
    for await (const piece of textStream) pieces.push(piece);
    assert.ok(pieces.length > 3);
    assert.equal(pieces.join(""), SENTENCE);
    assert.ok((await usage).outputTokens > 0);
  });

  test(`${name}: two rounds of calls`, async () => {
    const { asked, tools } = weather();
    const { text, steps: taken } = await generateText({ ...common, tools, stopWhen: steps, prompt: "play rounds." });
    assert.equal(text, "Rome is warmer than Oslo.");
    assert.deepEqual(asked, ["Oslo", "Rome"]);
    assert.equal(taken.length, 3);
  });

  test(`${name}: streamed calls, two in one answer`, async () => {
    const { asked, tools } = weather();
    const run = streamText({ ...common, tools, stopWhen: steps, prompt: "play pair." });
    assert.equal((await run.text).endsWith("Rome is warmer than Oslo."), true);
    assert.deepEqual(asked.sort(), ["Oslo", "Rome"]);
  });

  test(`${name}: a call is required`, async () => {
    for (const toolChoice of ["required", { type: "tool", toolName: "get_weather" }]) {
      const { tools } = weather();
      const { toolCalls } = await generateText({ ...common, tools, toolChoice, prompt: "play call." });
      assert.deepEqual(toolCalls.map((call) => call.input), [{ city: "Berlin" }]);
    }
  });

  test(`${name}: an object by its schema`, async () => {
    const { output } = await generateText({ ...common, output: Output.object({ schema }), prompt: "play object." });
    assert.deepEqual(output, BERLIN);
  });

  test(`${name}: a streamed object`, async () => {
    const run = streamText({ ...common, output: Output.object({ schema }), prompt: "play object." });
    assert.deepEqual(await run.output, BERLIN);
  });

  test(`${name}: an error of the server`, async () => {
    const asked = generateText({ ...common, prompt: "play nothing.", temperature: 3 });
    await assert.rejects(asked, (error) => APICallError.isInstance(error) && error.statusCode === 400);
  });
}

test("an agent loops", async () => {
  const { asked, tools } = weather();
  const agent = new ToolLoopAgent({ model: compatible("puppet"), tools, instructions: "Be brief." });
  const { text } = await agent.generate({ prompt: "play rounds." });
  assert.equal(text, "Rome is warmer than Oslo.");
  assert.deepEqual(asked, ["Oslo", "Rome"]);
});

test("reasoning is told beside the text", async () => {
  const { text, reasoningText } = await generateText({ model: compatible("puppet"), prompt: "play musing." });
  assert.equal(text, "It is Madrid, of course.");
  assert.equal(reasoningText, "An easy one.");
});
