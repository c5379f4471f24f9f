/** The shape of a pass: the same bits in every mode, the first that fits is taken, and what a step costs in reads and submits. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Gpu, OutOfMemory, planMemory, type Tensor } from "@srcode/gpu"
import { allocLora, type Checkpointing, initialLora, type Lora, type Sequence } from "@srcode/model"
import { Effect } from "effect"
import {
  type AdamWOptions,
  choosePass,
  decodeSftConfig,
  makeLanguageModelTrainer,
  makePpoTrainer,
  makeRewardModel,
  makeSftTrainer,
  packFewest,
  passShapes,
  readOptimizer,
  sftPassShapes,
  splitByTokens,
  uniformAt,
  uniforms
} from "../src/index.ts"
import { batch, identity, idsOf, ppoConfig, randomState, rank } from "./ppoSupport.ts"
import { config, DeviceLayer, randomAdapter, tinyDecoder } from "./tinyModel.ts"

const modes: ReadonlyArray<Checkpointing> = ["none", "selective", "layer"]
const adam: AdamWOptions = { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, clip: 1 }

const rows = (lengths: ReadonlyArray<number>): ReadonlyArray<Sequence> =>
  lengths.map((length, i) => ({ ids: idsOf(5, i, length), loss: (t) => (t + i) % 3 !== 0 }))

const adapter = Effect.fnUntraced(function* () {
  const gpu = yield* Gpu
  const lora: Lora = yield* allocLora(config, { rank, alpha: 4 })
  yield* gpu.write(lora.params.flat, randomAdapter(rank, 3))
  return lora
})

/** Counts what passes between host and device while `effect` runs. */
const counted = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const count = { submits: 0, reads: 0, bytes: 0 }
    const watched = Gpu.of({
      ...gpu,
      submit: (label, record) => {
        count.submits++
        return gpu.submit(label, record)
      },
      read: <T extends "f32" | "u32">(tensor: Tensor<T>) => {
        count.reads++
        count.bytes += 4 * tensor.length
        return gpu.read(tensor)
      }
    })
    const result = yield* Effect.provideService(effect, Gpu, watched)
    const since = () => {
      const now = { ...count }
      Object.assign(count, { submits: 0, reads: 0, bytes: 0 })
      return now
    }
    return { result, since, on: <B, F, S>(inner: Effect.Effect<B, F, S>) => Effect.provideService(inner, Gpu, watched) }
  })

const withBudget = <A, E, R>(bytes: number, effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Gpu, (gpu) => {
    const memory = Effect.map(gpu.memory, (m) => ({ ...m, budget: m.live + bytes }))
    return Effect.provideService(effect, Gpu, Gpu.of({ ...gpu, memory }))
  })

