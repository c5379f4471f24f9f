/**
 * Batched sampling with a key-value cache. Prompts are prefilled packed, then all rows decode together; tokens stay on the
 * device and only the end is looked at every few steps, when finished rows leave the batch.
 *
 * A sequence's tokens follow from (seed, its stream, its positions), not from its neighbours. The log-probability of a
 * token is taken under the full softmax at the sampling temperature, as the trainer takes it.
 */

import { Gpu, type GpuError, makeOps, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import { allocBatch, type Batch } from "./Batch.ts"
import type { Lora } from "./Lora.ts"
import { ModelError } from "./ModelError.ts"
import { type Decoder, forward, type KeyValueStore } from "./Transformer.ts"
import { allocWorkspace } from "./Workspace.ts"

export interface SamplingOptions {
  /** 0 is greedy. */
  readonly temperature: number
  /** Mass of the nucleus, in (0, 1]; 1 keeps the whole vocabulary. */
  readonly topP: number
  /** Most tokens of a response, the end token included. */
  readonly maxTokens: number
  readonly seed: number
}

export interface GenerationRequest {
  readonly ids: ReadonlyArray<number>
  /** Distinguishes samples of one prompt under one seed. */
  readonly stream: number
}

export interface Generation {
  /** Response tokens, the end token included when it was met. */
  readonly ids: ReadonlyArray<number>
  readonly logProbs: ReadonlyArray<number>
  /** True when the length ended the response. */
  readonly truncated: boolean
}

export interface GeneratorOptions {
  /** Sequences decoded at once. */
  readonly slots: number
  /** Tokens a slot's cache holds, prompt and response together. */
  readonly capacity: number
  /** Tokens a prefill pass takes at most; no prompt may be longer. */
  readonly prefill: number
  readonly rank: number
}

export interface Generator {
  readonly options: GeneratorOptions
  generate(
    lora: Lora | null,
    requests: ReadonlyArray<GenerationRequest>,
    sampling: SamplingOptions,
    onWave?: (done: number, total: number) => Effect.Effect<void>
  ): Effect.Effect<ReadonlyArray<Generation>, GpuError | ModelError>
}

/** Why these options cannot be sampled with, if so. */
const unusable = ({ temperature, topP, maxTokens }: SamplingOptions): string | undefined => {
  if (!Number.isInteger(maxTokens) || maxTokens < 1)
    return `maxTokens is ${maxTokens}; it must be an integer of at least 1`
  if (!Number.isFinite(temperature) || temperature < 0)
    return `temperature is ${temperature}; it must be 0 (greedy) or more`
  if (!(topP > 0 && topP <= 1)) return `topP is ${topP}; it must lie in (0, 1]`
  return undefined
}

/** Decode steps between two looks at the tokens. */
const checkEvery = 8

export const makeGenerator = (
  decoder: Decoder,
  options: GeneratorOptions
): Effect.Effect<Generator, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const ops = makeOps(gpu.info)
    const { config } = decoder
    const { slots, capacity } = options
    const rows = Math.max(options.prefill, slots)
    const ws = yield* allocWorkspace(config, { capacity: rows, save: false, rank: options.rank })
    const buffers = yield* allocBatch(rows)
    const kv = config.numKeyValueHeads * config.headDim
    const cache: Array<KeyValueStore> = []
    for (let i = 0; i < config.numLayers; i++) {
      cache.push({
        k: yield* gpu.alloc(`cache.${i}.k`, "f32", slots * capacity * kv),
        v: yield* gpu.alloc(`cache.${i}.v`, "f32", slots * capacity * kv)
      })
    }
    const f32 = (label: string, length: number) => gpu.alloc(`generate.${label}`, "f32", length)
    const u32 = (label: string, length: number) => gpu.alloc(`generate.${label}`, "u32", length)
    const lastRow = yield* u32("last_row", slots)
    const states = yield* f32("states", slots * config.hiddenSize)
    const gathered = yield* f32("gathered", slots * config.hiddenSize)
    const logits = yield* f32("logits", slots * config.vocabSize)
    const sampled = yield* f32("sampled", 2 * slots)
    const stream = yield* u32("stream", slots)
    const slotOf = yield* u32("slot", slots)
    const token = yield* u32("token", slots)
    const history = yield* u32("history", slots * capacity)
    const historyLogp = yield* f32("history_logp", slots * capacity)
    const endToken = config.eosTokenIds[0] ?? 0xffffffff
    const ends = new Set(config.eosTokenIds)

    /** What the host knows of a running row. */
    interface Row {
      readonly slot: number
      readonly request: GenerationRequest
    }

    /** Writes the rows' state as after `step` sampled tokens, the last of which is not yet in the cache. */
    const uploadRows = Effect.fnUntraced(function* (
      active: ReadonlyArray<Row>,
      step: number,
      tokens: Uint32Array | null
    ) {
      const column = (f: (row: Row, i: number) => number): Uint32Array<ArrayBuffer> => Uint32Array.from(active, f)
      const length = (row: Row): number => row.request.ids.length + step - 1
      yield* gpu.write(buffers.position, column(length))
      yield* gpu.write(
        buffers.kvRow,
        column((r) => r.slot * capacity + length(r))
      )
      yield* gpu.write(
        buffers.kvStart,
        column((r) => r.slot * capacity)
      )
      yield* gpu.write(
        buffers.kvEnd,
        column((r) => r.slot * capacity + length(r) + 1)
      )
      yield* gpu.write(
        slotOf,
        column((r) => r.slot)
      )
      yield* gpu.write(
        stream,
        column((r) => r.request.stream)
      )
      if (tokens !== null)
        yield* gpu.write(
          token,
          column((_, i) => tokens[i] ?? 0)
        )
    })

    const prefill = Effect.fnUntraced(function* (lora: Lora | null, wave: ReadonlyArray<Row>) {
      let from = 0
      while (from < wave.length) {
        let to = from
        let count = 0
        while (to < wave.length && count + (wave[to]?.request.ids.length ?? 0) <= options.prefill)
          count += wave[to++]?.request.ids.length ?? 0
        const part = wave.slice(from, to)
        const fill = (f: (row: Row, t: number) => number): Uint32Array<ArrayBuffer> =>
          Uint32Array.from(part.flatMap((row) => row.request.ids.map((_, t) => f(row, t))))
        yield* gpu.write(
          buffers.ids,
          fill((r, t) => r.request.ids[t] ?? 0)
        )
        yield* gpu.write(
          buffers.position,
          fill((_, t) => t)
        )
        yield* gpu.write(
          buffers.kvRow,
          fill((r, t) => r.slot * capacity + t)
        )
        yield* gpu.write(
          buffers.kvStart,
          fill((r) => r.slot * capacity)
        )
        yield* gpu.write(
          buffers.kvEnd,
          fill((r, t) => r.slot * capacity + t + 1)
        )
        let at = 0
        const last = Uint32Array.from(part, (row) => (at += row.request.ids.length) - 1)
        yield* gpu.write(lastRow, last)
        const batch: Batch = { ...buffers, rows: count, lossRows: 0 }
        const [start, C] = [from, config.hiddenSize]
        // The states of this part go behind those of earlier parts; a window of `states` may start where no binding can.
        yield* gpu.submit("prefill", (tape) => {
          forward(tape, ops, decoder, lora, batch, ws, cache)
          ops.gatherRows(tape, { table: ws.hidden, id: lastRow, out: gathered, rows: part.length, dim: C })
          tape.copy(
            { ...gathered, length: part.length * C },
            { ...states, offset: states.offset + start * C, length: part.length * C }
          )
        })
        from = to
      }
    })

    const sample = (
      tape: import("@srcode/gpu").Tape,
      from: Tensor<"f32">,
      active: number,
      step: number,
      sampling: SamplingOptions
    ): void => {
      ops.matmulNT(tape, {
        a: from,
        b: decoder.weights.head,
        out: logits,
        m: active,
        n: config.vocabSize,
        k: config.hiddenSize
      })
      ops.sampleTopP(tape, {
        logits,
        stream,
        position: buffers.position,
        token,
        out: sampled,
        rows: active,
        vocab: config.vocabSize,
        temperature: sampling.temperature,
        topP: sampling.topP,
        seed: sampling.seed
      })
      ops.decodeAdvance(tape, {
        token,
        sampled,
        slot: slotOf,
        position: buffers.position,
        kvRow: buffers.kvRow,
        kvEnd: buffers.kvEnd,
        history,
        historyLogp,
        rows: active,
        capacity,
        step,
        endToken
      })
    }

    /** Slots that met an end token other than the first, which alone makes the device hold the row still. */
    const endedRows = Effect.fnUntraced(function* (active: ReadonlyArray<Row>, step: number) {
      if (ends.size < 2 || step < 2) return new Set<number>()
      const all = yield* gpu.read(history)
      const recent = ({ slot }: Row) =>
        all.subarray(slot * capacity + Math.max(0, step - checkEvery), slot * capacity + step)
      return new Set(active.filter((row) => recent(row).some((id) => ends.has(id))).map((row) => row.slot))
    })

    const runWave = Effect.fnUntraced(function* (
      lora: Lora | null,
      requests: ReadonlyArray<GenerationRequest>,
      sampling: SamplingOptions
    ) {
      const wave = requests.map((request, slot): Row => ({ slot, request }))
      yield* prefill(lora, wave)
      yield* uploadRows(wave, 0, null)
      yield* gpu.submit("first token", (tape) => sample(tape, states, wave.length, 0, sampling))
      let active: ReadonlyArray<Row> = wave
      let step = 1
      while (step < sampling.maxTokens) {
        const tokens = yield* gpu.read({ ...token, length: active.length })
        const ended = yield* endedRows(active, step)
        const running = active
          .map((row, i) => ({ row, token: tokens[i] ?? 0 }))
          .filter((r) => !ends.has(r.token) && !ended.has(r.row.slot))
        if (running.length === 0) break
        if (running.length < active.length) {
          active = running.map((r) => r.row)
          yield* uploadRows(
            active,
            step,
            Uint32Array.from(running, (r) => r.token)
          )
        }
        const until = Math.min(sampling.maxTokens, step + checkEvery)
        const batch: Batch = { ...buffers, ids: token, rows: active.length, lossRows: 0 }
        const first = step
        yield* gpu.submit("decode", (tape) => {
          for (let s = first; s < until; s++) {
            forward(tape, ops, decoder, lora, batch, ws, cache)
            sample(tape, ws.hidden, active.length, s, sampling)
          }
        })
        step = until
      }
      const [ids, logProbs] = [
        yield* gpu.read({ ...history, length: wave.length * capacity }),
        yield* gpu.read({ ...historyLogp, length: wave.length * capacity })
      ]
      return wave.map(({ slot }): Generation => {
        const own = ids.subarray(slot * capacity, slot * capacity + sampling.maxTokens)
        const end = own.findIndex((id) => ends.has(id))
        const length = end < 0 ? sampling.maxTokens : end + 1
        return {
          ids: [...own.subarray(0, length)],
          logProbs: [...logProbs.subarray(slot * capacity, slot * capacity + length)],
          truncated: end < 0
        }
      })
    })

    const generate: Generator["generate"] = Effect.fnUntraced(function* (lora, requests, sampling, onWave) {
      const wrong = unusable(sampling)
      if (wrong !== undefined) return yield* ModelError.invalid({ operation: "generate", message: wrong })
      for (const { ids } of requests) {
        const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= config.vocabSize)
        if (ids.length === 0 || bad !== undefined) {
          return yield* ModelError.invalid({
            operation: "generate",
            message:
              ids.length === 0
                ? "a prompt is empty; give at least one token"
                : `token id ${bad} is outside the vocabulary of ${config.vocabSize}`
          })
        }
        if (ids.length > options.prefill) {
          return yield* ModelError.invalid({
            operation: "generate",
            message: `a prompt of ${ids.length} tokens exceeds the ${options.prefill} of a prefill pass; shorten it`
          })
        }
        if (ids.length + sampling.maxTokens > capacity || ids.length + sampling.maxTokens > decoder.rope.positions) {
          return yield* ModelError.invalid({
            operation: "generate",
            message: `a prompt of ${ids.length} tokens with ${sampling.maxTokens} new ones exceeds the cache of ${Math.min(capacity, decoder.rope.positions)} tokens; shorten it or lower the maximum`
          })
        }
      }
      const out: Array<Generation> = []
      for (let at = 0; at < requests.length; at += slots) {
        out.push(...(yield* runWave(lora, requests.slice(at, at + slots), sampling)))
        if (onWave) yield* onWave(out.length, requests.length)
      }
      return out
    })
    return {
      options,
      generate: (lora, requests, sampling, onWave) => generate(lora, requests, sampling, onWave)
    }
  })
