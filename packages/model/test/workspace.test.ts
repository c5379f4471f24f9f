/**
 * Checkpointing and shared buffers: every mode gives the same bits, no tensor is overwritten while it is still read, and
 * the modes cost the bytes that they promise.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Gpu, GpuDawn, kernelSpec, makeOps, planMemory, Tape, type Tensor } from "@srcode/gpu"
import { Effect } from "effect"
import {
  allocBatch,
  allocHead,
  allocLora,
  allocRope,
  allocWeights,
  allocWorkspace,
  type Checkpointing,
  type Decoder,
  flatLength,
  headElements,
  type Lora,
  loadModel,
  loraFromPairs,
  loraLength,
  loraWindows,
  type ModelConfig,
  type Precision,
  windowsOf
} from "../src/index.ts"
import { type Lifetime, shareBuffers } from "../src/internal/lifetimes.ts"
import { awkwardShapes, familyShapes, randomPairs, randomSequences, type Shape } from "./reference/checkpoint.ts"
import { asHardware, DeviceLayer, deviceGradients, loadFlat, loadShape, recordGradients } from "./reference/device.ts"
import { seeded } from "./support.ts"

const modes: ReadonlyArray<Checkpointing> = ["none", "selective", "layer"]
const weights = { logProb: -1, entropy: 0.3, temperature: 1.3 }

const config = (over: Partial<ModelConfig> = {}): ModelConfig => ({
  modelType: "qwen2",
  hiddenSize: 3584,
  intermediateSize: 18944,
  numLayers: 4,
  numHeads: 28,
  numKeyValueHeads: 4,
  headDim: 128,
  vocabSize: 152064,
  maxPositionEmbeddings: 32768,
  rmsNormEps: 1e-6,
  ropeTheta: 1e6,
  ropeScaling: null,
  tieWordEmbeddings: false,
  attentionBias: true,
  qkNorm: false,
  eosTokenIds: [],
  bosTokenId: null,
  ...over
})

describe("shareBuffers", () => {
  it("never gives a buffer to two tensors of one step, and is as small as the fullest step where that can be had", () => {
    const order = Array.from({ length: 12 }, (_, i) => `s${i}`)
    for (let seed = 0; seed < 200; seed++) {
      const random = seeded(seed)
      const tensors = Array.from({ length: 1 + Math.floor(random() * 14) }, (_, i) => {
        const spans = Array.from({ length: 1 + Math.floor(random() * 2) }, () => {
          const [a, b] = [Math.floor(random() * 12), Math.floor(random() * 12)]
          return [`s${Math.min(a, b)}`, `s${Math.max(a, b)}`] as [string, string]
        })
        return { name: `t${i}`, elements: 1 + Math.floor(random() * 100), spans }
      })
      const buffers = shareBuffers(order, tensors)
      assert.deepStrictEqual(
        buffers
          .flat()
          .map(({ name }) => name)
          .sort(),
        tensors.map(({ name }) => name).sort()
      )
      const live = (tensor: Lifetime<string>, step: number) =>
        tensor.spans.some(([from, to]) => order.indexOf(from) <= step && step <= order.indexOf(to))
      for (const tenants of buffers) {
        for (let step = 0; step < 12; step++) assert.isAtMost(tenants.filter((t) => live(t, step)).length, 1)
        assert.strictEqual(tenants[0]!.elements, Math.max(...tenants.map((t) => t.elements)))
      }
    }
    const chain = Array.from({ length: 11 }, (_, i) => ({
      name: `t${i}`,
      elements: 10,
      spans: [[`s${i}`, `s${i + 1}`]] as const
    }))
    assert.strictEqual(shareBuffers(order, chain).length, 2)
  })
})

/** Everything a training pass records, on a device that only counts. */
const recordPass = Effect.fnUntraced(function* (
  model: ModelConfig,
  options: { checkpointing: Checkpointing; rank: number; full: boolean; capacity: number; precision?: Precision }
) {
  const { capacity, checkpointing, rank, full } = options
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const rope = yield* allocRope(model, 64)
  const decoder: Decoder = full
    ? { config: model, weights: windowsOf(model, yield* gpu.alloc("w", "f32", flatLength(model))), rope }
    : {
        config: model,
        rope,
        weights: (yield* allocWeights(model, options.precision ?? { linear: "f16", table: "f16" })).weights
      }
  const lora: Lora | null = rank > 0 ? yield* allocLora(model, { rank, alpha: 8 }) : null
  const head = headElements(model, { capacity, reference: true })
  const ws = yield* allocWorkspace(model, { capacity, save: true, rank, checkpointing, head })
  const hw = yield* allocHead(model, { capacity, reference: true, scratch: ws.head })
  const batch = { ...(yield* allocBatch(capacity)), rows: capacity, lossRows: capacity }
  const gw = full ? windowsOf(model, yield* gpu.alloc("gw", "f32", flatLength(model))) : undefined
  const gl = lora ? loraWindows(model, rank, yield* gpu.alloc("gl", "f32", loraLength(model, rank))) : undefined
  const embed = {
    start: yield* gpu.alloc("s", "u32", model.vocabSize + 1),
    order: yield* gpu.alloc("o", "u32", capacity)
  }
  const tape = new Tape()
  // Twice: what one pass leaves behind must not matter to the next.
  const into = { ...(gw ? { weights: gw } : {}), ...(gl ? { lora: gl } : {}) }
  for (let pass = 0; pass < 2; pass++) recordGradients(tape, ops, decoder, lora, { batch, ws, hw }, 1, into, embed)
  return tape
})

