/** `srcode generate`, `eval` and `pretrain` as processes, on small models. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import {
  bytesUnder,
  compute,
  corpus,
  isUserError,
  readLines,
  speaking,
  succeeds,
  writeLines,
  writeModel
} from "./internal/checkpoints.ts"
import { inFolder, run, sharedFolder, tinyCoder } from "./internal/process.ts"

const at = sharedFolder(async (at) => {
  await writeModel(at("speaking"), speaking, 2)
})

describe.concurrent("generate", () => {
  it("greedy is one answer whatever the seed; sampled answers follow from their seed and differ from each other", () =>
    inFolder(async (folder) => {
      const prompts = corpus.map((text) => ({ prompt: text.slice(0, 12) }))
      writeLines(nodePath.join(folder, "in.jsonl"), prompts)
      const generate = async (out: string, ...flags: ReadonlyArray<string>) => {
        const given = ["--model", at("speaking"), "--input", "in.jsonl", "--out", out, "--max-tokens", "12", ...flags]
        succeeds(await compute(["generate", ...given], { cwd: folder }))
        return fs.readFileSync(nodePath.join(folder, out), "utf8")
      }
      const greedy = await generate("a.jsonl", "--temperature", "0", "--seed", "1")
      assert.strictEqual(await generate("b.jsonl", "--temperature", "0", "--seed", "2"), greedy)
      const sampled = await generate("c.jsonl", "--samples", "3", "--seed", "5")
      assert.strictEqual(await generate("d.jsonl", "--samples", "3", "--seed", "5"), sampled)
      const rows = readLines(nodePath.join(folder, "c.jsonl"))
      assert.deepStrictEqual(
        rows.map((row) => row.prompt),
        prompts.flatMap(({ prompt }) => [prompt, prompt, prompt])
      )
      assert.isAbove(new Set(rows.map((row) => row.completion)).size, 6)
      for (const row of rows) {
        assert.hasAllKeys(row, ["index", "prompt", "completion", "truncated", "tokens", "settings"])
        assert.isTrue(row.tokens === 12 || !row.truncated)
      }
      // one prompt to standard output: the prompt and the same greedy answer
      const one = ["--model", at("speaking"), "--prompt", prompts[0]?.prompt ?? "", "--max-tokens", "12"]
      const told = succeeds(await compute(["generate", ...one, "--temperature", "0"], { cwd: folder }))
      const [first] = readLines(nodePath.join(folder, "a.jsonl"))
      assert.strictEqual(told.stdout, `${first.prompt}${first.completion}\n`)
    }))

  it("a batch that was killed goes on where it stopped and ends in the same bytes; other settings are told apart", () =>
    inFolder(async (folder) => {
      const lines = Array.from({ length: 24 }, (_, i) =>
        i % 3 === 2
          ? { messages: [{ role: "user", content: `int f${i}(` }] }
          : { prompt: corpus[i % corpus.length]?.slice(0, 8 + i) }
      )
      writeLines(nodePath.join(folder, "in.jsonl"), lines)
      const args = (out: string, ...flags: ReadonlyArray<string>) => [
        ...["generate", "--model", at("speaking"), "--input", "in.jsonl", "--out", out, "--samples", "2"],
        ...["--max-tokens", "24", "--max-sequences", "4", "--top-k", "50", "--min-p", "0.02", ...flags]
      ]
      const read = (name: string) => fs.readFileSync(nodePath.join(folder, name), "utf8")
      succeeds(await compute(args("whole.jsonl"), { cwd: folder }))
      const rows = readLines(nodePath.join(folder, "whole.jsonl"))
      assert.deepStrictEqual(
        rows.map((row) => row.index),
        Array.from({ length: 48 }, (_, i) => i)
      )
      assert.deepStrictEqual(rows[4].messages, lines[2]?.messages)
      assert.strictEqual(rows[4].prompt, undefined)
      const kill = (signal: NodeJS.Signals, after: number) =>
        compute(args("cut.jsonl"), {
          cwd: folder,
          during: (child) => {
            const partial = nodePath.join(folder, "cut.jsonl.partial")
            const timer = setInterval(() => {
              if (!fs.existsSync(partial) || fs.readFileSync(partial, "utf8").split("\n").length <= after) return
              clearInterval(timer)
              child.kill(signal)
            }, 2)
            child.once("exit", () => clearInterval(timer))
          }
        })
      assert.strictEqual((await kill("SIGKILL", 8)).signal, "SIGKILL")
      const stopped = await kill("SIGINT", 16)
      assert.strictEqual(stopped.code, 130)
      assert.match(stopped.stderr, /completions are kept/)
      assert.isFalse(fs.existsSync(nodePath.join(folder, "cut.jsonl")))
      // another seed is another batch: nothing is mixed, nothing is lost
      const partial = read("cut.jsonl.partial")
      isUserError(await compute(args("cut.jsonl", "--seed", "2"), { cwd: folder }), "cut.jsonl.partial", "another file")
      assert.strictEqual(read("cut.jsonl.partial"), partial)
      const resumed = succeeds(await compute(args("cut.jsonl"), { cwd: folder }))
      assert.match(resumed.stderr, /\d\d of 48 completions are there/)
      assert.strictEqual(read("cut.jsonl"), read("whole.jsonl"))
      assert.isFalse(fs.existsSync(nodePath.join(folder, "cut.jsonl.partial")))
    }))

  it("stop strings, a prompt from standard input, and text as it comes", () =>
    inFolder(async (folder) => {
      const generate = (...flags: ReadonlyArray<string>) =>
        compute(["generate", "--model", tinyCoder, "--temperature", "0", "--max-tokens", "60", ...flags], {
          cwd: folder
        })
      const prompt = "int add(int a, int b) {\n"
      const whole = succeeds(await generate("--prompt", prompt)).stdout
      const answer = whole.slice(prompt.length, -1)
      const stop = answer.slice(3, 6)
      const cut = succeeds(await generate("--prompt", prompt, "--stop", stop, "--stop", "never said"))
      assert.strictEqual(cut.stdout, `${prompt}${answer.slice(0, answer.indexOf(stop))}\n`)
      const pieces: Array<string> = []
      const piped = await compute(
        ["generate", "--model", tinyCoder, "--temperature", "0", "--max-tokens", "60", "--prompt", "-"],
        {
          cwd: folder,
          input: prompt,
          during: (child) => child.stdout?.on("data", (data) => pieces.push(String(data)))
        }
      )
      assert.strictEqual(succeeds(piped).stdout, whole)
      assert.isAbove(pieces.length, 2)
    }))

  it("wrong prompts and flags get one line", () =>
    inFolder(async (folder) => {
      const model = ["generate", "--model", at("speaking")]
      const refused = async (flags: ReadonlyArray<string>, ...texts: ReadonlyArray<string>) =>
        isUserError(await run([...model, ...flags], { cwd: folder }), ...texts)
      fs.writeFileSync(nodePath.join(folder, "in.jsonl"), '{"prompt":"int"}\n{"prompt":""}\n')
      writeLines(nodePath.join(folder, "long.jsonl"), [{ prompt: "int" }, { prompt: "~".repeat(300) }])
      await refused([], "either --prompt or --input")
      await refused(["--prompt", "a", "--input", "in.jsonl"], "either --prompt or --input")
      await refused(["--input", "in.jsonl"], "--out")
      await refused(["--prompt", ""], "--prompt", "empty")
      await refused(["--input", "in.jsonl", "--out", "o.jsonl"], "in.jsonl:2", "prompt")
      await refused(["--input", "long.jsonl", "--out", "o.jsonl"], "long.jsonl:2", "256 positions")
      await refused(["--prompt", "int", "--max-tokens", "100000"], "100000", "--max-tokens")
      await refused(["--prompt", "int", "--temperature", "-1"], "--temperature")
      await refused(["--prompt", "int", "--top-p", "0"], "--top-p")
      await refused(["--prompt", "int", "--top-k", "-1"], "--top-k")
      await refused(["--prompt", "int", "--min-p", "2"], "--min-p")
      await refused(["--prompt", "int", "--stop", ""], "--stop")
      assert.isFalse(fs.existsSync(nodePath.join(folder, "o.jsonl")))
    }))
})

describe.concurrent("eval", () => {
  it("judges the prompts it was limited to and writes the result with its samples", () =>
    inFolder(async (folder) => {
      const args = ["eval", "--model", at("speaking"), "--limit", "2", "--out", "result.json"]
      const ended = await compute(args, { cwd: folder })
      if (ended.code === 1 && /bubblewrap|compiler/.test(ended.stderr)) return isUserError(ended)
      succeeds(ended)
      assert.match(ended.stdout, /FS@1/)
      assert.match(ended.stderr, /memory plan: weights [\d.]+ kB, engine [\d.]+ [kM]B;/)
      assert.match(ended.stdout, /0\/2/)
      const result = JSON.parse(fs.readFileSync(nodePath.join(folder, "result.json"), "utf8"))
      assert.strictEqual(result.arm, "model")
      const samples = readLines(nodePath.join(folder, "result.samples.jsonl"))
      assert.lengthOf(samples, 2)
      // a model of random weights writes no program
      for (const sample of samples) assert.isFalse(sample.compiles && sample.functional && sample.secure)
    }))

  it("flags out of range get one line that names them", async () => {
    isUserError(await run(["eval", "--model", at("speaking"), "--temperature", "-1"]), "--temperature")
    isUserError(await run(["eval", "--model", at("speaking"), "--top-p", "2"]), "--top-p")
    isUserError(await run(["eval", "--model", at("speaking"), "--limit", "0"]), "--limit")
  })
})

describe.concurrent("pretrain", () => {
  it("writes a folder that the other commands load, with the same bytes for the same seed; a state of other settings is refused", () =>
    inFolder(async (folder) => {
      writeLines(
        nodePath.join(folder, "docs.jsonl"),
        corpus.map((text) => ({ text }))
      )
      const pretrain = (out: string, steps: string) =>
        compute(
          ["pretrain", "--documents", "docs.jsonl", "--vocab", "270", "--batch", "2", "--steps", steps, "--out", out],
          { cwd: folder }
        )
      succeeds(await pretrain("a", "2"))
      succeeds(await pretrain("b", "2"))
      assert.hasAllKeys(bytesUnder(nodePath.join(folder, "a")), [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json"
      ])
      assert.deepStrictEqual(bytesUnder(nodePath.join(folder, "b")), bytesUnder(nodePath.join(folder, "a")))
      const prompt = ["generate", "--model", "a", "--prompt", "int add", "--max-tokens", "3", "--temperature", "0"]
      assert.isTrue(succeeds(await compute(prompt, { cwd: folder })).stdout.startsWith("int add"))

      const killed = await compute(
        ["pretrain", "--documents", "docs.jsonl", "--vocab", "270", "--batch", "1", "--steps", "100000", "--out", "c"],
        {
          cwd: folder,
          during: (child) => {
            const timer = setInterval(() => {
              if (fs.existsSync(nodePath.join(folder, "c/state/inputs.json"))) child.kill("SIGKILL")
            }, 5)
            child.once("exit", () => clearInterval(timer))
          }
        }
      )
      assert.strictEqual(killed.signal, "SIGKILL")
      isUserError(await pretrain("c", "2"), "c/state", "other settings or documents")
    }))

  it("documents and sizes that cannot be used get one line and leave nothing", () =>
    inFolder(async (folder) => {
      writeLines(
        nodePath.join(folder, "docs.jsonl"),
        corpus.map((text) => ({ text }))
      )
      writeLines(nodePath.join(folder, "long.jsonl"), [{ text: corpus[0] }, { text: corpus.join("").repeat(40) }])
      fs.writeFileSync(nodePath.join(folder, "bad.jsonl"), '{"text":"int"}\n{"txt":"int"}\n')
      const refused = async (flags: ReadonlyArray<string>, ...texts: ReadonlyArray<string>) => {
        isUserError(await run(["pretrain", "--out", "out", ...flags], { cwd: folder }), ...texts)
        assert.isFalse(fs.existsSync(nodePath.join(folder, "out/model.safetensors")))
      }
      await refused(["--documents", "docs.jsonl", "--vocab", "100"], "vocabulary of 100")
      await refused(["--documents", "docs.jsonl", "--vocab", "5000"], "vocabulary")
      await refused(["--documents", "bad.jsonl", "--vocab", "257"], "bad.jsonl:2", "text")
      await refused(["--documents", "long.jsonl", "--vocab", "257"], "long.jsonl:2", "1024")
      await refused(["--documents", "nowhere.jsonl"], "nowhere.jsonl does not exist")
      await refused(["--steps", "0"], "--steps")
    }))
})
