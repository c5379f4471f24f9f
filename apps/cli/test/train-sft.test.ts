/** `srcode train sft` as a process: its numbers, both kinds of rows, settings, resumption, and input that is wrong. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import type { LoraPair } from "@srcode/model"
import {
  bytesUnder,
  compute,
  corpus,
  isUserError,
  micro,
  ownLines,
  readLines,
  speaking,
  succeeds,
  type Tensors,
  writeLines,
  writeLora,
  writeModel
} from "./internal/checkpoints.ts"
import { inFolder, run, sharedFolder } from "./internal/process.ts"
import { scores } from "./internal/qwen2.ts"

/** One layer, so that double precision with differences stays cheap. */
const small = { ...micro, numLayers: 1, hiddenSize: 8, intermediateSize: 12, vocabSize: 11 }
let smallTensors: Tensors
let pairs: ReadonlyMap<string, LoraPair>

const at = sharedFolder(async (at) => {
  await writeModel(at("micro"), micro, 1)
  await writeModel(at("speaking"), speaking, 2)
  smallTensors = await writeModel(at("small"), small, 3)
  pairs = await writeLora(at("start"), small, { rank: 1, alpha: 2, seed: 4 })
})

const rows = [
  { ids: [1, 4, 2, 9, 3, 0], loss_mask: [0, 0, 1, 1, 0, 1] },
  { ids: [5, 5, 10, 1], loss_mask: [true, true, false, true] },
  { ids: [7, 2, 8, 6, 1, 3, 2], loss_mask: [0, 1, 1, 1, 1, 1, 1] }
]

/** Runs in a folder that holds rows.jsonl and config.json. */
const sft = (
  folder: string,
  model: string,
  config: unknown,
  options: {
    readonly rows?: ReadonlyArray<unknown>
    readonly out?: string
    readonly flags?: ReadonlyArray<string>
  } = {}
) => {
  writeLines(nodePath.join(folder, "rows.jsonl"), options.rows ?? rows)
  fs.writeFileSync(nodePath.join(folder, "config.json"), typeof config === "string" ? config : JSON.stringify(config))
  const flags = ["--model", model, "--data", "rows.jsonl", "--config", "config.json", "--out", options.out ?? "out"]
  return ["train", "sft", ...flags, ...(options.flags ?? [])]
}

/** AdamW on an adapter in double precision, gradients by central differences; the loss of each step before its update. */
const trainInDouble = (steps: number, lr: number, weightDecay: number, clip: number) => {
  const names = [...pairs.keys()]
  let flat = names.flatMap((name) => [...pairs.get(name)!.a, ...pairs.get(name)!.b])
  const adapter = (values: ReadonlyArray<number>) => {
    let from = 0
    const take = (n: number) => values.slice(from, (from += n))
    const map = new Map(names.map((n) => [n, { a: take(pairs.get(n)!.a.length), b: take(pairs.get(n)!.b.length) }]))
    return { rank: 1, scale: 2, pairs: map }
  }
  const loss = (values: ReadonlyArray<number>, batch: typeof rows) => {
    const terms = batch.flatMap((row) =>
      scores(small, smallTensors, adapter(values), row.ids).logProbs.filter((_, i) => Boolean(row.loss_mask[i + 1]))
    )
    return -terms.reduce((a, b) => a + b, 0) / terms.length
  }
  const [m, v] = [flat.map(() => 0), flat.map(() => 0)]
  const told: Array<{ loss: number; grad_norm: number }> = []
  for (let step = 1; step <= steps; step++) {
    const batch = [rows[(2 * step - 2) % 3]!, rows[(2 * step - 1) % 3]!]
    const h = 1e-5
    const gradient = flat.map((_, i) => {
      const moved = (by: number) => loss(flat.with(i, flat[i]! + by), batch)
      return (moved(h) - moved(-h)) / (2 * h)
    })
    const norm = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0))
    told.push({ loss: loss(flat, batch), grad_norm: norm })
    const scale = Math.min(1, clip / norm)
    flat = flat.map((w, i) => {
      const g = gradient[i]! * scale
      m[i] = 0.9 * m[i]! + 0.1 * g
      v[i] = 0.99 * v[i]! + 0.01 * g * g
      const update = m[i]! / (1 - 0.9 ** step) / (Math.sqrt(v[i]! / (1 - 0.99 ** step)) + 1e-6)
      return w - lr * (update + weightDecay * w)
    })
  }
  return { told, adapter: adapter(flat) }
}

