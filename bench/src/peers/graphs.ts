/**
 * The benchmark's work as ONNX graphs, in the form exporters for onnxruntime give language models: weights as constants
 * [in, out], root-mean-square norms that take the residual along, and attention either as one fused operator per layer
 * (group-query attention with its rotary embedding and cache) or in plain operators.
 */
import { Graph } from "./onnx.ts"
import { type Chain, rotary, stack, type TinyModel, tensorOf, transpose } from "./Peer.ts"

const own = "com.microsoft"

export const chainGraph = ({ layout, m, k, repeats, b }: Chain): Uint8Array => {
  const g = new Graph()
  g.constant("b", [k, k], b)
  let x = g.input({ name: "a", dtype: "f32", dims: [m, k] })
  for (let i = 0; i < repeats; i++) {
    const out = i === repeats - 1 ? "out" : `x${i}`
    x =
      layout === "NN" ? g.node("MatMul", [x, "b"], [out]) : g.node("Gemm", [x, "b"], [out], { numbers: { transB: 1 } })
  }
  g.output({ name: "out", dtype: "f32", dims: [m, k] })
  return g.encode()
}

/** `states`: final states of a prompt; `prefill`: logits and caches of a prompt; `decode`: the same after cached tokens. */
export interface DecoderForm {
  readonly output: "states" | "prefill" | "decode"
  /** Plain attention knows no cache: not for `decode`. */
  readonly attention: "fused" | "plain"
}

/** Attention of layer `i` over packed [batch, length, (H + 2G) D]; makes present.I.k and present.I.v. */
type Attention = (g: Graph, model: TinyModel, i: number, packed: string, form: DecoderForm) => string

const fused: Attention = (g, { shape }, i, packed, { output }) => {
  const G = shape.kvHeads
  const cache = ["k", "v"].map((p) =>
    output === "decode"
      ? g.input({ name: `past.${i}.${p}`, dtype: "f32", dims: ["batch", G, "past", shape.headDim] })
      : ""
  )
  return g.node(
    "GroupQueryAttention",
    [packed, "", "", ...cache, "seqlens", "total", "cos", "sin"],
    [`${i}.attended`, `present.${i}.k`, `present.${i}.v`],
    { numbers: { num_heads: shape.heads, kv_num_heads: G, do_rotary: 1, rotary_interleaved: 0 } },
    own
  )
}

/** Query heads of one group are rows of one product with the group's keys. */
const plain: Attention = (g, { shape }, i, packed) => {
  const [G, D] = [shape.kvHeads, shape.headDim]
  const R = shape.heads / G
  const ints = (name: string, values: ReadonlyArray<number>) =>
    g.constant(`${i}.${name}`, [values.length], BigInt64Array.from(values, BigInt))
  const reshape = (x: string, name: string, dims: ReadonlyArray<number>) =>
    g.node("Reshape", [x, ints(`${name}.dims`, dims)], [`${i}.${name}`])
  const permute = (x: string, name: string, perm: ReadonlyArray<number>) =>
    g.node("Transpose", [x], [name], { ints: { perm } })
  const rope = (x: string, name: string, heads: number) =>
    g.node("RotaryEmbedding", [x, "positions", "cos", "sin"], [name], { numbers: { num_heads: heads } }, own)
  const parts = [`${i}.q`, `${i}.k`, `${i}.v`]
  g.node("Split", [packed, ints("split", [shape.heads * D, G * D, G * D])], parts, { numbers: { axis: 2 } })
  const q = rope(`${i}.q`, `${i}.q.rotated`, shape.heads)
  const k = reshape(rope(`${i}.k`, `${i}.k.rotated`, G), "k.heads", [0, -1, G, D])
  const v = reshape(`${i}.v`, "v.heads", [0, -1, G, D])
  permute(k, `present.${i}.k`, [0, 2, 1, 3])
  permute(v, `present.${i}.v`, [0, 2, 1, 3])
  const grouped = permute(reshape(q, "q.groups", [0, -1, G, R, D]), `${i}.q.grouped`, [0, 2, 3, 1, 4])
  const scaled = g.node(
    "Mul",
    [reshape(grouped, "q.rows", [0, G, -1, D]), g.constant(`${i}.scale`, [], Float32Array.of(D ** -0.5))],
    [`${i}.q.scaled`]
  )
  const scores = g.node("MatMul", [scaled, permute(k, `${i}.k.transposed`, [0, 2, 3, 1])], [`${i}.scores`])
  const shaped = g.node("Reshape", [scores, "scores_by_head"], [`${i}.scores.heads`])
  const masked = g.node("Add", [shaped, "mask"], [`${i}.masked`])
  const weights = g.node("Softmax", [masked], [`${i}.weights`], { numbers: { axis: -1 } })
  const mixed = g.node(
    "MatMul",
    [g.node("Reshape", [weights, "scores_by_group"], [`${i}.weights.groups`]), `present.${i}.v`],
    [`${i}.mixed`]
  )
  const back = permute(reshape(mixed, "mixed.heads", [0, G, R, -1, D]), `${i}.mixed.rows`, [0, 3, 1, 2, 4])
  return reshape(back, "attended", [0, -1, G * R * D])
}

