import { assert, describe, layer } from "@effect/vitest"
import { loraLinear, matmul } from "@srcode/kernels/matmul/reference"
import { Effect } from "effect"
import { Gpu, type Layout, type MatmulArgs, makeOps, type Ops, type Tape } from "../src/index.ts"
import {
  assertClose,
  assertSameBits,
  blank,
  DeviceLayer,
  f32,
  launch,
  opsOf,
  read,
  seeded,
  variants
} from "./support.ts"

const call = (layout: Layout) => (tape: Tape, ops: Ops, x: MatmulArgs) =>
  layout === "NT" ? ops.matmulNT(tape, x) : layout === "NN" ? ops.matmulNN(tape, x) : ops.matmulTN(tape, x)

interface Case {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly alpha?: number
  readonly bias?: boolean
  readonly residual?: boolean
  readonly accumulate?: boolean
  readonly extra?: number
}

/** One row, one column, odd sizes that fall back to the tiled kernel, and sizes just past a tile's edge. */
const shapes: ReadonlyArray<Case> = [
  { m: 1, n: 1, k: 1 },
  { m: 1, n: 1, k: 8 },
  { m: 1, n: 36, k: 16 },
  { m: 5, n: 4, k: 8 },
  { m: 9, n: 1, k: 24 },
  { m: 3, n: 7, k: 5 },
  { m: 17, n: 33, k: 40 },
  { m: 65, n: 68, k: 72 },
  { m: 257, n: 12, k: 16 },
  { m: 70, n: 130, k: 19 }
]

const epilogues: ReadonlyArray<Omit<Case, "m" | "n" | "k">> = [
  { alpha: -0.375 },
  { bias: true },
  { residual: true },
  { accumulate: true },
  { extra: 8 },
  { alpha: 0.5, bias: true, residual: true, extra: 8 },
  { alpha: 2, bias: true, residual: true, accumulate: true, extra: 16 },
  { extra: 3, residual: true }
]

/** A software driver on a busy machine compiles the unrolled tiles for minutes, once per machine. */
const compileTime = 600_000

const describeCase = (c: Case) =>
  Object.entries(c)
    .map(([k, v]) => `${k}=${v}`)
    .join(" ")

const check = (layout: Layout, c: Case, run: Ops, seed: number) =>
  Effect.gen(function* () {
    const random = seeded(seed)
    const { m, n, k } = c
    const a = random.floats(m * k)
    const b = random.floats(k * n)
    const previous = random.floats(m * n)
    const bias = c.bias ? random.floats(n) : undefined
    const residual = c.residual ? random.floats(m * n) : undefined
    const extra = c.extra ? { a: random.floats(m * c.extra), b: random.floats(n * c.extra), k: c.extra } : undefined
    const out = c.accumulate ? yield* f32("out", previous) : yield* blank("out", m * n)
    const args: MatmulArgs = {
      a: yield* f32("a", a),
      b: yield* f32("b", b),
      out,
      m,
      n,
      k,
      ...(c.alpha === undefined ? {} : { alpha: c.alpha }),
      ...(bias ? { bias: yield* f32("bias", bias) } : {}),
      ...(residual ? { residual: yield* f32("residual", residual) } : {}),
      ...(c.accumulate ? { accumulate: true } : {}),
      ...(extra ? { extra: { a: yield* f32("a2", extra.a), b: yield* f32("b2", extra.b), k: extra.k } } : {})
    }
    yield* launch(run, (tape, ops) => call(layout)(tape, ops, args))
    const expected = matmul(layout, {
      a,
      b,
      m,
      n,
      k,
      alpha: c.alpha,
      bias,
      residual,
      previous: c.accumulate ? previous : undefined,
      extra
    })
    assertClose(`${layout} ${describeCase(c)}`, yield* read(out), expected)
  }).pipe(Effect.scoped)

