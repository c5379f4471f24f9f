/** The scans and losses of reinforcement learning against their references: gae, whiten, ppo_loss, pairwise_loss. */
import { assert, layer } from "@effect/vitest"
import { gae } from "@srcode/kernels/gae/reference"
import { pairwiseLoss } from "@srcode/kernels/pairwise_loss/reference"
import { type PpoToken, ppoLoss, ppoLossGradient } from "@srcode/kernels/ppo_loss/reference"
import { whiten } from "@srcode/kernels/whiten/reference"
import { Effect } from "effect"
import type { PpoLossParams } from "../src/index.ts"
import { assertClose, assertSameBits, blank, DeviceLayer, f32, launch, opsOf, read, seeded, u32 } from "./support.ts"

const firstsOf = (lengths: ReadonlyArray<number>): ReadonlyArray<number> => {
  const first = [0]
  for (const n of lengths) first.push(first.at(-1)! + n)
  return first
}

const runGae = (x: {
  reward: Float32Array
  value: Float32Array
  lengths: ReadonlyArray<number>
  bootstrap: ReadonlyArray<number>
  gamma: number
  lambda: number
}) =>
  Effect.gen(function* () {
    const ops = yield* opsOf("software")
    const n = x.reward.length
    const t = {
      reward: yield* f32("reward", x.reward),
      value: yield* f32("value", x.value),
      first: yield* u32("first", firstsOf(x.lengths)),
      bootstrap: yield* f32("bootstrap", x.bootstrap),
      advantage: yield* blank("advantage", n),
      returns: yield* blank("returns", n)
    }
    const { gamma, lambda } = x
    yield* launch(ops, (tape, o) => o.gae(tape, { ...t, sequences: x.lengths.length, gamma, lambda }))
    return { advantages: yield* read(t.advantage), returns: yield* read(t.returns) }
  })

layer(DeviceLayer)("advantages", (it) => {
  it.effect("gae against the oracle: sequences of length 1, many sequences, bootstrapped ends", () =>
    Effect.gen(function* () {
      for (const [i, lengths] of [[1], [5, 1, 40], [...Array(70)].map((_, j) => 1 + (j % 7))].entries()) {
        const random = seeded(i)
        const n = lengths.reduce((a, b) => a + b, 0)
        const x = {
          reward: random.floats(n),
          value: random.floats(n),
          lengths,
          bootstrap: [...random.floats(lengths.length)],
          gamma: 0.97,
          lambda: 0.9
        }
        const actual = yield* runGae(x)
        const expected = gae(x.reward, x.value, firstsOf(lengths), x.bootstrap, x.gamma, x.lambda)
        assertClose("advantages", actual.advantages, expected.advantages)
        assertClose("returns", actual.returns, expected.returns)
      }
    })
  )

  it.effect(
    "closed forms: suffix sums at V = 0, γ = λ = 1; one-step errors at λ = 0; a terminal reward decays with γλ",
    () =>
      Effect.gen(function* () {
        const reward = Float32Array.from([1, -2, 3, 0.5, 4])
        const zero = new Float32Array(5)
        const sums = yield* runGae({ reward, value: zero, lengths: [3, 2], bootstrap: [0, 0], gamma: 1, lambda: 1 })
        assert.deepStrictEqual([...sums.advantages], [2, 1, 3, 4.5, 4])
        assert.deepStrictEqual([...sums.returns], [2, 1, 3, 4.5, 4])
        const value = Float32Array.from([1, 2, 4, 8, 16])
        const steps = yield* runGae({ reward, value, lengths: [3, 2], bootstrap: [0, 32], gamma: 0.5, lambda: 0 })
        assert.deepStrictEqual([...steps.advantages], [1 + 1 - 1, -2 + 2 - 2, 3 + 0 - 4, 0.5 + 8 - 8, 4 + 16 - 16])
        const last = Float32Array.from([0, 0, 0, 0, 1])
        const decay = yield* runGae({ reward: last, value: zero, lengths: [5], bootstrap: [0], gamma: 1, lambda: 0.5 })
        assert.deepStrictEqual([...decay.advantages], [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
      })
  )

  const runWhiten = (x: Float32Array, mask: ReadonlyArray<number>) =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      const t = { x: yield* f32("x", x), mask: yield* u32("mask", mask), y: yield* blank("y", x.length) }
      yield* launch(ops, (tape, o) => o.whiten(tape, { ...t, n: x.length }))
      return yield* read(t.y)
    })

  it.effect("whitening: mean 0, variance 1, masked entries give 0 and are never read", () =>
    Effect.gen(function* () {
      for (const n of [2, 3, 63, 64, 65, 500]) {
        const random = seeded(n)
        const x = random.floats(n, 3).map((v) => v + 100)
        const mask = Array.from({ length: n }, (_, i) => (i < 2 || random.next() < 0.7 ? 1 : 0))
        const y = yield* runWhiten(x, mask)
        assertClose(`n = ${n}`, y, whiten(x, mask))
        const kept = y.filter((_, i) => mask[i] !== 0)
        const mean = kept.reduce((a, b) => a + b, 0) / kept.length
        const variance = kept.reduce((a, b) => a + (b - mean) ** 2, 0) / (kept.length - 1)
        assert.isAtMost(Math.abs(mean), 1e-4)
        assert.approximately(variance, 1, 1e-4)
        // Pads may hold anything, NaN included.
        const dirty = yield* runWhiten(
          x.map((v, i) => (mask[i] === 0 ? (i % 2 ? Number.NaN : 1e30) : v)),
          mask
        )
        assertSameBits("pads", y, dirty)
      }
    })
  )

  it.effect("whitening of no, one or equal values gives 0", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual([...(yield* runWhiten(Float32Array.from([5]), [1]))], [0])
      assert.deepStrictEqual([...(yield* runWhiten(Float32Array.from([5, 7, 9]), [0, 1, 0]))], [0, 0, 0])
      assert.deepStrictEqual([...(yield* runWhiten(Float32Array.from([5, 7]), [0, 0]))], [0, 0])
      assert.deepStrictEqual(
        [...(yield* runWhiten(new Float32Array(80).fill(0.5), Array(80).fill(1)))],
        Array(80).fill(0)
      )
    })
  )
})

