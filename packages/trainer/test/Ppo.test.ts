/** PPO: invariants of the first update, whole updates against double precision, directions, presets, resuming. */
import { assert, layer } from "@effect/vitest"
import { Gpu } from "@srcode/gpu"
import { initialLora } from "@srcode/model"
import { Effect } from "effect"
import {
  defaultRewardConfig,
  type PpoTrainer,
  rewardPresets,
  type ScoredResponse,
  totalReward,
  uniforms
} from "../src/index.ts"
import {
  advantagesOf,
  batch,
  batchOf,
  C,
  idsOf,
  make,
  one,
  pass,
  ppoConfig,
  type Response,
  randomState,
  rank,
  sum
} from "./ppoSupport.ts"
import { assertNear, config, DeviceLayer, fails, randomAdapter, relativeError } from "./tinyModel.ts"

const near = (
  name: string,
  responses: ReadonlyArray<ScoredResponse>,
  key: "logProbs" | "refLogProbs" | "values",
  expected: ArrayLike<number>
) =>
  assertNear(
    name,
    responses.flatMap((r) => r[key]),
    expected,
    1e-5
  )

layer(DeviceLayer)("PPO", (it) => {
  it.effect("the first update starts at ratio 1 and KL 0 with the log-probabilities of double precision", () =>
    Effect.gen(function* () {
      const ppo = yield* ppoConfig({ temperature: 0.7, epochs: 1 })
      const { trainer, weights } = yield* make(ppo)
      const { params } = yield* trainer.image
      const { responses, metrics } = yield* trainer.update(batch, 1)
      const expected = pass(weights, params, ppo, responses, null)
      near("log π", responses, "logProbs", expected.logProbs)
      near("log π_ref", responses, "refLogProbs", expected.refLogProbs)
      assert.isTrue(responses.every((r) => r.values.every((v) => v === 0)))
      assert.closeTo(metrics["val/ratio"]!, 1, 1e-5)
      for (const name of ["objective/kl", "policy/kl_avg", "policy/approxkl_avg", "policy/clipfrac_avg"])
        assert.closeTo(metrics[name]!, 0, 1e-6, name)
      // whitened advantages have mean 0, and so has the loss at ratio 1
      assert.closeTo(metrics["loss/policy_avg"]!, 0, 1e-6)
      // V = 0, so the value loss is half the mean square of the returns, which are the advantages before whitening
      const { returns } = advantagesOf(responses, ppo.reward)
      assert.closeTo(metrics["loss/value_avg"]!, (0.5 * sum(returns.map((r) => r * r))) / returns.length, 1e-5)
      assert.strictEqual(metrics["val/num_eos_tokens"], 4)
      assert.strictEqual(metrics["response_length/mean"], 5)
      assert.closeTo(metrics["reward/secure_fraction"]!, 0.5, 1e-12)
      assert.closeTo(metrics["reward/no_signal"]!, 1 / 6, 1e-12)
    })
  )

  for (const [name, settings, reward] of [
    ["exact KL and entropy in the loss", { klCoef: 0.3, entropyCoef: 0.02 }, undefined],
    [
      "sampled KL in the reward, bootstrapped truncation, discount",
      { klCoef: 0, clipLow: 0.05, clipHigh: 0.1, valueClip: 0.05 },
      { ...defaultRewardConfig, bootstrapTruncated: true, gamma: 0.97, gate: "none" }
    ]
  ] as const) {
    it.effect(`three epochs over several packs are those of double precision: ${name}`, () =>
      Effect.gen(function* () {
        // ε far above rounding keeps Adam from turning a gradient of nothing into a full step
        const ppo = yield* ppoConfig(
          {
            ...settings,
            ...(reward ? { reward } : {}),
            epochs: 3,
            temperature: 0.8,
            lr: 2e-2,
            valueLr: 5e-2,
            valueCoef: 0.5,
            eps: 1e-3,
            clipNorm: 0.4,
            weightDecay: 0.05
          },
          { capacity: 14 }
        )
        const { trainer, weights } = yield* make(ppo)
        const state = randomState()
        yield* trainer.load(state)
        const { responses, metrics } = yield* trainer.update(batch, 2)
        const before = pass(weights, state.params, ppo, responses, null)
        near("log π", responses, "logProbs", before.logProbs)
        near("values", responses, "values", before.values)
        for (const r of responses) {
          const kl = r.logProbs.map((x, t) => -ppo.reward.kl.coef * (x - r.refLogProbs[t]!))
          for (const [t, x] of kl.entries()) assert.closeTo(r.channels.kl[t]!, x, 1e-9)
        }
        const host = advantagesOf(responses, ppo.reward)
        const w = Float64Array.from(state.params)
        const [m, v] = [new Float64Array(w.length), new Float64Array(w.length)]
        let last = before
        for (let epoch = 0; epoch < 3; epoch++) {
          last = pass(weights, Float32Array.from(w), ppo, responses, host)
          const length = Math.hypot(...last.gradient)
          const scale = Math.min(1, 0.4 / (length + 1e-6))
          if (epoch === 2) assert.closeTo(metrics.grad_norm! / length, 1, 1e-3)
          // the second batch: three updates of the first one came before
          const t = 4 + epoch
          for (let i = 0; i < w.length; i++) {
            const g = last.gradient[i]! * scale
            const lr = i < trainer.adapterLength ? 2e-2 : 5e-2
            m[i] = 0.9 * m[i]! + 0.1 * g
            v[i] = 0.99 * v[i]! + 0.01 * g * g
            w[i] = w[i]! * (1 - lr * 0.05)
            w[i]! -= (lr * (m[i]! / (1 - 0.9 ** t))) / (Math.sqrt(v[i]! / (1 - 0.99 ** t)) + 1e-3)
          }
        }
        const { params } = yield* trainer.image
        const moved = Float64Array.from(w, (x, i) => x - state.params[i]!)
        assertNear(
          "what the update changed",
          Array.from(params, (x, i) => x - state.params[i]!),
          moved,
          1e-3
        )
        assert.closeTo(metrics["loss/policy_avg"]!, last.policyLoss, 1e-4)
        assert.isAbove(relativeError(params, state.params), 0.02)
        if (ppo.klCoef === 0) assert.isAbove(metrics["policy/clipfrac_avg"]!, 0)
      })
    )
  }

  it.effect("a positive advantage raises a token's probability, a negative one lowers it", () =>
    Effect.gen(function* () {
      const ppo = yield* ppoConfig({ preset: "none", klCoef: 0, lr: 1e-2, epochs: 1 })
      for (const sign of [1, -1]) {
        const { trainer } = yield* make(ppo)
        const two = [one(3, 5, sign), one(7, 9, -sign)]
        const first = yield* trainer.update(two, 1)
        const second = yield* trainer.update(two, 2)
        const change = two.map((_, i) => second.responses[i]!.logProbs[0]! - first.responses[i]!.logProbs[0]!)
        assert.isAbove(sign * change[0]!, 1e-3)
        assert.isBelow(sign * change[1]!, -1e-3)
        // the reference stays where it was
        assert.deepStrictEqual(
          second.responses.map((r) => r.refLogProbs),
          first.responses.map((r) => r.refLogProbs)
        )
        assert.isAbove(second.metrics["objective/kl"]!, 0)
      }
    })
  )

  it.effect("values move towards the returns", () =>
    Effect.gen(function* () {
      const ppo = yield* ppoConfig({ lr: 1e-7, valueLr: 3e-2, valueCoef: 1, clipNorm: 0, preset: "none", klCoef: 0.1 })
      const { trainer } = yield* make(ppo)
      const losses: Array<number> = []
      let explained = Number.NaN
      const two = [one(3, 5, 1), one(7, 9, -1)]
      for (let step = 1; step <= 10; step++) {
        const { metrics } = yield* trainer.update(two, step)
        losses.push(metrics["loss/value_avg"]!)
        if (step === 1) assert.closeTo(metrics["val/var_explained"]!, 0, 1e-6)
        explained = metrics["val/var_explained"]!
      }
      assert.closeTo(losses[0]!, 0.5, 0.2)
      assert.isBelow(losses.at(-1)!, 0.2 * losses[0]!)
      assert.isAbove(explained, 0.8)
    })
  )

  it.effect("the exact KL in the loss holds the policy near its reference", () =>
    Effect.gen(function* () {
      const drift = Effect.fnUntraced(function* (klCoef: number) {
        const { trainer } = yield* make(yield* ppoConfig({ klCoef, lr: 2e-2, epochs: 2, preset: "none" }))
        let kl = 0
        for (let step = 1; step <= 6; step++) kl = (yield* trainer.update(batch, step)).metrics["objective/kl"]!
        return kl
      })
      const [free, held, tight] = [yield* drift(0), yield* drift(1), yield* drift(5)]
      assert.isAbove(free, 1e-2)
      assert.isBelow(held, 0.9 * free)
      assert.isBelow(tight, held)
    })
  )

  it.effect("all policy losses agree at ratio 1 and part ways after it", () =>
    Effect.gen(function* () {
      const run = Effect.fnUntraced(function* (policyLoss: string, epochs: number) {
        const { trainer } = yield* make(yield* ppoConfig({ policyLoss, epochs, lr: 5e-2, eps: 1e-3, klCoef: 0 }))
        const { metrics } = yield* trainer.update(batch, 1)
        assert.isTrue(Object.values(metrics).every(Number.isFinite), policyLoss)
        return (yield* trainer.image).params
      })
      const [clip, later] = [yield* run("clip", 1), yield* run("clip", 4)]
      for (const kind of ["dualClip", "cispo", "sapo"]) assertNear(kind, yield* run(kind, 1), clip, 1e-5)
      for (const kind of ["cispo", "sapo"]) assert.isAbove(relativeError(yield* run(kind, 4), later), 1e-4, kind)
    })
  )

  it.effect("presets: each channel's sums in closed form, and the reward is their sum", () =>
    Effect.gen(function* () {
      const alpha = 0.2
      const secure = batch.map((r) => r.secureMask.filter(Boolean).length)
      // high, and low + medium
      const beta = [0, 0.1, 0, 0, 0.09, 0]
      const lengths = batch.map((r) => r.generation.ids.length)
      const expected = {
        none: { positive: secure.map(() => 0), negative: secure.map(() => 0) },
        gated: {
          positive: secure.map((n, i) => (batch[i]!.severities?.length === 0 ? alpha * n : 0)),
          negative: beta.map((b) => -b)
        },
        naive: {
          positive: secure.map((n, i) => (batch[i]!.severities === null ? 0 : alpha * n)),
          negative: beta.map((b) => -b)
        },
        literal: {
          positive: secure.map((n, i) => (batch[i]!.severities === null ? 0 : alpha * n)),
          negative: beta.map((b, i) => -b * lengths[i]!)
        }
      }
      for (const preset of ["none", "gated", "naive", "literal"] as const) {
        const ppo = yield* ppoConfig({ preset, epochs: 1 })
        assert.deepStrictEqual(ppo.reward, { ...rewardPresets[preset], kl: { kind: "none", coef: 0 } })
        const { trainer } = yield* make(ppo)
        const { responses, metrics } = yield* trainer.update(batch, 1)
        for (const [i, { channels }] of responses.entries()) {
          assert.closeTo(sum(channels.positive), expected[preset].positive[i]!, 1e-12)
          assert.closeTo(sum(channels.negative), expected[preset].negative[i]!, 1e-12)
          assert.strictEqual(channels.rewardModel.at(-1), batch[i]!.rewardModel)
          assert.strictEqual(sum(channels.rewardModel), batch[i]!.rewardModel)
          for (const [t, total] of totalReward(channels).entries())
            assert.closeTo(
              total,
              channels.positive[t]! + channels.negative[t]! + channels.rewardModel[t]! + channels.kl[t]!,
              1e-12
            )
        }
        const parts = ["reward/positive", "reward/negative", "reward/reward_model", "reward/kl"]
        assert.closeTo(sum(parts.map((part) => metrics[part]!)), metrics["objective/rlhf_reward"]!, 1e-9)
      }
    })
  )

  it.effect("the same batches give the same bytes, also through an image halfway", () =>
    Effect.gen(function* () {
      const ppo = yield* ppoConfig({ epochs: 2, lr: 1e-2 })
      const updates = Effect.fnUntraced(function* (trainer: PpoTrainer, from: number, to: number) {
        const seen: Array<unknown> = []
        for (let step = from; step <= to; step++) seen.push(yield* trainer.update(batchOf(step), step))
        return seen
      })
      const { trainer: whole } = yield* make(ppo)
      const all = yield* updates(whole, 1, 4)
      const { trainer: first } = yield* make(ppo)
      const half = yield* updates(first, 1, 2)
      const { trainer: second } = yield* make(ppo, initialLora(config, rank, uniforms(99, 4)))
      yield* second.load(yield* first.image)
      const rest = yield* updates(second, 3, 4)
      assert.deepStrictEqual([...half, ...rest], all)
      assert.deepStrictEqual(yield* second.image, yield* whole.image)
      assert.isAbove(relativeError((yield* whole.image).params, (yield* first.image).params), 1e-3)
    })
  )

  it.effect("start-up checks: an adapter away from the reference, rewards that do not vary", () =>
    Effect.gen(function* () {
      const ppo = yield* ppoConfig()
      const { trainer: away } = yield* make(ppo, randomAdapter(rank, 3))
      assert.include(yield* fails(away.update(batch, 1), "InvariantBroken"), "KL = 0")
      const { trainer } = yield* make(yield* ppoConfig({ preset: "none" }))
      const before = yield* trainer.image
      const flat = batch.map((r) => ({ ...r, rewardModel: 0.25 }))
      const message = yield* fails(trainer.update(flat, 1), "InvariantBroken")
      assert.include(message, "reward variance > 0")
      assert.include(message, "0.25")
      assert.deepStrictEqual(yield* trainer.image, before)
      // later on, a batch of equal rewards is no reason to stop
      yield* trainer.update(batch, 1)
      assert.isTrue(Number.isFinite((yield* trainer.update(flat, 2)).metrics.grad_norm))
    })
  )

  it.effect("batches that cannot be trained on are refused before anything changes", () =>
    Effect.gen(function* () {
      const ppo = yield* ppoConfig({}, { capacity: 12 })
      const { trainer } = yield* make(ppo)
      const before = yield* trainer.image
      const [good] = batchOf(2)
      if (good === undefined) return assert.fail("no response")
      const withIds = (ids: ReadonlyArray<number>): Response => ({
        ...good,
        generation: { ids, logProbs: ids.map(() => 0), truncated: false },
        secureMask: ids.map(() => false)
      })
      for (const [bad, expected] of [
        [[], "no response"],
        [Array.from({ length: 7 }, () => good), "7 responses"],
        [[good, withIds([])], "response 2 of 2"],
        [[good, { ...good, promptIds: [] }], "at least one token"],
        [[good, { ...good, secureMask: [true] }], "secure mask of 1"],
        [[good, { ...good, rewardModel: Number.NaN }], "NaN"],
        [[good, withIds(idsOf(1, 1, 12))], "13 tokens"],
        [[good, withIds([1, config.vocabSize])], "vocabulary"]
      ] as const)
        assert.include(yield* fails(trainer.update(bad, 1), "BadInput"), expected)
      assert.deepStrictEqual(yield* trainer.image, before)
    })
  )

  it.effect("a policy that is no number any more is Diverged with the batch's number; parameters stay", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { trainer, flat, weights } = yield* make(yield* ppoConfig())
      yield* trainer.update(batch, 1)
      const before = yield* trainer.image
      yield* gpu.write(flat, weights.with(batch[0]!.promptIds[0]! * C, Number.NaN))
      assert.include(yield* fails(trainer.update(batch, 2), "Diverged"), "step 2")
      assert.deepStrictEqual(yield* trainer.image, before)
    })
  )
})
