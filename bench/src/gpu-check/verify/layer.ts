/** The layer's smaller operations, the vocabulary's, and the optimiser's. */
import { allocMatrix, normBlock, packRows, sampleSettings, writeRows } from "@srcode/gpu"
import { adamw } from "@srcode/kernels/adamw/reference"
import { columnSum } from "@srcode/kernels/column_sum/reference"
import { gather, occurrences, scatter } from "@srcode/kernels/embedding/reference"
import { gradNorm } from "@srcode/kernels/grad_norm/reference"
import { logSoftmax, logSoftmaxBackward } from "@srcode/kernels/log_softmax/reference"
import { rmsNorm, rmsNormBackward } from "@srcode/kernels/rms_norm/reference"
import { draw, nucleus, uniform } from "@srcode/kernels/sample/reference"
import { swiglu, swigluBackward } from "@srcode/kernels/swiglu/reference"
import { unpackF16 } from "@srcode/kernels/weight/reference"
import { Effect } from "effect"
import { type CheckCase, f32, inputs, result, u32 } from "./harness.ts"

const norm = (rows: number, dim: number, seed: number): CheckCase => ({
  name: `rms norm ${rows} x ${dim}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const [x, dy, w] = [random.floats(rows * dim), random.floats(rows * dim), random.floats(dim)]
    const before = random.floats(rows * dim)
    const sums = random.floats(dim)
    const forward = rmsNorm(x, w, rows, dim, 1e-6)
    const backward = rmsNormBackward(x, w, forward.rstd, dy, rows, dim)
    const t = {
      ...{ x: yield* f32(x), w: yield* f32(w), dy: yield* f32(dy), y: yield* result(rows * dim) },
      ...{ rstd: yield* result(rows), dx: yield* result(rows * dim), dw: yield* result(dim) },
      scratch: yield* result((Math.ceil(rows / 128) + 1) * dim)
    }
    return {
      record: (tape, ops) => {
        ops.rmsNorm(tape, { ...t, rows, dim, eps: 1e-6 })
        ops.rmsNormBackward(tape, { ...t, rows, dim, accumulate: true })
        ops.rmsNormBackwardWeight(tape, { ...t, rows, dim })
      },
      outputs: [
        { name: "y", tensor: t.y, expected: forward.y },
        { name: "rstd", tensor: t.rstd, expected: forward.rstd },
        { name: "dx", tensor: t.dx, initial: before, expected: backward.dx.map((g, i) => g + (before[i] ?? 0)) },
        { name: "dw", tensor: t.dw, initial: sums, expected: backward.dw.map((g, i) => g + (sums[i] ?? 0)) }
      ]
    }
  })
})

const gated = (rows: number, dim: number, seed: number): CheckCase => ({
  name: `swiglu ${rows} x ${dim}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const [gu, dy] = [random.floats(2 * rows * dim, 3), random.floats(rows * dim)]
    const t = {
      ...{ gu: yield* f32(gu), dy: yield* f32(dy), y: yield* result(rows * dim), over: yield* result(2 * rows * dim) }
    }
    return {
      record: (tape, ops) => {
        ops.swiglu(tape, { ...t, rows, dim })
        // Backward writes over gate and up.
        ops.swigluBackward(tape, { gu: t.over, dy: t.dy, rows, dim })
      },
      outputs: [
        { name: "y", tensor: t.y, expected: swiglu(gu, rows, dim) },
        { name: "dgu", tensor: t.over, initial: gu, expected: swigluBackward(gu, dy, rows, dim) }
      ]
    }
  })
})

