/** Supervised fine-tuning: what carries loss, three steps against double precision, splits, resuming, refusals. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Gpu } from "@srcode/gpu"
import { allocLora, hasState, loraScale, makeScorer, saveState } from "@srcode/model"
import { Effect, Exit } from "effect"
import {
  checkRows,
  completionRow,
  decodeSftConfig,
  type SftConfig,
  type SftStep,
  sftMetrics,
  type TokenRow,
  trainSft,
  uniformAt
} from "../src/index.ts"
import { decode, Graph } from "./reference.ts"
import {
  assertNear,
  config,
  DeviceLayer,
  fails,
  norm,
  onGraph,
  randomAdapter,
  relativeError,
  temporaryFolder,
  tinyDecoder
} from "./tinyModel.ts"

const rank = 2
const alpha = 4

const rowsOf = (count: number, seed: number): ReadonlyArray<TokenRow> =>
  Array.from({ length: count }, (_, i) => {
    const id = (t: number) => 1 + Math.floor(uniformAt(seed, i, t) * (config.vocabSize - 1))
    const [prompt, completion] = [2 + (i % 4), 1 + ((3 * i) % 5)]
    return completionRow(
      Array.from({ length: prompt }, (_, t) => id(t)),
      Array.from({ length: completion }, (_, t) => id(40 + t)),
      0
    )
  })
const rows = rowsOf(6, 11)

const settings = (over: Partial<SftConfig>): Effect.Effect<SftConfig> =>
  decodeSftConfig({ rank, alpha, schedule: "constant", shuffle: false, ...over }).pipe(Effect.orDie)

/** One run over a model of its own; `start` null lets training initialise the adapter. */
const train = Effect.fnUntraced(function* (
  over: Partial<SftConfig>,
  options: {
    readonly rows?: ReadonlyArray<TokenRow>
    readonly start?: Float32Array<ArrayBuffer>
    readonly state?: string
    readonly onStep?: (step: SftStep) => Effect.Effect<void>
    readonly poison?: number
  } = {}
) {
  const gpu = yield* Gpu
  const { decoder, flat, image } = yield* tinyDecoder()
  const lora = yield* allocLora(config, { rank, alpha })
  if (options.start) yield* gpu.write(lora.params.flat, options.start)
  if (options.poison !== undefined) yield* gpu.write(flat, image.with(3, options.poison))
  const steps: Array<SftStep> = []
  const starts: Array<number> = []
  const exit = yield* Effect.exit(
    trainSft({
      decoder,
      lora,
      fresh: options.start === undefined,
      rows: options.rows ?? rows,
      config: yield* settings(over),
      stateDirectory: options.state ?? `${yield* temporaryFolder}/state`,
      onStart: (step) => Effect.sync(() => starts.push(step)).pipe(Effect.asVoid),
      onStep: (step) => {
        steps.push(step)
        return options.onStep?.(step) ?? Effect.void
      }
    })
  )
  return { exit, steps, starts, adapter: yield* gpu.read(lora.params.flat), image, decoder, lora }
})

const trained = Effect.fnUntraced(function* (...args: Parameters<typeof train>) {
  const result = yield* train(...args)
  if (Exit.isFailure(result.exit)) return yield* Effect.failCause(result.exit.cause)
  return result
})

/** Mean loss over the supervised tokens and the adapter's gradient, in double precision. */
const reference = (image: Float32Array, adapter: Float32Array, batch: ReadonlyArray<TokenRow>) => {
  const graph = new Graph()
  const model = onGraph(graph, image, adapter, rank, loraScale(rank, alpha, false))
  const terms = batch.flatMap(({ ids, lossMask }) => {
    const { logits } = decode(graph, config, model.tensors, model.lora, ids)
    return ids.flatMap((id, t) => (t > 0 && lossMask[t] ? [graph.logSoftmax(logits[t - 1]!)[id]!] : []))
  })
  const loss = graph.scale(graph.sum(...terms), -1 / terms.length)
  graph.backward(loss)
  return { loss: loss.value, supervised: terms.length, gradient: model.gradient() }
}

