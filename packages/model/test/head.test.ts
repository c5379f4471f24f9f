/** The fused head against a direct log-softmax in double precision: chunks, temperature, KL, and gradients. */
import { assert, layer } from "@effect/vitest"
import { denseMatrix, Gpu, makeOps } from "@srcode/gpu"
import { Effect } from "effect"
import {
  allocBatch,
  allocHead,
  type HeadWorkspace,
  type ModelConfig,
  packSequences,
  scatterSelected,
  scoreReference,
  scoreRows,
  scoreRowsBackward,
  selectRows,
  uploadBatch
} from "../src/index.ts"
import { normalsOf } from "./reference/checkpoint.ts"
import { assertNear, DeviceLayer } from "./reference/device.ts"
import { scoreRow } from "./reference/loss.ts"

interface Case {
  readonly vocab: number
  readonly hidden: number
  readonly chunk: number
  readonly temperature: number
  readonly scale: number
}

const cases: ReadonlyArray<Case> = [
  { vocab: 33, hidden: 12, chunk: 64, temperature: 1, scale: 0.5 },
  { vocab: 64, hidden: 8, chunk: 64, temperature: 0.8, scale: 0.5 },
  { vocab: 65, hidden: 9, chunk: 64, temperature: 1, scale: 1 },
  { vocab: 517, hidden: 24, chunk: 64, temperature: 0.7, scale: 0.6 },
  { vocab: 517, hidden: 24, chunk: 128, temperature: 1.5, scale: 0.6 },
  // logits of some hundreds: the largest must be subtracted, and most probabilities underflow
  { vocab: 200, hidden: 16, chunk: 64, temperature: 1, scale: 30 }
]

const configOf = (c: Case): ModelConfig => ({
  modelType: "qwen2",
  hiddenSize: c.hidden,
  intermediateSize: 8,
  numLayers: 1,
  numHeads: 1,
  numKeyValueHeads: 1,
  headDim: 8,
  vocabSize: c.vocab,
  maxPositionEmbeddings: 64,
  rmsNormEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: false,
  attentionBias: false,
  qkNorm: false,
  eosTokenIds: [],
  bosTokenId: null
})

/** Random states, heads and gradients of one case on the device and on the host. */
const prepare = Effect.fnUntraced(function* (c: Case, seed: number) {
  const gpu = yield* Gpu
  const config = configOf(c)
  const normal = normalsOf(seed)
  const floats = (length: number, scale: number) => Float32Array.from({ length }, () => scale * normal())
  const upload = Effect.fnUntraced(function* (data: Float32Array<ArrayBuffer>) {
    const tensor = yield* gpu.alloc("test", "f32", data.length)
    yield* gpu.write(tensor, data)
    return tensor
  })
  const packed = packSequences(
    [7, 1, 4].map((length, i) => ({
      ids: Array.from({ length }, (_, t) => (t * 37 + i * 11 + c.vocab - 1) % c.vocab),
      loss: (t: number) => t !== 3
    }))
  )
  const batch = yield* uploadBatch(yield* allocBatch(packed.rows), packed)
  const allocated = yield* allocHead(config, { capacity: packed.rows, reference: true })
  const hw: HeadWorkspace = { ...allocated, chunk: c.chunk }
  assert.isTrue(c.chunk <= allocated.chunk, "the logits buffer holds the chunk")
  const hidden = floats(packed.rows * c.hidden, 1)
  const refHidden = hidden.map((h) => h + 0.3 * normal())
  const head = floats(c.vocab * c.hidden, c.scale)
  const grad = floats(batch.lossRows * 3, 1)
  yield* gpu.write(hw.grad, grad)
  const logits = (states: Float32Array, weights: Float32Array, row: number) =>
    Float64Array.from({ length: c.vocab }, (_, v) => {
      let sum = 0
      for (let k = 0; k < c.hidden; k++) sum += states[row * c.hidden + k]! * weights[v * c.hidden + k]!
      return sum
    })
  const rows = Array.from(packed.lossRow, (row, i) => ({
    row,
    target: packed.target[i]!,
    logits: logits(hidden, head, row),
    refLogits: logits(refHidden, head, row),
    grad: grad.subarray(3 * i, 3 * i + 3)
  }))
  return {
    config,
    packed,
    batch,
    hw,
    rows,
    hidden,
    head,
    device: {
      hidden: yield* upload(hidden),
      refHidden: yield* upload(refHidden),
      head: denseMatrix(yield* upload(head), c.vocab, c.hidden),
      dHead: yield* upload(new Float32Array(c.vocab * c.hidden)),
      dHidden: yield* upload(floats(packed.rows * c.hidden, 1))
    }
  }
})

