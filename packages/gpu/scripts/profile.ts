/**
 * Times every kernel at one shape, in each variant that Ops can choose, interleaved so that a busy machine slows all alike.
 *
 *     node packages/gpu/scripts/profile.ts [rows=2000] [hidden=96] [ffn=256] [heads=4] [kv=2] [headDim=24] [sequence=56] [vocab=512] [rounds=7]
 *
 * Prints the median and the least milliseconds of each dispatch, from the device's timestamps. The defaults are tiny-coder's.
 */
import { Effect } from "effect"
import { Gpu, GpuDawn, makeOps, normBlock, type Ops, type Tape } from "../src/index.ts"

const defaults = {
  rows: 2000,
  hidden: 96,
  ffn: 256,
  heads: 4,
  kv: 2,
  headDim: 24,
  sequence: 56,
  vocab: 512,
  rounds: 7
}
const given = Object.fromEntries(process.argv.slice(2).map((arg) => arg.split("=")))
const s = Object.fromEntries(
  Object.entries(defaults).map(([key, value]) => [key, Number(given[key] ?? value)])
) as typeof defaults
const unknown = Object.keys(given).filter((key) => !(key in defaults))
if (unknown.length > 0 || Object.values(s).some((v) => !Number.isInteger(v) || v < 1)) {
  process.stderr.write(
    `usage: node profile.ts ${Object.entries(defaults)
      .map(([k, v]) => `[${k}=${v}]`)
      .join(" ")}\n`
  )
  process.exit(1)
}

