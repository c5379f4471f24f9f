/** Queue, cancellation, slow readers, health and metrics, and how the server stops. */
import * as net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import OpenAI from "openai"
import { errorOf, type Gate, makeGate, post, type Step, until, withServer } from "./support/server.ts"

const chat = { model: "tiny", messages: [{ role: "user" as const, content: "int" }] }
const gated = (gate: Gate) => (): ReadonlyArray<Step> => [{ say: "ab" }, { gate }, { say: "cd" }, { end: true }]
const never = makeGate()

describe.concurrent("admission", () => {
  it("a full queue answers 429 with Retry-After, and places come back as sequences end", () => {
    const gate = makeGate()
    return withServer(
      { script: gated(gate), limits: { maxSequences: 2, maxTokens: 64 }, settings: { queue: 1 } },
      async ({ client, url, seen }) => {
        const running = [client.chat.completions.create({ ...chat, n: 2 }), client.chat.completions.create(chat)]
        await until(() => seen.requests.length === 3)
        const refused = await client.chat.completions.create(chat).catch((error) => error)
        assert.instanceOf(refused, OpenAI.RateLimitError)
        assert.strictEqual(refused.code, "queue_full")
        const again = await errorOf(await post(url, "/v1/chat/completions", chat))
        assert.isAtLeast(Number(again.headers.get("retry-after")), 1)
        // more than the server can ever hold is the request's fault
        const many = await errorOf(await post(url, "/v1/chat/completions", { ...chat, n: 4 }))
        assert.strictEqual(many.status, 400)
        assert.strictEqual(many.param, "n")
        const metrics = await (await fetch(`${url}/metrics`)).text()
        assert.match(metrics, /^srcode_sequences_admitted 3$/m)
        assert.match(metrics, /^srcode_engine_sequences_running 2$/m)
        assert.match(metrics, /^srcode_engine_sequences_waiting 1$/m)
        gate.open()
        for (const answer of await Promise.all(running)) assert.strictEqual(answer.choices[0]?.message.content, "abcd")
        assert.strictEqual((await client.chat.completions.create(chat)).choices[0]?.message.content, "abcd")
        const after = await (await fetch(`${url}/metrics`)).text()
        assert.match(after, /^srcode_sequences_admitted 0$/m)
        assert.match(after, /^srcode_sequences_total\{finish="stop"\} 4$/m)
        assert.match(after, /srcode_http_requests_total\{path="\/v1\/chat\/completions",status="429"\} 2/)
        assert.match(after, /^srcode_time_to_first_token_seconds_count 4$/m)
      }
    )
  })

  it("a client that goes away cancels its sequences, running or waiting, streamed or not", () =>
    withServer({ script: gated(never), limits: { maxSequences: 1, maxTokens: 64 } }, async ({ client, url, seen }) => {
      for (const stream of [false, true]) {
        const before = seen.requests.length
        const [running, waiting] = [new AbortController(), new AbortController()]
        const asked = [running, waiting].map(async ({ signal }) => {
          const answer = await client.chat.completions.create({ ...chat, stream }, { signal })
          if ("controller" in answer) for await (const _ of answer);
        })
        const settled = Promise.allSettled(asked)
        await until(() => seen.requests.length === before + 2 && seen.running === 1)
        waiting.abort()
        running.abort()
        await settled
        await until(() => seen.running === 0)
      }
      assert.strictEqual(seen.cancelled, 2)
      let metrics = ""
      while (!/^srcode_sequences_admitted 0$/m.test(metrics)) metrics = await (await fetch(`${url}/metrics`)).text()
      assert.match(metrics, /^srcode_sequences_total\{finish="cancelled"\} 4$/m)
    }))

  it("a reader that does not read holds no place: its sequence ends and others are served", () =>
    withServer(
      {
        // far more than sockets buffer
        script: (_, index) =>
          index === 0 ? [{ say: "x".repeat(30_000) }, { end: true }] : [{ say: "ok" }, { end: true }],
        limits: { maxSequences: 1, maxTokens: 100_000 },
        settings: { queue: 0 }
      },
      async ({ client, port, seen }) => {
        const body = JSON.stringify({ ...chat, stream: true })
        const socket = net.connect(port, "127.0.0.1")
        socket.pause()
        socket.write(
          `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
        )
        await until(() => seen.ended === 1)
        assert.strictEqual((await client.chat.completions.create(chat)).choices[0]?.message.content, "ok")
        // what was produced is still there to be read
        let text = ""
        socket.on("data", (data) => {
          text += String(data)
        })
        socket.resume()
        await until(() => text.includes("data: [DONE]"))
        assert.isAbove(text.length, 1_000_000)
        socket.destroy()
      }
    ))
})

describe.concurrent("health and stopping", () => {
  it("running answers are finished within the grace period; then the port is closed", () => {
    const gate = makeGate()
    return withServer(
      { script: gated(gate), settings: { grace: Duration.seconds(20) } },
      async ({ client, port, url, seen, stop }) => {
        const health = await fetch(`${url}/health`)
        assert.deepStrictEqual(await health.json(), { status: "ok", sequences: 0 })
        const whole = client.chat.completions.create(chat)
        const stream = await client.chat.completions.create({ ...chat, stream: true })
        await until(() => seen.running === 2)
        const stopped = stop()
        await until(() => seen.running === 2)
        const refused = await fetch(`${url}/health`).catch((error) => error)
        assert.instanceOf(refused, Error)
        gate.open()
        assert.strictEqual((await whole).choices[0]?.message.content, "abcd")
        let text = ""
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ""
        assert.strictEqual(text, "abcd")
        await stopped
        const after = await new Promise((resolve) => {
          net
            .connect(port, "127.0.0.1")
            .on("connect", () => resolve("open"))
            .on("error", () => resolve("closed"))
        })
        assert.strictEqual(after, "closed")
      }
    )
  })

  it("answers that take longer than the grace period are cut, idle and half-sent connections too", () =>
    withServer(
      { script: gated(never), settings: { grace: Duration.millis(100) } },
      async ({ client, port, seen, stop }) => {
        const whole = client.chat.completions.create(chat).catch((error) => error)
        const stream = await client.chat.completions.create({ ...chat, stream: true })
        await until(() => seen.running === 2)
        const half = net.connect(port, "127.0.0.1")
        const closed = new Promise((resolve) => half.on("close", resolve))
        half.on("error", () => {})
        half.write("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await stop()
        assert.instanceOf(await whole, Error)
        const thrown = await (async () => {
          for await (const _ of stream);
        })().catch((error) => error)
        assert.instanceOf(thrown, Error)
        await closed
        assert.strictEqual(seen.running, 0)
        assert.strictEqual(seen.cancelled, 2)
      }
    ))

  it("a port in use is one clear error", () =>
    withServer({}, async ({ port }) => {
      const error = await withServer({ settings: { port } }, async () => {}).catch((error) => error)
      assert.match(String(error), new RegExp(`127.0.0.1:${port}: the port is in use`))
    }))
})