describe.concurrent("training", () => {
  it("equals AdamW in double precision from a given adapter: order kept, accumulation, clip, decay; score loads the result", () =>
    inFolder(async (folder) => {
      const settings = {
        steps: 4,
        lr: 0.01,
        schedule: "constant",
        batchSize: 1,
        accumulation: 2,
        clip: 0.5,
        weightDecay: 0.1,
        betas: [0.9, 0.99],
        eps: 1e-6,
        shuffle: false
      }
      const command = sft(folder, at("small"), settings, { flags: ["--init-adapter", at("start")] })
      succeeds(await compute(command, { cwd: folder }))
      const expected = trainInDouble(4, 0.01, 0.1, 0.5)
      const metrics = readLines(nodePath.join(folder, "out/metrics.jsonl"))
      assert.lengthOf(metrics, 4)
      for (const [i, told] of expected.told.entries()) {
        const text = JSON.stringify(metrics[i])
        const value = (name: string): number => metrics[i][name]
        assert.closeTo(value("loss"), told.loss, 1e-4 * told.loss, text)
        assert.closeTo(value("grad_norm"), told.grad_norm, 1e-3 * told.grad_norm, text)
        assert.closeTo(value("learning_rate"), 0.01, 1e-9, text)
      }
      writeLines(nodePath.join(folder, "ids.jsonl"), [{ ids: rows[2]?.ids }])
      const score = [
        "--model",
        at("small"),
        "--adapter",
        "out/adapter",
        "--input",
        "ids.jsonl",
        "--out",
        "scores.jsonl"
      ]
      succeeds(await compute(["score", ...score], { cwd: folder }))
      const after = scores(small, smallTensors, expected.adapter, rows[2]?.ids ?? [])
      const [scored] = readLines(nodePath.join(folder, "scores.jsonl"))
      for (const [t, x] of after.logProbs.entries()) assert.closeTo(scored.logprobs[t], x, 1e-3)
    }))

  it("rows of text lower their loss; a second call has nothing to do; other weights, settings or rows train anew", () =>
    inFolder(async (folder) => {
      const model = nodePath.join(folder, "model")
      fs.cpSync(at("speaking"), model, { recursive: true })
      const texts = corpus.map((text) => ({ prompt: text.slice(0, 20), completion: text.slice(20) }))
      const settings = { steps: 12, lr: 0.02, schedule: "linear", batchSize: 3, accumulation: 1, rank: 4, alpha: 8 }
      const command = sft(folder, "model", settings, { rows: texts })
      const first = succeeds(await compute(command, { cwd: folder }))
      assert.notInclude(first.stdout, "nothing to do")
      const metrics = readLines(nodePath.join(folder, "out/metrics.jsonl"))
      const losses = metrics.map((m): number => m.loss)
      assert.lengthOf(losses, 12)
      assert.isBelow(losses.at(-1) ?? Number.NaN, (losses[0] ?? 0) - 0.3)
      assert.isFalse(fs.existsSync(nodePath.join(folder, "out/state")))
      const before = bytesUnder(nodePath.join(folder, "out/adapter"))

      const again = succeeds(await compute(command, { cwd: folder }))
      assert.include(again.stdout, "nothing to do")
      assert.deepStrictEqual(bytesUnder(nodePath.join(folder, "out/adapter")), before)

      await writeModel(model, speaking, 99)
      const other = succeeds(await compute(command, { cwd: folder }))
      assert.notInclude(other.stdout, "nothing to do")
      assert.notDeepEqual(bytesUnder(nodePath.join(folder, "out/adapter")), before)

      const changed = sft(folder, "model", { ...settings, steps: 2 }, { rows: texts })
      assert.notInclude(succeeds(await compute(changed, { cwd: folder })).stdout, "nothing to do")
      assert.lengthOf(readLines(nodePath.join(folder, "out/metrics.jsonl")), 2)
    }))

  it("kill -9 in the middle, then the same command: the bytes of an uninterrupted run", () =>
    inFolder(async (folder) => {
      const settings = { steps: 40, lr: 0.01, batchSize: 2, accumulation: 2, rank: 2, alpha: 4, saveEvery: 3 }
      succeeds(await compute(sft(folder, at("micro"), settings, { out: "whole" }), { cwd: folder }))
      const state = nodePath.join(folder, "cut/state/state.safetensors")
      const killed = await compute(sft(folder, at("micro"), settings, { out: "cut" }), {
        cwd: folder,
        during: (child) => {
          const timer = setInterval(() => {
            if (fs.existsSync(state)) child.kill("SIGKILL")
          }, 2)
          child.once("exit", () => clearInterval(timer))
        }
      })
      assert.strictEqual(killed.signal, "SIGKILL")
      assert.isFalse(fs.existsSync(nodePath.join(folder, "cut/adapter")))
      const resumed = succeeds(await compute(sft(folder, at("micro"), settings, { out: "cut" }), { cwd: folder }))
      // the progress begins where the saved state stands
      assert.match(resumed.stderr, /sft: [1-9]\d*\/40 steps/)
      const [whole, cut] = ["whole", "cut"].map((out) => nodePath.join(folder, out))
      assert.deepStrictEqual(bytesUnder(`${cut}/adapter`), bytesUnder(`${whole}/adapter`))
      // The trainer saves a step before it tells of it: that one line may be missing, every other is there once and in order.
      const missing: Array<{ readonly step: number }> = readLines(`${cut}/metrics.jsonl`).reduce(
        (left, line) => left.filter((each: unknown) => JSON.stringify(each) !== JSON.stringify(line)),
        readLines(`${whole}/metrics.jsonl`)
      )
      const steps = readLines(`${cut}/metrics.jsonl`).map((line): number => line.step)
      assert.isAtMost(missing.length, 1)
      assert.isTrue(missing.every((line) => line.step % settings.saveEvery === 0))
      assert.lengthOf(steps, 40 - missing.length)
      assert.deepStrictEqual(
        steps,
        steps.toSorted((x, y) => x - y)
      )
    }))

  it("a training that diverges stops with the reason and leaves no adapter", () =>
    inFolder(async (folder) => {
      const settings = { steps: 50, lr: 1e30, schedule: "constant", clip: 0, batchSize: 2, accumulation: 1 }
      const ended = await compute(sft(folder, at("micro"), settings), { cwd: folder })
      isUserError(ended, "not finite", "lower the learning rate")
      assert.isFalse(fs.existsSync(nodePath.join(folder, "out/adapter")))
    }))
})

