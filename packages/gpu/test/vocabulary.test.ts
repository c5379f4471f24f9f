/** log_softmax in vocabulary chunks, and its gradient. */
import { assert, layer } from "@effect/vitest"
import { type LogSoftmaxInput, logSoftmax, logSoftmaxBackward } from "@srcode/kernels/log_softmax/reference"
import { Effect } from "effect"
import { Gpu, type Ops } from "../src/index.ts"
import {
  assertClose,
  assertSameBits,
  blank,
  DeviceLayer,
  f32,
  launch,
  numericGradient,
  opsOf,
  read,
  seeded,
  u32,
  variants
} from "./support.ts"

interface Case {
  readonly rows: number
  /** Columns of each chunk, in order. */
  readonly chunks: ReadonlyArray<number>
  readonly temperature: number
  readonly scale: number
  readonly reference: boolean
}

/** One row, one column, tails shorter than the other chunks, more columns than a workgroup has lanes, sharp and flat rows. */
const cases: ReadonlyArray<Case> = [
  { rows: 1, chunks: [1], temperature: 1, scale: 1, reference: false },
  { rows: 3, chunks: [7], temperature: 1, scale: 1, reference: true },
  { rows: 5, chunks: [16, 16, 5], temperature: 0.7, scale: 3, reference: true },
  { rows: 9, chunks: [64, 1], temperature: 1.3, scale: 1, reference: false },
  { rows: 2, chunks: [300, 213], temperature: 0.6, scale: 8, reference: true },
  { rows: 67, chunks: [36], temperature: 1, scale: 0.01, reference: true }
]

const columns = (x: ArrayLike<number>, rows: number, vocab: number, from: number, count: number) =>
  Float32Array.from({ length: rows * count }, (_, i) => x[Math.floor(i / count) * vocab + from + (i % count)]!)

/** The whole head over all chunks; the gradient comes back put together as [rows, vocab]. */
const head = (
  ops: Ops,
  x: LogSoftmaxInput & { readonly chunks: ReadonlyArray<number>; readonly grad: Float32Array<ArrayBuffer> }
) =>
  Effect.gen(function* () {
    const { rows, vocab, temperature } = x
    const target = yield* u32("target", x.target)
    const grad = yield* f32("grad", x.grad)
    const part = (label: string, all: ArrayLike<number>) =>
      Effect.gen(function* () {
        const out = []
        let from = 0
        for (const cols of x.chunks) {
          out.push({ offset: from, cols, tensor: yield* f32(label, columns(all, rows, vocab, from, cols)) })
          from += cols
        }
        return out
      })
    const logits = yield* part("logits", x.logits)
    const refLogits = x.refLogits ? yield* part("refLogits", x.refLogits) : undefined
    const [state, refState] = [yield* blank("state", rows * 5), yield* blank("refState", rows * 5)]
    const [out, refOut] = [yield* blank("out", rows * 4), yield* blank("refOut", rows * 4)]
    yield* launch(ops, (tape, o) => {
      for (const c of refLogits ?? []) {
        o.logSoftmaxChunk(tape, {
          logits: c.tensor,
          target,
          state: refState,
          rows,
          cols: c.cols,
          offset: c.offset,
          temperature
        })
      }
      if (refLogits) o.logSoftmaxFinish(tape, { state: refState, out: refOut, rows })
      logits.forEach((c, i) => {
        const ref = refLogits ? { refLogits: refLogits[i]!.tensor } : {}
        o.logSoftmaxChunk(tape, {
          logits: c.tensor,
          ...ref,
          target,
          state,
          rows,
          cols: c.cols,
          offset: c.offset,
          temperature
        })
      })
      o.logSoftmaxFinish(tape, { state, ...(refLogits ? { refOut } : {}), out, rows })
      logits.forEach((c, i) => {
        const ref = refLogits ? { refLogits: refLogits[i]!.tensor, refOut } : {}
        o.logSoftmaxBackward(tape, {
          logits: c.tensor,
          ...ref,
          target,
          out,
          grad,
          rows,
          cols: c.cols,
          offset: c.offset,
          temperature
        })
      })
    })
    const d = new Float32Array(rows * vocab)
    for (const c of logits) {
      const values = yield* read(c.tensor)
      for (let r = 0; r < rows; r++) {
        for (let i = 0; i < c.cols; i++) d[r * vocab + c.offset + i] = values[r * c.cols + i]!
      }
    }
    return { out: yield* read(out), d }
  })

const inputs = (c: Case, seed: number) => {
  const random = seeded(seed)
  const vocab = c.chunks.reduce((a, b) => a + b, 0)
  const logits = random.floats(c.rows * vocab, c.scale)
  return {
    logits,
    refLogits: c.reference ? logits.map((v) => v + random.normal() * 0.3) : undefined,
    // The first and the last column are among the targets, so each chunk's edge is met.
    target: Array.from({ length: c.rows }, (_, r) => (r === 0 ? vocab - 1 : r === 1 ? 0 : random.integer(vocab))),
    rows: c.rows,
    vocab,
    temperature: c.temperature,
    chunks: c.chunks,
    grad: random.floats(c.rows * 3)
  }
}

