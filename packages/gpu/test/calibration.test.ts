/** Calibration as a whole on a software device that says it is none, with few rungs and tiny shapes; faults are injected around the device. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Layer, Path } from "effect"
import {
  type AdapterInfo,
  Calibration,
  fastest,
  Gpu,
  GpuDawn,
  gpuError,
  isCandidate,
  type MeasureOptions,
  matmulVariants,
  measureMatmul,
  measureSteps,
  pickVariant,
  ShaderInvalid,
  type Tape,
  timedShapes,
  weightsHeld
} from "../src/index.ts"
import { asHardware, DeviceLayer } from "./support.ts"

const compileTime = 600_000

const few: MeasureOptions = {
  variants: ["tiled", "register64"],
  shapes: [
    { layout: "NT", storage: "f32", m: 32, n: 128, k: 32 },
    { layout: "NN", storage: "f32", m: 32, n: 128, k: 32 }
  ]
}

/** The device as hardware, counting submits; `spoil` may change what was recorded. */
const pretending = (spoil?: (tape: Tape) => void) =>
  Effect.map(Gpu, (gpu) => {
    const count = { submits: 0 }
    const service = Gpu.of({
      ...gpu,
      info: { ...asHardware(gpu.info), backend: "vulkan" },
      submit: (label, record) =>
        gpu.submit(label, (tape) => {
          count.submits++
          record(tape)
          spoil?.(tape)
        })
    })
    return { count, service }
  })

const inFolder = <A, E, R>(use: (folder: string) => Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* fs.makeTempDirectoryScoped()
    return yield* use(folder).pipe(
      Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ SRCODE_CACHE: `${folder}/cache` })))
    )
  }).pipe(Effect.scoped)

