/** AdamW on the device against double precision, clipping, and gradients that are not numbers. */
import { assert, layer } from "@effect/vitest"
import { Gpu, GpuDawn, makeOps } from "@srcode/gpu"
import { Effect } from "effect"
import {
  type AdamWOptions,
  allocOptimizer,
  applyUpdate,
  learningRate,
  measureGradient,
  normals,
  readOptimizer,
  writeOptimizer
} from "../src/index.ts"

const options: AdamWOptions = { lr: 0.02, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.1, clip: 0 }

const floats = (length: number, seed: number, scale = 1): Float32Array<ArrayBuffer> => {
  const next = normals(seed, 1)
  return Float32Array.from({ length }, () => scale * next())
}

/** One step of AdamW with decoupled decay and global clipping, written from the paper, in double precision. */
const update = (
  state: { readonly w: Float64Array; readonly m: Float64Array; readonly v: Float64Array },
  gradient: ArrayLike<number>,
  o: AdamWOptions,
  step: number
): number => {
  const norm = Math.hypot(...Array.from(gradient))
  const scale = o.clip > 0 ? Math.min(1, o.clip / (norm + 1e-6)) : 1
  const [b1, b2] = o.betas
  for (let i = 0; i < state.w.length; i++) {
    const g = gradient[i]! * scale
    state.m[i] = b1 * state.m[i]! + (1 - b1) * g
    state.v[i] = b2 * state.v[i]! + (1 - b2) * g * g
    const [m, v] = [state.m[i]! / (1 - b1 ** step), state.v[i]! / (1 - b2 ** step)]
    state.w[i]! -= o.lr * (m / (Math.sqrt(v) + o.eps) + o.weightDecay * state.w[i]!)
  }
  return norm
}

const assertNear = (name: string, x: ArrayLike<number>, y: ArrayLike<number>, tolerance: number) => {
  let [difference, size] = [0, 0]
  for (let i = 0; i < y.length; i++) {
    difference += (x[i]! - y[i]!) ** 2
    size += y[i]! ** 2
  }
  assert.isTrue(difference <= tolerance ** 2 * size, `${name}: ${Math.sqrt(difference / size)} exceeds ${tolerance}`)
}

const make = Effect.fnUntraced(function* (initial: Float32Array<ArrayBuffer>) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const params = yield* gpu.alloc("params", "f32", initial.length)
  yield* gpu.write(params, initial)
  const optimizer = yield* allocOptimizer("test", params)
  const step = Effect.fnUntraced(function* (gradient: Float32Array<ArrayBuffer>, o: AdamWOptions, n: number) {
    yield* gpu.write(optimizer.grads, gradient)
    yield* gpu.submit("update", (tape) => {
      measureGradient(tape, ops, optimizer, o.clip)
      applyUpdate(tape, ops, optimizer, o, n)
    })
    return yield* gpu.read(optimizer.clip)
  })
  return { optimizer, step }
})

layer(GpuDawn.layerWith({ device: "auto" }))("AdamW", (it) => {
  it.effect("30 steps with a schedule equal double precision, with and without clipping", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      // one element, and sizes on both sides of the blocks of the norm
      for (const n of [1, 511, 512, 1500]) {
        for (const clip of [0, 0.5, 1e6]) {
          const initial = floats(n, n)
          const { optimizer, step } = yield* make(initial)
          const state = { w: Float64Array.from(initial), m: new Float64Array(n), v: new Float64Array(n) }
          for (let i = 0; i < 30; i++) {
            const lr = learningRate("cosine", 0.02, i, 30, 5)
            const gradient = floats(n, 100 + i, 0.3)
            const seen = yield* step(gradient, { ...options, clip, lr }, i + 1)
            const norm = update(state, gradient, { ...options, clip, lr }, i + 1)
            assert.closeTo(seen[1]! / norm, 1, 1e-5)
            assert.closeTo(seen[0]!, clip === 0 ? 1 : Math.min(1, clip / norm), 1e-5)
            assert.strictEqual(seen[2], 0)
          }
          const image = yield* readOptimizer(optimizer)
          assertNear("weights", image.params, state.w, 1e-5)
          assertNear("first moment", image.m, state.m, 1e-5)
          assertNear("second moment", image.v, state.v, 1e-5)
          assert.isTrue((yield* gpu.read(optimizer.grads)).every((g) => g === 0))
        }
      }
    })
  )

  it.effect("the first step moves each weight by lr against the sign of its gradient", () =>
    Effect.gen(function* () {
      const { optimizer, step } = yield* make(new Float32Array(300))
      const gradient = floats(300, 3).map((g, i) => (i % 7 === 0 ? 0 : g))
      yield* step(gradient, { ...options, weightDecay: 0 }, 1)
      const { params } = yield* readOptimizer(optimizer)
      gradient.forEach((g, i) => {
        assert.closeTo(params[i]!, -0.02 * Math.sign(g), 1e-6)
      })
    })
  )

  it.effect("without a gradient only the decay acts", () =>
    Effect.gen(function* () {
      const initial = floats(100, 4)
      const { optimizer, step } = yield* make(initial)
      yield* step(new Float32Array(100), { ...options, clip: 1 }, 1)
      const { params } = yield* readOptimizer(optimizer)
      assertNear(
        "weights",
        params,
        initial.map((w) => w * (1 - 0.02 * 0.1)),
        1e-7
      )
    })
  )

  it.effect(
    "a gradient that is not finite, or whose norm is not, changes no bit; the next step is as if it had not been",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3e38]) {
          const { optimizer, step } = yield* make(floats(700, 5))
          const twin = yield* make(floats(700, 5))
          for (const one of [{ step }, twin]) yield* one.step(floats(700, 6), options, 1)
          const before = yield* readOptimizer(optimizer)
          const gradient = floats(700, 7)
          gradient[650] = bad
          const seen = yield* step(gradient, { ...options, clip: 1 }, 2)
          assert.strictEqual(seen[2], 1)
          assert.deepStrictEqual(yield* readOptimizer(optimizer), before)
          assert.isTrue((yield* gpu.read(optimizer.grads)).every((g) => g === 0))
          for (const one of [{ step }, twin]) yield* one.step(floats(700, 8), options, 2)
          assert.deepStrictEqual(yield* readOptimizer(optimizer), yield* readOptimizer(twin.optimizer))
        }
      })
  )

  it.effect("an image read and written back goes on with the same bits", () =>
    Effect.gen(function* () {
      const one = yield* make(floats(600, 9))
      for (let i = 1; i <= 3; i++) yield* one.step(floats(600, 10 + i), options, i)
      const image = yield* readOptimizer(one.optimizer)
      const two = yield* make(new Float32Array(600))
      yield* writeOptimizer(two.optimizer, image)
      for (const o of [one, two]) for (let i = 4; i <= 6; i++) yield* o.step(floats(600, 10 + i), options, i)
      assert.deepStrictEqual(yield* readOptimizer(two.optimizer), yield* readOptimizer(one.optimizer))
    })
  )
})
