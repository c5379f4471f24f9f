/** The 16-bit formats against their definitions, value by value. */
import { assert, describe, it } from "@effect/vitest"
import { decodeBf16, decodeF16, encodeBf16, encodeF16, roundForHalf } from "../src/internal/half.ts"
import { rounded } from "./reference/exported.ts"
import { below, seeded } from "./support.ts"

/** The number behind an f16 bit pattern, from the definition of the format. */
const valueOf = (half: number): number => {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 31
  const mantissa = half & 0x3ff
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15)
}

const all = Uint16Array.from({ length: 65_536 }, (_, i) => i)
const randomFloats = (seed: number, count: number): Float32Array => {
  const random = seeded(seed)
  return new Float32Array(Uint32Array.from({ length: count }, () => below(random, 2 ** 32)).buffer)
}
const f32 = (...bits: ReadonlyArray<number>) => new Float32Array(Uint32Array.from(bits).buffer)

describe("f16", () => {
  it("widens all 65,536 patterns exactly and narrows them back", () => {
    const wide = new Float32Array(all.length)
    decodeF16(all, wide)
    const back = encodeF16(wide)
    for (let half = 0; half < all.length; half++) {
      const value = valueOf(half)
      if (Number.isNaN(value)) {
        assert.isNaN(wide[half])
        assert.isNaN(valueOf(back[half]!))
      } else {
        assert.isTrue(Object.is(wide[half], value), `${half}`)
        assert.strictEqual(back[half], half)
      }
    }
  })

  it("narrows to the nearest value, ties to even, over the whole range", () => {
    const finite = [...all.slice(0, 0x7c00)].map(valueOf)
    const samples: Array<number> = []
    for (let half = 0; half < 0x7bff; half++) {
      const middle = (finite[half]! + finite[half + 1]!) / 2
      samples.push(middle, Math.fround(middle * (1 + 2 ** -20)), Math.fround(middle * (1 - 2 ** -20)))
    }
    const narrowed = encodeF16(Float32Array.from(samples))
    for (let half = 0; half < 0x7bff; half++) {
      const even = half % 2 === 0 ? half : half + 1
      assert.strictEqual(narrowed[3 * half], even)
      assert.strictEqual(narrowed[3 * half + 1], half + 1)
      assert.strictEqual(narrowed[3 * half + 2], half)
    }
    const edges = [65_519.99, 65_520, 65_504, 1e10, -65_520, 2 ** -25, Math.fround(2 ** -25 * 1.0001), 2 ** -26, -0]
    assert.deepStrictEqual(
      [...encodeF16(Float32Array.from(edges))],
      [0x7bff, 0x7c00, 0x7bff, 0x7c00, 0xfc00, 0, 1, 0, 0x8000]
    )
  })

  it("agrees with the language's own half floats on a million random patterns", () => {
    const own: unknown = Reflect.get(globalThis, "Float16Array")
    assert.isFunction(own, "Node 24 has Float16Array")
    const samples = randomFloats(21, 1_000_000)
    const expected = new Uint16Array(Reflect.construct(own as new (x: Float32Array) => Uint8Array, [samples]).buffer)
    const actual = encodeF16(samples)
    for (let i = 0; i < samples.length; i++) {
      if (!Number.isNaN(samples[i]!) && actual[i] !== expected[i])
        assert.fail(`${samples[i]}: ${actual[i]} ${expected[i]}`)
      if (Number.isNaN(samples[i]!)) assert.isNaN(valueOf(actual[i]!))
    }
  })
})

describe("bf16", () => {
  it("is the upper half of an f32 and comes back unchanged", () => {
    const wide = new Float32Array(all.length)
    decodeBf16(all, wide)
    const bits = new Uint32Array(wide.buffer)
    const back = encodeBf16(wide)
    for (let i = 0; i < all.length; i++) {
      if (Number.isNaN(wide[i]!)) assert.isTrue((back[i]! & 0x7fff) > 0x7f80)
      else {
        assert.strictEqual(bits[i], (i << 16) >>> 0)
        assert.strictEqual(back[i], i)
      }
    }
  })

  it("rounds to nearest, ties to even, overflows to infinity, keeps NaN", () => {
    const input = f32(
      0x3f808000,
      0x3f818000,
      0x3f808001,
      0x3f807fff,
      0x7f7fffff,
      0xff7fffff,
      0x7f800001,
      0x00008000,
      0x00018000
    )
    assert.deepStrictEqual([...encodeBf16(input)], [0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0xff80, 0x7fc0, 0, 2])
    const samples = randomFloats(22, 200_000)
    const wide = new Float32Array(samples.length)
    decodeBf16(encodeBf16(samples), wide)
    for (let i = 0; i < samples.length; i++) {
      const x = samples[i]!
      if (Number.isNaN(x)) assert.isNaN(wide[i])
      else if (Math.abs(x) > 2 ** -120 && Number.isFinite(wide[i]!))
        assert.isAtMost(Math.abs(wide[i]! - x), Math.abs(x) * 2 ** -8)
    }
  })
})

describe("rounding through odd", () => {
  it("equals rounding once, at ties, around them, at subnormals and beyond the largest number", () => {
    const random = seeded(1)
    const values = Array.from({ length: 20_000 }, (_, i) => {
      const kind = i % 4
      const sign = i % 2 === 0 ? 1 : -1
      const exponent =
        kind === 0 ? -30 + below(random, 50) : kind === 1 ? -140 + below(random, 260) : -24 + below(random, 40)
      const mantissa = 1 + (kind === 2 ? below(random, 4096) / 4096 : random())
      // ties of the 16-bit formats, moved by less than f32 can tell
      return sign * mantissa * 2 ** exponent * (kind === 2 ? 1 + [0, 1, -1][i % 3]! * 2 ** -40 : 1)
    })
    const source = Float64Array.from(values)
    const through = (values: Float64Array) => {
      const singles = new Float32Array(values.length)
      roundForHalf(values, singles)
      return singles
    }
    const [bf16, f16] = [encodeBf16(through(source)), encodeF16(through(source))]
    for (const [i, x] of values.entries()) {
      const exact = rounded.BF16(x)
      assert.strictEqual(new Float32Array(Uint32Array.of(bf16[i]! << 16).buffer)[0], Math.fround(exact), `${x}`)
      const half = rounded.F16(x)
      const bits = encodeF16(
        Float32Array.of(Math.abs(half) >= 65_520 ? Math.sign(half) * Number.POSITIVE_INFINITY : half)
      )
      assert.strictEqual(f16[i], bits[0], `${x}`)
    }
    // through plain f32 this tie is made up: just above the middle of two bf16 numbers
    const above = 1 + 2 ** -8 + 2 ** -40
    assert.strictEqual(encodeBf16(Float32Array.of(above))[0], 0x3f80)
    assert.strictEqual(encodeBf16(through(Float64Array.of(above)))[0], 0x3f81)
  })
})
