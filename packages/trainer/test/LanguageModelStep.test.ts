/** One optimizer step: its loss, its gradient, independence of the split into micro-batches, and what it refuses. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Gpu, GpuDawn } from "@srcode/gpu"
import {
  allocLora,
  allocRope,
  type Decoder,
  flatLength,
  initialFlat,
  type ModelConfig,
  makeScorer,
  packLora,
  type Sequence,
  unpackLora,
  windowsOf
} from "@srcode/model"
import { Effect } from "effect"
import {
  type AdamWOptions,
  makeLanguageModelTrainer,
  normals,
  readOptimizer,
  sortByToken,
  splitByTokens,
  type TrainerError,
  uniformAt
} from "../src/index.ts"
import { config as tiny } from "./tinyModel.ts"

const config: ModelConfig = {
  ...tiny,
  hiddenSize: 24,
  intermediateSize: 40,
  numHeads: 4,
  numKeyValueHeads: 2,
  headDim: 8,
  vocabSize: 67,
  maxPositionEmbeddings: 64
}

const adam: AdamWOptions = { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, clip: 1 }

/** Sequences of the given lengths with about two thirds of the tokens supervised. */
const sequencesOf = (lengths: ReadonlyArray<number>, seed: number): ReadonlyArray<Sequence> =>
  lengths.map((length, i) => ({
    ids: Array.from({ length }, (_, t) => Math.floor(uniformAt(seed, i, t) * config.vocabSize)),
    loss: (t) => (t + i) % 3 !== 0
  }))

/** A model of random weights and a trainer over its adapter or over all of it. */
const make = Effect.fnUntraced(function* (
  kind: "lora" | "full",
  capacity: number,
  adapter: { readonly alpha: number; readonly std: number } = { alpha: 8, std: 0.2 }
) {
  const gpu = yield* Gpu
  const flat = yield* gpu.alloc("weights", "f32", flatLength(config))
  const next = normals(1, 1)
  const initial = initialFlat(config, next)
  // larger than a training's start, so that every part has a gradient worth looking at
  const image = initial.map((w) => (w === 0 || w === 1 ? w : 8 * w))
  yield* gpu.write(flat, image)
  const decoder: Decoder = { config, weights: windowsOf(config, flat), rope: yield* allocRope(config, 64) }
  const lora = yield* allocLora(config, { rank: 4, alpha: adapter.alpha })
  const pairs = unpackLora(config, 4, new Float32Array(lora.params.flat.length))
  for (const pair of pairs.values())
    for (const [half, std] of [
      [pair.a, 0.2],
      [pair.b, adapter.std]
    ] as const)
      for (let i = 0; i < half.length; i++) half[i] = std * next()
  yield* gpu.write(lora.params.flat, packLora(config, 4, pairs))
  const trainer = yield* makeLanguageModelTrainer(decoder, kind === "lora" ? { lora } : { flat }, {
    stage: "test",
    capacity
  })
  const scorer = yield* makeScorer(decoder, { capacity: 64, rank: 4 })
  const loss = Effect.fnUntraced(function* (sequences: ReadonlyArray<Sequence>) {
    const scores = yield* scorer.score(kind === "lora" ? lora : null, sequences)
    const all = scores.flatMap((s) => [...s.logProbs])
    const entropies = scores.flatMap((s) => [...s.entropy])
    const mean = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b, 0) / values.length
    return { loss: -mean(all), entropy: mean(entropies), count: all.length }
  })
  return { trainer, loss, flat, image }
})

const distance = (x: Float32Array, y: Float32Array): number => Math.hypot(...x.map((value, i) => value - y[i]!))

const fails = Effect.fnUntraced(function* <A, E extends { readonly _tag: string }, R>(
  effect: Effect.Effect<A, E | TrainerError, R>,
  reason: TrainerError["reason"]["_tag"]
) {
  const error = yield* Effect.flip(effect)
  if (error._tag !== "TrainerError" || !("reason" in error)) return assert.fail(error._tag)
  assert.strictEqual(error.reason._tag, reason)
  assert.notMatch(error.message, /\n/)
  return error.message
})

