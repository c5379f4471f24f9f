/** `srcode chat` as a process that reads messages from a pipe. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import {
  compute,
  isUserError,
  readLines,
  speaking,
  succeeds,
  writeLines,
  writeLora,
  writeModel
} from "./internal/checkpoints.ts"
import { inFolder, run, sharedFolder, tinyCoder } from "./internal/process.ts"

/** Never ends an answer on its own, has room for a long one, and is slow enough to be stopped twice in the middle of one. */
const endless = { ...speaking, numLayers: 16, maxPositionEmbeddings: 4096, eosTokenIds: [278] }

const at = sharedFolder(async (at) => {
  await writeModel(at("speaking"), speaking, 2)
  await writeModel(at("endless"), endless, 4)
  await writeLora(at("lora"), speaking, { rank: 2, alpha: 8, seed: 3 })
})

const chat = (input: string, ...flags: ReadonlyArray<string>) =>
  compute(["chat", "--temperature", "0", "--max-tokens", "20", ...flags], { input })

describe.concurrent("chat", () => {
  it("answers with the whole conversation in mind, as generate does with the same messages", () =>
    inFolder(async (folder) => {
      const [first, second] = ["int add(int a, int b) {", "int main(void) {\n  return add("]
      const fenced = `"""\n${second}\n"""\n`
      const ended = succeeds(await chat(`${first}\n${fenced}/reset\n${fenced}`, "--model", tinyCoder))
      assert.match(ended.stderr, /begins anew/)
      // greedy answers to the conversations that this must have been
      const user = (content: string) => ({ role: "user", content })
      const ask = async (messages: ReadonlyArray<object>): Promise<string> => {
        writeLines(nodePath.join(folder, "in.jsonl"), [{ messages }])
        const flags = ["--input", "in.jsonl", "--out", "out.jsonl", "--temperature", "0", "--max-tokens", "20"]
        succeeds(await compute(["generate", "--model", tinyCoder, ...flags], { cwd: folder }))
        return readLines(nodePath.join(folder, "out.jsonl"))[0].completion
      }
      const one = await ask([user(first)])
      const two = await ask([user(first), { role: "assistant", content: one }, user(second)])
      const anew = await ask([user(second)])
      assert.notStrictEqual(two, anew)
      assert.strictEqual(ended.stdout, `${one}\n${two}\n${anew}\n`)
    }))

  it("a system message and an adapter change the answer; unknown commands are told, comments of code are messages", async () => {
    const [plain, system, tuned] = [
      succeeds(await chat("int x(\n// a\n/* b */\n", "--model", at("speaking"))),
      succeeds(await chat("/system be brief\nint x(\n/system\n/jump\n/exit\nnever read\n", "--model", at("speaking"))),
      succeeds(await chat("int x(", "--model", at("speaking"), "--adapter", at("lora")))
    ]
    const answers = plain.stdout.split("\n")
    assert.isAtLeast(answers.length, 4)
    assert.notInclude(plain.stderr, "there is no /")
    assert.notStrictEqual(system.stdout.split("\n")[0], answers[0])
    assert.notStrictEqual(tuned.stdout.split("\n")[0], answers[0])
    assert.match(system.stderr, /there is no \/jump/)
    const given = succeeds(await chat("int x(\n", "--model", at("speaking"), "--system", "be brief"))
    assert.strictEqual(given.stdout, system.stdout)
  })

  it("a conversation longer than the context goes on without its oldest messages; one message that is too long is sent back", async () => {
    const lines = Array.from({ length: 12 }, (_, i) => `int f${i}(int a, int b) { return ${i}; }`)
    const ended = succeeds(await chat(`${lines.join("\n")}\n${"~".repeat(250)}\nint g(\n`, "--model", at("speaking")))
    assert.match(ended.stderr, /outgrew the context of 256 tokens: its 2 oldest messages/)
    assert.match(ended.stderr, /the message is 2\d\d tokens .* context of 256 has 236 for it/)
    assert.strictEqual(ended.stderr.match(/was cut at/g)?.length, 13)
  })

  it("Ctrl-C stops an answer and not the conversation; while it waits it ends", async () => {
    const say = (
      reactions: ReadonlyArray<(stdout: string, stderr: string) => boolean>,
      acts: ReadonlyArray<(child: Child) => void>
    ) =>
      compute(["chat", "--model", at("endless"), "--max-tokens", "4000"], {
        input: null,
        during: (child) => {
          let [stdout, stderr, step] = ["", "", 0]
          const react = () => {
            if (reactions[step]?.(stdout, stderr) !== true) return
            acts[step++]?.(child)
          }
          child.stdout?.on("data", (data) => {
            stdout += String(data)
            react()
          })
          child.stderr?.on("data", (data) => {
            stderr += String(data)
            react()
          })
        }
      })
    type Child = Parameters<NonNullable<NonNullable<Parameters<typeof compute>[1]>["during"]>>[0]
    let soFar = 0
    const stopped = await say(
      [
        (_, stderr) => stderr.includes("memory plan"),
        (stdout) => stdout.length > 0,
        (stdout, stderr) => {
          soFar = stdout.length
          return stderr.includes("srcode: stopped")
        },
        (stdout) => stdout.length > soFar + 5
      ],
      [
        (child) => child.stdin?.write("int main(void) {\n"),
        (child) => {
          child.kill("SIGINT")
          // the signal that npm hands on is the same one
          setTimeout(() => child.kill("SIGINT"), 200)
        },
        // Late enough for the next signal to be another one; that must come while the answer is still being made.
        (child) => setTimeout(() => child.stdin?.write("int x(\n"), 1500),
        (child) => {
          child.kill("SIGINT")
          child.stdin?.end()
        }
      ]
    )
    assert.strictEqual(stopped.code, 0, stopped.stderr)
    assert.strictEqual(stopped.stderr.match(/srcode: stopped/g)?.length, 2)
    const waiting = await say(
      [(_, stderr) => stderr.includes("memory plan"), (_, stderr) => stderr.includes("there is no /wait")],
      [(child) => child.stdin?.write("/wait\n"), (child) => child.kill("SIGINT")]
    )
    assert.strictEqual(waiting.code, 130)
    assert.match(waiting.stderr, /srcode: interrupted/)
  })

  it("a model without a template and wrong flags get one line", () =>
    inFolder(async (folder) => {
      await writeModel(nodePath.join(folder, "plain"), speaking, 2)
      const tokenizerConfig = nodePath.join(folder, "plain/tokenizer_config.json")
      const { chat_template: _, ...rest } = JSON.parse(fs.readFileSync(tokenizerConfig, "utf8"))
      fs.writeFileSync(tokenizerConfig, JSON.stringify(rest))
      isUserError(await run(["chat", "--model", "plain"], { cwd: folder, input: "" }), "no chat template", "generate")
      isUserError(await run(["chat", "--model", at("speaking"), "--max-tokens", "0"]), "--max-tokens")
    }))
})
