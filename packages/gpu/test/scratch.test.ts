/** Temporary buffers: one for each slot, as large as the largest of any recording, planned and accounted to the byte. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect } from "effect"
import {
  type AdapterInfo,
  Gpu,
  makeOps,
  OutOfMemory,
  onlyVariant,
  planMemory,
  rehearse,
  type Tape
} from "../src/index.ts"
import { makeScratch } from "../src/internal/scratch.ts"
import { asCard, asHardware, DeviceLayer } from "./support.ts"

/** A source over an account with a limit. */
const accounted = (limit: number) => {
  let [live, peak] = [0, 0]
  const made: Array<{ readonly label: string; readonly size: number; gone: boolean }> = []
  const scratch = makeScratch({
    largest: 4096,
    create: (label, size) => {
      const buffer = { label, size, gone: false, destroy: () => void (buffer.gone = true) }
      made.push(buffer)
      return buffer as unknown as GPUBuffer
    },
    account: (bytes) => {
      if (live + bytes > limit) return { limit, name: "the test", live }
      live += bytes
      peak = Math.max(peak, live)
      return undefined
    }
  })
  const take = (slot: string, length: number) => {
    const given = scratch.source(slot, "f32", length)
    if (given._tag === "Failure") throw given.failure
    return given.success
  }
  return { scratch, take, made, live: () => live, peak: () => peak }
}

describe("slots", () => {
  it("hold one buffer of the largest size whatever the order, and never two at once", () => {
    for (const sizes of [
      [4, 400, 40],
      [400, 4, 40],
      [4, 40, 400]
    ]) {
      const { live, made, peak, scratch, take } = accounted(1e6)
      for (const size of sizes) {
        const [small, large] = [take("a", 4), take("a", size)]
        take("b", 8)
        assert.isUndefined(scratch.settle())
        // Both mean the same buffer, which is large enough for either.
        assert.strictEqual(scratch.bufferOf(small.buffer), scratch.bufferOf(large.buffer))
        assert.isAtLeast(scratch.bufferOf(small.buffer).size, 4 * size)
      }
      assert.deepStrictEqual([live(), peak()], [1632, 1632])
      assert.lengthOf(
        made.filter(({ gone }) => !gone),
        2
      )
    }
  })

  it("what is too large, or does not fit, costs nothing and leaves the slot usable", () => {
    const { live, made, scratch, take } = accounted(1000)
    const other = { label: "other", size: 4 } as GPUBuffer
    assert.strictEqual(scratch.bufferOf(other), other)
    assert.throws(() => take("a", 2000), "largest storage binding")
    take("a", 100)
    assert.isUndefined(scratch.settle())
    take("a", 300)
    assert.instanceOf(scratch.settle()?.reason, OutOfMemory)
    take("a", 10)
    assert.isUndefined(scratch.settle())
    assert.isAtMost(live(), 400)
    take("b", 1000)
    scratch.drop()
    assert.isUndefined(scratch.settle())
    assert.isAtMost(live(), 400)
    assert.lengthOf(
      made.filter(({ gone }) => !gone),
      1
    )
  })
})

layer(DeviceLayer)("plans", (it) => {
  const [m, n, k, k2] = [100, 20, 72, 8]
  /** A product whose rungs for 16 bits pack its left operand: made for `rows` rows, rehearsed with as many. */
  const product = Effect.fnUntraced(function* (info: AdapterInfo, variant: "half64" | "matrix128", rows: number) {
    const gpu = yield* Gpu
    const ops = makeOps(info, onlyVariant(variant))
    const f32 = (length: number) => gpu.alloc("test", "f32", length)
    const [a, b, out] = [yield* f32(rows * k), yield* f32(n * k), yield* f32(rows * n)]
    const extra = { a: yield* f32(rows * k2), b: yield* f32(n * k2), k: k2 }
    const record = (own: number) => (tape: Tape) => ops.matmulNT(tape, { a, b, out, m: own, n, k, extra })
    yield* rehearse(gpu.submit("test", record(rows)))
    return { run: (own: number) => gpu.submit("test", record(own)) }
  })
  const words = (length: number): number => Math.ceil(length / 4) * 16
  const tensors = words(m * k) + words(n * k) + words(m * n) + words(m * k2) + words(n * k2)
  /** Rows of packed operands, padded to panels, as 16-bit floats, and a scale for each; sums of parts, as n is thin. */
  const temporary = (depth: number, splits: number): number => {
    const padded = (x: number) => Math.ceil(x / depth) * depth
    return words((m * (padded(k) + padded(k2))) / 2) + words(m) + (splits > 1 ? words(splits * m * n) : 0)
  }

  it.effect("count what the kernels of a card would take", () =>
    Effect.gen(function* () {
      const { info } = yield* Gpu
      const features = ["shader-f16", "subgroups", "subgroup-size-control", "chromium-experimental-subgroup-matrix"]
      const card = { ...asCard(info), features }
      const plan = yield* planMemory((section) => section("all", product(card, "matrix128", m)))
      const known = [
        { name: "all", bytes: tensors },
        { name: "temporary", bytes: temporary(32, 1) }
      ]
      assert.deepStrictEqual([plan.sections, plan.total], [known, tensors + temporary(32, 1)])
      const without = yield* planMemory((section) => section("all", product({ ...card, features: [] }, "matrix128", m)))
      assert.deepStrictEqual([without.sections, without.total], [known.slice(0, 1), tensors])
    })
  )

  it.effect(
    "are what is allocated, to the byte, in whatever order recordings come",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const info = { ...asHardware(gpu.info), features: [...gpu.info.features] }
        if (!info.features.includes("shader-f16")) return
        const plan = yield* planMemory(() => product(info, "half64", m))
        const before = (yield* gpu.memory).live
        yield* Effect.gen(function* () {
          const { run } = yield* product(info, "half64", m)
          assert.strictEqual((yield* gpu.memory).live - before, tensors)
          for (const rows of [10, m, 40]) yield* run(rows)
          const { live, peak } = yield* gpu.memory
          assert.deepStrictEqual([live - before, peak - before], [plan.total, plan.total])
          assert.strictEqual(plan.total, tensors + temporary(16, 1))
        }).pipe(Effect.scoped)
      }),
    600_000
  )
})
