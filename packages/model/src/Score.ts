/** Log-probabilities and entropies of given tokens, for any number of sequences, packed into passes of bounded size. */

import { Gpu, type GpuError, imagined, makeOps, rehearse } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import { allocBatch, packSequences, type Sequence, uploadBatch } from "./Batch.ts"
import { allocHead, headElements, scoreRows, selectRows } from "./Head.ts"
import { allocLora, type Lora } from "./Lora.ts"
import { ModelError } from "./ModelError.ts"
import { type Decoder, forward } from "./Transformer.ts"
import { allocWorkspace } from "./Workspace.ts"

export interface Scores {
  /** Natural log of the probability of each token that carries loss, in order. */
  readonly logProbs: Float32Array
  /** Entropy of the distribution it was drawn from, nats. */
  readonly entropy: Float32Array
}

export interface Scorer {
  score(
    lora: Lora | null,
    sequences: ReadonlyArray<Sequence>,
    temperature?: number
  ): Effect.Effect<ReadonlyArray<Scores>, GpuError | ModelError>
}

/** A scorer whose passes take at most `capacity` tokens; no sequence may be longer. */
export const makeScorer = (
  decoder: Decoder,
  options: { readonly capacity: number; readonly rank: number }
): Effect.Effect<Scorer, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const ops = makeOps(gpu.info)
    const { config } = decoder
    const room = { capacity: options.capacity, reference: false }
    const head = headElements(config, room)
    const ws = yield* allocWorkspace(config, { capacity: options.capacity, save: false, rank: options.rank, head })
    const hw = yield* allocHead(config, { ...room, scratch: ws.head })
    const buffers = yield* allocBatch(options.capacity)
    const limit = Math.min(options.capacity, decoder.rope.positions)
    const onePass = Effect.fnUntraced(function* (
      lora: Lora | null,
      sequences: ReadonlyArray<Sequence>,
      temperature: number
    ) {
      const packed = packSequences(sequences)
      const empty = (): Scores => ({ logProbs: new Float32Array(0), entropy: new Float32Array(0) })
      if (packed.lossRow.length === 0) return sequences.map(empty)
      const batch = yield* uploadBatch(buffers, packed).pipe(Effect.provideService(Gpu, gpu))
      yield* gpu.submit("score", (tape) => {
        forward(tape, ops, decoder, lora, batch, ws)
        selectRows(tape, ops, config, batch, ws.hidden, hw.selected)
        scoreRows(tape, ops, config, decoder.weights.head, batch, hw, temperature, false)
      })
      const out = yield* gpu.read({ ...hw.scored, length: batch.lossRows * 4 })
      return sequences.map((_, i): Scores => {
        const [from, to] = [packed.lossFirst[i] ?? 0, packed.lossFirst[i + 1] ?? 0]
        const column = (c: number) => Float32Array.from({ length: to - from }, (_, r) => out[(from + r) * 4 + c] ?? 0)
        return { logProbs: column(0), entropy: column(1) }
      })
    })
    const score: Scorer["score"] = Effect.fnUntraced(function* (lora, sequences, temperature = 1) {
      if (!(Number.isFinite(temperature) && temperature > 0)) {
        return yield* ModelError.invalid({
          operation: "score",
          message: `the temperature is ${temperature}; give a number above 0`
        })
      }
      const results: Array<Scores> = []
      let pack: Array<Sequence> = []
      let room = options.capacity
      for (const s of sequences) {
        if (s.ids.length > limit) {
          return yield* ModelError.invalid({
            operation: "score",
            message: `a sequence of ${s.ids.length} tokens exceeds the limit of ${limit}; shorten it`
          })
        }
        for (let t = 0; t < s.ids.length; t++) {
          const id = s.ids[t] ?? -1
          if (!(Number.isInteger(id) && id >= 0 && id < config.vocabSize)) {
            return yield* ModelError.invalid({
              operation: "score",
              message: `token id ${id} is outside the vocabulary of ${config.vocabSize}`
            })
          }
        }
        if (s.ids.length > room) {
          results.push(...(yield* onePass(lora, pack, temperature)))
          pack = []
          room = options.capacity
        }
        pack.push(s)
        room -= s.ids.length
      }
      if (pack.length > 0) results.push(...(yield* onePass(lora, pack, temperature)))
      return results
    })
    // The largest passes there can be: without an adapter and with the widest.
    const full = Math.max(1, Math.min(limit, options.capacity))
    const largest = Array.from({ length: Math.ceil(options.capacity / full) }, (_, i) => ({
      ids: new Array<number>(Math.min(full, options.capacity - i * full)).fill(0),
      loss: () => true
    }))
    yield* rehearse(
      Effect.gen(function* () {
        yield* score(null, largest)
        if (options.rank > 0)
          yield* score(yield* imagined(allocLora(config, { rank: options.rank, alpha: 1 })), largest)
      }).pipe(
        Effect.scoped,
        Effect.catchTag("ModelError", () => Effect.void)
      )
    )
    return { score }
  })