layer(Layer.mergeAll(DeviceLayer, NodeServices.layer))("calibration", (it) => {
  it.effect(
    "measures once, keeps what it found, and measures anew after a broken file or another driver",
    () =>
      inFolder((folder) =>
        Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          const { count, service } = yield* pretending()
          const run = (gpu: typeof service) => Calibration.calibrated(few).pipe(Effect.provideService(Gpu, gpu))
          const first = yield* run(service)
          assert.isAbove(count.submits, 0)
          assert.deepStrictEqual(first?.dropped, [])
          assert.deepStrictEqual(Object.keys(first?.byClass ?? {}).sort(), ["NN.many.f32", "NT.many.f32"])
          for (const t of first?.times ?? []) assert.isAbove(t.microseconds, 0)
          const [file, ...more] = yield* fs.readDirectory(`${folder}/cache`)
          assert.deepStrictEqual(more, [])
          const before = count.submits
          assert.deepStrictEqual(yield* run(service), first)
          assert.strictEqual(count.submits, before)
          const path = `${folder}/cache/${file}`
          for (const broken of [
            "",
            "{",
            JSON.stringify({ ...first, version: 0 }),
            JSON.stringify({ ...first, byClass: { x: "nothing" } })
          ]) {
            yield* fs.writeFileString(path, broken)
            const at = count.submits
            assert.deepStrictEqual((yield* run(service))?.dropped, [])
            assert.isAbove(count.submits, at)
          }
          const at = count.submits
          yield* run(Gpu.of({ ...service, info: { ...service.info, driver: "another" } }))
          assert.isAbove(count.submits, at)
          assert.lengthOf(yield* fs.readDirectory(`${folder}/cache`), 2)
        })
      ),
    compileTime
  )

  it.effect(
    "a rung that computes something else, one that does not compile and one that ended the process are left out with the reason",
    () =>
      inFolder((folder) =>
        Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          const path = yield* Path.Path
          const { service } = yield* pretending((tape) => {
            // As if the kernel had written nothing.
            for (const entry of [...tape.entries]) {
              if (entry._tag !== "Dispatch" || !entry.dispatch.kernel.startsWith("matmul_register")) continue
              const out = entry.dispatch.tensors.find(([binding]) => binding === 6)?.[1]
              if (out) tape.clear(out)
            }
          })
          const wrong = yield* measureMatmul(few).pipe(Effect.provideService(Gpu, service))
          assert.deepStrictEqual([...new Set(wrong.dropped.map((d) => d.variant))], ["register64"])
          assert.include(wrong.dropped[0]?.reason, "differ")
          assert.deepStrictEqual(wrong.byClass, { "NT.many.f32": "tiled", "NN.many.f32": "tiled" })

          const { service: whole } = yield* pretending()
          const failing = Gpu.of({
            ...whole,
            submit: (label, record) => {
              let bad = false
              const whatIsRecorded = whole.submit(label, (tape) => {
                record(tape)
                bad = tape.entries.some((e) => e._tag === "Dispatch" && e.dispatch.kernel === "matmul_register")
              })
              const refused = gpuError(new ShaderInvalid({ kernel: "matmul_register", detail: "no" }))
              return Effect.andThen(
                whatIsRecorded,
                Effect.suspend(() => (bad ? Effect.fail(refused) : Effect.void))
              )
            }
          })
          const invalid = yield* measureMatmul(few).pipe(Effect.provideService(Gpu, failing))
          assert.include(invalid.dropped[0]?.reason, "matmul_register is invalid")
          assert.strictEqual(invalid.byClass["NT.many.f32"], "tiled")

          const file = path.join(folder, "cache", `matmul-${Calibration.calibrationKey(whole.info)}.json.trying`)
          yield* fs.makeDirectory(path.dirname(file), { recursive: true })
          yield* fs.writeFileString(file, JSON.stringify({ ended: ["register64"] }))
          const record = yield* Calibration.calibrated(few).pipe(Effect.provideService(Gpu, whole))
          assert.deepStrictEqual(
            record?.dropped.map((d) => d.variant),
            ["register64"]
          )
          assert.include(record?.dropped[0]?.reason, "process ended")
          assert.isFalse(yield* fs.exists(file))
        })
      ),
    compileTime
  )

  it.effect("begins nothing when its time is up, says so, and leaves the choice to what the device can do", () =>
    Effect.gen(function* () {
      const { service } = yield* pretending()
      const late = yield* measureMatmul({ ...few, seconds: 0 }).pipe(Effect.provideService(Gpu, service))
      assert.deepStrictEqual([late.byClass, late.times], [{}, []])
      assert.deepStrictEqual(
        late.dropped.map((d) => `${d.variant} ${d.where}`).sort(),
        ["NN.many.f32", "NT.many.f32"].flatMap((c) => [`register64 ${c}`, `tiled ${c}`]).sort()
      )
      for (const d of late.dropped) assert.include(d.reason, "not tried")
    })
  )

  it.effect(
    "software devices and the null device are left alone, and a folder that cannot be written is not fatal",
    () =>
      inFolder((folder) =>
        Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          const gpu = yield* Gpu
          const info = (yield* Gpu.pipe(Effect.provide(Calibration.layer))).info
          assert.deepStrictEqual(info, gpu.info)
          const none = Calibration.calibrated().pipe(Effect.provide(GpuDawn.layerNull))
          assert.isUndefined(yield* none)
          assert.isFalse(yield* fs.exists(`${folder}/cache`))
          yield* fs.writeFileString(`${folder}/cache`, "a file where the folder should be")
          const { service } = yield* pretending()
          const tiny: MeasureOptions = { variants: ["tiled"], shapes: few.shapes?.slice(0, 1) ?? [] }
          const record = yield* Calibration.calibrated(tiny).pipe(Effect.provideService(Gpu, service))
          assert.deepStrictEqual(record?.byClass, { "NT.many.f32": "tiled" })
          if (record === undefined) return assert.fail("no record")
          // What was not timed stays as it is; what was found reaches the loader.
          assert.deepStrictEqual(Calibration.choiceOf(record), { byClass: record.byClass, weights16: "f16" })
          const tiles = Calibration.choiceOf({ ...record, weights16: "f16_tiles" })
          assert.strictEqual(tiles.weights16, "f16_tiles")
        })
      )
  )
})