layer(DeviceLayer)("matmul", (it) => {
  for (const variant of variants) {
    for (const layout of ["NT", "NN", "TN"] as const) {
      it.effect(
        `${layout} on ${variant}: awkward shapes`,
        () =>
          Effect.gen(function* () {
            const ops = yield* opsOf(variant)
            for (const [i, c] of shapes.entries()) yield* check(layout, c, ops, 100 + i)
          }),
        compileTime
      )
      it.effect(`${layout} on ${variant}: scale, bias, residual, accumulation, second product`, () =>
        Effect.gen(function* () {
          const ops = yield* opsOf(variant)
          const usable = epilogues.filter((e) => layout !== "TN" || !(e.bias || e.residual || e.extra))
          assert.isAbove(usable.length, 1)
          for (const [i, e] of usable.entries()) {
            yield* check(layout, { m: 11, n: 36, k: 24, ...e }, ops, 200 + i)
            yield* check(layout, { m: 1, n: 5, k: 7, ...e }, ops, 300 + i)
          }
        })
      )
    }
    it.effect(`a linear layer with its adapter is one product, on ${variant}`, () =>
      Effect.gen(function* () {
        const random = seeded(7)
        const shape = { rows: 19, input: 32, output: 40, rank: 8 }
        const [x, w] = [random.floats(shape.rows * shape.input), random.floats(shape.output * shape.input)]
        const [a, b] = [random.floats(shape.rank * shape.input), random.floats(shape.output * shape.rank)]
        const ops = yield* opsOf(variant)
        const tensors = { x: yield* f32("x", x), w: yield* f32("w", w), a: yield* f32("a", a), b: yield* f32("b", b) }
        const low = yield* blank("low", shape.rows * shape.rank)
        const y = yield* blank("y", shape.rows * shape.output)
        yield* launch(ops, (tape, o) => {
          o.matmulNT(tape, { a: tensors.x, b: tensors.a, out: low, m: 19, n: 8, k: 32, alpha: 2 })
          o.matmulNT(tape, {
            a: tensors.x,
            b: tensors.w,
            out: y,
            m: 19,
            n: 40,
            k: 32,
            extra: { a: low, b: tensors.b, k: 8 }
          })
        })
        assertClose("lora", yield* read(y), loraLinear(x, w, a, b, shape, 2))
      })
    )
  }

  describe("choice of the variant", () => {
    it.effect("the subgroup tile is taken where it fits and its bits do not change from run to run", () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const random = seeded(3)
        const a = yield* f32("a", random.floats(30 * 40))
        const b = yield* f32("b", random.floats(40 * 52))
        const run = Effect.gen(function* () {
          const out = yield* blank("out", 30 * 52)
          const times = yield* gpu.profile("test", (tape) =>
            makeOps(gpu.info).matmulNT(tape, { a, b, out, m: 30, n: 52, k: 40 })
          )
          return { out: yield* read(out), times }
        })
        const first = yield* run
        const second = yield* run
        assertSameBits("nt", first.out, second.out)
        const [low, high] = gpu.info.subgroupSize
        const subgroup = gpu.info.software && low === high && (low === 4 || low === 8)
        if (first.times.length > 0) {
          assert.strictEqual(first.times[0]?.kernel, subgroup ? "matmul_nt_subgroup" : "matmul_tiled")
        }
      })
    )
  })

  it.effect("operands that are too small are refused with the product's shape", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const small = yield* blank("small", 15)
      const out = yield* blank("out", 16)
      const error = yield* gpu
        .submit("test", (tape) => makeOps(gpu.info).matmulNT(tape, { a: small, b: small, out, m: 4, n: 4, k: 4 }))
        .pipe(Effect.flip)
      assert.strictEqual(error.reason._tag, "InvalidDispatch")
      assert.include(error.message, "[4, 4] x [4, 4]")
      const bias = yield* gpu
        .submit("test", (tape) =>
          makeOps(gpu.info).matmulTN(tape, { a: out, b: out, out: small, m: 3, n: 4, k: 4, bias: out })
        )
        .pipe(Effect.flip)
      assert.include(bias.message, "not supported")
    })
  )
})