/** The first dispatch that reads a tensor after another one was written over it, if there is one. */
const firstClobbered = (tape: Tape): string | undefined => {
  const holds = new Map<GPUBuffer, string>()
  const isActivation = (t: Tensor) => t.label.startsWith("activation.") || t.label.startsWith("head.")
  for (const [i, entry] of tape.entries.entries()) {
    if (entry._tag !== "Dispatch") continue
    const { kernel, tensors } = entry.dispatch
    const access = new Map(Object.values(kernelSpec(kernel).bindings).map((b) => [b.binding, b.access]))
    for (const [binding, tensor] of tensors) {
      if (!isActivation(tensor) || access.get(binding) !== "read") continue
      const held = holds.get(tensor.buffer)
      // Uploaded by the host.
      if (held === undefined && tensor.label === "head.grad") continue
      if (held !== tensor.label) return `${i}: ${kernel} reads ${tensor.label}, where ${held} was written`
    }
    for (const [binding, tensor] of tensors)
      if (isActivation(tensor) && access.get(binding) !== "read") holds.set(tensor.buffer, tensor.label)
  }
  return undefined
}

/** Cards bind 2 GiB; software drivers less. */
const onCard = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Gpu, (gpu) => {
    const limits = { ...gpu.info.limits, maxStorageBufferBindingSize: 2 ** 31 - 4, maxBufferSize: 2 ** 34 }
    return Effect.provideService(effect, Gpu, Gpu.of({ ...gpu, info: { ...gpu.info, limits } }))
  })