const table = (rows: number, entries: number, dim: number, seed: number): CheckCase => ({
  name: `embedding ${rows} of ${entries} x ${dim}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const values = random.floats(entries * dim)
    const id = random.integers(rows, entries)
    const dy = random.floats(rows * dim)
    const before = random.floats(entries * dim)
    const { order, start } = occurrences([...id], entries)
    const packed = packRows("f16", values, entries, dim)
    const half = yield* allocMatrix("check", "f16", entries, dim)
    yield* writeRows(half, 0, entries, packed)
    const t = {
      ...{ table: yield* f32(values), id: yield* u32(id), out: yield* result(rows * dim), dy: yield* f32(dy) },
      ...{ halves: yield* result(rows * dim), start: yield* u32(start), order: yield* u32(order) },
      dtable: yield* result(entries * dim)
    }
    return {
      record: (tape, ops) => {
        ops.gatherRows(tape, { table: t.table, id: t.id, out: t.out, rows, dim })
        ops.gatherRows(tape, { table: half, id: t.id, out: t.halves, rows, dim })
        ops.scatterRows(tape, { ...t, rows: entries, dim, accumulate: true })
      },
      outputs: [
        { name: "rows", tensor: t.out, expected: gather(values, id, rows, dim), tolerance: 1e-7 },
        {
          name: "rows of f16",
          tensor: t.halves,
          expected: gather(unpackF16(packed.data, entries, dim, half.stride), id, rows, dim),
          tolerance: 1e-7
        },
        { name: "dtable", tensor: t.dtable, initial: before, expected: scatter(dy, id, entries, dim, before) }
      ]
    }
  })
})

const sums = (rows: number, cols: number, seed: number): CheckCase => ({
  name: `column sum ${rows} x ${cols}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const [x, before] = [random.floats(rows * cols), random.floats(cols)]
    const t = { x: yield* f32(x), out: yield* result(cols), scratch: yield* result((Math.ceil(rows / 128) + 1) * cols) }
    return {
      record: (tape, ops) => ops.columnSum(tape, { ...t, rows, cols, scale: 0.5, accumulate: true }),
      outputs: [{ name: "out", tensor: t.out, initial: before, expected: columnSum(x, rows, cols, 0.5, before) }]
    }
  })
})

/** Two chunks of unequal width, with and without a reference policy. */
const scores = (rows: number, vocab: number, withRef: boolean, seed: number): CheckCase => ({
  name: `log-softmax ${rows} x ${vocab}${withRef ? " with a reference" : ""}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const temperature = 0.75
    const logits = random.floats(rows * vocab, 2)
    const refLogits = withRef ? random.floats(rows * vocab, 2) : undefined
    const target = random.integers(rows, vocab)
    const grad = random.floats(3 * rows)
    const input = { logits, refLogits, target, rows, vocab, temperature }
    const forward = logSoftmax(input)
    const refForward = refLogits && logSoftmax({ ...input, logits: refLogits, refLogits: undefined })
    const backward = logSoftmaxBackward(input, grad)
    const cut = Math.ceil((vocab * 0.6) / 64) * 64
    const chunks = [
      { offset: 0, cols: cut },
      { offset: cut, cols: vocab - cut }
    ]
    const part = (all: ArrayLike<number>, { cols, offset }: { readonly cols: number; readonly offset: number }) =>
      Float32Array.from({ length: rows * cols }, (_, i) => all[Math.floor(i / cols) * vocab + offset + (i % cols)] ?? 0)
    const own = yield* Effect.forEach(chunks, (chunk) => f32(part(logits, chunk)))
    const refs = refLogits ? yield* Effect.forEach(chunks, (chunk) => f32(part(refLogits, chunk))) : []
    const gradients = yield* Effect.forEach(chunks, ({ cols }) => result(rows * cols))
    const t = {
      ...{ target: yield* u32(target), state: yield* result(5 * rows), out: yield* result(4 * rows) },
      ...{
        grad: yield* f32(grad),
        refOut: yield* f32((refForward ?? forward).flatMap((r) => [r.logProb, r.entropy, r.lse, 0]))
      }
    }
    return {
      record: (tape, ops) => {
        chunks.forEach((chunk, i) => {
          const [logits, refLogits] = [own[i], refs[i]]
          if (logits === undefined) return
          const ref = refLogits ? { refLogits } : {}
          ops.logSoftmaxChunk(tape, { ...ref, ...chunk, logits, target: t.target, state: t.state, rows, temperature })
        })
        ops.logSoftmaxFinish(tape, { ...(withRef ? { refOut: t.refOut } : {}), state: t.state, out: t.out, rows })
        chunks.forEach((chunk, i) => {
          const [logits, into, refLogits] = [own[i], gradients[i], refs[i]]
          if (logits === undefined || into === undefined) return
          // Backward works in place on a copy: the inputs serve the next variant.
          tape.copy(logits, into)
          const ref = refLogits ? { refLogits, refOut: t.refOut } : {}
          ops.logSoftmaxBackward(tape, {
            ...ref,
            ...chunk,
            logits: into,
            target: t.target,
            out: t.out,
            grad: t.grad,
            rows,
            temperature
          })
        })
      },
      outputs: [
        {
          name: "scores",
          tensor: t.out,
          expected: forward.flatMap((r) => [r.logProb, r.entropy, r.lse, withRef ? r.kl : 0])
        },
        ...chunks.flatMap((chunk, i) => {
          const tensor = gradients[i]
          return tensor === undefined ? [] : [{ name: "dlogits", tensor, expected: part(backward, chunk) }]
        })
      ]
    }
  })
})

/** Draws compared one by one, but for those that f32 may decide otherwise. */
const drawn = (rows: number, vocab: number, seed: number): CheckCase => ({
  name: `sampling ${rows} of ${vocab}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const logits = random.floats(rows * vocab, 2)
    const filters = { temperature: 0.9, topP: 0.9, topK: Math.min(50, vocab), minP: 0.001 }
    const words = new Uint32Array(rows * sampleSettings)
    const floats = new Float32Array(words.buffer)
    for (let r = 0; r < rows; r++) {
      floats.set([filters.temperature, filters.topP, filters.minP], r * sampleSettings)
      words.set([filters.topK, 5, r], r * sampleSettings + 3)
    }
    const position = Array.from({ length: rows }, (_, r) => 3 * r)
    const t = {
      ...{ source: yield* f32(logits), logits: yield* result(rows * vocab), settings: yield* u32(words) },
      ...{ position: yield* u32(position), out: yield* u32(new Array(3 * rows).fill(0)) }
    }
    const expected = Array.from({ length: rows }, (_, r) => {
      const all = nucleus(logits.subarray(r * vocab, (r + 1) * vocab), filters)
      const { margin, token } = draw(all, uniform(5, r, position[r] ?? 0))
      return { token, clear: all.margin > 2e-5 && margin > 2e-5 }
    })
    return {
      record: (tape, ops) => {
        tape.copy(t.source, t.logits)
        ops.sample(tape, { ...t, rows, vocab, stride: rows })
      },
      outputs: [
        {
          name: "tokens",
          tensor: t.out,
          expected: (actual) => {
            const wrong = expected.filter(({ clear, token }, r) => clear && actual[r] !== token).length
            return wrong === 0 ? 0 : Number.POSITIVE_INFINITY
          }
        }
      ]
    }
  })
})

