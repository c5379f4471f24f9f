/**
 * Plans count the temporary buffers of kernels: with a rung that packs its operands, scorer, engine and trainers take what was planned for
 * them, to the byte, once they have had their largest pass. On a device that compiles everything and computes nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { Gpu, GpuDawn, type HostArray, onlyVariant, planMemory, type Tensor } from "@srcode/gpu"
import { allocLora, type Decoder, makeGenerator, makeScorer, type Sequence } from "@srcode/model"
import { Effect, type Scope } from "effect"
import { makeLanguageModelTrainer, makePpoTrainer, makeRewardModel } from "../src/index.ts"
import { identity, one, ppoConfig } from "./ppoSupport.ts"
import { config, tinyDecoder } from "./tinyModel.ts"

const rank = 4
const adam = { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, clip: 1 } as const

const full = (lengths: ReadonlyArray<number>): ReadonlyArray<Sequence> =>
  lengths.map((length) => ({ ids: new Array<number>(length).fill(1), loss: () => true }))

/** The null device as hardware whose products all take 16-bit tiles; reads are zeros. One for each case: temporary buffers stay. */
const packing = Effect.map(GpuDawn.open({ device: "null" }), (gpu) =>
  Gpu.of({
    ...gpu,
    info: { ...gpu.info, software: false, matmul: onlyVariant("half64") },
    idle: Effect.void,
    read: <E extends "f32" | "u32">(tensor: Tensor<E>) =>
      Effect.sync(
        () =>
          (tensor.element === "f32" ? new Float32Array(tensor.length) : new Uint32Array(tensor.length)) as HostArray<E>
      )
  })
)

describe("what is planned is taken", () => {
  const check = <A>(
    name: string,
    make: (decoder: Decoder) => Effect.Effect<A, unknown, Gpu | Scope.Scope>,
    work: (made: A) => Effect.Effect<unknown, unknown, Gpu>
  ) =>
    it.effect(name, () =>
      Effect.gen(function* () {
        const gpu = yield* packing
        yield* Effect.gen(function* () {
          const { decoder } = yield* tinyDecoder()
          const plan = yield* planMemory(() => make(decoder))
          const [temporary, ...more] = plan.sections.slice(-1)
          assert.deepStrictEqual([temporary?.name, more], ["temporary", []])
          assert.isAbove(temporary?.bytes ?? 0, 0)
          const { live: before } = yield* gpu.memory
          yield* Effect.scoped(Effect.flatMap(make(decoder), work))
          const { live: after, peak } = yield* gpu.memory
          assert.deepStrictEqual([peak - before, after - before], [plan.total, temporary?.bytes])
        }).pipe(Effect.scoped, Effect.provideService(Gpu, gpu))
      }).pipe(Effect.scoped)
    )

  const adapter = allocLora(config, { rank, alpha: 4 })

  check(
    "scorer",
    (decoder) => Effect.all([makeScorer(decoder, { capacity: 90, rank }), adapter]),
    ([scorer, lora]) => Effect.andThen(scorer.score(null, full([7])), scorer.score(lora, full([48, 42])))
  )
  for (const checkpointing of ["none", "layer"] as const)
    check(
      `a trainer that keeps ${checkpointing}`,
      (decoder) =>
        Effect.flatMap(adapter, (lora) =>
          makeLanguageModelTrainer(decoder, { lora }, { stage: "test", capacity: 90, checkpointing })
        ),
      (trainer) => Effect.andThen(trainer.step(full([5, 9]), adam, 1), trainer.step(full([48, 42, 30]), adam, 2))
    )
  check(
    "engine",
    (decoder) =>
      Effect.all([
        makeGenerator(
          { ...decoder, config: { ...config, eosTokenIds: [] } },
          { slots: 5, capacity: 32, prefill: 40, rank }
        ),
        adapter
      ]),
    ([generator, lora]) => {
      const requests = Array.from({ length: 5 }, (_, stream) => ({
        ids: new Array<number>(20).fill(1 + stream),
        stream
      }))
      return generator.generate(lora, requests, { temperature: 1, topP: 1, maxTokens: 6, seed: 1 })
    }
  )
  check(
    "PPO",
    (decoder) =>
      Effect.flatMap(ppoConfig({}, { capacity: 40, longest: 12 }), (ppo) => makePpoTrainer(decoder, ppo, identity())),
    (trainer) => {
      const ids = new Array<number>(39).fill(1)
      const generation = { ids, logProbs: ids.map(() => 0), truncated: false }
      const response = { ...one(1, 1, 1), generation, secureMask: ids.map(() => false) }
      // That zeros cannot be what was computed is found at the end.
      return Effect.exit(trainer.update([response], 1))
    }
  )
  const settings = { steps: 1, batchSize: 2, lr: 1e-2, rank, alpha: 4, clip: 1, seed: 1, capacity: 64 }
  const side = new Array<number>(32).fill(1)
  check(
    "reward model",
    (decoder) => makeRewardModel(decoder, { ...settings, checkpointing: "none" }),
    (model) => model.train([{ chosen: side, rejected: side }], () => Effect.void)
  )
})
