/**
 * The state of a training run between steps: named f32 arrays (moments, masters) and one JSON value (counters, random
 * states, schedules), in one safetensors file, so that they can never be of different steps. Writing is atomic: after a
 * kill at any instant the folder holds the old state or the new one. A SHA-256 over names, sizes, numbers and JSON
 * guards against everything else; a state that does not match is refused.
 */
import { createHash } from "node:crypto"
import { Effect, type FileSystem, type Schema } from "effect"
import { exists, makeDirectory, oneLine, writeAtomic } from "./internal/files.ts"
import { ModelError } from "./ModelError.ts"
import { openSafetensors } from "./Safetensors.ts"
import { encodeSafetensors } from "./SafetensorsWriter.ts"

export interface State {
  readonly tensors: Readonly<Record<string, Float32Array>>
  /** Plain JSON; numbers must be finite. */
  readonly json: Schema.Json
}

/** As read: `json` is to be decoded by the caller's Schema. */
export interface LoadedState {
  readonly tensors: Readonly<Record<string, Float32Array>>
  readonly json: unknown
}

const fileName = "state.safetensors"
const format = "srcode-state-1"

/** Writes `state.safetensors` into the folder (made when absent). NaN and infinities are refused. */
export const saveState = Effect.fn("Checkpoint.save")(function* (
  directory: string,
  state: State
): Effect.fn.Return<void, ModelError, FileSystem.FileSystem> {
  const operation = "save state"
  const file = `${directory}/${fileName}`
  const invalid = (what: string) => ModelError.invalid({ operation, file, message: `${file}: ${what}` })
  // JSON would turn these into null without a word
  if (hasNonFinite(state.json)) {
    return yield* invalid("the JSON part of the state holds NaN or an infinity; go back to the last good checkpoint")
  }
  const json = yield* Effect.try({
    try: () => JSON.stringify(state.json),
    catch: (cause) => invalid(`the state is not plain JSON (${oneLine(cause)})`)
  })
  const tensors = Object.entries(state.tensors)
    .map(([name, data]) => ({ name, data, shape: [data.length] }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
  const chunks = yield* encodeSafetensors(file, tensors, {
    metadata: { format, json, sha256: fingerprint(json, tensors) }
  })
  yield* makeDirectory(operation, directory)
  yield* writeAtomic(operation, file, chunks)
})

export const hasState = (directory: string): Effect.Effect<boolean, ModelError, FileSystem.FileSystem> =>
  exists("load state", `${directory}/${fileName}`)

/** Reads the state back; `Missing` when there is none, `Malformed` when it is damaged. */
export const loadState = Effect.fn("Checkpoint.load")(function* (
  directory: string
): Effect.fn.Return<LoadedState, ModelError, FileSystem.FileSystem> {
  const operation = "load state"
  const file = `${directory}/${fileName}`
  const damaged = (what: string) =>
    ModelError.malformed({
      operation,
      file,
      message: `${file}: ${what}; remove it to start this stage again or restore it from a copy`
    })
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const stored = yield* openSafetensors(file)
      const json = stored.metadata.get("json")
      if (stored.metadata.get("format") !== format || json === undefined) {
        return yield* damaged(`it is not a training state of this version (${format})`)
      }
      const tensors: Array<{ readonly name: string; readonly data: Float32Array }> = []
      for (const name of [...stored.tensors.keys()].sort()) tensors.push({ name, data: yield* stored.read(name) })
      if (stored.metadata.get("sha256") !== fingerprint(json, tensors)) {
        return yield* damaged("its contents do not match its checksum")
      }
      const value: unknown = yield* Effect.try({
        try: () => JSON.parse(json),
        catch: () => damaged("its JSON is broken")
      })
      return { json: value, tensors: Object.fromEntries(tensors.map(({ name, data }) => [name, data])) }
    })
  )
})

const hasNonFinite = (value: Schema.Json): boolean =>
  typeof value === "number"
    ? !Number.isFinite(value)
    : typeof value === "object" && value !== null && Object.values(value).some(hasNonFinite)

const fingerprint = (
  json: string,
  tensors: ReadonlyArray<{ readonly name: string; readonly data: Float32Array }>
): string => {
  const hash = createHash("sha256").update(
    JSON.stringify([json, ...tensors.map(({ name, data }) => [name, data.length])])
  )
  for (const { data } of tensors) hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  return hash.digest("hex")
}
