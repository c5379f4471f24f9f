/** Checkpoints of every dtype into every storage, in one part and in several, against the f64 reference of what is then held. */
import { assert, layer } from "@effect/vitest"
import {
  Gpu,
  type GpuError,
  type HeldIn16,
  onlyVariant,
  packRows,
  planMemory,
  type Storage,
  strideOf
} from "@srcode/gpu"
import { unpackF16, unpackInt4, unpackInt8 } from "@srcode/kernels/weight/reference"
import { Effect, FileSystem, Ref } from "effect"
import {
  allocDecoder,
  allocWorkspace,
  type LoadOptions,
  loadModel,
  loraFromPairs,
  type ModelError,
  makeScorer,
  mergeLora,
  openCheckpoint,
  openSafetensors,
  type StoredDtype,
  writeSafetensors
} from "../src/index.ts"
import {
  familyShapes,
  plain,
  randomPairs,
  randomSequences,
  randomTensors,
  referenceConfig,
  referenceLora,
  type Shape
} from "./reference/checkpoint.ts"
import { zeroGradients } from "./reference/decoder.ts"
import { assertNear, DeviceLayer, deviceGradients, loadShape, relativeError } from "./reference/device.ts"
import { lossOf } from "./reference/loss.ts"
import { failsWith } from "./support.ts"

const wide: Shape = { ...plain, name: "several blocks a row", hidden: 72, intermediate: 88, vocab: 203, tied: false }

/** What a matrix [rows, cols] holds after loading. */
const held = (storage: Storage, values: Float32Array<ArrayBuffer>, [rows = 0, cols = 1]: ReadonlyArray<number>) => {
  const { data, scales } = packRows(storage, values, rows, cols)
  const stride = strideOf(storage, cols)
  if (storage === "f16") return unpackF16(data, rows, cols, stride)
  if (storage === "int8") return unpackInt8(data, new Float32Array(scales.buffer), rows, cols, stride)
  if (storage === "int4") return unpackInt4(data, scales, rows, cols, stride)
  return Float64Array.from(values)
}