/**
 * Inputs: ids [batch, length] i32. Fused: seqlens [batch] i32 (all tokens less one), total [1] i32; for `decode` past.I.k and
 * past.I.v [batch, G, past, D]. Plain: positions [batch, length] i64, mask [length, length], and the two shapes of the scores
 * [4] i64. Output: `states` [batch, length, C]; or, given `last` [1] i32, `logits` [batch, 1, V] with present.I.k and
 * present.I.v.
 */
export const decoderGraph = (model: TinyModel, form: DecoderForm): Uint8Array => {
  const { shape } = model
  const g = new Graph()
  const [C, D, G, F] = [shape.hidden, shape.headDim, shape.kvHeads, shape.intermediate]
  const [Q, KV] = [shape.heads * D, G * D]
  const { cosine, sine, half } = rotary(shape)
  const at = (name: string) => tensorOf(model, name)
  const linear = (x: string, name: string, w: Float32Array, out: number, into: number, bias?: Float32Array): string => {
    const product = bias === undefined ? name : `${name}.product`
    g.node("MatMul", [x, g.constant(`${name}.w`, [into, out], transpose(w, out, into))], [product])
    return bias === undefined ? name : g.node("Add", [product, g.constant(`${name}.b`, [out], bias)], [name])
  }
  g.input({ name: "ids", dtype: "i32", dims: ["batch", "length"] })
  if (form.attention === "fused") {
    g.input({ name: "seqlens", dtype: "i32", dims: ["batch"] })
    g.input({ name: "total", dtype: "i32", dims: [1] })
  } else {
    g.input({ name: "positions", dtype: "i64", dims: ["batch", "length"] })
    g.input({ name: "mask", dtype: "f32", dims: ["length", "length"] })
    for (const name of ["scores_by_head", "scores_by_group"]) g.input({ name, dtype: "i64", dims: [4] })
  }
  g.constant("cos", [shape.maxPositions, half], cosine)
  g.constant("sin", [shape.maxPositions, half], sine)
  const embed = g.constant("embed", [shape.vocab, C], at("model.embed_tokens.weight"))
  const epsilon = { epsilon: shape.eps }
  let residual = g.node("Gather", [embed, "ids"], ["embedded"])
  let normed = g.node(
    "SimplifiedLayerNormalization",
    [residual, g.constant("0.norm1", [C], at("model.layers.0.input_layernorm.weight"))],
    ["0.normed1"],
    { floats: epsilon, numbers: { axis: -1, stash_type: 1 } }
  )
  const skipNorm = (x: string, name: string, weight: string): void => {
    normed = g.node(
      "SkipSimplifiedLayerNormalization",
      [x, residual, g.constant(name, [C], at(weight))],
      [`${name}.y`, "", "", `${name}.sum`],
      { floats: epsilon },
      own
    )
    residual = `${name}.sum`
  }
  for (let i = 0; i < shape.layers; i++) {
    const layer = `model.layers.${i}`
    const qkv = ["q", "k", "v"].map((p) => `${layer}.self_attn.${p}_proj`)
    const packed = linear(
      normed,
      `${i}.qkv`,
      stack(...qkv.map((name) => at(`${name}.weight`))),
      Q + 2 * KV,
      C,
      stack(...qkv.map((name) => at(`${name}.bias`)))
    )
    const attended = (form.attention === "fused" ? fused : plain)(g, model, i, packed, form)
    skipNorm(
      linear(attended, `${i}.o`, at(`${layer}.self_attn.o_proj.weight`), C, Q),
      `${i}.norm2`,
      `${layer}.post_attention_layernorm.weight`
    )
    const gate = linear(normed, `${i}.gate`, at(`${layer}.mlp.gate_proj.weight`), F, C)
    const up = linear(normed, `${i}.up`, at(`${layer}.mlp.up_proj.weight`), F, C)
    const silu = g.node("QuickGelu", [gate], [`${i}.silu`], { floats: { alpha: 1 } }, own)
    const activated = g.node("Mul", [silu, up], [`${i}.activated`])
    skipNorm(
      linear(activated, `${i}.down`, at(`${layer}.mlp.down_proj.weight`), C, F),
      `${i}.next`,
      i + 1 < shape.layers ? `model.layers.${i + 1}.input_layernorm.weight` : "model.norm.weight"
    )
  }
  if (form.output === "states") {
    g.node("Identity", [normed], ["states"])
    g.output({ name: "states", dtype: "f32", dims: ["batch", "length", C] })
    return g.encode()
  }
  for (let i = 0; i < shape.layers; i++)
    for (const p of ["k", "v"])
      g.output({ name: `present.${i}.${p}`, dtype: "f32", dims: ["batch", G, "total_length", D] })
  g.input({ name: "last", dtype: "i32", dims: [1] })
  g.node("Gather", [normed, "last"], ["last_state"], { numbers: { axis: 1 } })
  linear("last_state", "logits", at("lm_head.weight"), shape.vocab, C)
  g.output({ name: "logits", dtype: "f32", dims: ["batch", 1, shape.vocab] })
  return g.encode()
}
