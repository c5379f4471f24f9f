/** Old and new log-probabilities of a policy that has not changed are the same bits: both come from the same pass over the same packs. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { idsOf, make, ppoConfig, type Response, randomState } from "./ppoSupport.ts"
import { DeviceLayer } from "./tinyModel.ts"

/** 32 response tokens, so that a mean of ones is one to the bit. */
const responsesOf = (seed: number): ReadonlyArray<Response> =>
  Array.from({ length: 4 }, (_, i) => {
    const ids = idsOf(seed, i, 8)
    return {
      promptIds: idsOf(seed + 100, i, 1 + i),
      generation: { ids, logProbs: ids.map(() => 0), truncated: false },
      secureMask: ids.map((_, t) => t % 2 === 0),
      severities: i === 1 ? ["high"] : [],
      rewardModel: i - 1.5
    }
  })

layer(DeviceLayer)("the ratio of an unchanged policy", (it) => {
  it.effect("is exactly 1 in every token, whatever was learnt before", () =>
    Effect.gen(function* () {
      // Two sequences a pack.
      const once = yield* ppoConfig({ epochs: 1, temperature: 0.7 }, { batchTokens: 32, capacity: 24 })
      const { trainer } = yield* make(once)
      yield* trainer.load(randomState())
      for (const step of [2, 3]) {
        const { metrics, responses } = yield* trainer.update(responsesOf(step), step)
        // The sampler is said to have drawn each token with certainty.
        const far = responses.flatMap((r) => r.logProbs).reduce((sum, x) => sum + Math.abs(x), 0) / 32
        assert.closeTo(metrics["rollout/logprob_gap"]!, far, 1e-12 * far)
        assert.isAbove(Math.abs(metrics["objective/kl"]!), 1e-3, "the policy is not its reference")
        assert.strictEqual(metrics["val/ratio"], 1)
        for (const name of ["policy/approxkl_avg", "policy/clipfrac_avg", "val/clipfrac_avg"])
          assert.strictEqual(metrics[name], 0, name)
      }
      const twice = yield* make({ ...once, epochs: 2, lr: 0.01 })
      yield* twice.trainer.load(randomState())
      const { metrics } = yield* twice.trainer.update(responsesOf(2), 2)
      assert.notStrictEqual(metrics["val/ratio"], 1, "after an epoch it has changed")
      assert.isAbove(metrics["policy/approxkl_avg"]!, 0)
    })
  )
})
