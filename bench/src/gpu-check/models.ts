/**
 * Whole models on this device: throughput and profile of every kind of work at the shape of a real checkpoint with random
 * weights, and, on the embedded model, that what is computed is what it should be.
 */
import { type AdapterInfo, Gpu } from "@srcode/gpu"
import { type Decoder, loadModel, makeGenerator, makeScorer, tinyCoderDirectory } from "@srcode/model"
import { Effect } from "effect"
import { measureCeilings } from "../profile/ceilings.ts"
import { profileWorkload } from "../profile/profile.ts"
import { quickUniforms } from "../profile/randomModel.ts"
import { openForBench } from "../profile/run.ts"
import { writeTrace } from "../profile/traceFile.ts"
import type { Sizes, WorkloadName } from "../profile/workloads.ts"
import { guarded, Report, type Size } from "./Report.ts"
import { waysOf } from "./verify/harness.ts"

interface Piece {
  readonly title: string
  readonly workload: WorkloadName
  readonly sizes: Partial<Sizes>
  readonly rounds: number
  /** The trace's file, where one is wanted. */
  readonly trace?: string
}

/** The part of a section's time after which a piece of work begins no further ordinary round. */
const patience = 0.2

const model = Effect.fnUntraced(function* (preset: string, sizes: Sizes, pieces: ReadonlyArray<Piece>) {
  const gpu = yield* Gpu
  const report = yield* Report
  const seconds = patience * (yield* report.left)
  const ceilings = yield* measureCeilings()
  yield* report.set("ceilings", ceilings)
  const { decoder, precision } = yield* openForBench({ preset, dtype: "auto", quantize: "none" }, 4096)
  yield* report.set("model", {
    preset,
    layers: decoder.config.numLayers,
    precision,
    weightBytes: (yield* gpu.memory).live
  })
  for (const { rounds, title, trace, workload, ...piece } of pieces) {
    yield* guarded(
      title,
      Effect.gen(function* () {
        const own = { ...sizes, ...piece.sizes }
        // What is there when the section is stopped in the middle of a piece.
        const onRun = (run: number, wall: number) => report.set("progress", { title, run, seconds: wall })
        const options = { rounds, ceilings, patience: seconds, onRun }
        const { profile, recording, values } = yield* profileWorkload(workload, decoder, own, options)
        // A training step's loss and gradient norm, which must be numbers and should fall on the same rows.
        const steps = workload === "sft" ? { training: values } : {}
        yield* report.add("work", { title, sizes: own, ...profile, ...steps })
        if (trace !== undefined) yield* writeTrace(`${report.folder}/${trace}`, recording)
      })
    )
  }
}, Effect.scoped)

const tiny: Sizes = { batch: 2, sequence: 12, prompt: 5, steps: 9, rank: 4, checkpointing: "none" }

const large = (size: Size) =>
  size === "full"
    ? {
        preset: "qwen2.5-coder-7b",
        sizes: { batch: 2, sequence: 2048, prompt: 256, steps: 32, rank: 8, checkpointing: "none" as const }
      }
    : { preset: "tiny-llama", sizes: tiny }

/** Qwen2.5-Coder-7B's shape: LoRA steps of 2 x 2048 tokens, and passes for log-probabilities. */
export const training = Effect.gen(function* () {
  const { size } = yield* Report
  const full = size === "full"
  const { preset, sizes } = large(size)
  yield* model(preset, sizes, [
    { title: "5 LoRA steps", workload: "sft", sizes: {}, rounds: full ? 3 : 1, trace: "trace-sft.json" },
    { title: "log-probabilities", workload: "logprob", sizes: {}, rounds: 2 },
    { title: "LoRA step, kept by layer", workload: "sft", sizes: { checkpointing: "layer" }, rounds: 1 }
  ])
})

/** The same shape: 32 decode steps, and prompts. */
export const decoding = Effect.gen(function* () {
  const { size } = yield* Report
  const full = size === "full"
  const { preset, sizes } = large(size)
  yield* model(preset, sizes, [
    { title: "decode, batch 1", workload: "decode", sizes: { batch: 1 }, rounds: 2, trace: "trace-decode.json" },
    {
      title: "decode, batch 64",
      workload: "decode",
      sizes: full ? { batch: 64, prompt: 64 } : { batch: 3 },
      rounds: 1
    },
    { title: "prefill", workload: "prefill", sizes: { batch: 1, prompt: full ? 2048 : 7 }, rounds: 2 }
  ])
})