const base: PpoLossParams = {
  kind: "clip",
  clipLow: 0.2,
  clipHigh: 0.28,
  valueClip: 0.2,
  valueCoef: 0.1,
  entropyCoef: 0.01,
  klCoef: 0.3,
  dualClip: 3,
  tauPositive: 1,
  tauNegative: 1.05
}
const kinds = ["clip", "dualClip", "cispo", "sapo"] as const

const runPpo = (tokens: ReadonlyArray<PpoToken>, params: PpoLossParams, count?: number) =>
  Effect.gen(function* () {
    const ops = yield* opsOf("software")
    const n = tokens.length
    const t = {
      scored: yield* f32(
        "scored",
        tokens.flatMap((x) => [x.logProb, x.entropy, 0, x.kl])
      ),
      old: yield* f32(
        "old",
        tokens.flatMap((x) => [x.oldLogProb, x.oldValue])
      ),
      advantage: yield* f32(
        "advantage",
        tokens.map((x) => x.advantage)
      ),
      value: yield* f32(
        "value",
        tokens.map((x) => x.value)
      ),
      returns: yield* f32(
        "returns",
        tokens.map((x) => x.returns)
      ),
      grad: yield* blank("grad", 3 * n),
      dValue: yield* blank("dValue", n),
      metric: yield* blank("metric", 8 * n)
    }
    yield* launch(ops, (tape, o) => o.ppoLoss(tape, { ...t, n, params, ...(count === undefined ? {} : { count }) }))
    return { grad: yield* read(t.grad), dValue: yield* read(t.dValue), metric: yield* read(t.metric) }
  })

/** Ratios from far below to far above both clips, both signs of advantage; values inside and outside their clip. */
const tokens = (n: number, seed: number): ReadonlyArray<PpoToken> => {
  const random = seeded(seed)
  const single = (x: number) => Math.fround(x)
  return Array.from({ length: n }, (_, i) => {
    const oldLogProb = single(-3 * random.next())
    const oldValue = single(random.normal())
    return {
      logProb: single(oldLogProb + random.normal() * (i % 5 === 0 ? 1.5 : 0.2)),
      entropy: single(random.next() * 3),
      kl: single(random.next()),
      oldLogProb,
      oldValue,
      advantage: single(i === 3 ? 0 : random.normal()),
      value: single(oldValue + random.normal() * 0.3),
      returns: single(random.normal())
    }
  })
}

