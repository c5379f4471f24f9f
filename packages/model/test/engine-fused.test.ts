/** Decoding where products take norm and gate along: the same tokens whatever runs beside, the scorer's log-probabilities, fewer dispatches. */
import { assert, layer } from "@effect/vitest"
import { Gpu, onlyVariant, recordWork, unusable } from "@srcode/gpu"
import { Effect } from "effect"
import { loraFromPairs, makeEngine, makeScorer } from "../src/index.ts"
import { plain, randomPairs } from "./reference/checkpoint.ts"
import { DeviceLayer, loadShape } from "./reference/device.ts"
import { prompt, request, roomy } from "./reference/engine.ts"

const compileTime = 600_000

layer(DeviceLayer)("engine with fused products", (it) => {
  it.effect(
    "rows keep apart, log-probabilities are the scorer's, and a layer takes six dispatches a token",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const info = { ...gpu.info, software: false, matmul: onlyVariant("gemv") }
        if (unusable(info, "gemv") !== undefined) return
        const { model } = yield* loadShape(plain, 90)
        const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 6 }, randomPairs(plain, 4, 91))
        const scorer = yield* makeScorer(model.decoder, { capacity: 128, rank: 4 })
        yield* Effect.gen(function* () {
          const engine = yield* makeEngine(model.decoder, roomy)
          for (const adapter of [null, lora]) {
            const requests = [0, 1].map((i) => ({
              // Prompts of one token: kernels for more rows at once are slow to compile here.
              ...request(prompt(92 + i, 1), i, { maxTokens: 9 }),
              lora: adapter
            }))
            const together = yield* engine.generate(requests)
            const { recording, value } = yield* recordWork(engine.generate(requests.slice(1, 2)), { dispatches: true })
            assert.deepStrictEqual(value[0], together[1])
            const scores = yield* scorer.score(
              adapter,
              together.map(({ ids }, i) => {
                const start = requests[i]!.ids
                return { ids: [...start, ...ids], loss: (t: number) => t >= start.length }
              }),
              1
            )
            together.forEach(({ logProbs }, i) => {
              assert.lengthOf(logProbs, 9)
              for (const [t, x] of logProbs.entries()) assert.closeTo(x, scores[i]!.logProbs[t]!, 1e-4)
            })
            const kernels = recording.submits
              .filter(({ label }) => label === "decode")
              .flatMap(({ dispatches }) => dispatches.map(({ kernel }) => kernel))
            if (kernels.length === 0) continue // no timestamps, no list
            // The product of qkv, its rotation, attention, and the products of o, gate and up, and down; four more of an adapter.
            // Eight steps; in each the embedding, the last norm, the head's product and the draw beside the layers.
            const count = (match: (kernel: string) => boolean) => kernels.filter(match).length / 8
            const layers = model.config.numLayers
            assert.strictEqual(
              count((k) => k === "swiglu_forward"),
              0
            )
            assert.strictEqual(
              count((k) => k.startsWith("rms_norm")),
              1
            )
            assert.strictEqual(
              count((k) => k === "matmul_gemv_norm"),
              layers * (adapter ? 4 : 2)
            )
            assert.strictEqual(
              count((k) => k === "matmul_gemv"),
              layers * (adapter ? 4 : 2) + 1
            )
            const rest = count((k) => /^(sample|embedding)/.test(k))
            assert.strictEqual(count(() => true) - rest - 2, layers * (adapter ? 10 : 6))
          }
        }).pipe(Effect.provideService(Gpu, Gpu.of({ ...gpu, info })))
      }),
    compileTime
  )
})