const program = Effect.gen(function* () {
  const gpu = yield* Gpu
  const floats = (length: number) =>
    Effect.gen(function* () {
      const tensor = yield* gpu.alloc("profile", "f32", length)
      yield* gpu.write(
        tensor,
        Float32Array.from({ length }, (_, i) => Math.sin(i * 1.37) + 0.2 * Math.cos(i * 0.11))
      )
      return tensor
    })
  const words = (values: ReadonlyArray<number>) =>
    Effect.gen(function* () {
      const tensor = yield* gpu.alloc("profile", "u32", values.length)
      yield* gpu.write(tensor, Uint32Array.from(values))
      return tensor
    })
  const { rows } = s
  const shape = { rows, heads: s.heads, kvHeads: s.kv, headDim: s.headDim }
  const index = Array.from({ length: rows }, (_, i) => i)
  const start = index.map((i) => i - (i % s.sequence))
  const [x, y, dx] = [yield* floats(rows * s.hidden), yield* floats(rows * s.hidden), yield* floats(rows * s.hidden)]
  const [weight, rstd] = [yield* floats(s.hidden), yield* floats(rows)]
  const [gu, up] = [yield* floats(2 * rows * s.ffn), yield* floats(rows * s.ffn)]
  const [logits, ref] = [yield* floats(rows * s.vocab), yield* floats(rows * s.vocab)]
  const [state, out, refOut, grad] = [
    yield* floats(5 * rows),
    yield* floats(4 * rows),
    yield* floats(4 * rows),
    yield* floats(3 * rows)
  ]
  const target = yield* words(index.map((i) => i % s.vocab))
  const [own, kvStart, kvEnd] = [yield* words(index), yield* words(start), yield* words(index.map((i) => i + 1))]
  const qEnd = yield* words(start.map((v) => Math.min(rows, v + s.sequence)))
  const position = yield* words(index.map((i) => i % s.sequence))
  const table = yield* floats(s.sequence * s.headDim)
  const wide = rows * s.heads * s.headDim
  const narrow = rows * s.kv * s.headDim
  const [q, o, dO, dq] = [yield* floats(wide), yield* floats(wide), yield* floats(wide), yield* floats(wide)]
  const [k, v, dk, dv] = [yield* floats(narrow), yield* floats(narrow), yield* floats(narrow), yield* floats(narrow)]
  const qkv = yield* floats(wide + 2 * narrow)
  const stat = yield* floats(2 * rows * s.heads)
  const drawn = Math.min(rows, 64)
  const sampled = yield* words(new Array(3 * drawn).fill(0))
  // Temperature 1, top-p 0.9, no other filter.
  const settings = yield* words(
    Array.from({ length: drawn }, (_, i) => [0x3f800000, 0x3f666666, 0, 0, 1, i, 0, 0]).flat()
  )
  const parameters = 500_000
  const [w, g, m, second] = [
    yield* floats(parameters),
    yield* floats(parameters),
    yield* floats(parameters),
    yield* floats(parameters)
  ]
  const [partial, clip] = [yield* floats(2 * Math.ceil(parameters / normBlock)), yield* floats(3)]

  const record = (tape: Tape, ops: Ops): void => {
    const head = { target, rows, cols: s.vocab, offset: 0, temperature: 1 }
    ops.rmsNorm(tape, { x, w: weight, y, rstd, rows, dim: s.hidden, eps: 1e-6 })
    ops.rmsNormBackward(tape, { x, w: weight, rstd, dy: y, dx, rows, dim: s.hidden, accumulate: true })
    ops.rope(tape, { ...shape, qkv, position, kvRow: own, table, q, k, v })
    ops.attention(tape, { ...shape, q, k, v, kvStart, kvEnd, o, stat, packed: true })
    ops.attentionBackward(tape, { ...shape, q, k, v, o, dO, stat, kvStart, qEnd, dq, dk, dv })
    ops.ropeBackward(tape, { ...shape, dq, dk, dv, position, table, dqkv: qkv })
    ops.swiglu(tape, { gu, y: up, rows, dim: s.ffn })
    ops.swigluBackward(tape, { gu, dy: up, rows, dim: s.ffn })
    ops.gatherRows(tape, { table: x, id: own, out: y, rows, dim: s.hidden })
    ops.logSoftmaxChunk(tape, { ...head, logits, refLogits: ref, state })
    ops.logSoftmaxFinish(tape, { state, refOut, out, rows })
    ops.logSoftmaxBackward(tape, { ...head, logits, refLogits: ref, out, refOut, grad })
    ops.sample(tape, { logits: ref, settings, position, out: sampled, rows: drawn, vocab: s.vocab, stride: drawn })
    ops.gradNorm(tape, { g, partial, out: clip, n: parameters, clip: 1 })
    const adam = { n: parameters, step: 1, lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 }
    ops.adamw(tape, { ...adam, w, g, m, v: second, clip })
  }
  const variants = {
    chosen: makeOps(gpu.info),
    "without subgroups": makeOps({ ...gpu.info, subgroupSize: [0, 0] }),
    "as on hardware": makeOps({ ...gpu.info, software: false })
  }
  const times = new Map<string, Array<number>>()
  for (let round = 0; round <= s.rounds; round++) {
    for (const [variant, ops] of Object.entries(variants)) {
      for (const t of yield* gpu.profile("profile", (tape) => record(tape, ops))) {
        const key = `${t.kernel.padEnd(40)} ${variant}`
        // The first round compiles.
        if (round > 0) times.set(key, [...(times.get(key) ?? []), t.nanoseconds / 1e6])
      }
    }
  }
  process.stdout.write(`${gpu.info.driver}; ${JSON.stringify(s)}\n${"kernel".padEnd(40)} median  least  variant\n`)
  for (const [key, values] of [...times].sort(([a], [b]) => a.localeCompare(b))) {
    const sorted = values.sort((a, b) => a - b)
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0
    const least = sorted[0] ?? 0
    process.stdout.write(
      `${key.slice(0, 40)} ${median.toFixed(2).padStart(6)} ${least.toFixed(2).padStart(6)}  ${key.slice(41)}\n`
    )
  }
})

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(GpuDawn.layerWith({ device: "auto" }))))
process.exit(0)
