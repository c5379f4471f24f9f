/** What reinforcement learning adds: advantages, whitening, the value head, and the losses. */
import { probeElements } from "@srcode/gpu"
import { gae } from "@srcode/kernels/gae/reference"
import { pairwiseLoss } from "@srcode/kernels/pairwise_loss/reference"
import { type PolicyLossKind, type PpoToken, ppoLoss, ppoLossGradient } from "@srcode/kernels/ppo_loss/reference"
import { fmaProbe, matrixProbe } from "@srcode/kernels/probe/reference"
import { valueHead, valueHeadBackward } from "@srcode/kernels/value_head/reference"
import { whiten } from "@srcode/kernels/whiten/reference"
import { Effect } from "effect"
import { type CheckCase, f32, inputs, result, u32 } from "./harness.ts"

const advantages: CheckCase = {
  name: "advantages over sequences of 1 to 40, and whitening",
  prepare: Effect.gen(function* () {
    const random = inputs(4000)
    const lengths = [5, 1, 40, 12]
    const first = [0]
    for (const length of lengths) first.push((first.at(-1) ?? 0) + length)
    const n = first.at(-1) ?? 0
    const [reward, value, bootstrap] = [random.floats(n), random.floats(n), random.floats(lengths.length)]
    const expected = gae(reward, value, first, bootstrap, 0.99, 0.95)
    const mask = Array.from({ length: n }, (_, i) => (i % 4 === 0 ? 0 : 1))
    const t = {
      ...{ reward: yield* f32(reward), value: yield* f32(value), first: yield* u32(first) },
      ...{ bootstrap: yield* f32(bootstrap), advantage: yield* result(n), returns: yield* result(n) },
      ...{ x: yield* f32(reward), mask: yield* u32(mask), y: yield* result(n) }
    }
    return {
      record: (tape, ops) => {
        ops.gae(tape, { ...t, sequences: lengths.length, gamma: 0.99, lambda: 0.95 })
        ops.whiten(tape, { ...t, n })
      },
      outputs: [
        { name: "advantages", tensor: t.advantage, expected: expected.advantages },
        { name: "returns", tensor: t.returns, expected: expected.returns },
        { name: "whitened", tensor: t.y, expected: whiten(reward, mask) }
      ]
    }
  })
}

const head: CheckCase = {
  name: "value head and pairwise loss",
  prepare: Effect.gen(function* () {
    const random = inputs(4010)
    const [rows, dim] = [34, 96]
    const [h, w, dValue] = [random.floats(rows * dim), random.floats(dim + 1), random.floats(rows)]
    const backward = valueHeadBackward(h, w, dValue, rows, dim)
    const before = random.floats(dim + 1)
    const score = random.floats(20)
    const t = {
      ...{ h: yield* f32(h), w: yield* f32(w), dValue: yield* f32(dValue), value: yield* result(rows) },
      ...{ dh: yield* result(rows * dim), dw: yield* result(dim + 1) },
      ...{ score: yield* f32(score), dScore: yield* result(20), metric: yield* result(20) }
    }
    return {
      record: (tape, ops) => {
        ops.valueHead(tape, { ...t, rows, dim })
        ops.valueHeadBackward(tape, { ...t, rows, dim, accumulate: false })
        ops.pairwiseLoss(tape, { ...t, pairs: 10 })
      },
      outputs: [
        { name: "value", tensor: t.value, expected: valueHead(h, w, rows, dim) },
        { name: "dh", tensor: t.dh, expected: backward.dh },
        { name: "dw", tensor: t.dw, initial: before, expected: backward.dw.map((g, i) => g + (before[i] ?? 0)) },
        { name: "dScore", tensor: t.dScore, expected: pairwiseLoss(score).dScore }
      ]
    }
  })
}