const column = (out: Float32Array, i: number) => out.filter((_, at) => at % 4 === i)

layer(DeviceLayer)("log_softmax", (it) => {
  for (const variant of variants) {
    it.effect(`log-probability, entropy, log-sum-exp, KL and gradients on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        for (const [i, c] of cases.entries()) {
          const name = JSON.stringify(c)
          const x = inputs(c, 60 + i)
          const { out, d } = yield* head(ops, x)
          const expected = logSoftmax(x)
          const close = (what: string, at: number, values: ReadonlyArray<number>, tolerance?: number) =>
            assertClose(`${what} ${name}`, column(out, at), values, tolerance)
          if (x.vocab > 1) {
            close(
              "log-probability",
              0,
              expected.map((r) => r.logProb)
            )
            close(
              "log-sum-exp",
              2,
              expected.map((r) => r.lse)
            )
            // Entropy and KL are differences of quantities the size of the log-sum-exp, whose last bits they inherit.
            for (const [at, key] of [
              [1, "entropy"],
              [3, "kl"]
            ] as const) {
              column(out, at).forEach((v, r) => {
                const scale = 1 + Math.abs(expected[r]!.lse)
                assert.isAtMost(Math.abs(v - expected[r]![key]), 2e-6 * scale, `${key} ${name} row ${r}`)
              })
            }
            assertClose(`gradient ${name}`, d, logSoftmaxBackward(x, x.grad))
          } else {
            // A vocabulary of one: certain, so everything but the log-sum-exp is 0.
            for (const at of [0, 1, 3]) assert.isAtMost(Math.abs(column(out, at)[0]!), 1e-6)
            assert.isAtMost(Math.abs(d[0]!), 1e-6)
          }
        }
      })
    )

    it.effect(`chunking changes the result by rounding only, and logits of ±1e4 stay finite on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        const c: Case = { rows: 4, chunks: [40], temperature: 1, scale: 2, reference: true }
        const x = inputs(c, 5)
        x.logits[3] = 1e4
        x.logits[41] = -1e4
        x.logits[39] = 9999
        const whole = yield* head(ops, x)
        const parts = yield* head(ops, { ...x, chunks: [3, 17, 20] })
        assertClose("out", parts.out, whole.out, 1e-5)
        assertClose("gradient", parts.d, whole.d, 1e-5)
        assert.isTrue([...whole.out, ...whole.d].every(Number.isFinite))
        assertClose(
          "log-probability",
          column(whole.out, 0),
          logSoftmax(x).map((r) => r.logProb)
        )
      })
    )

    it.effect(`a policy that equals its reference has KL 0 exactly, and bits repeat on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        const x = inputs({ rows: 6, chunks: [16, 9], temperature: 0.8, scale: 2, reference: false }, 9)
        const same = { ...x, refLogits: x.logits }
        const [first, second] = [yield* head(ops, same), yield* head(ops, same)]
        assert.deepStrictEqual([...column(first.out, 3)], new Array(6).fill(0))
        assertSameBits("out", first.out, second.out)
        assertSameBits("gradient", first.d, second.d)
      })
    )
  }

  it.effect("gradients of log-probability, entropy and KL agree with finite differences", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      const x = inputs({ rows: 2, chunks: [8, 3], temperature: 0.7, scale: 1.5, reference: true }, 13)
      const { d } = yield* head(ops, x)
      const numeric = numericGradient(x.logits, (logits) =>
        logSoftmax({ ...x, logits }).reduce(
          (sum, r, i) => sum + x.grad[i * 3]! * r.logProb + x.grad[i * 3 + 1]! * r.entropy + x.grad[i * 3 + 2]! * r.kl,
          0
        )
      )
      assertClose("gradient", d, numeric)
    })
  )

  it.effect("a temperature of 0 and reference logits without their statistics are refused", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = yield* opsOf("software")
      const [logits, state] = [yield* blank("logits", 4), yield* blank("state", 5)]
      const target = yield* u32("target", [0])
      const chunk = { logits, target, state, rows: 1, cols: 4, offset: 0 }
      const zero = yield* Effect.flip(gpu.submit("test", (t) => ops.logSoftmaxChunk(t, { ...chunk, temperature: 0 })))
      assert.include(zero.message, "temperature 0")
      const out = yield* blank("out", 4)
      const half = yield* Effect.flip(
        gpu.submit("test", (t) =>
          ops.logSoftmaxBackward(t, { ...chunk, refLogits: state, out, grad: state, temperature: 1 })
        )
      )
      assert.include(half.message, "go together")
    })
  )
})