describe("what follows from times", () => {
  const shape = { layout: "NT", storage: "f16", n: 4096, k: 4096, k2: 0, stride: 4096, capacity: undefined } as const
  const times = (["register128", "matrix64", "matrix128"] as const).map((variant, i) => ({
    ...{ class: "NT.many.f16", variant, shape },
    microseconds: 100 - i
  }))

  it("is the fastest rung that holds for each storage", () => {
    assert.deepStrictEqual(
      fastest(times, (v, _, storage) => v !== "matrix128" || storage !== "int4"),
      { "NT.many.f16": "matrix128", "NT.many.int8": "matrix128", "NT.many.int4": "matrix64" }
    )
    assert.deepStrictEqual(
      fastest(times, () => false),
      {}
    )
  })

  it("holds weights in tiles where that is faster for many rows and costs little for few", () => {
    const timed = (many: number, back: number, some: number, decode: number) =>
      Object.entries({ "NT.many": many, "NN.many": back, "NT.some": some, "NT.few": decode }).flatMap(([kind, us]) => [
        { class: `${kind}.f16`, variant: "matrix128", microseconds: 100 },
        { class: `${kind}.f16`, variant: "tiled", microseconds: 900 },
        { class: `${kind}.f16_tiles`, variant: "tiled", microseconds: 900 },
        { class: `${kind}.f16_tiles`, variant: "direct128", microseconds: us }
      ])
    assert.strictEqual(weightsHeld(timed(80, 90, 100, 100)), "f16_tiles")
    assert.strictEqual(weightsHeld(timed(80, 110, 103, 103)), "f16_tiles")
    assert.strictEqual(weightsHeld(timed(80, 121, 90, 90)), "f16")
    assert.strictEqual(weightsHeld(timed(80, 90, 104, 100)), "f16")
    assert.strictEqual(weightsHeld(timed(80, 90, 100, 104)), "f16")
    assert.strictEqual(weightsHeld([]), "f16")
    const all = timed(80, 90, 90, 90)
    for (const kind of new Set(all.map((t) => t.class)))
      assert.strictEqual(weightsHeld(all.filter((t) => t.class !== kind)), "f16", `without ${kind}`)
  })

  it("f32 weights never meet 16-bit tiles, and odd tiles only thin products", () => {
    assert.isFalse(isCandidate("matrix128", "f32", "many"))
    assert.isFalse(isCandidate("half64", "f32", "many"))
    assert.isTrue(isCandidate("matrix128", "int4", "many"))
    assert.isFalse(isCandidate("matrix128_hilo", "f16", "many"))
    assert.isFalse(isCandidate("gemv", "f16", "many"))
    assert.isTrue(isCandidate("gemv", "f16", "few"))
    assert.isFalse(isCandidate("register256x16", "f32", "many"))
    assert.isTrue(isCandidate("register256x16", "f32", "thin"))
  })

  it("begins with the most promising rungs of every class, and comes to all of them once", () => {
    const steps = measureSteps(matmulVariants, timedShapes, 2)
    const waves = [steps.slice(0, timedShapes.length), steps.slice(timedShapes.length)]
    assert.deepStrictEqual(
      waves[0]?.map((s) => s.shape),
      timedShapes
    )
    for (const s of waves[0] ?? []) assert.lengthOf(s.variants, 2)
    for (const s of waves[1] ?? []) assert.isAbove(s.variants.length, 0)
    const firstOf = (kind: string) =>
      steps.find(({ shape: s }) => `${s.layout} ${s.storage} ${s.capacity ?? s.m}` === kind)?.variants[0]
    assert.match(firstOf("NT f16 2048") ?? "", /^matrix128/)
    assert.strictEqual(firstOf("NT f16 8"), "gemv")
    assert.strictEqual(firstOf("NT f32 2048"), "register128")
    const pairs = steps.flatMap(({ shape: s, variants }) =>
      variants.map((v) => `${v} ${s.layout} ${s.storage} ${s.m} ${s.n}`)
    )
    assert.strictEqual(new Set(pairs).size, pairs.length)
    assert.isAbove(pairs.length, 60)
  })

  it("reaches the choice of a rung through the device's info", () => {
    const info: AdapterInfo = {
      ...{ name: "", vendor: "", architecture: "", driver: "", backend: "vulkan", software: false, features: [] },
      ...{ limits: {}, subgroupSize: [0, 0], subgroupMatrixConfigs: [] }
    }
    const choice = { byClass: { "NT.many.f32": "tiled" } } as const
    assert.strictEqual(pickVariant(info, choice, { ...shape, storage: "f32" }), "tiled")
    assert.strictEqual(pickVariant(info, choice, shape), "register64")
    assert.notStrictEqual(Calibration.calibrationKey(info), Calibration.calibrationKey({ ...info, driver: "2" }))
  })
})