layer(GpuDawn.layerNull)("the static plan", (it) => {
  for (const qkNorm of [false, true]) {
    it.effect(`${qkNorm ? "normed heads" : "plain heads"}: no tensor is written over while it is still read`, () =>
      Effect.gen(function* () {
        for (const checkpointing of modes) {
          for (const [rank, full] of qkNorm
            ? [[8, false] as const]
            : ([
                [8, false],
                [0, true],
                [4, true],
                [0, false]
              ] as const)) {
            const over = qkNorm ? ({ qkNorm, modelType: "qwen3", attentionBias: false } as const) : {}
            const small = { hiddenSize: 64, intermediateSize: 96, numHeads: 8, headDim: 16, vocabSize: 300, ...over }
            for (const shape of [config(full ? small : over), config({ ...small, hiddenSize: 320 }), config(small)]) {
              let clobbered: string | undefined
              yield* onCard(
                planMemory(() =>
                  recordPass(shape, { checkpointing, rank, full, capacity: 256 }).pipe(
                    Effect.tap((tape) => {
                      assert.isUndefined(tape.failure)
                      assert.isAbove(tape.entries.length, 100)
                      clobbered = firstClobbered(tape)
                      return Effect.void
                    })
                  )
                )
              )
              assert.isUndefined(clobbered, `${checkpointing}, rank ${rank}, full ${full}: ${clobbered}`)
            }
          }
        }
      })
    )
  }

  it.effect("bytes of a 7B shape: each mode beside what its layers must keep", () =>
    Effect.gen(function* () {
      const model = config({ numLayers: 28 })
      const rows = 4096
      const bytes: Array<number> = []
      for (const checkpointing of modes) {
        const head = headElements(model, { capacity: rows, reference: false })
        const plan = yield* onCard(
          planMemory(() => allocWorkspace(model, { capacity: rows, save: true, rank: 8, checkpointing, head }))
        )
        bytes.push(plan.total)
      }
      const [C, QKV, F, lora] = [3584, 3584 + 1024, 18944, 7 * 8]
      const attention = 3584 + 56
      const all = 4 * C + QKV + attention + 3 * F + lora + 2
      const perLayer = { none: all, selective: 2 * C + QKV + attention + lora, layer: C }
      modes.forEach((mode, i) => {
        const scratch = bytes[i]! / 4 / rows - 28 * perLayer[mode]
        // Little more than one layer for everything that is shared, gradients and the head's scratch included.
        assert.isAbove(scratch, 0, mode)
        assert.isBelow(scratch, mode === "none" ? F + 4 * QKV : 3 * F + 2 * QKV + 7 * C, mode)
      })
      assert.isAbove(bytes[0]! / bytes[1]!, 4)
      assert.isAbove(bytes[1]! / bytes[2]!, 2.5)
    })
  )

  it.effect("a scratch that the mutation swaps is found", () =>
    Effect.gen(function* () {
      yield* planMemory(() =>
        Effect.gen(function* () {
          const tape = yield* recordPass(
            config({ hiddenSize: 64, intermediateSize: 96, numHeads: 8, headDim: 16, vocabSize: 300 }),
            {
              checkpointing: "layer",
              rank: 4,
              full: false,
              capacity: 64
            }
          )
          assert.isUndefined(firstClobbered(tape))
          // Take out each dispatch that computes a layer again: what it would have written is then missed.
          const again = tape.entries.findIndex(
            (e, i) =>
              i > tape.entries.length / 4 && e._tag === "Dispatch" && e.dispatch.kernel.startsWith("swiglu_forward")
          )
          tape.entries.splice(again, 1)
          assert.isDefined(firstClobbered(tape))
        })
      )
    })
  )
})

const sameInAllModes = Effect.fnUntraced(function* (shape: Shape, decoder: Decoder, lora: Lora | null, full: boolean) {
  const sequences = randomSequences(shape.vocab, [5, 1, 17, 0, 9], 20)
  const run = (mode: Checkpointing) => deviceGradients(decoder, lora, sequences, weights, full, mode)
  const base = yield* run("none")
  if (lora) assert.isTrue(base.loraImage!.some((g) => g !== 0))
  for (const mode of ["selective", "layer"] as const) assert.deepStrictEqual(yield* run(mode), base, mode)
})

layer(DeviceLayer)("checkpointing", (it) => {
  for (const kind of ["software", "hardware"] as const) {
    const on = <A, E, R>(effect: Effect.Effect<A, E, R>) => (kind === "software" ? effect : asHardware(effect))
    it.effect(`${kind} kernels: all modes give the same bits of losses and gradients`, () =>
      Effect.gen(function* () {
        const more = kind === "software" ? [familyShapes[5]!] : []
        const shapes = [awkwardShapes[2]!, familyShapes[1]!, familyShapes[4]!, ...more]
        for (const shape of shapes) {
          const { directory, model } = yield* loadShape(shape, 3)
          const lora = yield* loraFromPairs(model.config, { rank: 3, alpha: 5 }, randomPairs(shape, 3, 30))
          yield* on(sameInAllModes(shape, model.decoder, lora, false))
          if (shape.family !== "qwen3") {
            const { decoder } = yield* loadFlat(directory)
            yield* on(sameInAllModes(shape, decoder, null, true))
            yield* on(sameInAllModes(shape, decoder, lora, true))
          }
        }
      }).pipe(Effect.scoped)
    )
  }

  it.effect("on weights of all storages", () =>
    Effect.gen(function* () {
      const shape = awkwardShapes[5]!
      const { directory } = yield* loadShape(shape, 4)
      for (const options of [{ dtype: "f16" }, { quantize: "int8" }, { quantize: "int4" }] as const) {
        const { decoder, config } = yield* loadModel(directory, options)
        const lora = yield* loraFromPairs(config, { rank: 8, alpha: 8 }, randomPairs(shape, 8, 31))
        yield* sameInAllModes(shape, decoder, lora, false)
      }
    }).pipe(Effect.scoped)
  )
})
