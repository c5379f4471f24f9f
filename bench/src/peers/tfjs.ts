/**
 * TensorFlow.js with its WebGPU backend as a side, over this process's Dawn. The decoder is written in its operations as one
 * would for speed there: weights [in, out], grouped heads folded into the batch of the products, tokens left on the device
 * until the end.
 */
import { createRequire } from "node:module"
import { Effect } from "effect"
import { provideNavigator } from "./navigator.ts"
import { PeerError, type Prompts, rotary, type Side, stack, type TinyModel, tensorOf, transpose } from "./Peer.ts"

/** What is used of tfjs-core. */
interface Tensor {
  readonly shape: ReadonlyArray<number>
  data(): Promise<Float32Array | Int32Array>
  dispose(): void
}
type Dims = ReadonlyArray<number>
interface Tf {
  readonly version_core: string
  setBackend(name: string): Promise<boolean>
  tensor(data: Float32Array | Int32Array, shape: Dims, dtype?: "float32" | "int32"): Tensor
  tidy<A>(body: () => A): A
  keep(x: Tensor): Tensor
  matMul(a: Tensor, b: Tensor, transposeA?: boolean, transposeB?: boolean): Tensor
  readonly fused: { matMul(args: { a: Tensor; b: Tensor; bias: Tensor }): Tensor }
  add(a: Tensor, b: Tensor): Tensor
  sub(a: Tensor, b: Tensor): Tensor
  mul(a: Tensor, b: Tensor | number): Tensor
  square(a: Tensor): Tensor
  reshape(a: Tensor, shape: Dims): Tensor
  mean(a: Tensor, axis: number, keepDims: boolean): Tensor
  rsqrt(a: Tensor): Tensor
  sigmoid(a: Tensor): Tensor
  softmax(a: Tensor): Tensor
  gather(a: Tensor, indices: Tensor): Tensor
  slice(a: Tensor, begin: Dims, size: Dims): Tensor
  split(a: Tensor, sizes: Dims, axis: number): ReadonlyArray<Tensor>
  concat(parts: ReadonlyArray<Tensor>, axis: number): Tensor
  transpose(a: Tensor, order: Dims): Tensor
  argMax(a: Tensor, axis: number): Tensor
}

interface Layer {
  readonly norm1: Tensor
  readonly qkv: Tensor
  readonly bias: Tensor
  readonly o: Tensor
  readonly norm2: Tensor
  readonly gateUp: Tensor
  readonly down: Tensor
}

/** Keys and values of the tokens so far: [batch, G, tokens, D]. */
interface Cache {
  readonly k: Tensor
  readonly v: Tensor
}

const upload = (tf: Tf, model: TinyModel) => {
  const { shape } = model
  const [C, D, F] = [shape.hidden, shape.headDim, shape.intermediate]
  const [Q, KV] = [shape.heads * D, shape.kvHeads * D]
  const owned: Array<Tensor> = []
  const put = (data: Float32Array, dims: Dims): Tensor => {
    const tensor = tf.tensor(data, dims)
    owned.push(tensor)
    return tensor
  }
  const at = (name: string) => tensorOf(model, name)
  const matrix = (data: Float32Array, out: number, into: number) => put(transpose(data, out, into), [into, out])
  const layers = Array.from({ length: shape.layers }, (_, i): Layer => {
    const layer = `model.layers.${i}`
    const qkv = ["q", "k", "v"].map((p) => `${layer}.self_attn.${p}_proj`)
    return {
      norm1: put(at(`${layer}.input_layernorm.weight`), [C]),
      qkv: matrix(stack(...qkv.map((n) => at(`${n}.weight`))), Q + 2 * KV, C),
      bias: put(stack(...qkv.map((n) => at(`${n}.bias`))), [Q + 2 * KV]),
      o: matrix(at(`${layer}.self_attn.o_proj.weight`), C, Q),
      norm2: put(at(`${layer}.post_attention_layernorm.weight`), [C]),
      gateUp: matrix(stack(at(`${layer}.mlp.gate_proj.weight`), at(`${layer}.mlp.up_proj.weight`)), 2 * F, C),
      down: matrix(at(`${layer}.mlp.down_proj.weight`), C, F)
    }
  })
  const { cosine, sine, half } = rotary(shape)
  return {
    layers,
    embed: put(at("model.embed_tokens.weight"), [shape.vocab, C]),
    norm: put(at("model.norm.weight"), [C]),
    head: matrix(at("lm_head.weight"), shape.vocab, C),
    cosine: put(cosine, [shape.maxPositions, half]),
    sine: put(sine, [shape.maxPositions, half]),
    dispose: () => {
      for (const tensor of owned) tensor.dispose()
    }
  }
}

