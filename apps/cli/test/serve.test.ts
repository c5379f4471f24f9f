/** `srcode serve` as a process: it starts, answers clients, and ends in order on a signal. */
import * as fs from "node:fs"
import * as net from "node:net"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import OpenAI from "openai"
import { compute, isUserError, ownLines, speaking, writeLora, writeModel } from "./internal/checkpoints.ts"
import { type Ended, inFolder, run, tinyCoder } from "./internal/process.ts"

const isOpen = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1")
    socket.on("connect", () => {
      socket.destroy()
      resolve(true)
    })
    socket.on("error", () => resolve(false))
  })

/** Starts a server, hands its address to `use` once it is printed, then sends the signal. */
const serving = (
  args: ReadonlyArray<string>,
  use: (server: { readonly url: string; readonly port: number; readonly line: string }) => Promise<void>,
  options: { readonly signal?: NodeJS.Signals; readonly env?: Record<string, string>; readonly cwd?: string } = {}
): Promise<Ended> => {
  let used: Promise<void> = Promise.resolve()
  const ended = compute(["serve", "--port", "0", ...args], {
    ...options,
    during: (child) => {
      let text = ""
      child.stdout?.on("data", (data) => {
        const known = text.includes("\n")
        text += String(data)
        const [, url, port] = /at (http:\/\/[^ ]+:(\d+))\/v1/.exec(text) ?? []
        if (known || url === undefined || !text.includes("\n")) return
        used = use({ url, port: Number(port), line: text.trim() }).finally(() => child.kill(options.signal ?? "SIGINT"))
        used.catch(() => {})
      })
    }
  })
  return ended.then(async (result) => {
    await used
    return result
  })
}

const clientOf = (url: string, apiKey = "none") => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 })

describe.concurrent("serve", () => {
  it("prints its address, answers, and ends on Ctrl-C with the port closed", async () => {
    let where = 0
    const ended = await serving(
      ["--model", tinyCoder, "--max-sequences", "2", "--max-tokens", "128"],
      async (server) => {
        where = server.port
        assert.match(server.line, /^serving tiny-coder at .*: 2 sequences of 128 tokens/)
        const client = clientOf(server.url)
        const messages = [{ role: "user" as const, content: "int add(int a, int b) {\n" }]
        const asked = { model: "tiny-coder", messages, temperature: 0, max_tokens: 12 }
        const answer = await client.chat.completions.create(asked)
        assert.isAbove(answer.choices[0]?.message.content?.length ?? 0, 0)
        let text = ""
        for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
          text += chunk.choices[0]?.delta.content ?? ""
        assert.strictEqual(text, answer.choices[0]?.message.content)
        // the port is taken now, which a second server says before it loads anything
        const second = await compute(["serve", "--model", tinyCoder, "--port", String(server.port)])
        isUserError(second, `127.0.0.1:${server.port}`, "in use", "--port")
      }
    )
    assert.strictEqual(ended.code, 130, ended.stderr)
    assert.deepStrictEqual(ownLines(ended).slice(-1), ["srcode: interrupted"])
    assert.notMatch(ended.stderr, /\n\s+at /)
    assert.isFalse(await isOpen(where))
  })

  it("adapters by name, a key from the environment, a model without a template; SIGTERM cuts what runs on", () =>
    inFolder(async (folder) => {
      const config = { ...speaking, maxPositionEmbeddings: 4096 }
      await writeModel(nodePath.join(folder, "base"), config, 3)
      const tokenizerConfig = nodePath.join(folder, "base/tokenizer_config.json")
      const { chat_template: _, ...plain } = JSON.parse(fs.readFileSync(tokenizerConfig, "utf8"))
      fs.writeFileSync(tokenizerConfig, JSON.stringify(plain))
      await writeLora(nodePath.join(folder, "lora"), config, { rank: 2, alpha: 4, seed: 9 })
      let cut: Promise<unknown> = Promise.resolve()
      const ended = await serving(
        ["--model", "base", "--adapter", "tuned=lora", "--grace", "0"],
        async ({ url }) => {
          const client = clientOf(url, "sk-here")
          const models = await client.models.list()
          assert.deepStrictEqual(
            models.data.map(({ id }) => id),
            ["base", "tuned"]
          )
          assert.instanceOf(
            await clientOf(url, "sk-there")
              .models.list()
              .catch((e) => e),
            OpenAI.AuthenticationError
          )
          const ask = (model: string) =>
            client.completions.create({ model, prompt: "int add(", max_tokens: 16, temperature: 0 })
          const [base, tuned] = [await ask("base"), await ask("tuned")]
          assert.notStrictEqual(base.choices[0]?.text, tuned.choices[0]?.text)
          const chat = await client.chat.completions
            .create({ model: "base", messages: [{ role: "user", content: "x" }] })
            .catch((e) => e)
          assert.match(String(chat), /no chat template/)
          const stream = await client.completions.create({
            model: "base",
            prompt: "int",
            max_tokens: 4000,
            stream: true
          })
          cut = (async () => {
            for await (const _ of stream);
          })().catch((error) => error)
        },
        { cwd: folder, signal: "SIGTERM", env: { SRCODE_API_KEY: "sk-here" } }
      )
      assert.instanceOf(await cut, Error)
      assert.strictEqual(ended.code, 130, ended.stderr)
      assert.match(ended.stderr, /no chat template/)
      assert.notInclude(ended.stdout + ended.stderr, "sk-here")
    }))

  it("wrong flags get one line before anything is loaded", async () => {
    const refused = async (flags: ReadonlyArray<string>, ...texts: ReadonlyArray<string>) =>
      isUserError(await run(["serve", "--model", tinyCoder, "--port", "0", ...flags]), ...texts)
    await refused(["--host", "0.0.0.0"], "0.0.0.0", "SRCODE_API_KEY", "--allow-public")
    await refused(["--host", "192.0.2.7", "--allow-public"], "192.0.2.7", "no such address")
    await refused(["--api-key", "two words"], "API key")
    await refused(["--adapter", "lora"], "NAME=DIR")
    await refused(["--adapter", "tiny-coder=x"], "tiny-coder is taken")
    await refused(["--adapter", "a=nowhere"], "nowhere")
    await refused(["--port", "70000"], "--port")
    await refused(["--max-sequences", "0"], "--max-sequences")
  })
})
