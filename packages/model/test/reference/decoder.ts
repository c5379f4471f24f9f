/**
 * The decoder of Qwen2, Llama and Qwen3 in double precision, written from the architectures' definitions and sharing no code with the engine:
 * one sequence at a time, no packing, no fused weights, no cache, Hugging Face tensor names, whole logits.
 *
 * Forward keeps what reverse mode needs; `backward` is written out by hand and is itself held against central
 * differences in `transformer.test.ts`. Matrices are row-major, weights [out, in], activations [T, width].
 */
import { addNN, addNT, addTN, headNorm, type Normed, norm, normBackward, rotate, type Scaling } from "./algebra.ts"

export interface ReferenceConfig {
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numLayers: number
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly vocabSize: number
  readonly rmsNormEps: number
  readonly ropeTheta: number
  readonly ropeScaling: Scaling
  readonly tieWordEmbeddings: boolean
  readonly attentionBias: boolean
  /** An RMS norm over each head of q and k before the rotation, weights `q_norm`, `k_norm` [D]. */
  readonly qkNorm: boolean
}

/** Tensors by Hugging Face name. */
export type Parameters = ReadonlyMap<string, Float64Array>

/** An adapter: pairs by `layers.{i}.{module}`, A [rank, in], B [out, rank]; y += scale · B(A(x)). */
export interface ReferenceLora {
  readonly rank: number
  readonly scale: number
  readonly pairs: ReadonlyMap<string, { readonly a: Float64Array; readonly b: Float64Array }>
}

export const toF64 = (tensors: ReadonlyMap<string, ArrayLike<number>>): Map<string, Float64Array> =>
  new Map([...tensors].map(([name, data]) => [name, Float64Array.from(data)]))

interface LayerKept {
  readonly norm1: Normed
  readonly qNorm: Normed | null
  readonly kNorm: Normed | null
  readonly q: Float64Array
  readonly k: Float64Array
  readonly v: Float64Array
  /** Attention weights [H, T, T]. */
  readonly p: Float64Array
  readonly attended: Float64Array
  readonly norm2: Normed
  readonly gate: Float64Array
  readonly up: Float64Array
  readonly activated: Float64Array
}

export interface Forward {
  readonly ids: ReadonlyArray<number>
  readonly layers: ReadonlyArray<LayerKept>
  readonly final: Normed
  /** [T, V] */
  readonly logits: Float64Array
}

export interface Gradients {
  readonly parameters: Map<string, Float64Array>
  readonly lora: Map<string, { readonly a: Float64Array; readonly b: Float64Array }>
}

const get = (parameters: Parameters, name: string): Float64Array => {
  const tensor = parameters.get(name)
  if (tensor === undefined) throw new Error(`no tensor ${name}`)
  return tensor
}

const headName = (config: ReferenceConfig): string =>
  config.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight"

const block = (module: string): string =>
  ["gate_proj", "up_proj", "down_proj"].includes(module) ? `mlp.${module}` : `self_attn.${module}`

const project = (
  parameters: Parameters,
  lora: ReferenceLora | null,
  layer: number,
  module: string,
  x: Float64Array,
  rows: number
): Float64Array => {
  const w = get(parameters, `model.layers.${layer}.${block(module)}.weight`)
  const bias = parameters.get(`model.layers.${layer}.${block(module)}.bias`)
  const inner = x.length / rows
  const out = w.length / inner
  const y = new Float64Array(rows * out)
  if (bias) for (let i = 0; i < y.length; i++) y[i] = bias[i % out]!
  addNT(y, x, w, rows, out, inner)
  const pair = lora?.pairs.get(`layers.${layer}.${module}`)
  if (lora && pair) {
    const down = new Float64Array(rows * lora.rank)
    addNT(down, x, pair.a, rows, lora.rank, inner)
    addNT(y, down, pair.b, rows, out, lora.rank, lora.scale)
  }
  return y
}

const projectBackward = (
  parameters: Parameters,
  lora: ReferenceLora | null,
  into: Gradients,
  layer: number,
  module: string,
  x: Float64Array,
  dy: Float64Array,
  dx: Float64Array,
  rows: number
): void => {
  const name = `model.layers.${layer}.${block(module)}`
  const w = get(parameters, `${name}.weight`)
  const inner = x.length / rows
  const out = w.length / inner
  addNN(dx, dy, w, rows, out, inner)
  addTN(get(into.parameters, `${name}.weight`), dy, x, rows, out, inner)
  const bias = into.parameters.get(`${name}.bias`)
  if (bias) for (let i = 0; i < dy.length; i++) bias[i % out]! += dy[i]!
  const pair = lora?.pairs.get(`layers.${layer}.${module}`)
  const gradient = into.lora.get(`layers.${layer}.${module}`)
  if (lora && pair && gradient) {
    const down = new Float64Array(rows * lora.rank)
    const dDown = new Float64Array(rows * lora.rank)
    addNT(down, x, pair.a, rows, lora.rank, inner)
    addNN(dDown, dy, pair.b, rows, out, lora.rank, lora.scale)
    addTN(gradient.b, dy, down, rows, out, lora.rank, lora.scale)
    addTN(gradient.a, dDown, x, rows, lora.rank, inner)
    addNN(dx, dDown, pair.a, rows, lora.rank, inner)
  }
}

