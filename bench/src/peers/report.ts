/** The comparison's cases, run and printed. Peers that are not installed are named and left out. */
import { Console, Effect } from "effect"
import { type CaseResult, compareChain, compareForward, compareGeneration } from "./compare.ts"
import { openOnnxruntime } from "./onnxruntime.ts"
import { openOurs } from "./ours.ts"
import type { PeerError, Side, TinyShape } from "./Peer.ts"
import { openTfjs } from "./tfjs.ts"

/** One layer as wide as small models are. */
const layer: TinyShape = {
  layers: 1,
  hidden: 512,
  intermediate: 1408,
  heads: 8,
  kvHeads: 2,
  headDim: 64,
  vocab: 1024,
  maxPositions: 512,
  eps: 1e-6,
  theta: 1e4
}

/** A whole model that decodes in milliseconds. */
const tiny: TinyShape = { ...layer, layers: 4, hidden: 256, intermediate: 768, heads: 4, vocab: 2048 }

const chains = [256, 512, 1024].flatMap((k) =>
  (["NT", "NN"] as const).map((layout) => ({ layout, m: k, k, repeats: Math.max(1, Math.round((512 / k) ** 3 * 2)) }))
)
const thin = [1, 8].flatMap((m) =>
  [512, 1024].flatMap((k) => (["NT", "NN"] as const).map((layout) => ({ layout, m, k, repeats: 16 })))
)

const line = (result: CaseResult): string => {
  const rate = (seconds: number) =>
    result.unit === "flop"
      ? `${(result.work / seconds / 1e9).toFixed(1)} GFLOP/s`
      : `${(result.work / seconds).toFixed(0)} tokens/s`
  const sides = Object.entries(result.sides).map(([side, r]) => `${side} ${rate(r.median)}`)
  const failed = Object.entries(result.failed).map(([, why]) => why)
  const ratio =
    result.ratio === null
      ? ""
      : `; ours is ${result.ratio.toFixed(2)} times ${result.best} (${result.ratioOfCpu?.toFixed(2)} by processor time)`
  return `${result.name}: ${[...sides, ...failed].join(", ")}${ratio}`
}

const peers: Readonly<Record<string, Effect.Effect<Side, PeerError>>> = {
  tfjs: openTfjs,
  "onnxruntime-node": openOnnxruntime("node"),
  "onnxruntime-web": openOnnxruntime("web")
}
export const peerNames = Object.keys(peers)

export const comparePeers = Effect.fn("bench.peers")(function* (options: {
  readonly rounds: number
  readonly peers: ReadonlyArray<string>
  /** Only cases whose name begins with one of these; all where empty. */
  readonly only: ReadonlyArray<"matmul" | "layer" | "generate">
}) {
  const { rounds } = options
  const sides: Array<Side> = [yield* openOurs]
  const missing: Record<string, string> = {}
  for (const name of options.peers) {
    const open = peers[name]
    if (open === undefined) continue
    yield* open.pipe(
      Effect.match({
        onSuccess: (side) => void sides.push(side),
        onFailure: (error) => void (missing[name] = error.message)
      })
    )
  }
  for (const why of Object.values(missing))
    yield* Console.log(`${why} (npm ci --prefix bench/peers --ignore-scripts installs the peers)`)
  const cases: Array<CaseResult> = []
  const keep = (results: ReadonlyArray<CaseResult>) =>
    Effect.forEach(results, (result) => {
      cases.push(result)
      return Console.log(line(result))
    })
  const wanted = (kind: "matmul" | "layer" | "generate") => options.only.length === 0 || options.only.includes(kind)
  if (wanted("matmul"))
    for (const chain of [...chains, ...thin]) yield* keep([yield* compareChain(sides, rounds, chain)])
  if (wanted("layer")) yield* keep(yield* compareForward(sides, rounds, "one layer", layer, [128, 512]))
  if (wanted("generate"))
    for (const batch of [1, 4])
      yield* keep(yield* compareGeneration(sides, rounds, tiny, { batch, prompt: 64, fresh: 32 }))
  return {
    sides: sides.map(({ name, version, device, notes }) => ({ name, version, device, notes })),
    missing,
    shapes: { layer, tiny },
    cases
  }
})
