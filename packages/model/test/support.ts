/** Shared by the file tests: a seeded generator, random Unicode, and a folder that vanishes with the test. */
import { NodeServices } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import type { ModelError, ModelErrorReason } from "../src/ModelError.ts"

export const platform = NodeServices.layer

/** mulberry32: numbers in [0, 1) from a 32-bit seed. */
export const seeded = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export const below = (random: () => number, n: number): number => Math.floor(random() * n)

const alphabets: ReadonlyArray<(random: () => number) => string> = [
  (r) => String.fromCharCode(32 + below(r, 95)),
  (r) =>
    [" ", "  ", "\n", "\r\n", "\t", "\n    ", "\n\t", "\r", "\u00a0", "\u0085", "\ufeff", "\v", "\f"][below(r, 13)]!,
  (r) => ["int", "return", "if (", ") {", "size_t", "buf[i]", "==", "0x1F", "'s", "//"][below(r, 10)]!,
  (r) => ["é", "e\u0301", "ß", "中文", "한", "\u0301", "\u200d", "😀", "👩‍👩‍👧", "🏳️‍🌈", "𝔘"][below(r, 11)]!,
  (r) => String.fromCodePoint(below(r, 0xd800)),
  (r) => String.fromCodePoint(0xe000 + below(r, 0x110000 - 0xe000))
]

export const randomText = (random: () => number, parts: number): string =>
  Array.from({ length: parts }, () => alphabets[below(random, alphabets.length)]!(random)).join("")

export const temporaryFolder = Effect.flatMap(FileSystem.FileSystem, (fs) =>
  fs.makeTempDirectoryScoped({ prefix: "srcode-model-" })
)

/** Runs to a failure with that reason and one-line message; returns the reason. */
export const failsWith = Effect.fnUntraced(function* <A, R>(
  effect: Effect.Effect<A, ModelError, R>,
  tag: ModelErrorReason["_tag"]
) {
  const error = yield* Effect.flip(effect)
  assert.strictEqual(error._tag, "ModelError")
  assert.strictEqual(error.reason._tag, tag, error.message)
  assert.isAbove(error.message.length, 10)
  assert.notMatch(error.message, /\n/)
  return error.reason
})