describe.concurrent("settings and rows that are wrong get one line", () => {
  /** On the null device: nothing is computed before the fault is found. */
  const refused = (
    name: string,
    change: {
      readonly config?: unknown
      readonly rows?: ReadonlyArray<unknown>
      readonly flags?: ReadonlyArray<string>
    },
    ...texts: ReadonlyArray<string>
  ) =>
    it(name, () =>
      inFolder(async (folder) => {
        const command = sft(folder, at("micro"), change.config ?? {}, change)
        isUserError(await run(command, { cwd: folder }), ...texts)
        assert.isFalse(fs.existsSync(nodePath.join(folder, "out/adapter")))
      })
    )
  refused("an unknown key", { config: { step: 3 } }, "config.json", "step")
  refused("a value of another type", { config: { lr: "high", betas: [0.9] } }, "config.json", "lr", "betas")
  refused("a number out of range", { config: { steps: 0 } }, "config.json", "steps")
  refused("settings that are not JSON", { config: "{" }, "config.json", "not JSON")
  refused("a mask of another length", { rows: [rows[0], { ids: [1, 2], loss_mask: [1] }] }, "rows.jsonl:2", "2 and 1")
  refused("a mask of other values", { rows: [{ ids: [1, 2], loss_mask: [0, 2] }] }, "rows.jsonl:1", "loss_mask")
  refused("no token that carries loss", { rows: [rows[0], { ids: [1, 2], loss_mask: [1, 0] }] }, "rows.jsonl:2", "loss")
  refused("an id past the vocabulary", { rows: [{ ids: [1, 23], loss_mask: [0, 1] }] }, "rows.jsonl:1", "token id 23")
  refused(
    "more tokens than positions",
    { rows: [rows[0], { ids: new Array(65).fill(1), loss_mask: new Array(65).fill(1) }] },
    "rows.jsonl:2",
    "65 tokens"
  )
  refused("no rows", { rows: [] }, "rows.jsonl", "no rows")
  refused("rows of text without a tokenizer", { rows: [{ prompt: "a", completion: "b" }] }, "tokenizer.json")
  refused("an adapter that is not there", { flags: ["--init-adapter", "nowhere"] }, "nowhere")

  it("an adapter of another model", () =>
    inFolder(async (folder) => {
      const command = sft(folder, at("micro"), {}, { flags: ["--init-adapter", at("start")] })
      isUserError(await run(command, { cwd: folder }), "adapter_model.safetensors")
    }))

  it("a place that cannot be written, and one that another process runs", () =>
    inFolder(async (folder) => {
      isUserError(await run(sft(folder, at("micro"), {}, { out: "rows.jsonl/out" }), { cwd: folder }), "rows.jsonl/out")
      const steps = { steps: 100_000, batchSize: 1, accumulation: 1 }
      const command = sft(folder, at("micro"), steps)
      let second: Promise<void> | undefined
      const ended = await compute(command, {
        cwd: folder,
        during: (child) => {
          const timer = setInterval(() => {
            if (second !== undefined || !fs.existsSync(nodePath.join(folder, "out/run.lock"))) return
            second = run(command, { cwd: folder })
              .then((other) => isUserError(other, `process ${child.pid}`, "run.lock"))
              .finally(() => child.kill("SIGINT"))
          }, 20)
          child.once("exit", () => clearInterval(timer))
        }
      })
      assert.isDefined(second)
      await second
      assert.strictEqual(ended.code, 130)
      assert.strictEqual(ownLines(ended).at(-1), "srcode: interrupted")
    }))
})