const makeDecoder = (tf: Tf, model: TinyModel) => {
  const { shape } = model
  const w = upload(tf, model)
  const [C, D, G, F] = [shape.hidden, shape.headDim, shape.kvHeads, shape.intermediate]
  const R = shape.heads / G
  const norm = (x: Tensor, weight: Tensor): Tensor => {
    const scale = tf.rsqrt(tf.add(tf.mean(tf.square(x), 1, true), tf.tensor(Float32Array.of(shape.eps), [])))
    return tf.mul(tf.mul(x, scale), weight)
  }
  /** x [B, S, heads, D] at positions `past` and on. */
  const rope = (x: Tensor, past: number): Tensor => {
    const [B = 1, S = 1, heads = 1] = x.shape
    const half = D / 2
    const cosine = tf.reshape(tf.slice(w.cosine, [past, 0], [S, half]), [1, S, 1, half])
    const sine = tf.reshape(tf.slice(w.sine, [past, 0], [S, half]), [1, S, 1, half])
    const low = tf.slice(x, [0, 0, 0, 0], [B, S, heads, half])
    const high = tf.slice(x, [0, 0, 0, half], [B, S, heads, half])
    return tf.concat(
      [tf.sub(tf.mul(low, cosine), tf.mul(high, sine)), tf.add(tf.mul(high, cosine), tf.mul(low, sine))],
      3
    )
  }
  const attention = (qkv: Tensor, B: number, S: number, past: number, before: Cache | undefined) => {
    const heads = shape.heads + G
    const [qk, v] = tf.split(qkv, [heads * D, G * D], 1)
    const rotated = rope(tf.reshape(qk!, [B, S, heads, D]), past)
    const [q, k] = tf.split(rotated, [shape.heads, G], 2)
    const grouped = tf.reshape(tf.transpose(tf.reshape(q!, [B, S, G, R, D]), [0, 2, 3, 1, 4]), [B * G, R * S, D])
    const own = (x: Tensor) => tf.transpose(x, [0, 2, 1, 3])
    const cache: Cache = { k: own(k!), v: own(tf.reshape(v!, [B, S, G, D])) }
    const all: Cache =
      before === undefined ? cache : { k: tf.concat([before.k, cache.k], 2), v: tf.concat([before.v, cache.v], 2) }
    const L = past + S
    const scores = tf.matMul(tf.mul(grouped, D ** -0.5), tf.reshape(all.k, [B * G, L, D]), false, true)
    let weights = scores
    if (S > 1) {
      const mask = Float32Array.from({ length: S * L }, (_, i) => (i % L > past + Math.floor(i / L) ? -1e30 : 0))
      weights = tf.add(tf.reshape(scores, [B * G * R, S, L]), tf.tensor(mask, [1, S, L]))
    }
    const mixed = tf.matMul(tf.reshape(tf.softmax(weights), [B * G, R * S, L]), tf.reshape(all.v, [B * G, L, D]))
    const rows = tf.reshape(tf.transpose(tf.reshape(mixed, [B, G, R, S, D]), [0, 3, 1, 2, 4]), [B * S, G * R * D])
    return { rows, all }
  }
  /** ids [B·S] → normed final states [B·S, C] and the caches. */
  const forward = (ids: Tensor, B: number, S: number, past: number, caches: ReadonlyArray<Cache>) => {
    let x = tf.gather(w.embed, ids)
    const next = w.layers.map((layer, i) => {
      const qkv = tf.fused.matMul({ a: norm(x, layer.norm1), b: layer.qkv, bias: layer.bias })
      const { rows, all } = attention(qkv, B, S, past, caches[i])
      x = tf.add(x, tf.matMul(rows, layer.o))
      const [gate, up] = tf.split(tf.matMul(norm(x, layer.norm2), layer.gateUp), [F, F], 1)
      const activated = tf.mul(tf.mul(gate!, tf.sigmoid(gate!)), up!)
      x = tf.add(x, tf.matMul(activated, layer.down))
      return all
    })
    return { hidden: norm(x, w.norm), caches: next }
  }
  const flat = (prompts: Prompts) => tf.tensor(Int32Array.from(prompts.flat()), [prompts.flat().length], "int32")

  const hidden = async (prompts: Prompts): Promise<Float32Array> => {
    const out = tf.tidy(() => forward(flat(prompts), prompts.length, prompts[0]?.length ?? 0, 0, []).hidden)
    const data = await out.data()
    out.dispose()
    return data instanceof Float32Array ? data : new Float32Array(0)
  }
  const generate = async (prompts: Prompts, count: number): Promise<ReadonlyArray<ReadonlyArray<number>>> => {
    const B = prompts.length
    const tokens: Array<Tensor> = []
    let caches: ReadonlyArray<Cache> = []
    let past = 0
    for (let t = 0; t < count; t++) {
      const S = t === 0 ? (prompts[0]?.length ?? 0) : 1
      const old = caches
      const step = tf.tidy(() => {
        const { hidden, caches: grown } = forward(tokens[t - 1] ?? flat(prompts), B, S, past, old)
        const last = tf.reshape(tf.slice(tf.reshape(hidden, [B, S, C]), [0, S - 1, 0], [B, 1, C]), [B, C])
        for (const { k, v } of grown) {
          tf.keep(k)
          tf.keep(v)
        }
        return { token: tf.keep(tf.argMax(tf.matMul(last, w.head), 1)), grown }
      })
      tokens.push(step.token)
      caches = step.grown
      for (const { k, v } of old) {
        k.dispose()
        v.dispose()
      }
      past += S
    }
    const all = tf.tidy(() => tf.concat(tokens, 0))
    const data = await all.data()
    for (const tensor of [all, ...tokens, ...caches.flatMap(({ k, v }) => [k, v])]) tensor.dispose()
    return prompts.map((_, row) => tokens.map((_, t) => data[t * B + row] ?? -1))
  }
  return { hidden, generate, dispose: w.dispose }
}