const stored = (dtype: StoredDtype, values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> => {
  if (dtype === "F16") return new Float32Array(new Float16Array(values))
  if (dtype === "F32") return values
  const bits = new Uint32Array(values.slice().buffer)
  for (let i = 0; i < bits.length; i++) bits[i] = ((bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16) << 16
  return new Float32Array(bits.buffer)
}

/** A folder of `shape` with its weights stored in `dtype`, and the numbers in it by name. */
const writeAs = Effect.fn("test.writeAs")(function* (shape: Shape, seed: number, dtype: StoredDtype) {
  const { directory } = yield* loadShape(shape, seed)
  const tensors = [...randomTensors(shape, seed)].map(([name, t]) => ({
    name,
    shape: t.shape,
    data: stored(dtype, t.data)
  }))
  yield* writeSafetensors(`${directory}/model.safetensors`, tensors, { dtype })
  return { directory, tensors }
})

const reference = (
  tensors: ReadonlyArray<{ name: string; shape: ReadonlyArray<number>; data: Float32Array<ArrayBuffer> }>,
  linear: Storage,
  table: Storage
): Map<string, Float64Array> =>
  new Map(
    tensors.map(({ name, shape, data }) => {
      const isTable = name.startsWith("lm_head") || name.startsWith("model.embed")
      return [name, shape.length < 2 ? Float64Array.from(data) : held(isTable ? table : linear, data, shape)]
    })
  )

/** A device that binds little, so that matrices of this size already lie in several parts. */
const withSmallBindings = <A, E, R>(bytes: number, effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Gpu, (gpu) => {
    const limits = { ...gpu.info.limits, maxStorageBufferBindingSize: bytes }
    return Effect.provideService(effect, Gpu, Gpu.of({ ...gpu, info: { ...gpu.info, limits } }))
  })

const withFeatures = <A, E, R>(features: ReadonlyArray<string>, effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Gpu, (gpu) =>
    Effect.provideService(effect, Gpu, Gpu.of({ ...gpu, info: { ...gpu.info, features: [...features] } }))
  )

const refused = <A, R>(effect: Effect.Effect<A, ModelError | GpuError, R>, tag: "Unsupported" | "NotFinite") =>
  failsWith(
    Effect.catchTag(effect, "GpuError", (error) => Effect.die(error)),
    tag
  )

layer(DeviceLayer)("loading", (it) => {
  const cases: ReadonlyArray<readonly [StoredDtype, LoadOptions, Storage, "f32" | "f16"]> = [
    ["F32", {}, "f32", "f32"],
    ["BF16", { dtype: "auto" }, "f16", "f16"],
    ["F16", {}, "f16", "f16"],
    ["BF16", { dtype: "f32" }, "f32", "f32"],
    ["F32", { dtype: "f16" }, "f16", "f16"],
    ["BF16", { quantize: "int8" }, "int8", "f16"],
    ["F32", { quantize: "int4" }, "int4", "f32"],
    ["BF16", { quantize: "int4", dtype: "f32" }, "int4", "f32"]
  ]
  for (const [dtype, options, linear, table] of cases) {
    it.effect(
      `${dtype} with ${JSON.stringify(options)}: ${linear} layers, ${table} tables; scores and adapter gradients`,
      () =>
        Effect.gen(function* () {
          const families = linear === "f16" || linear === "int4" ? familyShapes : []
          for (const shape of [wide, plain, ...families]) {
            const { directory, tensors } = yield* writeAs(shape, 3, dtype)
            const open = (binding: number) =>
              withSmallBindings(binding, withFeatures(["shader-f16", "subgroups"], loadModel(directory, options)))
            const model = yield* open(2 ** 27)
            assert.deepStrictEqual(model.precision, { linear, table })
            const parameters = reference(tensors, linear, table)
            const sequences = randomSequences(shape.vocab, [9, 4], 5)
            const pairs = randomPairs(shape, 8, 6)
            const lora = yield* loraFromPairs(model.config, { rank: 8, alpha: 4 }, pairs)
            const weights = { logProb: 0.7, entropy: 0.2, temperature: 0.9 }
            const adapter = referenceLora(8, 0.5, pairs)
            const into = zeroGradients(parameters, adapter)
            const expected = lossOf(referenceConfig(shape), parameters, adapter, sequences, weights, into)
            const device = yield* deviceGradients(model.decoder, lora, sequences, weights, false)
            assertNear("log-probabilities", device.logProbs, expected.logProbs)
            assertNear("entropies", device.entropy, expected.entropy)
            for (const [key, pair] of device.lora ?? []) {
              assertNear(`${key} A`, pair.a, into.lora.get(key)?.a ?? [])
              assertNear(`${key} B`, pair.b, into.lora.get(key)?.b ?? [])
            }
            if (shape !== wide) continue
            const split = yield* open(64 * strideOf("f32", Math.max(shape.hidden, shape.intermediate)) * 4)
            assert.isAbove(split.decoder.weights.embed.parts.length, 1)
            const again = yield* deviceGradients(split.decoder, lora, sequences, weights, false)
            assert.deepStrictEqual(again.logProbs, device.logProbs)
            for (const [key, pair] of again.lora ?? []) assertNear(key, pair.b, device.lora?.get(key)?.b ?? [], 1e-5)
            // What was lost against the checkpoint itself.
            const exact = lossOf(
              referenceConfig(shape),
              reference(tensors, "f32", "f32"),
              referenceLora(8, 0.5, pairs),
              sequences,
              weights
            )
            const lost = relativeError(device.logProbs, exact.logProbs)
            assert.isBelow(lost, { f32: 1e-4, f16: 2e-2, f16_tiles: 2e-2, int8: 5e-2, int4: 0.5 }[linear])
          }
        }).pipe(Effect.scoped)
    )
  }

  it.effect("16-bit weights in tiles of 16 x 16 give the bits of rows: scores, gradients and merged adapters", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const even: Shape = { ...plain, name: "whole tiles", hidden: 48, intermediate: 80, tied: false }
      // gate and up of `wide` meet within a tile, and its rows end within one.
      for (const [shape, layer, head] of [
        [even, ["f16_tiles", "f16_tiles", "f16_tiles", "f16_tiles"], "f16_tiles"],
        [wide, ["f16_tiles", "f16_tiles", "f16", "f16_tiles"], "f16_tiles"],
        [{ ...even, tied: true }, ["f16_tiles", "f16_tiles", "f16_tiles", "f16_tiles"], "f16"]
      ] as const) {
        const { directory } = yield* writeAs(shape, 3, "BF16")
        const scored = Effect.fnUntraced(function* (weights16: HeldIn16, binding: number) {
          const limits = { ...gpu.info.limits, maxStorageBufferBindingSize: binding }
          const matmul = { ...onlyVariant("tiled"), weights16 }
          const device = Gpu.of({ ...gpu, info: { ...gpu.info, limits, features: ["shader-f16"], matmul } })
          return yield* Effect.gen(function* () {
            const { config, decoder, precision } = yield* loadModel(directory)
            assert.deepStrictEqual(precision, { linear: weights16, table: "f16" })
            const { embed, head: last, layers } = decoder.weights
            const [first] = layers
            const held = [first?.qkv, first?.o, first?.gateUp, first?.down].map((w) => w?.storage)
            assert.deepStrictEqual(held, weights16 === "f16" ? ["f16", "f16", "f16", "f16"] : [...layer])
            assert.deepStrictEqual([embed.storage, last.storage], ["f16", weights16 === "f16" ? "f16" : head])
            const lora = yield* loraFromPairs(config, { rank: 4, alpha: 2 }, randomPairs(shape, 4, 6))
            const sequences = randomSequences(shape.vocab, [9, 4], 5)
            const weights = { logProb: 0.7, entropy: 0.2, temperature: 0.9 }
            const { logProbs, lora: gradients } = yield* deviceGradients(decoder, lora, sequences, weights, false)
            yield* mergeLora(decoder, lora)
            const scorer = yield* makeScorer(decoder, { capacity: 16, rank: 4 })
            return { logProbs, gradients, merged: (yield* scorer.score(null, sequences)).map((s) => s.logProbs) }
          }).pipe(Effect.provideService(Gpu, device))
        })
        const rows = yield* scored("f16", 2 ** 27)
        assert.deepStrictEqual(yield* scored("f16_tiles", 2 ** 27), rows)
        if (shape === even) assert.deepStrictEqual((yield* scored("f16_tiles", 64 * 80 * 2)).logProbs, rows.logProbs)
      }
      const { directory } = yield* writeAs(even, 3, "F32")
      const asked = (options: LoadOptions) =>
        withFeatures(["shader-f16"], openCheckpoint(directory, { ...options, weights16: "f16_tiles" }))
      assert.deepStrictEqual((yield* asked({})).precision, { linear: "f32", table: "f32" })
      assert.deepStrictEqual((yield* asked({ dtype: "f16" })).precision, { linear: "f16_tiles", table: "f16" })
      const fewer = yield* asked({ dtype: "f16", quantize: "int8" })
      assert.deepStrictEqual(fewer.precision, { linear: "int8", table: "f16" })
    }).pipe(Effect.scoped)
  )

  it.effect("16 bits are chosen only for a checkpoint of 16 bits on a device that computes with them", () =>
    Effect.gen(function* () {
      const { directory } = yield* writeAs(plain, 1, "BF16")
      const without = yield* withFeatures([], openCheckpoint(directory))
      assert.deepStrictEqual(without.precision, { linear: "f32", table: "f32" })
      const mixed = yield* writeAs(plain, 1, "BF16")
      const tensors = mixed.tensors.map((t) => ({
        ...t,
        dtype: t.name.includes("down_proj") ? ("F32" as const) : ("BF16" as const)
      }))
      yield* writeSafetensors(`${mixed.directory}/model.safetensors`, tensors)
      const some = yield* withFeatures(["shader-f16"], openCheckpoint(mixed.directory))
      assert.deepStrictEqual(some.precision, { linear: "f32", table: "f32" })
    }).pipe(Effect.scoped)
  )

  it.effect("numbers that a storage cannot hold are named, with where they stand", () =>
    Effect.gen(function* () {
      const { directory, tensors } = yield* writeAs(wide, 2, "BF16")
      const spoil = (name: string, index: number, value: number, dtype: StoredDtype) =>
        writeSafetensors(
          `${directory}/model.safetensors`,
          tensors.map((t) => {
            if (t.name !== name) return t
            const data = t.data.slice()
            data[index] = value
            return { ...t, data }
          }),
          { dtype }
        )
      const name = "model.layers.1.mlp.up_proj.weight"
      for (const dtype of ["BF16", "F32"] as const) {
        yield* spoil(name, 77, 131072, dtype)
        for (const options of [{ dtype: "f16" }, { dtype: "f32", quantize: "int4" }] as const) {
          const reason = yield* refused(loadModel(directory, options), "Unsupported")
          assert.include(reason.message, name)
          assert.include(reason.message, "131072 at index 77")
          assert.include(reason.message, "--dtype f32")
        }
        yield* loadModel(directory, { dtype: "f32" })
        yield* loadModel(directory, { dtype: "f32", quantize: "int8" })
      }
      const bits = { BF16: [0xc0, 0x7f], F16: [0x00, 0x7c], F32: [0x00, 0x00, 0x80, 0xff] } as const
      const values = { BF16: "NaN", F16: "Infinity", F32: "-Infinity" } as const
      for (const dtype of ["BF16", "F16", "F32"] as const) {
        const file = `${directory}/model.safetensors`
        yield* writeSafetensors(file, tensors, { dtype })
        const fs = yield* FileSystem.FileSystem
        const bytes = yield* fs.readFile(file)
        bytes.set(bits[dtype], (yield* openSafetensors(file)).tensors.get(name)!.offset + 5 * bits[dtype].length)
        yield* fs.writeFile(file, bytes)
        for (const options of [{}, { dtype: "f32" }, { quantize: "int8" }] as const) {
          const reason = yield* refused(loadModel(directory, options), "NotFinite")
          assert.include(reason.message, `${values[dtype]} at index 5`)
        }
      }
    }).pipe(Effect.scoped)
  )

  it.effect("progress ends at the checkpoint's bytes and never goes back", () =>
    Effect.gen(function* () {
      const { directory, tensors } = yield* writeAs(wide, 2, "F16")
      const seen = yield* Ref.make<ReadonlyArray<readonly [number, number]>>([])
      yield* loadModel(directory, {
        onProgress: (done, total) => Ref.update(seen, (all) => [...all, [done, total] as const])
      })
      const total = tensors.reduce((sum, t) => sum + 2 * t.data.length, 0)
      const all = yield* Ref.get(seen)
      assert.deepStrictEqual(all.at(-1), [total, total])
      for (const [i, [done, of]] of all.entries()) assert.isTrue(of === total && done >= (all[i - 1]?.[0] ?? 0))
    }).pipe(Effect.scoped)
  )

  it.effect("a memory plan is what is then allocated, and too little memory is refused with the missing bytes", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { directory } = yield* writeAs(wide, 2, "BF16")
      const tiles = { dtype: "f16", weights16: "f16_tiles" } as const
      for (const options of [{}, { dtype: "f32" }, { quantize: "int4" }, tiles] as const) {
        const checkpoint = yield* openCheckpoint(directory, options)
        const plan = yield* planMemory((section) =>
          Effect.gen(function* () {
            const { decoder } = yield* section("weights", allocDecoder(checkpoint))
            yield* section("activations", allocWorkspace(decoder.config, { capacity: 32, save: true, rank: 4 }))
          })
        )
        assert.deepStrictEqual(
          plan.sections.map((s) => s.name),
          ["weights", "activations"]
        )
        const before = (yield* gpu.memory).live
        const { decoder } = yield* loadModel(directory, options)
        const between = (yield* gpu.memory).live
        yield* allocWorkspace(decoder.config, { capacity: 32, save: true, rank: 4 })
        const after = (yield* gpu.memory).live
        assert.deepStrictEqual(
          plan.sections.map((s) => s.bytes),
          [between - before, after - between]
        )
        assert.strictEqual(plan.total, after - before)
        const tight = Gpu.of({
          ...gpu,
          memory: Effect.map(gpu.memory, (m) => ({ ...m, budget: m.live + plan.sections[0]!.bytes - 7 }))
        })
        const error = yield* Effect.flip(loadModel(directory, options).pipe(Effect.provideService(Gpu, tight)))
        assert.include(error.message, " 7 more than the memory budget")
        assert.strictEqual((yield* gpu.memory).live, after)
      }
    }).pipe(Effect.scoped)
  )

  it.effect("an adapter merged into 16 bits scores like the adapter beside them; quantised weights refuse", () =>
    Effect.gen(function* () {
      const { directory } = yield* writeAs(wide, 4, "BF16")
      const model = yield* loadModel(directory, { dtype: "f16" })
      const pairs = randomPairs(wide, 4, 6)
      const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 1 }, pairs)
      const sequences = randomSequences(wide.vocab, [12], 5)
      const scorer = yield* makeScorer(model.decoder, { capacity: 16, rank: 4 })
      const [apart] = yield* scorer.score(lora, sequences)
      yield* mergeLora(model.decoder, lora)
      const [merged] = yield* scorer.score(null, sequences)
      assertNear("merged", merged!.logProbs, apart!.logProbs, 5e-3)
      const quantised = yield* loadModel(directory, { quantize: "int8" })
      const reason = yield* refused(mergeLora(quantised.decoder, lora), "Unsupported")
      assert.include(reason.message, "int8")
    }).pipe(Effect.scoped)
  )
})