layer(DeviceLayer)("the fused head", (it) => {
  cases.forEach((c, at) => {
    it.effect(`vocabulary ${c.vocab} in chunks of ${c.chunk}, temperature ${c.temperature}, scale ${c.scale}`, () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const ops = makeOps(gpu.info)
        for (const withRef of [false, true]) {
          const { config, packed, batch, hw, rows, hidden, head, device } = yield* prepare(c, 100 + at)
          yield* gpu.submit("head", (tape) => {
            selectRows(tape, ops, config, batch, device.hidden, hw.selected)
            if (withRef && hw.refSelected) {
              selectRows(tape, ops, config, batch, device.refHidden, hw.refSelected)
              scoreReference(tape, ops, config, device.head, batch, hw, c.temperature)
            }
            scoreRows(tape, ops, config, device.head, batch, hw, c.temperature, withRef)
            scoreRowsBackward(tape, ops, config, device.head, batch, hw, c.temperature, withRef, {
              accumulate: false,
              dHead: denseMatrix(device.dHead, c.vocab, c.hidden)
            })
            scatterSelected(tape, ops, config, batch, hw.dSelected, device.dHidden)
          })
          const scored = yield* gpu.read({ ...hw.scored, length: batch.lossRows * 4 })
          const column = (k: number) => Float32Array.from(rows, (_, i) => scored[4 * i + k]!)
          const expected = rows.map((r) => scoreRow(r.logits, r.target, c.temperature, withRef ? r.refLogits : null))
          const near = (name: string, k: number, pick: (e: (typeof expected)[number]) => number, tolerance: number) =>
            assertNear(name, column(k), expected.map(pick), tolerance)
          near("log-probabilities", 0, (e) => e.logProb, 1e-5)
          near("entropies", 1, (e) => e.entropy, 1e-4)
          if (withRef) near("KL", 3, (e) => e.kl, 1e-4)
          const dHidden = new Float64Array(packed.rows * c.hidden)
          const dHead = new Float64Array(c.vocab * c.hidden)
          rows.forEach((r, i) => {
            const e = expected[i]!
            for (let v = 0; v < c.vocab; v++) {
              const d =
                r.grad[0]! * e.dLogProb[v]! + r.grad[1]! * e.dEntropy[v]! + (withRef ? r.grad[2]! * e.dKl[v]! : 0)
              for (let k = 0; k < c.hidden; k++) {
                dHidden[r.row * c.hidden + k]! += d * head[v * c.hidden + k]!
                dHead[v * c.hidden + k]! += d * hidden[r.row * c.hidden + k]!
              }
            }
          })
          // rows without loss get exactly zero: the garbage that was there is overwritten
          assertNear("d hidden", yield* gpu.read(device.dHidden), dHidden)
          assertNear("d head", yield* gpu.read(device.dHead), dHead)
        }
      })
    )
  })

  it.effect("the KL to itself is zero and has no gradient", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const c: Case = { vocab: 130, hidden: 16, chunk: 64, temperature: 0.8, scale: 0.7 }
      const { config, batch, hw, device } = yield* prepare(c, 7)
      yield* gpu.write(
        hw.grad,
        Float32Array.from({ length: batch.lossRows * 3 }, (_, i) => (i % 3 === 2 ? 1 : 0))
      )
      yield* gpu.submit("head", (tape) => {
        selectRows(tape, ops, config, batch, device.hidden, hw.selected)
        if (hw.refSelected) selectRows(tape, ops, config, batch, device.hidden, hw.refSelected)
        scoreReference(tape, ops, config, device.head, batch, hw, c.temperature)
        scoreRows(tape, ops, config, device.head, batch, hw, c.temperature, true)
        scoreRowsBackward(tape, ops, config, device.head, batch, hw, c.temperature, true, { accumulate: false })
      })
      const scored = yield* gpu.read({ ...hw.scored, length: batch.lossRows * 4 })
      const gradient = yield* gpu.read({ ...hw.dSelected, length: batch.lossRows * c.hidden })
      for (let i = 0; i < batch.lossRows; i++) assert.closeTo(scored[4 * i + 3]!, 0, 1e-6)
      assert.isAtMost(Math.max(...gradient.map(Math.abs)), 1e-6)
    })
  )

  it.effect("backward adds to what is there when asked to", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const c: Case = { vocab: 130, hidden: 16, chunk: 64, temperature: 1, scale: 0.5 }
      const { config, batch, hw, device } = yield* prepare(c, 8)
      const run = (accumulate: boolean) =>
        gpu
          .submit("head", (tape) => {
            selectRows(tape, ops, config, batch, device.hidden, hw.selected)
            scoreRows(tape, ops, config, device.head, batch, hw, 1, false)
            scoreRowsBackward(tape, ops, config, device.head, batch, hw, 1, false, { accumulate })
          })
          .pipe(Effect.andThen(gpu.read({ ...hw.dSelected, length: batch.lossRows * c.hidden })))
      const once = yield* run(false)
      const twice = yield* run(true)
      assertNear(
        "twice",
        twice,
        once.map((x) => 2 * x),
        1e-6
      )
    })
  )

  it.effect("chunks cover the vocabulary within the budget for every capacity", () =>
    Effect.gen(function* () {
      for (const [vocab, capacity] of [
        [33, 4],
        [512, 64],
        [2000, 20_000]
      ] as const) {
        const hw = yield* allocHead(configOf({ ...cases[0]!, vocab }), { capacity, reference: false })
        assert.strictEqual(hw.chunk % 64, 0)
        assert.isTrue(hw.chunk * capacity <= Math.max(2 ** 22, 64 * capacity))
        assert.isTrue(hw.chunk < vocab || hw.chunk === 64)
      }
    }).pipe(Effect.scoped)
  )
})
