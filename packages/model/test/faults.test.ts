/**
 * Power cuts, one at every step: a file system that stops working at its n-th change, in the middle of a write where
 * that change is a write, and from then on refuses everything (clean-up included), as if the process had been killed.
 * What is on the disk must then be the old or the new thing as a whole, and a second attempt must succeed.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, PlatformError } from "effect"
import { loadState, saveState } from "../src/Checkpoint.ts"
import type { ModelConfig } from "../src/Config.ts"
import type { ModelError } from "../src/ModelError.ts"
import { type AdapterToWrite, readAdapter, writeAdapter } from "../src/Peft.ts"
import { platform, temporaryFolder } from "./support.ts"

const refused = PlatformError.systemError({
  _tag: "Unknown",
  module: "FileSystem",
  method: "any",
  description: "no space left on device"
})

/** Runs with a disk that dies at change number `at` (from 1). Returns whether it died. */
const withFault = Effect.fnUntraced(function* <A>(
  at: number,
  effect: Effect.Effect<A, ModelError, FileSystem.FileSystem>
) {
  const fs = yield* FileSystem.FileSystem
  let changes = 0
  const guarded = <B>(
    change: Effect.Effect<B, PlatformError.PlatformError>,
    half: Effect.Effect<unknown, PlatformError.PlatformError> = Effect.void
  ) =>
    Effect.suspend(() => {
      changes++
      if (changes < at) return change
      return changes === at ? Effect.andThen(half, Effect.fail(refused)) : Effect.fail(refused)
    })
  const faulty = FileSystem.FileSystem.of({
    ...fs,
    rename: (from, to) => guarded(fs.rename(from, to)),
    remove: (path, options) => guarded(fs.remove(path, options)),
    makeDirectory: (path, options) => guarded(fs.makeDirectory(path, options)),
    open: (path, options) =>
      options?.flag === "w"
        ? guarded(Effect.void).pipe(
            Effect.andThen(fs.open(path, options)),
            Effect.map((file) => {
              const wrapped: FileSystem.File = Object.create(file, {
                writeAll: {
                  value: (bytes: Uint8Array) =>
                    guarded(file.writeAll(bytes), file.writeAll(bytes.subarray(0, bytes.length >> 1)))
                },
                sync: { get: () => guarded(file.sync) }
              })
              return wrapped
            })
          )
        : fs.open(path, options)
  })
  const failed = yield* effect.pipe(
    Effect.provideService(FileSystem.FileSystem, faulty),
    Effect.as(false),
    Effect.catchTag("ModelError", (error) => {
      assert.strictEqual(error.reason._tag, "Io", error.message)
      assert.include(error.message, "no space left on device")
      return Effect.succeed(true)
    })
  )
  return failed || changes >= at
})

const config: ModelConfig = {
  modelType: "qwen2",
  hiddenSize: 4,
  intermediateSize: 4,
  numLayers: 1,
  numHeads: 2,
  numKeyValueHeads: 1,
  headDim: 2,
  vocabSize: 4,
  maxPositionEmbeddings: 8,
  rmsNormEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: false,
  qkNorm: false,
  eosTokenIds: [],
  bosTokenId: null
}
const adapter = (alpha: number, fill: number): AdapterToWrite => ({
  rank: 1,
  alpha,
  targetModules: ["q_proj"],
  tensors: new Map([["layers.0.q_proj", { a: new Float32Array(4).fill(fill), b: new Float32Array(4).fill(fill) }]])
})

describe("a power cut at every step", () => {
  it.effect("of saveState: the old or the new state", () =>
    Effect.gen(function* () {
      const make = (step: number) => ({ tensors: { m: new Float32Array(100).fill(step) }, json: { step } })
      const seen = new Set<unknown>()
      let at = 1
      for (; ; at++) {
        const directory = yield* temporaryFolder
        yield* saveState(directory, make(1))
        const died = yield* withFault(at, saveState(directory, make(2)))
        const loaded = yield* loadState(directory)
        const step = loaded.tensors.m?.[0]
        assert.deepStrictEqual(loaded, make(step ?? 0))
        seen.add(step)
        yield* saveState(directory, make(3))
        assert.deepStrictEqual(yield* loadState(directory), make(3))
        if (!died) break
      }
      assert.isAbove(at, 5)
      assert.deepStrictEqual(seen, new Set([1, 2]))
    }).pipe(Effect.provide(platform))
  )

  it.effect(
    "of writeAdapter: old, new, or a folder that says it is incomplete; never new weights under old settings",
    () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        for (const newAlpha of [8, 16]) {
          const seen = new Set<string>()
          let at = 1
          for (; ; at++) {
            const directory = yield* temporaryFolder
            yield* writeAdapter(directory, config, adapter(8, 1))
            const died = yield* withFault(at, writeAdapter(directory, config, adapter(newAlpha, 2)))
            const what = yield* readAdapter(directory, config).pipe(
              Effect.map((read) => `alpha ${read.alpha}, weights ${read.tensors.get("layers.0.q_proj")?.a[0]}`),
              Effect.catchTag("ModelError", (error) => {
                assert.strictEqual(error.reason._tag, "Missing")
                return Effect.succeed("incomplete")
              })
            )
            seen.add(what)
            yield* writeAdapter(directory, config, adapter(newAlpha, 3))
            assert.strictEqual((yield* readAdapter(directory, config)).alpha, newAlpha)
            assert.strictEqual((yield* fs.readDirectory(directory)).length, 2, "nothing is left over")
            if (!died) break
          }
          assert.isAbove(at, 10)
          const allowed = ["alpha 8, weights 1", `alpha ${newAlpha}, weights 2`]
          assert.deepStrictEqual(seen, new Set(newAlpha === 8 ? allowed : [...allowed, "incomplete"]))
        }
      }).pipe(Effect.provide(platform))
  )
})