layer(GpuDawn.layerWith({ device: "auto" }))("a language-model step", (it) => {
  for (const kind of ["lora", "full"] as const) {
    it.effect(`${kind}: the loss is the mean over supervised tokens, and the step goes down its gradient`, () =>
      Effect.gen(function* () {
        const { trainer, loss } = yield* make(kind, 32)
        const sequences = sequencesOf([9, 1, 14, 0, 5, 30], 2)
        const before = yield* loss(sequences)
        const start = yield* readOptimizer(trainer.optimizer)
        // With ε far above the gradient the first step is plain descent: Δw = -(lr / ε) g
        const rate = kind === "lora" ? 2e-4 : 5e-6
        const plain = { lr: rate * 1e4, betas: [0.9, 0.999], eps: 1e4, weightDecay: 0, clip: 0 } as const
        const result = yield* trainer.step(sequences, plain, 1)
        assert.closeTo(result.loss, before.loss, 1e-5 * before.loss)
        assert.closeTo(result.entropy, before.entropy, 1e-5 * before.entropy)
        assert.strictEqual(result.supervised, before.count)
        assert.strictEqual(result.tokens, 59)
        const moved = distance((yield* readOptimizer(trainer.optimizer)).params, start.params)
        assert.closeTo(moved / (rate * result.gradNorm), 1, 2e-2)
        const after = yield* loss(sequences)
        // first order: the loss falls by rate · ‖g‖²
        assert.closeTo((before.loss - after.loss) / (rate * result.gradNorm ** 2), 1, 0.1)
      })
    )

    it.effect(`${kind}: micro-batches, their order and silent sequences do not change the step`, () =>
      Effect.gen(function* () {
        const sequences = sequencesOf([8, 6, 8, 3, 8, 7, 5, 8], 3)
        const silent: Sequence = { ids: [5, 6, 7, 8], loss: () => false }
        const run = Effect.fnUntraced(function* (capacity: number, some: ReadonlyArray<Sequence>) {
          const { trainer } = yield* make(kind, capacity)
          const start = (yield* readOptimizer(trainer.optimizer)).params
          const results: Array<readonly [number, number]> = []
          for (let step = 1; step <= 3; step++) {
            const { loss, gradNorm } = yield* trainer.step(some, adam, step)
            results.push([loss, gradNorm])
          }
          const { params } = yield* readOptimizer(trainer.optimizer)
          return { start, results, params }
        }, Effect.scoped)
        const whole = yield* run(64, sequences)
        assert.isBelow(whole.results[2]![0], whole.results[0]![0])
        const moved = distance(whole.params, whole.start)
        for (const [name, other] of [
          ["one sequence each", yield* run(8, sequences)],
          ["ragged packs", yield* run(19, sequences)],
          ["reversed", yield* run(64, sequences.toReversed())],
          ["with silent and empty ones", yield* run(24, [silent, ...sequences, { ids: [] }, silent])]
        ] as const) {
          other.results.forEach(([loss, norm], i) => {
            assert.closeTo(loss / whole.results[i]![0], 1, 1e-5, name)
            assert.closeTo(norm / whole.results[i]![1], 1, 1e-4, name)
          })
          // AdamW divides by the gradient's own size, so entries near zero carry their rounding in full
          assert.isBelow(distance(other.params, whole.params) / moved, 1e-2, name)
        }
        const again = yield* run(64, sequences)
        assert.deepStrictEqual(again, whole)
      })
    )
  }

  it.effect("NaN in the gradient is Diverged with the step's number; nothing changes and training can go on", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const sequences = sequencesOf([8, 8], 4)
      const { trainer, flat, image } = yield* make("lora", 16)
      const twin = yield* make("lora", 16)
      for (const one of [trainer, twin.trainer]) yield* one.step(sequences, adam, 1)
      const before = yield* readOptimizer(trainer.optimizer)
      const poisoned = image.slice()
      const last = poisoned.findLastIndex((w) => w !== 0)
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
        poisoned[last] = bad
        yield* gpu.write(flat, poisoned)
        const message = yield* fails(trainer.step(sequences, adam, 17), "Diverged")
        assert.include(String(message), "17")
        assert.deepStrictEqual(yield* readOptimizer(trainer.optimizer), before)
      }
      yield* gpu.write(flat, image)
      for (const one of [trainer, twin.trainer]) yield* one.step(sequences, adam, 2)
      assert.deepStrictEqual(yield* readOptimizer(trainer.optimizer), yield* readOptimizer(twin.trainer.optimizer))
    })
  )

  it.effect("a gradient too large for f32 is Diverged even where the loss is finite", () =>
    Effect.gen(function* () {
      // B = 0 keeps the forward pass sound, while dB carries the scale
      const { trainer, loss } = yield* make("lora", 16, { alpha: 1e25, std: 0 })
      const sequences = sequencesOf([8, 8], 6)
      assert.isTrue(Number.isFinite((yield* loss(sequences)).loss))
      const before = yield* readOptimizer(trainer.optimizer)
      yield* fails(trainer.step(sequences, adam, 1), "Diverged")
      assert.deepStrictEqual(yield* readOptimizer(trainer.optimizer), before)
    })
  )

  it.effect("data that cannot be trained on is refused before anything changes", () =>
    Effect.gen(function* () {
      const { trainer } = yield* make("full", 16)
      const before = yield* readOptimizer(trainer.optimizer)
      const good = sequencesOf([8], 5)
      const all = () => true
      const ids = (length: number, id = 1) => Array.from({ length }, () => id)
      const message = yield* fails(trainer.step([...good, { ids: ids(17), loss: all }], adam, 3), "BadInput")
      assert.include(String(message), "sequence 2 of step 3")
      yield* fails(trainer.step([...good, { ids: [1, config.vocabSize], loss: all }], adam, 1), "BadInput")
      yield* fails(trainer.step([{ ids: [-1, 2], loss: all }], adam, 1), "BadInput")
      yield* fails(trainer.step([{ ids: [1.5, 2], loss: all }], adam, 1), "BadInput")
      for (const silent of [[], [{ ids: [] }], [{ ids: ids(4) }], [{ ids: [3], loss: all }]])
        yield* fails(trainer.step(silent, adam, 1), "BadInput")
      assert.deepStrictEqual(yield* readOptimizer(trainer.optimizer), before)
      assert.isAbove((yield* trainer.step(good, adam, 1)).loss, 0)
    })
  )
})

