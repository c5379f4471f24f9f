import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { hasState, loadState, saveState } from "../src/Checkpoint.ts"
import { below, failsWith, platform, seeded, temporaryFolder } from "./support.ts"

const state = {
  tensors: {
    "m/layers.0": Float32Array.of(1, -2, 3.5),
    v: Float32Array.from({ length: 20 }, (_, i) => i / 7),
    none: new Float32Array(0)
  },
  json: { step: 7, rng: [1, 2, 4294967295], note: 'é \u0000 "quoted"', nested: { done: false, last: null } }
}

const killed = (directory: string, afterMillis: number): Promise<{ readonly lastPrinted: number }> =>
  new Promise((resolve, reject) => {
    const program = fileURLToPath(new URL("./programs/save-forever.ts", import.meta.url))
    const child = spawn(process.execPath, [program, directory], { stdio: ["ignore", "pipe", "inherit"] })
    let output = ""
    child.stdout.on("data", (chunk) => {
      // the clock starts with the first state, so that a slow start is no kill before anything
      if (output === "") setTimeout(() => child.kill("SIGKILL"), afterMillis)
      output += String(chunk)
    })
    child.on("error", reject)
    child.on("close", () => resolve({ lastPrinted: Number(output.trim().split("\n").at(-1)) }))
  })

describe("Checkpoint", () => {
  it.effect("round trip, and equal states give equal bytes", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = `${yield* temporaryFolder}/state`
      assert.isFalse(yield* hasState(directory))
      yield* failsWith(loadState(directory), "Missing")
      yield* saveState(directory, state)
      assert.isTrue(yield* hasState(directory))
      assert.deepStrictEqual(yield* loadState(directory), state)
      const bytes = yield* fs.readFile(`${directory}/state.safetensors`)
      const reversed = Object.fromEntries(Object.entries(state.tensors).reverse())
      yield* saveState(directory, { ...state, tensors: reversed })
      assert.deepStrictEqual(yield* fs.readFile(`${directory}/state.safetensors`), bytes)
      assert.deepStrictEqual(yield* fs.readDirectory(directory), ["state.safetensors"])
    }).pipe(Effect.provide(platform))
  )

  it.effect("NaN in training is refused and the last good state stays", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      yield* saveState(directory, state)
      const reason = yield* failsWith(
        saveState(directory, { ...state, tensors: { v: Float32Array.of(0, Number.NaN) } }),
        "NotFinite"
      )
      assert.include(reason.message, "index 1")
      yield* failsWith(saveState(directory, { ...state, json: { loss: Number.NaN } }), "Invalid")
      yield* failsWith(saveState(directory, { ...state, json: { deep: [[Number.POSITIVE_INFINITY]] } }), "Invalid")
      assert.deepStrictEqual(yield* loadState(directory), state)
    }).pipe(Effect.provide(platform))
  )

  it.effect("200 corruptions: each a typed error or exactly the state that was saved", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const file = `${directory}/state.safetensors`
      yield* saveState(directory, state)
      const good = yield* fs.readFile(file)
      const random = seeded(41)
      let refused = 0
      for (let round = 0; round < 200; round++) {
        const at = below(random, round % 2 === 0 ? 500 : good.length)
        const changes = [
          () => good.map((byte, i) => (i === at ? byte ^ (1 << below(random, 8)) : byte)),
          () => good.map((byte, i) => (i === at ? below(random, 256) : byte)),
          () => good.slice(0, at),
          () => Uint8Array.from([...good.slice(0, at), below(random, 256), ...good.slice(at)]),
          () => Uint8Array.from([...good.slice(0, at), ...good.slice(at + 1 + below(random, 9))])
        ]
        yield* fs.writeFile(file, changes[round % changes.length]!())
        yield* loadState(directory).pipe(
          Effect.map((loaded) => assert.deepStrictEqual(loaded, state)),
          Effect.catchTag("ModelError", (error) =>
            Effect.sync(() => {
              refused++
              assert.include(["Malformed", "Unsupported"], error.reason._tag)
              assert.notMatch(error.message, /\n/)
            })
          )
        )
      }
      assert.isAbove(refused, 150)
    }).pipe(Effect.provide(platform))
  )

  it.effect("kill -9 while saving: the folder always holds one whole state, not older than the last reported", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      const random = seeded(42)
      for (let round = 0; round < 8; round++) {
        const { lastPrinted } = yield* Effect.promise(() => killed(directory, 5 + below(random, 60)))
        const loaded = yield* loadState(directory)
        const step = loaded.tensors.m?.[0] ?? 0
        assert.deepStrictEqual(loaded.json, { step })
        assert.isTrue(loaded.tensors.m?.every((x) => x === step))
        assert.isAtLeast(step, lastPrinted)
      }
    }).pipe(Effect.provide(platform))
  )
})