const optimiser = (n: number, seed: number): CheckCase => ({
  name: `gradient norm and AdamW over ${n}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const g = random.floats(n)
    const [w, m] = [random.floats(n), random.floats(n, 0.1)]
    const v = random.floats(n, 0.1).map((x) => x * x)
    const { norm, notFinite, scale } = gradNorm(g, 1)
    const options = { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.01 }
    const state = { w: Float64Array.from(w), m: Float64Array.from(m), v: Float64Array.from(v) }
    adamw(state, g, 3, options, scale)
    const t = {
      ...{ g: yield* f32(g), partial: yield* result(2 * Math.ceil(n / normBlock)), clip: yield* result(3) },
      ...{ w: yield* result(n), m: yield* result(n), v: yield* result(n) }
    }
    return {
      record: (tape, ops) => {
        ops.gradNorm(tape, { g: t.g, partial: t.partial, out: t.clip, n, clip: 1 })
        ops.adamw(tape, { ...t, n, step: 3, ...options })
      },
      outputs: [
        { name: "clip", tensor: t.clip, expected: [scale, norm, notFinite ? 1 : 0] },
        { name: "w", tensor: t.w, initial: w, expected: state.w },
        { name: "m", tensor: t.m, initial: m, expected: state.m },
        { name: "v", tensor: t.v, initial: v, expected: state.v }
      ]
    }
  })
})

/** `large` adds the widths and vocabularies of real models. */
export const layerCases = (large: boolean): ReadonlyArray<CheckCase> => [
  norm(3, 20, 3000),
  norm(130, 96, 3001),
  gated(5, 12, 3010),
  gated(33, 300, 3011),
  table(9, 30, 20, 3020),
  sums(1, 4, 3030),
  sums(300, 33, 3031),
  scores(5, 200, false, 3040),
  scores(5, 200, true, 3041),
  drawn(20, 300, 3050),
  optimiser(700, 3060),
  ...(large
    ? [
        norm(64, 3584, 3100),
        gated(17, 4864, 3110),
        table(64, 500, 3584, 3120),
        sums(1000, 4608, 3130),
        scores(4, 20_000, false, 3140),
        scores(3, 20_000, true, 3141),
        drawn(6, 151_936, 3150),
        optimiser(300_001, 3160)
      ]
    : [])
]