describe("pass shapes and packs", () => {
  it("modes come before smaller passes, and none is shorter than the longest sequence", () => {
    assert.deepStrictEqual(passShapes("auto", 100, 30), [
      { checkpointing: "none", capacity: 100 },
      { checkpointing: "selective", capacity: 100 },
      { checkpointing: "layer", capacity: 100 },
      { checkpointing: "none", capacity: 50 },
      { checkpointing: "selective", capacity: 50 },
      { checkpointing: "layer", capacity: 50 },
      { checkpointing: "none", capacity: 30 },
      { checkpointing: "selective", capacity: 30 },
      { checkpointing: "layer", capacity: 30 }
    ])
    assert.deepStrictEqual(passShapes("selective", 61, 30), [
      { checkpointing: "selective", capacity: 61 },
      { checkpointing: "selective", capacity: 31 },
      { checkpointing: "selective", capacity: 30 }
    ])
    assert.deepStrictEqual(passShapes("none", 8, 8), [{ checkpointing: "none", capacity: 8 }])
  })

  it("packFewest: every sequence once, in order within packs, no pack too large, never more packs than in order", () => {
    let fewer = 0
    for (let seed = 0; seed < 100; seed++) {
      const capacity = 8 + Math.floor(uniformAt(seed, 0, 0) * 20)
      const all: ReadonlyArray<Sequence> = Array.from({ length: 1 + (seed % 23) }, (_, i) => ({
        ids: new Array<number>(Math.floor(uniformAt(seed, 1, i) * (capacity + 1))).fill(i)
      }))
      const packs = packFewest(all, capacity)
      const at = (s: Sequence) => all.indexOf(s)
      assert.deepStrictEqual(
        packs
          .flat()
          .map(at)
          .sort((a, b) => a - b),
        [...all.keys()]
      )
      for (const pack of packs) {
        assert.isAtMost(
          pack.reduce((sum, s) => sum + s.ids.length, 0),
          capacity
        )
        assert.deepStrictEqual(
          pack.map(at),
          pack.map(at).sort((a, b) => a - b)
        )
      }
      const inOrder = splitByTokens(all, capacity).length
      assert.isAtMost(packs.length, inOrder)
      if (packs.length < inOrder) fewer++
    }
    assert.isAbove(fewer, 30)
  })

  it.effect("settings: a mode, a token budget, and nothing else", () =>
    Effect.gen(function* () {
      const plain = yield* decodeSftConfig({})
      assert.isUndefined(plain.checkpointing)
      const given = yield* decodeSftConfig({ checkpointing: "layer", microBatchTokens: 64 })
      const lengths = [5, 9, 7].map((n) => ({ ids: idsOf(1, n, n), lossMask: new Array<boolean>(n).fill(true) }))
      assert.deepStrictEqual(sftPassShapes(lengths, given)[0], { checkpointing: "layer", capacity: 64 })
      assert.deepStrictEqual(sftPassShapes(lengths, { ...given, microBatchTokens: 2 }), [
        { checkpointing: "layer", capacity: 9 }
      ])
      assert.deepStrictEqual(sftPassShapes(lengths, plain)[0], { checkpointing: "none", capacity: 16 })
      yield* Effect.flip(decodeSftConfig({ checkpointing: "some" }))
      yield* Effect.flip(decodeSftConfig({ microBatchTokens: 0 }))
    })
  )
})

