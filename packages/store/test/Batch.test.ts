/** Batches that are cut off go on where they stopped and end in the same bytes. */
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { openBatch } from "../src/index.ts"

const Row = Schema.Struct({ index: Schema.Int, settings: Schema.String, text: Schema.String })
const row = (index: number, settings = "s") => ({ index, settings, text: `row ${index} 漢` })

const inFolder = <A, E>(use: (file: string) => Effect.Effect<A, E>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-batch-"))),
    (folder) => use(nodePath.join(folder, "sub/out.jsonl")),
    (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true, force: true }))
  )

/** Opens the batch, adds rows in this order, and finishes or stops. */
const work = (file: string, order: ReadonlyArray<number>, options: { finish: boolean; settings?: string }) =>
  Effect.scoped(
    Effect.gen(function* () {
      const settings = options.settings ?? "s"
      const batch = yield* openBatch(file, Row, { total: 5, settings })
      const before = { resumed: batch.resumed, missing: batch.missing }
      for (const index of order) yield* batch.add(row(index, settings))
      if (options.finish) yield* batch.finish
      return before
    })
  )

describe("openBatch", () => {
  it.effect("rows in any order, cut off at every point and in the middle of a line, end in the same bytes", () =>
    inFolder((file) =>
      Effect.gen(function* () {
        yield* work(file, [0, 1, 2, 3, 4], { finish: true })
        const whole = fs.readFileSync(file)
        assert.isFalse(fs.existsSync(`${file}.partial`))
        assert.isFalse(fs.existsSync(`${file}.partial.lock`))
        fs.rmSync(file)
        yield* work(file, [3, 1], { finish: false })
        const partial = fs.readFileSync(`${file}.partial`)
        const firstLine = partial.indexOf("\n") + 1
        for (let length = 0; length <= partial.length; length++) {
          fs.writeFileSync(`${file}.partial`, partial.subarray(0, length))
          const kept = length === partial.length ? [3, 1] : length >= firstLine ? [3] : []
          const missing = [0, 1, 2, 3, 4].filter((index) => !kept.includes(index))
          const before = yield* work(file, [...missing].reverse(), { finish: true })
          assert.deepStrictEqual(before, { resumed: kept.length, missing })
          assert.isTrue(fs.readFileSync(file).equals(whole))
        }
      })
    )
  )

  it.effect(
    "other settings, rows of another size, broken lines and a second process are refused and nothing is lost",
    () =>
      inFolder((file) =>
        Effect.gen(function* () {
          yield* work(file, [2], { finish: false })
          const bytes = fs.readFileSync(`${file}.partial`)
          const other = yield* Effect.flip(work(file, [], { finish: false, settings: "t" }))
          assert.match(other.message, /partial:1: .*another input, model or flags/)
          const short = yield* Effect.flip(Effect.scoped(openBatch(file, Row, { total: 2, settings: "s" })))
          assert.match(short.message, /index 2 is not one of 2/)
          const early = yield* Effect.flip(work(file, [0], { finish: true }))
          assert.match(early.message, /3 of 5 rows are missing/)
          fs.writeFileSync(`${file}.partial`, `${bytes}{"index":1}\n`)
          const broken = yield* Effect.flip(work(file, [], { finish: false }))
          assert.match(broken.message, /partial:2/)
          const twice = yield* Effect.flip(
            Effect.scoped(
              Effect.gen(function* () {
                fs.writeFileSync(`${file}.partial`, bytes)
                yield* openBatch(file, Row, { total: 5, settings: "s" })
                yield* openBatch(file, Row, { total: 5, settings: "s" })
              })
            )
          )
          assert.strictEqual(twice.reason, "Locked")
          assert.isTrue(fs.readFileSync(`${file}.partial`).equals(bytes))
          assert.isFalse(fs.existsSync(file))
        })
      )
  )
})