const policy = (kind: PolicyLossKind, seed: number): CheckCase => ({
  name: `policy loss ${kind}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const n = 77
    const params = {
      ...{ kind, clipLow: 0.2, clipHigh: 0.25, valueClip: 0.2, valueCoef: 0.5, entropyCoef: 0.01, klCoef: 0.1 },
      ...{ dualClip: 3, tauPositive: 1, tauNegative: 1.5 }
    }
    const single = Math.fround
    const tokens = Array.from({ length: n }, (_, i): PpoToken => {
      const [oldLogProb, oldValue] = [single(-3 * random.next()), single(random.normal())]
      return {
        logProb: single(oldLogProb + random.normal() * (i % 5 === 0 ? 1.5 : 0.2)),
        entropy: single(random.next() * 3),
        kl: single(random.next()),
        ...{ oldLogProb, oldValue, advantage: single(random.normal()) },
        value: single(oldValue + random.normal() * 0.3),
        returns: single(random.normal())
      }
    })
    const gradients = tokens.map((token) => ppoLossGradient(token, params))
    const losses = tokens.map((token) => ppoLoss(token, params))
    const t = {
      scored: yield* f32(tokens.flatMap(({ entropy, kl, logProb }) => [logProb, entropy, 0, kl])),
      old: yield* f32(tokens.flatMap(({ oldLogProb, oldValue }) => [oldLogProb, oldValue])),
      advantage: yield* f32(tokens.map(({ advantage }) => advantage)),
      value: yield* f32(tokens.map(({ value }) => value)),
      returns: yield* f32(tokens.map(({ returns }) => returns)),
      ...{ grad: yield* result(3 * n), dValue: yield* result(n), metric: yield* result(8 * n) }
    }
    return {
      record: (tape, ops) => ops.ppoLoss(tape, { ...t, n, params }),
      outputs: [
        { name: "grad", tensor: t.grad, expected: gradients.flatMap((g) => [g.logProb / n, g.entropy / n, g.kl / n]) },
        { name: "dValue", tensor: t.dValue, expected: gradients.map((g) => g.value / n) },
        {
          name: "policy",
          tensor: t.metric,
          expected: losses.map((loss) => loss.policy / n),
          at: tokens.map((_, i) => 8 * i)
        }
      ]
    }
  })
})

const probes = (matrix: boolean): ReadonlyArray<CheckCase> => {
  const plain: CheckCase = {
    name: "probes: copy and multiply-add",
    prepare: Effect.gen(function* () {
      const n = 5 * 1024 + 12
      const values = inputs(4030).floats(n)
      const t = { from: yield* f32(values), to: yield* result(n), out: yield* result(2 * probeElements.fma) }
      return {
        record: (tape, ops) => {
          ops.probeCopy(tape, { ...t, n })
          ops.probeFma(tape, { out: t.out, rounds: 7, groups: 2, a: 0.75, b: 0.5 })
        },
        outputs: [
          { name: "copy", tensor: t.to, expected: values, tolerance: 1e-9 },
          {
            name: "fma",
            tensor: t.out,
            expected: Array.from({ length: 2 * probeElements.fma }, (_, i) =>
              fmaProbe(i % probeElements.fma, 7, 0.75, 0.5)
            ),
            tolerance: 1e-5
          }
        ]
      }
    })
  }
  const units: CheckCase = {
    name: "probes: matrix units",
    prepare: Effect.gen(function* () {
      // Halves of small integers are exact, and so are their products and sums: 0x3c00 is 1, 0x4000 is 2, 0xbc00 is -1.
      const halves = [0x3c00, 0x4000, 0xbc00, 0]
      const values = [1, 2, -1, 0]
      const picks = inputs(4031).integers(6 * 256, 4)
      const words = Uint32Array.from(
        { length: 768 },
        (_, i) => ((halves[picks[2 * i] ?? 0] ?? 0) | ((halves[picks[2 * i + 1] ?? 0] ?? 0) << 16)) >>> 0
      )
      const tile = (t: number) => Array.from({ length: 256 }, (_, i) => values[picks[t * 256 + i] ?? 0] ?? 0)
      const out = yield* result(2 * probeElements.matrix)
      const tiles = yield* u32(words)
      const eight = [0, 1].flatMap((i) => [0, 1, 2, 3].flatMap((j) => [...matrixProbe(tile(i), tile(2 + j), 5)]))
      return {
        record: (tape, ops) => ops.probeMatrix(tape, { tiles, out, rounds: 5, groups: 2 }),
        outputs: [
          {
            name: "tiles",
            tensor: out,
            expected: Array.from({ length: 2 * probeElements.matrix }, (_, i) => eight[i % 2048] ?? 0),
            tolerance: 1e-6
          }
        ]
      }
    })
  }
  return matrix ? [plain, units] : [plain]
}

/** `matrix`: the device has matrix units. */
export const trainingCases = (matrix: boolean): ReadonlyArray<CheckCase> => [
  advantages,
  head,
  policy("clip", 4020),
  policy("dualClip", 4021),
  policy("cispo", 4022),
  policy("sapo", 4023),
  ...probes(matrix)
]
