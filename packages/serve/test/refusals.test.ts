/** What cannot be served is refused by name and status; what asks for nothing is accepted. */
import { assert, describe, it } from "@effect/vitest"
import { Redacted } from "effect"
import OpenAI from "openai"
import { samplerSeed } from "../src/index.ts"
import { clientOf, defaults, errorOf, post, withServer } from "./support/server.ts"

const chat = { model: "tiny", messages: [{ role: "user", content: "int" }] }
const completion = { model: "tiny", prompt: "int" }

describe.concurrent("refusals", () => {
  it("names the field that it cannot serve, for each endpoint", () =>
    withServer({}, async ({ url, seen }) => {
      const refused = async (path: string, body: unknown, param: string | null, text: RegExp) => {
        const error = await errorOf(await post(url, path, body))
        assert.strictEqual(error.status, 400, JSON.stringify(body))
        assert.strictEqual(error.type, "invalid_request_error")
        assert.strictEqual(error.param, param, error.message)
        assert.match(error.message, text)
        assert.notInclude(error.message, "\n")
      }
      const ofChat: ReadonlyArray<readonly [object, string, RegExp]> = [
        [{ tools: [{ type: "function", function: { name: "f" } }] }, "tools", /not supported/],
        [{ tool_choice: "required" }, "tool_choice", /not supported/],
        [{ response_format: { type: "json_schema", json_schema: { name: "x" } } }, "response_format", /text/],
        [{ response_format: { type: "json_object" } }, "response_format", /text/],
        [{ logit_bias: { 50: 1 } }, "logit_bias", /not supported/],
        [{ presence_penalty: 0.5 }, "presence_penalty", /0/],
        [{ frequency_penalty: -1 }, "frequency_penalty", /0/],
        [{ repetition_penalty: 1.1 }, "repetition_penalty", /1/],
        [{ top_logprobs: 3, logprobs: true }, "top_logprobs", /chosen token/],
        [{ modalities: ["text", "audio"] }, "modalities", /text/],
        [{ reasoning_effort: "high" }, "reasoning_effort", /chat_template_kwargs/],
        [{ store: true }, "store", /not stored/],
        [{ beam_width: 4 }, "beam_width", /unrecognized/],
        [{ __proto__x: 4 }, "__proto__x", /unrecognized/],
        [{ n: 0 }, "n", /1 to 128/],
        [{ n: 1.5 }, "n", /./],
        [{ temperature: 2.5 }, "temperature", /0 to 2/],
        [{ temperature: "hot" }, "temperature", /./],
        [{ top_p: 0 }, "top_p", /above 0/],
        [{ top_k: -2 }, "top_k", /0 or -1/],
        [{ min_p: 1.1 }, "min_p", /0 to 1/],
        [{ seed: 1.5 }, "seed", /./],
        [{ max_tokens: 0 }, "max_tokens", /≥ 1/],
        [{ max_tokens: 5, max_completion_tokens: 6 }, "max_tokens", /differ/],
        [{ stop: "" }, "stop", /1 to 1000/],
        [{ stop: Array.from({ length: 17 }, (_, i) => `${i}`) }, "stop", /16/],
        [{ stop_token_ids: [-1] }, "stop_token_ids[0]", /token id/],
        [{ stream_options: { include_usage: true } }, "stream_options", /stream/],
        [{ stream: "yes" }, "stream", /./],
        [{ messages: [] }, "messages", /1 to 4096/],
        [{ messages: "hi" }, "messages", /./],
        [
          { messages: [{ role: "tool", content: "1", tool_call_id: "a" }] },
          "messages[0].tool_call_id",
          /not supported/
        ],
        [{ messages: [{ role: "robot", content: "1" }] }, "messages[0].role", /./],
        [{ messages: [{ role: "user" }] }, "messages[0].content", /./],
        [{ messages: [{ role: "user", content: "a", name: "Bob" }] }, "messages[0].name", /not supported/],
        [{ messages: [{ role: "user", content: "a", mood: 1 }] }, "messages[0].mood", /./],
        [{ logprobs: 1 }, "logprobs", /./],
        [{ prompt: "int" }, "prompt", /unrecognized/]
      ]
      for (const [fields, param, text] of ofChat)
        await refused("/v1/chat/completions", { ...chat, ...fields }, param, text)
      const ofCompletions: ReadonlyArray<readonly [object, string, RegExp]> = [
        [{ logprobs: 2 }, "logprobs", /0 or 1/],
        [{ echo: true, logprobs: 0 }, "echo", /not supported/],
        [{ best_of: 4 }, "best_of", /n choices/],
        [{ suffix: "}" }, "suffix", /not supported/],
        [{ prompt: [] }, "prompt", /./],
        [{ prompt: "" }, "prompt", /empty/],
        [{ prompt: [512] }, "prompt", /outside the vocabulary of 512/],
        [{ prompt: [1.5] }, "prompt[0]", /./],
        [{ messages: chat.messages }, "messages", /unrecognized/]
      ]
      for (const [fields, param, text] of ofCompletions)
        await refused("/v1/completions", { ...completion, ...fields }, param, text)
      await refused("/v1/completions", [], null, /JSON object/)
      await refused("/v1/completions", "null", null, /JSON object/)
      await refused("/v1/completions", "{", null, /not valid JSON/)
      await refused("/v1/completions", "", null, /empty/)
      await refused("/v1/completions", { prompt: "int" }, "model", /./)
      assert.lengthOf(seen.requests, 0)
    }))

  it("fields that ask for nothing are accepted", () =>
    withServer({}, async ({ url }) => {
      const neutral = {
        ...{ frequency_penalty: 0, presence_penalty: 0, logit_bias: {}, n: 1, stop: null, seed: null, user: "me" },
        ...{ tools: [], tool_choice: "none", parallel_tool_calls: true, response_format: { type: "text" } },
        ...{ top_logprobs: 0, logprobs: false, store: false, metadata: { a: "b" }, service_tier: "auto", top_k: -1 },
        ...{ modalities: ["text"], stream_options: null, max_tokens: 5, max_completion_tokens: 5, audio: null }
      }
      const answer = await post(url, "/v1/chat/completions", { ...chat, ...neutral })
      assert.strictEqual(answer.status, 200, await answer.clone().text())
      const other = { best_of: 1, suffix: null, echo: false, logprobs: null, repetition_penalty: 1 }
      assert.strictEqual((await post(url, "/v1/completions", { ...completion, ...other })).status, 200)
    }))

  it("a prompt that does not fit, with or without its new tokens, is context_length_exceeded with the numbers", () =>
    withServer({ limits: { maxSequences: 2, maxTokens: 32 } }, async ({ client, url, seen }) => {
      const long = await client.completions
        .create({ model: "tiny", prompt: Array.from({ length: 40 }, () => 65), max_tokens: 1 })
        .catch((error) => error)
      assert.instanceOf(long, OpenAI.BadRequestError)
      assert.strictEqual(long.code, "context_length_exceeded")
      assert.match(long.message, /40 tokens/)
      const both = await errorOf(
        await post(url, "/v1/completions", { model: "tiny", prompt: [65, 66], max_tokens: 31 })
      )
      assert.strictEqual(both.code, "context_length_exceeded")
      assert.match(both.message, /at most 30 new/)
      const full = { ...chat, messages: [{ role: "user", content: "~".repeat(32) }] }
      assert.strictEqual((await errorOf(await post(url, "/v1/chat/completions", full))).code, "context_length_exceeded")
      // far beyond any tokenisation's reach it is told by its bytes
      const huge = { model: "tiny", prompt: "~".repeat(50_000) }
      const told = await errorOf(await post(url, "/v1/completions", huge))
      assert.strictEqual(told.code, "context_length_exceeded")
      assert.match(told.message, /50000 bytes/)
      const talk = { ...chat, messages: [{ role: "user", content: huge.prompt }] }
      assert.strictEqual((await errorOf(await post(url, "/v1/chat/completions", talk))).code, "context_length_exceeded")
      const fits = await client.completions.create({ model: "tiny", prompt: [65, 66], max_tokens: 30 })
      assert.strictEqual(fits.choices[0]?.finish_reason, "stop")
      assert.lengthOf(seen.requests, 1)
    }))

  it("a model without a template answers completions and refuses chat; a template's own refusal is told", async () => {
    await withServer({ template: null }, async ({ url, client }) => {
      const error = await errorOf(await post(url, "/v1/chat/completions", chat))
      assert.strictEqual(error.status, 400)
      assert.match(error.message, /no chat template/)
      assert.lengthOf((await client.completions.create({ ...completion })).choices, 1)
    })
    await withServer({ template: "{{ raise_exception('roles must alternate') }}" }, async ({ url }) => {
      const error = await errorOf(await post(url, "/v1/chat/completions", chat))
      assert.strictEqual(error.status, 400)
      assert.match(error.message, /roles must alternate/)
    })
  })

  it("an API key is asked for everywhere but at /health, and compared whole", () =>
    withServer({ settings: { apiKey: Redacted.make("sk-local") } }, async ({ url }) => {
      for (const key of ["sk-local2", "sk-loca", "SK-LOCAL"]) {
        const wrong = await clientOf(url, key)
          .models.list()
          .catch((error) => error)
        assert.instanceOf(wrong, OpenAI.AuthenticationError, key)
      }
      assert.lengthOf((await clientOf(url, "sk-local").models.list()).data, 1)
      const none = await errorOf(await post(url, "/v1/chat/completions", chat))
      assert.strictEqual(none.status, 401)
      assert.strictEqual(none.headers.get("www-authenticate"), "Bearer")
      assert.strictEqual((await fetch(`${url}/metrics`)).status, 401)
      assert.strictEqual((await fetch(`${url}/v1/models/tiny`)).status, 401)
      assert.strictEqual((await fetch(`${url}/health`)).status, 200)
    }))

  it("addresses that others reach need a key or an explicit yes", async () => {
    const start = (settings: object) =>
      withServer({ settings: { ...defaults, ...settings } }, async () => {}).then(
        () => "listens",
        (error) => String(error)
      )
    assert.match(await start({ host: "0.0.0.0" }), /no API key/)
    assert.match(await start({ host: "::" }), /no API key/)
    assert.strictEqual(await start({ host: "0.0.0.0", allowPublic: true }), "listens")
    assert.strictEqual(await start({ host: "0.0.0.0", apiKey: Redacted.make("k") }), "listens")
    assert.strictEqual(await start({ host: "localhost" }), "listens")
    assert.match(await start({ apiKey: Redacted.make("") }), /printable/)
    assert.match(await start({ host: "192.0.2.1", allowPublic: true }), /no such address/)
  })

  it("web pages get nothing: no CORS, JSON must be declared, other host names are turned away", () =>
    withServer({}, async ({ url, seen }) => {
      const plain = await post(url, "/v1/completions", completion, { "content-type": "text/plain" })
      assert.strictEqual(plain.status, 415)
      const asked = await fetch(`${url}/v1/completions`, {
        method: "OPTIONS",
        headers: { origin: "https://example.org", "access-control-request-method": "POST" }
      })
      assert.strictEqual(asked.status, 405)
      const answer = await post(url, "/v1/completions", completion, { origin: "https://example.org" })
      assert.strictEqual(answer.status, 200)
      assert.isNull(answer.headers.get("access-control-allow-origin"))
      assert.lengthOf(seen.requests, 1)
    }))

  it("unknown paths and methods have JSON errors", () =>
    withServer({}, async ({ url }) => {
      assert.strictEqual((await errorOf(await fetch(`${url}/v1/embeddings`))).status, 404)
      const wrong = await errorOf(await fetch(`${url}/v1/completions`))
      assert.strictEqual(wrong.status, 405)
      assert.strictEqual(wrong.headers.get("allow"), "POST")
      assert.strictEqual((await fetch(`${url}/health`, { method: "HEAD" })).status, 200)
      assert.strictEqual((await fetch(`${url}/health?x=1`)).status, 200)
    }))

  it("seeds of 53 bits with a sign become 32 bits, small ones unchanged", () => {
    assert.deepStrictEqual([0, 7, 2 ** 32 - 1].map(samplerSeed), [0, 7, 2 ** 32 - 1])
    const others = [-1, -2, 2 ** 32, 2 ** 40 + 3, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER].map(samplerSeed)
    for (const seed of others) assert.isTrue(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)
    assert.strictEqual(new Set(others).size, others.length)
  })
})
