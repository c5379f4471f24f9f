/**
 * The engine's device side: its buffers, and the two things it does with them, a pass over prompt rows and a burst of
 * decode steps.
 *
 * `blocks` [burstSteps + 1, 3, stride] holds a burst's tokens: block 0 is what the first step feeds, block s + 1 is what step s
 * draws (tokens, log-probabilities, kept masses) and step s + 1 feeds. Positions and cache rows of all steps are
 * known beforehand and uploaded once a burst, so no kernel has to move rows on.
 */

import {
  alignElements,
  Gpu,
  imagined,
  type Ops,
  type Program,
  rehearse,
  sampleSettings,
  type Tape,
  type Tensor,
  window
} from "@srcode/gpu"
import { Effect } from "effect"
import { allocBatch, type Batch } from "../Batch.ts"
import type { EngineOptions } from "../Engine.ts"
import { allocLora, type Lora } from "../Lora.ts"
import { allocPagedCache } from "../PagedCache.ts"
import { pagesFor } from "../PagePool.ts"
import { type SamplingParams, samplingDefaults, settingsOf } from "../Sampling.ts"
import { burstSteps, type Job, type PrefillPass } from "../Scheduler.ts"
import { type Decoder, forward } from "../Transformer.ts"
import { allocWorkspace } from "../Workspace.ts"

interface Drawn {
  readonly ids: ReadonlyArray<number>
  readonly logProbs: ReadonlyArray<number>
}

/** How one row's token is drawn. */
interface Draw {
  readonly sampling: SamplingParams
  readonly stream: number
}

/** One decoding sequence in a burst. */
interface BurstRow extends Draw {
  readonly slot: number
  /** The token that the first step feeds. */
  readonly last: number
  /** By step. */
  readonly position: ReadonlyArray<number>
  readonly kvRow: ReadonlyArray<number>
}

/** Elements that the logits of one sampling pass may take at most (64 MiB), unless 64 rows need more. */
const defaultLogitsBudget = 1 << 24

/** Recorded bursts that are kept: a few adapters, or a few counts of rows. */
const programsKept = 4