/** Logits and everything reverse mode needs, of one sequence that stands at positions 0, 1, … */
export const forward = (
  config: ReferenceConfig,
  parameters: Parameters,
  lora: ReferenceLora | null,
  ids: ReadonlyArray<number>
): Forward => {
  const T = ids.length
  const { hiddenSize: C, numHeads: H, numKeyValueHeads: G, headDim: D, vocabSize: V } = config
  const embed = get(parameters, "model.embed_tokens.weight")
  let x = new Float64Array(T * C)
  for (const [t, id] of ids.entries()) x.set(embed.subarray(id * C, (id + 1) * C), t * C)
  const layers: Array<LayerKept> = []
  for (let i = 0; i < config.numLayers; i++) {
    const weight = (name: string) => get(parameters, `model.layers.${i}.${name}.weight`)
    const linear = (module: string, input: Float64Array) => project(parameters, lora, i, module, input, T)
    const norm1 = norm(x, weight("input_layernorm"), T, config.rmsNormEps)
    const headed = (module: string, input: Float64Array) =>
      config.qkNorm ? headNorm(input, weight(`self_attn.${module}`), config.rmsNormEps) : null
    const [plainQ, plainK, v] = [linear("q_proj", norm1.y), linear("k_proj", norm1.y), linear("v_proj", norm1.y)]
    const [qNorm, kNorm] = [headed("q_norm", plainQ), headed("k_norm", plainK)]
    const [q, k] = [Float64Array.from(qNorm?.y ?? plainQ), Float64Array.from(kNorm?.y ?? plainK)]
    rotate(q, T, H, D, config.ropeTheta, config.ropeScaling, 1)
    rotate(k, T, G, D, config.ropeTheta, config.ropeScaling, 1)
    const p = new Float64Array(H * T * T)
    const attended = new Float64Array(T * H * D)
    for (let h = 0; h < H; h++) {
      const g = Math.floor((h * G) / H)
      for (let t = 0; t < T; t++) {
        const row = p.subarray((h * T + t) * T, (h * T + t) * T + t + 1)
        for (let s = 0; s <= t; s++) {
          let dot = 0
          for (let d = 0; d < D; d++) dot += q[(t * H + h) * D + d]! * k[(s * G + g) * D + d]!
          row[s] = dot / Math.sqrt(D)
        }
        const top = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
        let total = 0
        for (let s = 0; s <= t; s++) total += row[s] = Math.exp(row[s]! - top)
        for (let s = 0; s <= t; s++) {
          row[s]! /= total
          for (let d = 0; d < D; d++) attended[(t * H + h) * D + d]! += row[s]! * v[(s * G + g) * D + d]!
        }
      }
    }
    const middle = linear("o_proj", attended)
    for (let j = 0; j < middle.length; j++) middle[j]! += x[j]!
    const norm2 = norm(middle, weight("post_attention_layernorm"), T, config.rmsNormEps)
    const [gate, up] = [linear("gate_proj", norm2.y), linear("up_proj", norm2.y)]
    const activated = gate.map((a, j) => (a / (1 + Math.exp(-a))) * up[j]!)
    const out = linear("down_proj", activated)
    for (let j = 0; j < out.length; j++) out[j]! += middle[j]!
    layers.push({ norm1, qNorm, kNorm, q, k, v, p, attended, norm2, gate, up, activated })
    x = Float64Array.from(out)
  }
  const final = norm(x, get(parameters, "model.norm.weight"), T, config.rmsNormEps)
  const logits = new Float64Array(T * V)
  addNT(logits, final.y, get(parameters, headName(config)), T, V, C)
  return { ids, layers, final, logits }
}

/** Zeros in the shape of the parameters and of the adapter. */
export const zeroGradients = (parameters: Parameters, lora: ReferenceLora | null): Gradients => ({
  parameters: new Map([...parameters].map(([name, data]) => [name, new Float64Array(data.length)])),
  lora: new Map(
    [...(lora?.pairs ?? [])].map(([key, { a, b }]) => [
      key,
      { a: new Float64Array(a.length), b: new Float64Array(b.length) }
    ])
  )
})