describe("rows", () => {
  it("the completion and the end token carry loss, the prompt does not", () => {
    assert.deepStrictEqual(completionRow([5, 6], [7], 0), { ids: [5, 6, 7, 0], lossMask: [false, false, true, true] })
    assert.deepStrictEqual(completionRow([5], [7], null), { ids: [5, 7], lossMask: [false, true] })
    assert.deepStrictEqual(completionRow([5], [], 0).lossMask, [false, true])
  })

  it.effect("rows that cannot be trained on are refused with their number and what is wrong", () =>
    Effect.gen(function* () {
      const good: TokenRow = { ids: [1, 2], lossMask: [false, true] }
      yield* checkRows([good], 17, 48)
      const check = (row: TokenRow, reason: "BadInput" | "InvariantBroken", vocab = 17, positions = 48) =>
        fails(checkRows([good, row], vocab, positions), reason)
      assert.include(yield* check({ ids: [1, 2, 3], lossMask: [false, true] }, "BadInput"), "row 2")
      for (const id of [17, -1, 1.5, Number.NaN])
        assert.include(yield* check({ ids: [1, id], lossMask: [false, true] }, "BadInput"), String(id))
      assert.include(yield* check({ ids: [1, 2, 3], lossMask: [false, true, true] }, "BadInput", 17, 2), "3 tokens")
      for (const silent of [
        { ids: [1, 2], lossMask: [false, false] },
        { ids: [1, 2], lossMask: [true, false] },
        { ids: [], lossMask: [] }
      ])
        assert.include(yield* check(silent, "InvariantBroken"), "supervised tokens > 0")
      yield* fails(checkRows([], 17, 48), "BadInput")
    })
  )

  it.effect("settings: defaults, and a misspelt or impossible one is refused", () =>
    Effect.gen(function* () {
      const defaults = yield* decodeSftConfig({})
      assert.deepInclude(defaults, { steps: 100, lr: 2e-4, schedule: "cosine", clip: 1, rank: 8, alpha: 16 })
      for (const bad of [
        { learningRate: 1 },
        { lr: -1 },
        { lr: Number.POSITIVE_INFINITY },
        { rank: 0 },
        { steps: 1.5 }
      ])
        assert.isTrue(Exit.isFailure(yield* Effect.exit(decodeSftConfig(bad))), JSON.stringify(bad))
    })
  )
})