export const makeEngineDevice = Effect.fnUntraced(function* (
  decoder: Decoder,
  ops: Ops,
  options: EngineOptions & { readonly pages: number },
  logitsBudget = defaultLogitsBudget
) {
  const gpu = yield* Gpu
  const { config } = decoder
  const [C, vocab] = [config.hiddenSize, config.vocabSize]
  const stride = alignElements(options.maxSequences)
  const rows = Math.max(options.prefillTokens, options.maxSequences)
  const ws = yield* allocWorkspace(config, { capacity: rows, save: false, rank: options.rank })
  const cache = yield* allocPagedCache(config, {
    slots: options.maxSequences,
    maxPages: pagesFor(options.maxTokens),
    pages: options.pages
  })
  const u32 = (label: string, length: number) => gpu.alloc(`engine.${label}`, "u32", length)
  const f32 = (label: string, length: number) => gpu.alloc(`engine.${label}`, "f32", length)
  const buffers = yield* allocBatch(rows)
  const slot = yield* u32("slot", rows)
  const lastRow = yield* u32("last_row", stride)
  const settings = yield* u32("settings", stride * sampleSettings)
  const positions = yield* u32("positions", burstSteps * stride)
  const kvRows = yield* u32("kv_rows", burstSteps * stride)
  const blocks = yield* u32("tokens", (burstSteps + 1) * 3 * stride)
  const states = yield* f32("states", stride * C)
  const logitRows = Math.max(64, Math.min(stride, Math.floor(logitsBudget / vocab / 64) * 64))
  const logits = yield* f32("logits", logitRows * vocab)
  const block = (index: number): Tensor<"u32"> => window(blocks, index * 3 * stride, 3 * stride)

  /** Draws a token for each of `count` rows of `from` into block `to`; `step` picks the positions. */
  const draw = (tape: Tape, from: Tensor<"f32">, count: number, step: number, to: number): void => {
    for (let at = 0; at < count; at += logitRows) {
      const m = Math.min(logitRows, count - at)
      const product = { b: decoder.weights.head, out: logits, m, n: vocab, k: C, capacity: options.maxSequences }
      ops.matmulNT(tape, { a: window(from, at * C, m * C), ...product })
      ops.sample(tape, {
        logits,
        settings: window(settings, at * sampleSettings, m * sampleSettings),
        position: window(positions, step * stride + at, m),
        out: window(blocks, to * 3 * stride + at, 3 * stride - at),
        rows: m,
        vocab,
        stride
      })
    }
  }

  /** What the blocks from 1 on hold for `count` rows. */
  const readDrawn = Effect.fnUntraced(function* (count: number, steps: number) {
    const words = yield* gpu.read(window(blocks, 3 * stride, steps * 3 * stride))
    const floats = new Float32Array(words.buffer)
    const column = (from: ArrayLike<number>, part: number, row: number): ReadonlyArray<number> =>
      Array.from({ length: steps }, (_, s) => from[(s * 3 + part) * stride + row] ?? 0)
    return Array.from(
      { length: count },
      (_, row): Drawn => ({
        ids: column(words, 0, row),
        logProbs: column(floats, 1, row)
      })
    )
  })

  /** Bursts that were recorded, the one used last at the end. Most have as many rows as there may be. */
  const programs: Array<Program & { readonly lora: Lora | null; readonly rows: number; readonly steps: number }> = []

  /** All that differs between two bursts of this shape stands in buffers. */
  const programOf = (lora: Lora | null, rows: number, steps: number): Program => {
    const at = programs.findIndex((p) => p.lora === lora && p.rows === rows && p.steps === steps)
    const [known] = at < 0 ? [] : programs.splice(at, 1)
    const program = known ?? { label: "decode", lora, rows, steps, record: recordBurst(lora, rows, steps) }
    programs.push(program)
    if (programs.length > programsKept) programs.shift()
    return program
  }

  const recordBurst = (lora: Lora | null, rows: number, steps: number) => (tape: Tape) => {
    for (let s = 0; s < steps; s++) {
      const at = (tensor: Tensor<"u32">) => window(tensor, s * stride, stride)
      const step = { ids: block(s), position: at(positions), kvRow: at(kvRows), mostRows: options.maxSequences }
      forward(tape, ops, decoder, lora, { ...buffers, ...step, rows, lossRows: 0 }, ws, { ...cache, slot })
      draw(tape, ws.hidden, rows, s, s + 1)
    }
  }

  const device = {
    /** Puts a sequence's pages into the page table. */
    admit: (row: number, pages: ReadonlyArray<number>) =>
      gpu.write(window(cache.pageTable, row * cache.maxPages, cache.maxPages), Uint32Array.from(pages)),
    /** Computes prompt rows; for each of `complete` (rows whose prompt ends) the first token is drawn. */
    prefill: Effect.fnUntraced(function* (
      pass: PrefillPass<Job>,
      complete: ReadonlyArray<Draw & { readonly row: number }>
    ) {
      yield* gpu.write(buffers.ids, Uint32Array.from(pass.ids))
      yield* gpu.write(buffers.position, Uint32Array.from(pass.position))
      yield* gpu.write(buffers.kvRow, Uint32Array.from(pass.kvRow))
      yield* gpu.write(slot, Uint32Array.from(pass.slot))
      const count = complete.length
      if (count > 0) {
        yield* gpu.write(
          lastRow,
          Uint32Array.from(complete, ({ row }) => row)
        )
        yield* gpu.write(
          positions,
          Uint32Array.from(complete, ({ row }) => pass.position[row] ?? 0)
        )
        yield* gpu.write(settings, settingsOf(complete))
      }
      const batch: Batch = { ...buffers, rows: pass.ids.length, lossRows: 0 }
      yield* gpu.submit("prefill", (tape) => {
        forward(tape, ops, decoder, pass.lora, batch, ws, { ...cache, slot })
        if (count === 0) return
        ops.gatherRows(tape, { table: ws.hidden, id: lastRow, out: states, rows: count, dim: C })
        draw(tape, states, count, 0, 1)
      })
      return count > 0 ? yield* readDrawn(count, 1) : []
    }),
    /** Decodes `steps` tokens for each row and reads them back. */
    burst: Effect.fnUntraced(function* (lora: Lora | null, burst: ReadonlyArray<BurstRow>, steps: number) {
      const byStep = (f: (row: BurstRow, step: number) => number): Uint32Array<ArrayBuffer> => {
        const out = new Uint32Array(steps * stride)
        for (let s = 0; s < steps; s++) {
          for (let i = 0; i < burst.length; i++) {
            const row = burst[i]
            if (row !== undefined) out[s * stride + i] = f(row, s)
          }
        }
        return out
      }
      yield* gpu.write(
        blocks,
        Uint32Array.from(burst, ({ last }) => last)
      )
      yield* gpu.write(
        slot,
        Uint32Array.from(burst, (row) => row.slot)
      )
      yield* gpu.write(
        positions,
        byStep((row, s) => row.position[s] ?? 0)
      )
      yield* gpu.write(
        kvRows,
        byStep((row, s) => row.kvRow[s] ?? 0)
      )
      yield* gpu.write(settings, settingsOf(burst))
      yield* gpu.run(programOf(lora, burst.length, steps))
      return yield* readDrawn(burst.length, steps)
    })
  }
  // The largest passes there can be: without an adapter and with the widest.
  const draws = { sampling: { ...samplingDefaults, maxTokens: 1 }, stream: 0 }
  const rehearsal = Effect.fnUntraced(function* (lora: Lora | null) {
    const none = new Array<number>(options.prefillTokens).fill(0)
    const complete = Array.from({ length: Math.min(options.maxSequences, none.length) }, (_, row) => ({
      ...draws,
      row
    }))
    yield* device.prefill({ lora, ids: none, position: none, kvRow: none, slot: none, complete: [] }, complete)
    const one = { ...draws, slot: 0, last: 0, position: [0], kvRow: [0] }
    yield* device.burst(lora, new Array<typeof one>(options.maxSequences).fill(one), 1)
  })
  yield* rehearse(
    Effect.gen(function* () {
      yield* rehearsal(null)
      if (options.rank > 0) yield* rehearsal(yield* imagined(allocLora(config, { rank: options.rank, alpha: 1 })))
    }).pipe(Effect.scoped)
  )
  return device
})