layer(DeviceLayer)("passes", (it) => {
  it.effect("supervised: every mode ends with the same bytes, for an adapter and for all weights", () =>
    Effect.gen(function* () {
      const sequences = rows([9, 4, 12, 7, 3])
      const run = Effect.fnUntraced(function* (kind: "lora" | "full", checkpointing: Checkpointing) {
        const { decoder, flat } = yield* tinyDecoder()
        const what = kind === "lora" ? { lora: yield* adapter() } : { flat }
        const trainer = yield* makeLanguageModelTrainer(decoder, what, { stage: "test", capacity: 16, checkpointing })
        const results = [yield* trainer.step(sequences, adam, 1), yield* trainer.step(sequences, adam, 2)]
        return { results, state: yield* readOptimizer(trainer.optimizer) }
      }, Effect.scoped)
      for (const kind of ["lora", "full"] as const) {
        const base = yield* run(kind, "none")
        for (const mode of modes.slice(1)) assert.deepStrictEqual(yield* run(kind, mode), base, `${kind}, ${mode}`)
      }
    })
  )

  it.effect("PPO and the reward model: every mode ends with the same bytes", () =>
    Effect.gen(function* () {
      const reinforce = Effect.fnUntraced(function* (checkpointing: Checkpointing) {
        const { decoder } = yield* tinyDecoder()
        const ppo = yield* ppoConfig({ epochs: 2, checkpointing }, { capacity: 24 })
        const trainer = yield* makePpoTrainer(decoder, ppo, identity())
        assert.strictEqual(trainer.pass.checkpointing, checkpointing)
        yield* trainer.load(randomState())
        return { update: yield* trainer.update(batch, 2), image: yield* trainer.image }
      }, Effect.scoped)
      const prefer = Effect.fnUntraced(function* (checkpointing: Checkpointing, capacity: number) {
        const { decoder } = yield* tinyDecoder()
        const settings = { steps: 2, batchSize: 4, lr: 1e-2, rank, alpha: 4, clip: 1, seed: 1, checkpointing }
        const model = yield* makeRewardModel(decoder, { ...settings, capacity })
        const told: Array<number> = []
        const pairs = [0, 1, 2, 3].map((i) => ({ chosen: idsOf(1, i, 3 + i), rejected: idsOf(2, i, 5) }))
        yield* model.train(pairs, (s) => Effect.sync(() => told.push(s.loss, s.accuracy, s.gradNorm)))
        return { told, image: yield* model.image }
      }, Effect.scoped)
      const [policy, preference] = [yield* reinforce("none"), yield* prefer("none", 64)]
      for (const mode of modes.slice(1)) {
        assert.deepStrictEqual(yield* reinforce(mode), policy, mode)
        assert.deepStrictEqual(yield* prefer(mode, 64), preference, mode)
      }
      // Several passes a step give the loss and the gradient of one.
      const several = yield* prefer("none", 24)
      for (const [i, value] of several.told.entries()) assert.closeTo(value, preference.told[i]!, 1e-5)
    })
  )

  it.effect("the first shape that fits is taken: less is kept, then passes shrink, then it is refused", () =>
    Effect.gen(function* () {
      const { decoder } = yield* tinyDecoder()
      const lora = yield* adapter()
      const shapes = passShapes("auto", 40, 12)
      const sft = yield* decodeSftConfig({})
      const make = (pass: (typeof shapes)[number]) => makeSftTrainer(decoder, lora, sft, pass)
      const totals = yield* Effect.forEach(shapes, (shape) =>
        Effect.map(
          planMemory(() => make(shape)),
          (p) => p.total
        )
      )
      for (let i = 0; i < shapes.length; i++) {
        const chosen = yield* withBudget(totals[i]!, choosePass("test", shapes, make))
        assert.strictEqual(chosen, shapes[totals.findIndex((total) => total <= totals[i]!)])
        if (i % 3 > 0) assert.isBelow(totals[i]!, totals[i - 1]!)
        if (i > 2) assert.isBelow(totals[i]!, totals[i - 3]!)
        // What was planned is what is allocated.
        const gpu = yield* Gpu
        const before = (yield* gpu.memory).live
        const after = yield* Effect.scoped(
          Effect.andThen(
            make(shapes[i]!),
            Effect.map(gpu.memory, (m) => m.live)
          )
        )
        assert.strictEqual(after - before, totals[i])
      }
      const error = yield* Effect.flip(withBudget(totals.at(-1)! - 16, choosePass("test", shapes, make)))
      assert.instanceOf(error.reason, OutOfMemory)
      assert.include(error.message, "test with passes of 12 tokens")
      assert.include(error.message, " 16 more than")
    }).pipe(Effect.scoped)
  )

  it.effect("PPO and the reward model allocate what was planned for them", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { decoder } = yield* tinyDecoder()
      const live = Effect.map(gpu.memory, (m) => m.live)
      for (const checkpointing of modes) {
        const ppo = yield* ppoConfig({ checkpointing })
        const settings = { steps: 1, batchSize: 4, lr: 1e-2, rank, alpha: 4, clip: 1, seed: 1, capacity: 64 }
        for (const make of [
          Effect.asVoid(makePpoTrainer(decoder, ppo, identity())),
          Effect.asVoid(makeRewardModel(decoder, { ...settings, checkpointing }))
        ]) {
          const plan = yield* planMemory(() => make)
          const before = yield* live
          const after = yield* Effect.scoped(Effect.andThen(make, live))
          assert.strictEqual(after - before, plan.total, checkpointing)
          assert.strictEqual(yield* live, before)
        }
      }
    }).pipe(Effect.scoped)
  )

  it.effect("a binding that is too small for a pass makes it shorter", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { decoder } = yield* tinyDecoder()
      const lora = yield* adapter()
      const sft = yield* decodeSftConfig({})
      const shapes = passShapes("auto", 1200, 12)
      const make = (pass: (typeof shapes)[number]) => makeSftTrainer(decoder, lora, sft, pass)
      // Room for the logits of 400 rows: keeping less would not help.
      const limits = { ...gpu.info.limits, maxStorageBufferBindingSize: 400 * 4 * 64 }
      const small = Gpu.of({ ...gpu, info: { ...gpu.info, limits } })
      const chosen = yield* choosePass("test", shapes, make).pipe(Effect.provideService(Gpu, small))
      assert.deepStrictEqual(chosen, { checkpointing: "none", capacity: 300 })
    }).pipe(Effect.scoped)
  )

  it.effect("one submit a micro-batch and one small read a step", () =>
    Effect.gen(function* () {
      const { decoder } = yield* tinyDecoder()
      const lora = yield* adapter()
      const sequences = rows([9, 4, 12, 7, 3])
      const step = yield* counted(makeLanguageModelTrainer(decoder, { lora }, { stage: "test", capacity: 16 }))
      step.since()
      yield* step.on(step.result.step(sequences, adam, 1))
      assert.deepStrictEqual(step.since(), { submits: 3, reads: 1, bytes: 4 * 67 })

      const ppo = yield* ppoConfig({ epochs: 3 }, { capacity: 24 })
      const trainer = yield* counted(makePpoTrainer(decoder, ppo, initialLora(config, rank, uniforms(1, 4))))
      const tokens = batch.reduce((sum, b) => sum + b.generation.ids.length, 0)
      const packs = splitByTokens(
        batch.map((b) => ({ ids: [...b.promptIds, ...b.generation.ids] })),
        24
      ).length
      assert.isAbove(packs, 1)
      trainer.since()
      yield* trainer.result.update(batch, 2)
      const update = trainer.since()
      // Scoring a pack, advantages, then each epoch's packs; scores before the rewards, and the record with the returns.
      assert.strictEqual(update.submits, packs * (1 + ppo.epochs) + 1)
      assert.strictEqual(update.reads, 2)
      assert.isBelow(update.bytes, 4 * (9 * tokens + 2 * 4 * ppo.batchTokens + 128 * ppo.epochs + 128 + tokens))

      const settings = { steps: 1, batchSize: 4, lr: 1e-2, rank, alpha: 4, clip: 1, seed: 1, capacity: 24 }
      const model = yield* counted(makeRewardModel(decoder, settings))
      model.since()
      const pairs = [0, 1, 2, 3].map((i) => ({ chosen: idsOf(1, i, 4), rejected: idsOf(2, i, 5) }))
      yield* model.result.train(pairs, () => Effect.void)
      assert.deepStrictEqual(model.since(), { submits: 2, reads: 1, bytes: 4 * 67 })
    }).pipe(Effect.scoped)
  )

  it.effect("rows packed by a token budget give the loss and the gradient of rows in order", () =>
    Effect.gen(function* () {
      const { decoder } = yield* tinyDecoder()
      const sequences = rows([9, 8, 11, 7, 5, 8])
      assert.isBelow(packFewest(sequences, 16).length, splitByTokens(sequences, 16).length)
      const run = Effect.fnUntraced(function* (packing: "order" | "fewest", capacity: number) {
        const lora = yield* adapter()
        const trainer = yield* makeLanguageModelTrainer(decoder, { lora }, { stage: "test", capacity, packing })
        return yield* trainer.step(sequences, adam, 1)
      }, Effect.scoped)
      const whole = yield* run("order", 48)
      for (const packing of ["order", "fewest"] as const) {
        const { loss, gradNorm, supervised, tokens } = yield* run(packing, 16)
        assert.closeTo(loss / whole.loss, 1, 1e-5)
        assert.closeTo(gradNorm / whole.gradNorm, 1, 1e-4)
        assert.deepStrictEqual([supervised, tokens], [whole.supervised, whole.tokens])
      }
      assert.deepStrictEqual(yield* run("fewest", 16), yield* run("fewest", 16))
    }).pipe(Effect.scoped)
  )
})
