/** Bytes that no client library sends: broken HTTP and JSON, bodies that are too large or never end. */
import * as net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { type Served, withServer } from "./support/server.ts"

/** What comes back until the server closes the connection, which it must do on its own. */
const exchange = (port: number, ...parts: ReadonlyArray<string | Uint8Array>): Promise<string> =>
  new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1")
    let text = ""
    socket.on("data", (data) => {
      text += String(data)
    })
    socket.on("error", () => {})
    socket.on("close", () => resolve(text))
    for (const part of parts) socket.write(part)
  })

const head = (length: number | string, extra = ""): string =>
  `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ${length}\r\n${extra}\r\n`

const stillServes = async ({ client }: Served) => {
  const answer = await client.completions.create({ model: "tiny", prompt: "int", max_tokens: 60 })
  assert.strictEqual(answer.choices[0]?.text, "return a + b;")
}

describe.concurrent("on the wire", () => {
  it("broken HTTP gets 400 or a closed connection, and the server goes on", () =>
    withServer({}, async (served) => {
      for (const bytes of [
        "hello\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"y".repeat(40_000)}\r\n\r\n`,
        Uint8Array.from({ length: 300 }, (_, i) => (i * 37) % 256)
      ]) {
        const answer = await exchange(served.port, bytes)
        assert.match(answer, /^(HTTP\/1\.1 4\d\d |$)/)
      }
      assert.match(await exchange(served.port, "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"), /^HTTP\/1\.1 400 /)
      await stillServes(served)
    }))

  it("another host name is turned away on loopback", () =>
    withServer({}, async (served) => {
      const ask = (host: string) =>
        exchange(served.port, `GET /v1/models HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
      assert.match(await ask("evil.example:8000"), /^HTTP\/1\.1 403 /)
      assert.match(await ask("127.0.0.1.evil.example"), /^HTTP\/1\.1 403 /)
      for (const host of ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
        assert.match(await ask(host), /^HTTP\/1\.1 200 /)
    }))

  it("JSON that is broken, deep, or not text gets a JSON 400", () =>
    withServer({}, async (served) => {
      const bodies: ReadonlyArray<string | Uint8Array> = [
        "{",
        '{"model":"tiny","prompt":',
        "[".repeat(20_000),
        `${'{"a":'.repeat(5000)}1${"}".repeat(5000)}`,
        '{"model":"tiny","prompt":"\u0000"',
        Uint8Array.from([0xff, 0xfe, 0x00]),
        '{"model":"tiny","prompt":"int","n":1e400}',
        '{"model":{"$ref":"x"},"prompt":"int"}',
        '{"__proto__":{"model":"tiny"},"prompt":"int"}'
      ]
      for (const body of bodies) {
        const answer = await exchange(served.port, head(Buffer.byteLength(body)), body)
        assert.match(answer, /^HTTP\/1\.1 400 /, String(body).slice(0, 40))
        assert.isString(JSON.parse(answer.split("\r\n\r\n")[1] ?? "").error.message)
      }
      // a lone surrogate is text to JSON; it has no UTF-8 and is replaced
      const lone = '{"model":"tiny","prompt":"\\ud800","echo":true}'
      assert.match(await exchange(served.port, head(lone.length), lone), /^HTTP\/1\.1 200 /)
      await stillServes(served)
    }))

  it("a body over the limit is 413, declared or not, before it is all sent", () =>
    withServer({ settings: { maxBodyBytes: 10_000 } }, async (served) => {
      const declared = await exchange(served.port, head(10_001), "x")
      assert.match(declared, /^HTTP\/1\.1 413 /)
      assert.match(declared, /10000 bytes/)
      const chunk = `${(4000).toString(16)}\r\n${"x".repeat(4000)}\r\n`
      const undeclared = await exchange(
        served.port,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        chunk,
        chunk,
        chunk
      )
      assert.match(undeclared, /^HTTP\/1\.1 413 /)
      const exact = `{"model":"tiny","prompt":"int","user":"${"u".repeat(10_000 - 41)}"}`
      assert.strictEqual(exact.length, 10_000)
      assert.match(await exchange(served.port, head(exact.length), exact), /^HTTP\/1\.1 200 /)
      await stillServes(served)
    }))

  it("a client that never finishes its request is cut, headers or body", () =>
    withServer({ settings: { requestTimeout: Duration.millis(300) } }, async (served) => {
      const [headers, body] = await Promise.all([
        exchange(served.port, "POST /v1/completions HTTP/1.1\r\nHost: local"),
        exchange(served.port, head(500), '{"model"')
      ])
      assert.match(headers, /^(HTTP\/1\.1 408 |$)/)
      assert.match(body, /^(HTTP\/1\.1 408 |$)/)
      await stillServes(served)
      assert.lengthOf(served.seen.requests, 1)
    }))
})
