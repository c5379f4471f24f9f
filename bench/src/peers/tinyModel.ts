/** Random tiny models and matrices, from a small seeded generator that is quick for millions of values. */
import type { TinyModel, TinyShape } from "./Peer.ts"

/** A seeded stream of uniforms in [-1, 1) (a 32-bit mixing counter). */
export const noise = (seed: number): (() => number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 31 - 1
  }
}

/** `length` values of standard deviation `std` around `mean`. */
export const randomArray = (length: number, seed: number, std: number, mean = 0): Float32Array<ArrayBuffer> => {
  const next = noise(seed)
  const scale = std * Math.sqrt(3)
  return Float32Array.from({ length }, () => mean + scale * next())
}

/** Weights that keep activations near one, so that greedy choices are far apart and errors would show. */
export const randomModel = (shape: TinyShape, seed: number): TinyModel => {
  const tensors = new Map<string, Float32Array<ArrayBuffer>>()
  let salt = seed * 1009
  const add = (name: string, length: number, std: number, mean = 0) =>
    tensors.set(name, randomArray(length, ++salt, std, mean))
  const matrix = (name: string, out: number, into: number) => add(`${name}.weight`, out * into, 1 / Math.sqrt(into))
  const [C, Q, KV, F] = [shape.hidden, shape.heads * shape.headDim, shape.kvHeads * shape.headDim, shape.intermediate]
  add("model.embed_tokens.weight", shape.vocab * C, 1)
  for (let i = 0; i < shape.layers; i++) {
    const at = `model.layers.${i}`
    add(`${at}.input_layernorm.weight`, C, 0.1, 1)
    for (const [kind, size] of [
      ["q", Q],
      ["k", KV],
      ["v", KV]
    ] as const) {
      matrix(`${at}.self_attn.${kind}_proj`, size, C)
      add(`${at}.self_attn.${kind}_proj.bias`, size, 0.1)
    }
    matrix(`${at}.self_attn.o_proj`, C, Q)
    add(`${at}.post_attention_layernorm.weight`, C, 0.1, 1)
    matrix(`${at}.mlp.gate_proj`, F, C)
    matrix(`${at}.mlp.up_proj`, F, C)
    matrix(`${at}.mlp.down_proj`, C, F)
  }
  add("model.norm.weight", C, 0.1, 1)
  matrix("lm_head", shape.vocab, C)
  return { shape, tensors }
}
