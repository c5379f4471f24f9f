/** The engine on this device: products, one training step, decoding, one PPO update. */
import { Console, Effect } from "effect"
import { matmul } from "./matmul.ts"
import { decode, ppo, sft } from "./tinyCoder.ts"

const round = (x: number) => Number(x.toPrecision(4))

export const engine = Effect.fn("bench.engine")(function* (rounds: number) {
  const products = yield* matmul(rounds)
  for (const r of products)
    yield* Console.log(`matmul ${r.layout} ${r.m} x ${r.n} x ${r.k}: ${r.gflops.toFixed(1)} GFLOP/s`)
  const s = yield* sft(rounds)
  yield* Console.log(`sft: ${s.tokensPerSecond.toFixed(0)} tokens/s`)
  const d = yield* decode(rounds)
  yield* Console.log(
    `decode, 32 sequences: ${d.tokensPerSecond.toFixed(0)} tokens/s, ${d.dispatchesPerStep} dispatches a step`
  )
  const p = yield* ppo(rounds)
  yield* Console.log(`ppo update, ${p.epochs} epochs: ${p.tokensPerSecond.toFixed(0)} tokens/s`)
  return {
    matmul: products.map((r) => ({ ...r, gflops: round(r.gflops) })),
    tinyCoder: { sft: s, decode: d, ppo: p }
  }
})