export const openTfjs = Effect.gen(function* () {
  const name = "tfjs-backend-webgpu"
  const attempt = <A>(operation: string, run: () => Promise<A> | A): Effect.Effect<A, PeerError> =>
    Effect.tryPromise({
      try: async () => run(),
      catch: (cause) => new PeerError({ side: name, operation, detail: String(cause) })
    })
  const { tf, device } = yield* attempt("load", async () => {
    const device = await provideNavigator()
    const require = createRequire(new URL("../../peers/package.json", import.meta.url))
    const tf: Tf = require("@tensorflow/tfjs-core")
    require("@tensorflow/tfjs-backend-webgpu")
    if (!(await tf.setBackend("webgpu"))) return Promise.reject(new Error("the backend did not start"))
    return { tf, device }
  })

  const chain: Side["chain"] = Effect.fnUntraced(function* ({ layout, m, k, repeats, a, b }) {
    const [x, y] = yield* Effect.acquireRelease(
      attempt("upload", () => [tf.tensor(a, [m, k]), tf.tensor(b, [k, k])] as const),
      (pair) => Effect.sync(() => pair.forEach((t) => void t.dispose()))
    )
    return attempt("matmul", async () => {
      const out = tf.tidy(() => {
        let last = x
        for (let i = 0; i < repeats; i++) last = tf.matMul(last, y, false, layout === "NT")
        return last
      })
      const data = await out.data()
      out.dispose()
      return data instanceof Float32Array ? data : new Float32Array(0)
    })
  })
  const decoder: Side["decoder"] = Effect.fnUntraced(function* (model) {
    const made = yield* Effect.acquireRelease(
      attempt("upload", () => makeDecoder(tf, model)),
      (d) => Effect.sync(() => d.dispose())
    )
    return {
      hidden: (prompts) => attempt("forward", () => made.hidden(prompts)),
      generate: (prompts, count) => attempt("generate", () => made.generate(prompts, count))
    }
  })
  const side: Side = { name, version: tf.version_core, device, notes: [], chain, decoder }
  return side
})
