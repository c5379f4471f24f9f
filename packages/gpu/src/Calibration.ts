/**
 * Which matmul rungs a device is fastest with, found once and kept in a file.
 *
 * Nothing calibrates by accident: it happens where a program puts `Calibration.layer` on its Gpu (or runs `calibrated`), and never on a driver
 * that computes on the CPU or on the null device, whose rungs follow from their capabilities. The file is named after a digest of all
 * that the outcome depends on: device, driver, features, limits, the kernels' texts and the table of rungs. A file that is missing,
 * broken or of another version means measuring anew; a folder that cannot be written only means doing so every time.
 *
 * A rung that ends the process (a driver's crash) is noted in a file beside it before it is tried, and left out the next time.
 */
import { createHash } from "node:crypto"
import { Config, Effect, FileSystem, Layer, Option, Path, Schema } from "effect"
import { type AdapterInfo, Gpu } from "./Gpu.ts"
import type { GpuError } from "./GpuError.ts"
import { kernelNames, kernelSpec } from "./Kernel.ts"
import { type MeasureOptions, measureMatmul } from "./MatmulMeasure.ts"
import { type MatmulChoice, matmulRungs, matmulVariants } from "./MatmulVariant.ts"

const version = 2

/** What is kept: the choice, and for people what was left out and what was timed. */
export const CalibrationRecord = Schema.Struct({
  version: Schema.Literal(version),
  device: Schema.String,
  driver: Schema.String,
  byClass: Schema.Record(Schema.String, Schema.Literals(matmulVariants)),
  weights16: Schema.Literals(["f16", "f16_tiles"]),
  dropped: Schema.Array(Schema.Struct({ variant: Schema.String, where: Schema.String, reason: Schema.String })),
  times: Schema.Array(Schema.Struct({ class: Schema.String, variant: Schema.String, microseconds: Schema.Finite }))
})
export type CalibrationRecord = typeof CalibrationRecord.Type

const Tried = Schema.Struct({ ended: Schema.Array(Schema.Literals(matmulVariants)) })

const RecordFile = Schema.fromJsonString(CalibrationRecord)
const TriedFile = Schema.fromJsonString(Tried)

/** A digest of everything that the outcome depends on, 16 hexadecimal digits. */
export const calibrationKey = (info: AdapterInfo): string => {
  const { architecture, backend, driver, features, name, subgroupMatrixConfigs, subgroupSize, vendor } = info
  const kernels = kernelNames.filter((k) => k.startsWith("matmul_")).map((k) => [k, kernelSpec(k).hash])
  const { maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupStorageSize, maxStorageBufferBindingSize } = info.limits
  const limits = [maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupStorageSize, maxStorageBufferBindingSize]
  const device = [name, vendor, architecture, driver, backend, features, limits, subgroupSize, subgroupMatrixConfigs]
  return createHash("sha256")
    .update(JSON.stringify([version, device, kernels, matmulRungs]))
    .digest("hex")
    .slice(0, 16)
}

const variable = (name: string) =>
  Config.String(name).pipe(
    Config.option,
    Effect.map(Option.getOrUndefined),
    Effect.map((value) => (value === "" ? undefined : value)),
    Effect.catch(() => Effect.succeed(undefined))
  )

/** Where calibrations are kept: SRCODE_CACHE, else XDG_CACHE_HOME/srcode, else ~/.cache/srcode; undefined without any of them. */
export const calibrationFolder = Effect.gen(function* () {
  const path = yield* Path.Path
  const own = yield* variable("SRCODE_CACHE")
  if (own !== undefined) return own
  const xdg = yield* variable("XDG_CACHE_HOME")
  if (xdg !== undefined) return path.join(xdg, "srcode")
  const home = (yield* variable("HOME")) ?? (yield* variable("USERPROFILE"))
  return home === undefined ? undefined : path.join(home, ".cache", "srcode")
})

const readJson = <S extends Schema.Codec<unknown, string>>(schema: S, file: string) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    return yield* Schema.decodeUnknownEffect(schema)(yield* fs.readFileString(file))
  }).pipe(Effect.option)

/** Writes a whole file or none; what cannot be written is left out and said once. */
const writeWhole = Effect.fnUntraced(function* (file: string, text: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const temporary = `${file}.tmp`
  yield* fs.makeDirectory(path.dirname(file), { recursive: true }).pipe(
    Effect.andThen(fs.writeFileString(temporary, text)),
    Effect.andThen(fs.rename(temporary, file)),
    Effect.catch((error) =>
      Effect.logWarning(`${file} cannot be written (${error.message}); set SRCODE_CACHE to a folder that can`)
    )
  )
})

const encode = <A>(value: A): string => `${JSON.stringify(value, null, 2)}\n`

/**
 * The kept calibration of this device, or a new one; undefined for devices that need none. `options` narrow what is measured.
 */
export const calibrated = Effect.fn("Calibration.calibrated")(function* (options?: MeasureOptions) {
  const gpu = yield* Gpu
  const { info } = gpu
  if (info.software || info.backend === "null") return undefined
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* calibrationFolder
  const file = folder === undefined ? undefined : path.join(folder, `matmul-${calibrationKey(info)}.json`)
  const kept = file === undefined ? Option.none() : yield* readJson(RecordFile, file)
  if (Option.isSome(kept)) return kept.value
  const trying = `${file}.trying`
  const before = file === undefined ? Option.none() : yield* readJson(TriedFile, trying)
  const ended = Option.isSome(before) ? before.value.ended : []
  yield* Effect.logInfo(`finding the fastest matrix products for ${info.name}, once for this device and driver`)
  const variants = (options?.variants ?? matmulVariants).filter((v) => !ended.includes(v))
  const onTry: MeasureOptions["onTry"] = (variant) =>
    file === undefined
      ? Effect.void
      : writeWhole(trying, encode({ ended: [...ended, variant] })).pipe(
          Effect.provideService(FileSystem.FileSystem, fs),
          Effect.provideService(Path.Path, path)
        )
  // What fails or is interrupted in an orderly way is nobody's crash.
  const forget = file === undefined ? Effect.void : Effect.ignore(fs.remove(trying, { force: true }))
  const measured = yield* measureMatmul({ ...options, variants, onTry }).pipe(Effect.onError(() => forget))
  const record: CalibrationRecord = {
    version,
    device: info.name,
    driver: info.driver,
    byClass: measured.byClass,
    weights16: measured.weights16,
    dropped: [
      ...measured.dropped,
      ...ended.map((variant) => ({ variant, where: "everywhere", reason: "the process ended when it was tried" }))
    ],
    times: measured.times
  }
  if (file !== undefined) {
    yield* writeWhole(file, encode(record))
    yield* forget
  }
  return record
})

/** The choice that a record stands for. */
export const choiceOf = ({ byClass, weights16 }: CalibrationRecord): MatmulChoice => ({ byClass, weights16 })

/** A Gpu whose `info.matmul` holds what calibration found, so that every `makeOps(gpu.info)` follows it; `options` narrow the measuring. */
export const layerWith = (options?: MeasureOptions): Layer.Layer<Gpu, never, Gpu | FileSystem.FileSystem | Path.Path> =>
  Layer.effect(
    Gpu,
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const record = yield* calibrated(options).pipe(
        Effect.catch((error: GpuError) =>
          Effect.as(Effect.logWarning(`calibration left out: ${error.message}`), undefined)
        )
      )
      return record === undefined ? gpu : Gpu.of({ ...gpu, info: { ...gpu.info, matmul: choiceOf(record) } })
    })
  )

export const layer = layerWith()
