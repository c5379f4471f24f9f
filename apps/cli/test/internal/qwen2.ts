/**
 * The Qwen2 decoder in double precision from its definition: one sequence, whole logits, Hugging Face tensor names,
 * adapters as y += (alpha / rank) · B(A(x)). It shares no code with the engine.
 */
import type { ModelConfig } from "@srcode/model"

export type Parameters = ReadonlyMap<string, ArrayLike<number>>

/** Pairs keyed `layers.{i}.{module}`; A [rank, in], B [out, rank]. */
export interface Pairs {
  readonly rank: number
  readonly scale: number
  readonly pairs: ReadonlyMap<string, { readonly a: ArrayLike<number>; readonly b: ArrayLike<number> }>
}

type Rows = ReadonlyArray<ReadonlyArray<number>>

/** x Wᵀ for W [out, in] given flat. */
const times = (x: Rows, w: ArrayLike<number>): Array<Array<number>> =>
  x.map((row) => {
    const inner = row.length
    return Array.from({ length: w.length / inner }, (_, o) => row.reduce((sum, v, i) => sum + v * w[o * inner + i]!, 0))
  })

const plus = (x: Rows, y: Rows): Array<Array<number>> => x.map((row, t) => row.map((v, i) => v + y[t]![i]!))

const rmsNorm = (x: Rows, weight: ArrayLike<number>, eps: number): Array<Array<number>> =>
  x.map((row) => {
    const scale = 1 / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / row.length + eps)
    return row.map((v, i) => v * scale * weight[i]!)
  })

/** Rotates the halves of a head at position t: pairs (i, i + D/2) by t · theta^(−2i/D). */
const rotate = (head: ReadonlyArray<number>, t: number, theta: number): Array<number> => {
  const half = head.length / 2
  return head.map((v, i) => {
    const angle = t * theta ** (-(2 * (i % half)) / head.length)
    const other = i < half ? -head[i + half]! : head[i - half]!
    return v * Math.cos(angle) + other * Math.sin(angle)
  })
}

/** Logits [T, vocab] of one sequence. */
export const logits = (config: ModelConfig, p: Parameters, lora: Pairs | null, ids: ReadonlyArray<number>): Rows => {
  const { hiddenSize: C, headDim: D, numHeads, numKeyValueHeads } = config
  const get = (name: string): ArrayLike<number> => p.get(name)!
  const embed = get("model.embed_tokens.weight")
  let x: Array<Array<number>> = ids.map((id) => Array.from({ length: C }, (_, i) => embed[id * C + i]!))
  for (let layer = 0; layer < config.numLayers; layer++) {
    const at = `model.layers.${layer}`
    const linear = (block: string, module: string, input: Rows): Array<Array<number>> => {
      let y = times(input, get(`${at}.${block}.${module}.weight`))
      const bias = p.get(`${at}.${block}.${module}.bias`)
      if (bias !== undefined) y = y.map((row) => row.map((v, i) => v + bias[i]!))
      const pair = lora?.pairs.get(`layers.${layer}.${module}`)
      if (lora === null || pair === undefined) return y
      return plus(
        y,
        times(times(input, pair.a), pair.b).map((row) => row.map((v) => v * lora.scale))
      )
    }
    const h = rmsNorm(x, get(`${at}.input_layernorm.weight`), config.rmsNormEps)
    const heads = (rows: Rows, turn: boolean) =>
      rows.map((row, t) =>
        Array.from({ length: row.length / D }, (_, n) => {
          const head = row.slice(n * D, (n + 1) * D)
          return turn ? rotate(head, t, config.ropeTheta) : head
        })
      )
    const q = heads(linear("self_attn", "q_proj", h), true)
    const k = heads(linear("self_attn", "k_proj", h), true)
    const v = heads(linear("self_attn", "v_proj", h), false)
    const attended = ids.map((_, t) =>
      Array.from({ length: numHeads }, (_, n) => {
        const group = Math.floor((n * numKeyValueHeads) / numHeads)
        const scores = Array.from(
          { length: t + 1 },
          (_, u) => q[t]![n]!.reduce((sum, value, d) => sum + value * k[u]![group]![d]!, 0) / Math.sqrt(D)
        )
        const top = Math.max(...scores)
        const weights = scores.map((s) => Math.exp(s - top))
        const total = weights.reduce((a, b) => a + b, 0)
        return Array.from({ length: D }, (_, d) =>
          weights.reduce((sum, w, u) => sum + (w / total) * v[u]![group]![d]!, 0)
        )
      }).flat()
    )
    x = plus(x, linear("self_attn", "o_proj", attended))
    const m = rmsNorm(x, get(`${at}.post_attention_layernorm.weight`), config.rmsNormEps)
    const gate = linear("mlp", "gate_proj", m)
    const up = linear("mlp", "up_proj", m)
    const activated = gate.map((row, t) => row.map((g, i) => (g / (1 + Math.exp(-g))) * up[t]![i]!))
    x = plus(x, linear("mlp", "down_proj", activated))
  }
  const normed = rmsNorm(x, get("model.norm.weight"), config.rmsNormEps)
  return times(normed, config.tieWordEmbeddings ? embed : get("lm_head.weight"))
}

/** log p(ids[t] | ids[<t]) and the entropy there, for t ≥ 1, nats. */
export const scores = (config: ModelConfig, p: Parameters, lora: Pairs | null, ids: ReadonlyArray<number>) => {
  const rows = logits(config, p, lora, ids)
  const logProbs: Array<number> = []
  const entropy: Array<number> = []
  for (let t = 1; t < ids.length; t++) {
    const row = rows[t - 1]!
    const top = Math.max(...row)
    const total = Math.log(row.reduce((sum, z) => sum + Math.exp(z - top), 0)) + top
    logProbs.push(row[ids[t]!]! - total)
    entropy.push(row.reduce((sum, z) => sum - Math.exp(z - total) * (z - total), 0))
  }
  return { logProbs, entropy }
}