describe("splitting and sorting", () => {
  it("packs hold at most the capacity, keep the order, and none could take the next sequence", () => {
    for (let seed = 0; seed < 50; seed++) {
      const capacity = 8 + Math.floor(uniformAt(seed, 0, 0) * 20)
      const sequences = Array.from({ length: 1 + (seed % 13) }, (_, i) => ({
        ids: new Array<number>(Math.floor(uniformAt(seed, 1, i) * (capacity + 1))).fill(i)
      }))
      const packs = splitByTokens(sequences, capacity)
      const size = (pack: ReadonlyArray<Sequence>) => pack.reduce((sum, s) => sum + s.ids.length, 0)
      assert.deepStrictEqual(packs.flat(), sequences)
      packs.forEach((pack, i) => {
        assert.isAtMost(size(pack), capacity)
        const next = packs[i + 1]?.[0]
        if (next) assert.isAbove(size(pack) + next.ids.length, capacity)
      })
    }
  })

  it("sortByToken lists each token's rows in order", () => {
    const ids = Uint32Array.from({ length: 40 }, (_, i) => Math.floor(uniformAt(6, 0, i) * 9))
    const { start, order } = sortByToken(ids, 10)
    assert.strictEqual(start[10], 40)
    for (let v = 0; v < 10; v++)
      assert.deepStrictEqual(
        [...order.subarray(start[v], start[v + 1])],
        [...ids.keys()].filter((row) => ids[row] === v)
      )
  })
})