export const smallModel = Effect.gen(function* () {
  const { size } = yield* Report
  const full = size === "full"
  const sizes = full
    ? { batch: 8, sequence: 512, prompt: 256, steps: 32, rank: 8, checkpointing: "none" as const }
    : tiny
  yield* model(full ? "qwen2.5-coder-0.5b" : "tiny-qwen2", sizes, [
    { title: "training step", workload: "sft", sizes: {}, rounds: full ? 3 : 1 },
    { title: "decode, batch 1", workload: "decode", sizes: { batch: 1 }, rounds: full ? 3 : 1 },
    { title: "decode, batch 64", workload: "decode", sizes: { batch: full ? 64 : 3 }, rounds: full ? 3 : 1 },
    { title: "log-probabilities", workload: "logprob", sizes: {}, rounds: full ? 3 : 1 },
    { title: "prefill", workload: "prefill", sizes: {}, rounds: full ? 3 : 1 }
  ])
})

const ids = (seed: number, length: number, vocab: number): ReadonlyArray<number> => {
  const next = quickUniforms(seed)
  return Array.from({ length }, () => Math.floor(next() * (vocab - 1)))
}

const scored = Effect.fnUntraced(function* (decoder: Decoder, sequences: ReadonlyArray<ReadonlyArray<number>>) {
  const capacity = sequences.reduce((sum, s) => sum + s.length, 0)
  const scorer = yield* makeScorer(decoder, { capacity: Math.max(256, capacity), rank: 1 })
  const scores = yield* scorer.score(
    null,
    sequences.map((own) => ({ ids: own, loss: () => true }))
  )
  return scores.map((s) => [...s.logProbs])
}, Effect.scoped)

const as = <A, E, R>(info: AdapterInfo, work: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Gpu, (gpu) => Effect.provideService(work, Gpu, Gpu.of({ ...gpu, info })))

const apart = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number =>
  a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - (b[i] ?? Number.NaN))), 0)

/** Each finding says what must hold and whether it does. */
export const consistency = Effect.gen(function* () {
  const gpu = yield* Gpu
  const report = yield* Report
  const { config, decoder } = yield* loadModel(tinyCoderDirectory, { maxTokens: 256 })
  // Where 16-bit floats may stand for operands, agreement is held to what those can do.
  const least = report.size === "full" && gpu.info.features.includes("shader-f16") ? 40 : 1
  const one = ids(1, 60, config.vocabSize)
  const others = [2, 3, 4].map((seed) => ids(seed, 17 * seed, config.vocabSize))
  const [alone = []] = yield* scored(decoder, [one])
  yield* guarded(
    "repeatable",
    Effect.gen(function* () {
      const [again = []] = yield* scored(decoder, [one])
      const ok = alone.length === 59 && alone.every((x, i) => Object.is(x, again[i]))
      yield* report.add("holds", { what: "two passes of an unchanged policy give the same bits", ok })
    })
  )
  for (const { info, name, optional } of waysOf(gpu.info, report.size === "full")) {
    // Variants of attention are not named by what a device can do; the sets of capabilities lead to them.
    if (optional === true) continue
    yield* guarded(
      `log-probabilities under ${name}`,
      Effect.gen(function* () {
        const [own = []] = yield* as(info, scored(decoder, [one]))
        const pack = [others[0] ?? [], others[1] ?? [], one, others[2] ?? []]
        const [, , among = []] = yield* as(info, scored(decoder, pack))
        const difference = apart(alone, own)
        yield* report.add("holds", {
          what: `log-probabilities agree: ${name}`,
          ok: difference < 1e-3 * least,
          difference
        })
        const ok = own.length === 59 && own.every((x, i) => Object.is(x, among[i]))
        yield* report.add("holds", { what: `a sequence does not depend on its neighbours: ${name}`, ok })
      })
    )
  }
  yield* guarded(
    "engine",
    Effect.gen(function* () {
      const endless = { ...decoder, config: { ...config, eosTokenIds: [] } }
      const generator = yield* makeGenerator(endless, { slots: 4, capacity: 128, prefill: 128, rank: 1 })
      const prompts = [one.slice(0, 20), ...others.map((own) => own.slice(0, 11))]
      const requests = prompts.map((own, stream) => ({ ids: own, stream }))
      const sampling = { temperature: 1, topP: 1, maxTokens: 24, seed: 7 }
      const together = yield* generator.generate(null, requests, sampling)
      const [first] = requests
      const [single] = first === undefined ? [] : yield* generator.generate(null, [first], sampling)
      const same = single?.ids.every((id, i) => together[0]?.ids[i] === id) === true
      yield* report.add("holds", {
        what: "a sequence's tokens do not depend on its neighbours",
        ok: same && single?.ids.length === 24
      })
      const full = prompts.map((own, i) => [...own, ...(together[i]?.ids ?? [])])
      const rescored = yield* scored(decoder, full)
      const difference = Math.max(
        ...together.map((g, i) => apart(g.logProbs, (rescored[i] ?? []).slice((prompts[i]?.length ?? 0) - 1)))
      )
      yield* report.add("holds", {
        what: "drawn log-probabilities are those of the scorer",
        ok: difference < 1e-3 * least,
        difference
      })
    }).pipe(Effect.scoped)
  )
})