/** Adds the gradients that follow from dLogits [T, V] to `into`. */
export const backward = (
  config: ReferenceConfig,
  parameters: Parameters,
  lora: ReferenceLora | null,
  kept: Forward,
  dLogits: Float64Array,
  into: Gradients
): void => {
  const T = kept.ids.length
  const { hiddenSize: C, numHeads: H, numKeyValueHeads: G, headDim: D, vocabSize: V } = config
  const dFinal = new Float64Array(T * C)
  addNN(dFinal, dLogits, get(parameters, headName(config)), T, V, C)
  addTN(get(into.parameters, headName(config)), dLogits, kept.final.y, T, V, C)
  let dx = new Float64Array(T * C)
  normBackward(
    dx,
    get(into.parameters, "model.norm.weight"),
    dFinal,
    kept.final,
    get(parameters, "model.norm.weight"),
    T
  )
  for (let i = config.numLayers - 1; i >= 0; i--) {
    const s = kept.layers[i]!
    const name = (module: string) => `model.layers.${i}.${module}.weight`
    const back = (module: string, x: Float64Array, dy: Float64Array, d: Float64Array) =>
      projectBackward(parameters, lora, into, i, module, x, dy, d, T)
    const dActivated = new Float64Array(s.activated.length)
    back("down_proj", s.activated, dx, dActivated)
    const dGate = new Float64Array(s.gate.length)
    const dUp = new Float64Array(s.up.length)
    for (let j = 0; j < dGate.length; j++) {
      const sigmoid = 1 / (1 + Math.exp(-s.gate[j]!))
      dUp[j] = dActivated[j]! * s.gate[j]! * sigmoid
      dGate[j] = dActivated[j]! * s.up[j]! * sigmoid * (1 + s.gate[j]! * (1 - sigmoid))
    }
    const dNorm2 = new Float64Array(T * C)
    back("gate_proj", s.norm2.y, dGate, dNorm2)
    back("up_proj", s.norm2.y, dUp, dNorm2)
    const dMiddle = Float64Array.from(dx)
    const post = name("post_attention_layernorm")
    normBackward(dMiddle, get(into.parameters, post), dNorm2, s.norm2, get(parameters, post), T)
    const dAttended = new Float64Array(s.attended.length)
    back("o_proj", s.attended, dMiddle, dAttended)
    const [dq, dk, dv] = [
      new Float64Array(s.q.length),
      new Float64Array(s.k.length),
      new Float64Array(s.v.length)
    ] as const
    for (let h = 0; h < H; h++) {
      const g = Math.floor((h * G) / H)
      for (let t = 0; t < T; t++) {
        const row = s.p.subarray((h * T + t) * T, (h * T + t + 1) * T)
        const dRow = new Float64Array(t + 1)
        let mean = 0
        for (let u = 0; u <= t; u++) {
          for (let d = 0; d < D; d++) {
            const o = dAttended[(t * H + h) * D + d]!
            dRow[u]! += o * s.v[(u * G + g) * D + d]!
            dv[(u * G + g) * D + d]! += row[u]! * o
          }
          mean += row[u]! * dRow[u]!
        }
        for (let u = 0; u <= t; u++) {
          const score = (row[u]! * (dRow[u]! - mean)) / Math.sqrt(D)
          for (let d = 0; d < D; d++) {
            dq[(t * H + h) * D + d]! += score * s.k[(u * G + g) * D + d]!
            dk[(u * G + g) * D + d]! += score * s.q[(t * H + h) * D + d]!
          }
        }
      }
    }
    rotate(dq, T, H, D, config.ropeTheta, config.ropeScaling, -1)
    rotate(dk, T, G, D, config.ropeTheta, config.ropeScaling, -1)
    const throughNorm = (module: string, dy: Float64Array, kept: Normed | null): Float64Array => {
      if (kept === null) return dy
      const [dPlain, w] = [new Float64Array(dy.length), name(`self_attn.${module}`)]
      normBackward(dPlain, get(into.parameters, w), dy, kept, get(parameters, w), kept.inverse.length)
      return dPlain
    }
    const dNorm1 = new Float64Array(T * C)
    back("q_proj", s.norm1.y, throughNorm("q_norm", dq, s.qNorm), dNorm1)
    back("k_proj", s.norm1.y, throughNorm("k_norm", dk, s.kNorm), dNorm1)
    back("v_proj", s.norm1.y, dv, dNorm1)
    const input = name("input_layernorm")
    normBackward(dMiddle, get(into.parameters, input), dNorm1, s.norm1, get(parameters, input), T)
    dx = dMiddle
  }
  const dEmbed = get(into.parameters, "model.embed_tokens.weight")
  kept.ids.forEach((id, t) => {
    for (let c = 0; c < C; c++) dEmbed[id * C + c]! += dx[t * C + c]!
  })
}
