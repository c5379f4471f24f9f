/**
 * What a side of the comparison can do: chained matrix products and the decoder of a tiny Qwen2 model. All sides get the same
 * numbers, so their results can be held against each other before anything is timed.
 */
import { type Effect, Schema, type Scope } from "effect"

export class PeerError extends Schema.TaggedError<PeerError>()("PeerError", {
  side: Schema.String,
  operation: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.side}: ${this.operation} failed: ${this.detail.split("\n")[0]}`
  }
}

/** `repeats` times x ← x·b (NN, b [k, k]) or x ← x·bᵀ (NT), starting from a [m, k]; the result is read back. */
export interface Chain {
  readonly layout: "NN" | "NT"
  readonly m: number
  readonly k: number
  readonly repeats: number
  readonly a: Float32Array<ArrayBuffer>
  readonly b: Float32Array<ArrayBuffer>
}

/** Sizes of a Qwen2 model: q/k/v bias, a head of its own, one sequence length for all rows of a batch. */
export interface TinyShape {
  readonly layers: number
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly vocab: number
  readonly maxPositions: number
  readonly eps: number
  readonly theta: number
}

/** Weights by their Hugging Face names, row-major [out, in]. */
export interface TinyModel {
  readonly shape: TinyShape
  readonly tensors: ReadonlyMap<string, Float32Array<ArrayBuffer>>
}

/** Token ids of a batch, all rows of one length. */
export type Prompts = ReadonlyArray<ReadonlyArray<number>>

export interface SideDecoder {
  /** Embedding, layers and final norm: [batch · length, hidden], read back. */
  hidden(prompts: Prompts): Effect.Effect<Float32Array, PeerError>
  /** Greedy tokens of each row after its prompt, with a key-value cache. */
  generate(prompts: Prompts, count: number): Effect.Effect<ReadonlyArray<ReadonlyArray<number>>, PeerError>
}

export interface Side {
  readonly name: string
  readonly version: string
  /** The adapter as the side names it. */
  readonly device: string
  /** What a reader of its figures should know; grows while cases run. */
  readonly notes: ReadonlyArray<string>
  chain(chain: Chain): Effect.Effect<Effect.Effect<Float32Array, PeerError>, PeerError, Scope.Scope>
  decoder(model: TinyModel, use: "hidden" | "generate"): Effect.Effect<SideDecoder, PeerError, Scope.Scope>
}

/** The tensor of a model by name; a missing one is a mistake of the benchmark itself. */
export const tensorOf = (model: TinyModel, name: string): Float32Array<ArrayBuffer> =>
  model.tensors.get(name) ?? new Float32Array(0)

/** [rows, cols] → [cols, rows]. */
export const transpose = (x: Float32Array, rows: number, cols: number): Float32Array<ArrayBuffer> => {
  const out = new Float32Array(x.length)
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[c * rows + r] = x[r * cols + c] ?? 0
  return out
}

/** Matrices under each other: [r1, c], [r2, c], … → [r1 + r2 + …, c]; biases likewise. */
export const stack = (...parts: ReadonlyArray<Float32Array>): Float32Array<ArrayBuffer> => {
  const out = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** cos and sin of position · θ^(-2i/D): [positions, D/2] each. */
export const rotary = (shape: TinyShape) => {
  const half = shape.headDim / 2
  const angle = (i: number) => Math.floor(i / half) * shape.theta ** ((-2 * (i % half)) / shape.headDim)
  const length = shape.maxPositions * half
  return {
    half,
    cosine: Float32Array.from({ length }, (_, i) => Math.cos(angle(i))),
    sine: Float32Array.from({ length }, (_, i) => Math.sin(angle(i)))
  }
}

/** Index of the largest of `length` values from `from`; the first among equals. */
export const argmax = (values: Float32Array, from: number, length: number): number => {
  let best = 0
  for (let i = 1; i < length; i++) if ((values[from + i] ?? 0) > (values[from + best] ?? 0)) best = i
  return best
}