layer(DeviceLayer)("losses", (it) => {
  for (const kind of kinds) {
    it.effect(`ppo ${kind}: losses, gradients and metrics against the oracle and finite differences`, () =>
      Effect.gen(function* () {
        const params = { ...base, kind }
        for (const n of [1, 77]) {
          const all = tokens(n, 500 + n)
          const count = 2 * n
          const { dValue, grad, metric } = yield* runPpo(all, params, count)
          const losses = all.map((t) => ppoLoss(t, params))
          const gradients = all.map((t) => ppoLossGradient(t, params))
          const at = (x: Float32Array, stride: number, i: number) => x.filter((_, j) => j % stride === i)
          assertClose(
            "metric",
            metric,
            losses.flatMap((l, i) => [
              l.policy / count,
              l.value / count,
              all[i]!.entropy / count,
              all[i]!.kl / count,
              (l.clipped ? 1 : 0) / count,
              l.k3 / count,
              l.ratio / count,
              (l.valueClipped ? 1 : 0) / count
            ])
          )
          for (const [i, key] of (["logProb", "entropy", "kl"] as const).entries()) {
            assertClose(
              key,
              at(grad, 3, i),
              gradients.map((g) => g[key] / count)
            )
          }
          assertClose(
            "dValue",
            dValue,
            gradients.map((g) => g.value / count)
          )
          const numeric = (key: "logProb" | "entropy" | "kl" | "value") =>
            all.map((t) => {
              const moved = (by: number) =>
                ppoLoss({ ...t, [key]: t[key] + by }, params, ppoLoss(t, params).ratio).total
              return (moved(1e-6) - moved(-1e-6)) / 2e-6 / count
            })
          for (const [i, key] of (["logProb", "entropy", "kl"] as const).entries()) {
            assertClose(`${key} by differences`, at(grad, 3, i), numeric(key))
          }
          assertClose("value by differences", dValue, numeric("value"))
        }
      })
    )
  }

  const token: PpoToken = {
    logProb: -1,
    entropy: 1.5,
    kl: 0.25,
    oldLogProb: -1,
    oldValue: 0,
    advantage: 2,
    value: 0,
    returns: 1
  }
  const withRatio = (ratio: number, advantage: number): PpoToken => ({
    ...token,
    logProb: token.oldLogProb + Math.log(ratio),
    advantage
  })

  it.effect(
    "closed forms: at ratio 1 every kind has the policy gradient −A; outside the clip it is 0, on the side that matters",
    () =>
      Effect.gen(function* () {
        for (const kind of kinds) {
          const { grad, metric } = yield* runPpo([token], { ...base, kind, tauNegative: 1, tauPositive: 1 })
          assert.approximately(grad[0]!, -2, 1e-6, kind)
          assert.strictEqual(metric[6], 1)
          assert.strictEqual(metric[5], 0)
          assert.strictEqual(metric[4], 0)
        }
        const ratios = [
          withRatio(1.5, 1),
          withRatio(1.5, -1),
          withRatio(0.5, 1),
          withRatio(0.5, -1),
          withRatio(1.25, 1)
        ]
        const clip = yield* runPpo(ratios, base, 1)
        // Clipped: above with A > 0, below with A < 0. 1.25 lies inside the higher upper bound of 1.28.
        assertClose(
          "clip",
          clip.grad.filter((_, i) => i % 3 === 0),
          [0, 1.5, -0.5, 0, -1.25]
        )
        assertClose(
          "losses",
          clip.metric.filter((_, i) => i % 8 === 0),
          [-1.28, 1.5, -0.5, 0.8, -1.25]
        )
        const dual = yield* runPpo(
          [withRatio(5, -1), withRatio(2.5, -1), withRatio(5, 1)],
          { ...base, kind: "dualClip" },
          1
        )
        assertClose(
          "dual",
          dual.grad.filter((_, i) => i % 3 === 0),
          [0, 2.5, 0]
        )
        assertClose(
          "dual losses",
          dual.metric.filter((_, i) => i % 8 === 0),
          [3, 2.5, -1.28]
        )
        const cispo = yield* runPpo(
          [withRatio(5, 1), withRatio(5, -1), withRatio(0.1, 1)],
          { ...base, kind: "cispo" },
          1
        )
        assertClose(
          "cispo never goes silent",
          cispo.grad.filter((_, i) => i % 3 === 0),
          [-1.28, 1.28, -0.1]
        )
      })
  )

  it.effect("a log-ratio beyond ±20 is bounded and gives no gradient; everything stays finite", () =>
    Effect.gen(function* () {
      const far = [60, -60].map((d) => ({ ...token, oldLogProb: -80, logProb: -80 + d, advantage: -1 }))
      for (const kind of ["clip", "dualClip", "sapo"] as const) {
        const r = yield* runPpo(far, { ...base, kind })
        assert.strictEqual(r.grad[0], 0, kind)
        assert.strictEqual(r.grad[3], 0, kind)
        assert.isTrue([...r.grad, ...r.metric].every(Number.isFinite), kind)
      }
    })
  )

  it.effect("pairwise loss: oracle, large margins, ties", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const score of [
        Float32Array.from([0.3, 0.3]),
        Float32Array.from([200, -200, -200, 200, 0, 1e-3]),
        seeded(4).floats(2 * 71, 2)
      ]) {
        const pairs = score.length / 2
        const t = {
          score: yield* f32("score", score),
          dScore: yield* blank("d", 2 * pairs),
          metric: yield* blank("m", 2 * pairs)
        }
        yield* launch(ops, (tape, o) => o.pairwiseLoss(tape, { ...t, pairs }))
        const metric = yield* read(t.metric)
        const expected = pairwiseLoss(score)
        const sum = (offset: number) => metric.reduce((s, v, i) => s + (i % 2 === offset ? v : 0), 0)
        assert.approximately(sum(0), expected.loss, 1e-5 * (1 + expected.loss))
        assert.approximately(sum(1), expected.accuracy, 1e-5)
        assertClose("dScore", yield* read(t.dScore), expected.dScore)
      }
    })
  )
})