layer(DeviceLayer)("trainSft", (it) => {
  it.effect("three steps of AdamW are those of the double-precision gradients", () =>
    Effect.gen(function* () {
      // ε is far above rounding, so that entries with next to no gradient do not turn it into a full step
      const over = { steps: 3, lr: 2e-2, batchSize: 3, accumulation: 1, weightDecay: 0.1, eps: 1e-3, clip: 0.5 }
      const start = randomAdapter(rank, 5)
      const { adapter, steps, image } = yield* trained(over, { start })
      const w = Float64Array.from(start)
      const [m, v] = [new Float64Array(w.length), new Float64Array(w.length)]
      for (let step = 1; step <= 3; step++) {
        const batch = [0, 1, 2].map((i) => rows[(3 * (step - 1) + i) % rows.length]!)
        const { loss, supervised, gradient } = reference(image, Float32Array.from(w), batch)
        const length = norm(gradient)
        const seen = steps[step - 1]!
        assert.strictEqual(seen.supervised, supervised)
        assert.strictEqual(
          seen.tokens,
          batch.reduce((sum, row) => sum + row.ids.length, 0)
        )
        assert.closeTo(seen.loss / loss, 1, 1e-5)
        assert.closeTo(seen.gradNorm / length, 1, 1e-4)
        assert.strictEqual(seen.lr, 2e-2)
        const scale = Math.min(1, 0.5 / (length + 1e-6))
        for (let i = 0; i < w.length; i++) {
          const g = gradient[i]! * scale
          m[i] = 0.9 * m[i]! + 0.1 * g
          v[i] = 0.999 * v[i]! + 0.001 * g * g
          const rise = m[i]! / (1 - 0.9 ** step) / (Math.sqrt(v[i]! / (1 - 0.999 ** step)) + 1e-3)
          w[i] = w[i]! * (1 - 2e-2 * 0.1) - 2e-2 * rise
        }
      }
      // the clip bites and the adapter moves, or the comparison would say little
      assert.isAbove(steps[0]!.gradNorm, 0.5)
      assert.isAbove(relativeError(w, start), 0.1)
      assertNear("adapter", adapter, w, 1e-4)
    })
  )

  it.effect("a prompt's own tokens are read but never learnt", () =>
    Effect.gen(function* () {
      const { steps, decoder, lora } = yield* trained({ steps: 1, lr: 0, batchSize: 6, accumulation: 1 })
      const scorer = yield* makeScorer(decoder, { capacity: 64, rank })
      const scores = yield* scorer.score(
        lora,
        rows.map(({ ids, lossMask }) => ({ ids, loss: (t) => lossMask[t] === true }))
      )
      const all = scores.flatMap((s) => [...s.logProbs])
      assert.strictEqual(steps[0]!.supervised, all.length)
      assert.strictEqual(all.length, rows.flatMap((r) => r.lossMask).filter(Boolean).length)
      assert.closeTo(steps[0]!.loss, -all.reduce((a, b) => a + b, 0) / all.length, 1e-5)
      assert.deepStrictEqual(Object.keys(sftMetrics(steps[0]!)).sort(), [
        "entropy",
        "grad_norm",
        "learning_rate",
        "loss",
        "num_tokens",
        "supervised_tokens"
      ])
    })
  )

  it.effect("how a step is split into micro-batches does not change it", () =>
    Effect.gen(function* () {
      const start = randomAdapter(rank, 6)
      const run = (batchSize: number, accumulation: number) =>
        trained({ steps: 3, lr: 5e-3, eps: 1e-4, batchSize, accumulation }, { start })
      const whole = yield* run(4, 1)
      const moved = relativeError(whole.adapter, start)
      assert.isAbove(moved, 1e-2)
      for (const [batchSize, accumulation] of [
        [1, 4],
        [2, 2]
      ] as const) {
        const other = yield* run(batchSize, accumulation)
        for (const [i, s] of other.steps.entries()) assert.closeTo(s.loss / whole.steps[i]!.loss, 1, 1e-5)
        assert.isBelow(relativeError(other.adapter, whole.adapter) / moved, 1e-3)
      }
    })
  )

  it.effect("a fresh adapter starts as the identity and is learnt from; warm-up and schedule are followed", () =>
    Effect.gen(function* () {
      const over = { steps: 12, lr: 2e-2, schedule: "linear", warmup: 2, batchSize: 6, accumulation: 1 } as const
      const { steps, starts, image } = yield* trained(over)
      const plain = reference(image, new Float32Array(randomAdapter(rank, 1).length), rows)
      assert.closeTo(steps[0]!.loss / plain.loss, 1, 1e-5)
      assert.isBelow(steps[11]!.loss, 0.8 * steps[0]!.loss)
      assert.deepStrictEqual(starts, [0])
      assert.deepStrictEqual(
        steps.map((s) => s.step),
        Array.from({ length: 12 }, (_, i) => i + 1)
      )
      for (const [i, { lr }] of steps.entries())
        assert.closeTo(lr, i < 2 ? (2e-2 * (i + 1)) / 2 : 2e-2 * (1 - (i - 2) / 10), 1e-12)
    })
  )

  it.effect("interrupted after a save and started again, it ends with the same bytes", () =>
    Effect.gen(function* () {
      const over = {
        steps: 5,
        lr: 1e-2,
        batchSize: 2,
        accumulation: 1,
        saveEvery: 2,
        shuffle: true,
        schedule: "cosine"
      }
      const whole = yield* trained(over as Partial<SftConfig>)
      for (const at of [1, 2, 3, 4]) {
        const state = `${yield* temporaryFolder}/state`
        const cut = yield* train(over as Partial<SftConfig>, {
          state,
          onStep: ({ step }) => (step === at ? Effect.interrupt : Effect.void)
        })
        assert.isTrue(Exit.isFailure(cut.exit))
        // A step is told before it is saved: the interrupt at step `at` leaves the state of an earlier one.
        assert.strictEqual(yield* hasState(state), at > 2)
        const rest = yield* trained(over as Partial<SftConfig>, { state })
        const first = 2 * Math.floor((at - 1) / 2)
        assert.deepStrictEqual(rest.starts, [first])
        assert.deepStrictEqual(
          rest.steps.map((s) => [s.step, s.loss, s.gradNorm]),
          whole.steps.slice(first).map((s) => [s.step, s.loss, s.gradNorm])
        )
        assert.deepStrictEqual(rest.adapter, whole.adapter)
      }
      const other = yield* trained({ ...(over as Partial<SftConfig>), seed: 2 })
      assert.notDeepEqual(other.adapter, whole.adapter)
    })
  )

  it.effect("a state of another rank, or of something else, is refused", () =>
    Effect.gen(function* () {
      for (const [json, expected] of [
        [{ step: 1 }, "another model or rank"],
        [{ stage: "x" }, "not a training state"]
      ] as const) {
        const state = `${yield* temporaryFolder}/state`
        const zeros = new Float32Array(7)
        yield* saveState(state, { tensors: { params: zeros, m: zeros, v: zeros }, json })
        const error = yield* Effect.flip(trained({ steps: 2 }, { state }))
        assert.include(String((error as Error).message), expected)
        assert.isTrue(yield* hasState(state))
      }
    })
  )

  it.effect(
    "weights that are no numbers and a rate that leaves the numbers are Diverged; the adapter stays finite",
    () =>
      Effect.gen(function* () {
        const start = randomAdapter(rank, 7)
        const poisoned = yield* train({ steps: 2 }, { start, poison: Number.NaN })
        assert.include(yield* fails(poisoned.exit, "Diverged"), "step 1")
        assert.deepStrictEqual(poisoned.adapter, start)
        const wild = yield* train({ steps: 6, lr: 1e30, batchSize: 6, accumulation: 1 }, { start })
        assert.match(yield* fails(wild.exit, "Diverged"), /learning rate/)
        assert.isAtLeast(wild.steps.length, 1)
        assert.isTrue(wild.adapter.every(Number.isFinite))
      })
  )
})
