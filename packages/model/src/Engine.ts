/**
 * The generation engine: sequences of all kinds decode together over a paged key-value cache, join and leave between
 * bursts of steps, and share the pages of equal beginnings.
 *
 * One fiber owns the device's buffers. It lets waiting sequences in, runs a chunk of prompts, then a burst of `burstSteps`
 * decode steps for each adapter, and reads the burst's tokens with one small copy; in between tokens stay on the device. Who runs is decided
 * by Scheduler.ts.
 *
 * A sequence's tokens and log-probabilities follow from its request alone, to the bit: every kernel computes a row from
 * that row only, so neighbours, chunks, pages and shared beginnings change nothing. Rows are packed, so there is no
 * padding on either side. The log-probability of a token is taken under the full softmax at the request's temperature
 * (at 1 for greedy), as the trainer's scorer takes it.
 */

import { Gpu, type GpuError, makeOps } from "@srcode/gpu"
import { Cause, Effect, Latch, Queue, type Scope, Stream } from "effect"
import { makeEngineDevice } from "./internal/engine-device.ts"
import type { Lora } from "./Lora.ts"
import { ModelError } from "./ModelError.ts"
import { largestPageCount } from "./PagedCache.ts"
import { pagesFor } from "./PagePool.ts"
import { type SamplingParams, unusableSampling } from "./Sampling.ts"
import { burstSteps, decodeRows, type Job, makeScheduler, type Sequence } from "./Scheduler.ts"
import type { Decoder } from "./Transformer.ts"

export interface SequenceRequest {
  /** The prompt, at least one token. */
  readonly ids: ReadonlyArray<number>
  /** Distinguishes samples of one prompt under one seed. */
  readonly stream: number
  readonly lora: Lora | null
  readonly sampling: SamplingParams
  /** Tokens that end the sequence besides the model's own end tokens. */
  readonly stopIds?: ReadonlyArray<number>
  /**
   * Asked after each burst with all tokens so far; a number ends the sequence and says how many of them to keep. Tokens that
   * were handed out before stay out: the number then counts as what had been handed out.
   */
  readonly shouldStop?: (ids: ReadonlyArray<number>) => number | undefined
}

/** Tokens in the order they came; `finish` is set on a sequence's last chunk. A stop token is the last of its chunk. */
export interface TokenChunk {
  readonly ids: ReadonlyArray<number>
  readonly logProbs: ReadonlyArray<number>
  readonly finish: null | "stop" | "length"
}

export interface Generation {
  /** Response tokens, the end token included when it was met. */
  readonly ids: ReadonlyArray<number>
  readonly logProbs: ReadonlyArray<number>
  /** True when the length ended the response. */
  readonly truncated: boolean
}

export interface EngineOptions {
  /** Sequences decoded at once. */
  readonly maxSequences: number
  /** Tokens a sequence may have, prompt and response together. */
  readonly maxTokens: number
  /** Prompt tokens computed in one chunk at most; longer prompts take several. */
  readonly prefillTokens: number
  /** Largest rank of an adapter. */
  readonly rank: number
  /** Pages of the cache; default: enough for all sequences at full length, as far as the device's buffers reach. */
  readonly pages?: number
}

export interface EngineStats {
  readonly running: number
  readonly waiting: number
  readonly pagesUsed: number
  /** Pages kept for their content only. */
  readonly pagesRetained: number
  readonly pagesTotal: number
  /** Sums since the start. */
  readonly tokensGenerated: number
  readonly promptTokens: number
  readonly prefixTokensReused: number
}

export interface Engine {
  readonly limits: {
    readonly maxSequences: number
    /** Prompt and response together. */
    readonly maxTokens: number
  }
  /**
   * Joins the running batch; tokens arrive in bursts. Ending the stream early cancels the sequence and frees its pages. A slow
   * consumer holds up nobody: what waits for it is bounded by the request's maxTokens.
   */
  sample(request: SequenceRequest): Stream.Stream<TokenChunk, GpuError | ModelError>
  /** All requests to their end, in their order; `onProgress` hears of finished ones. */
  generate(
    requests: ReadonlyArray<SequenceRequest>,
    onProgress?: (done: number, total: number) => Effect.Effect<void>
  ): Effect.Effect<ReadonlyArray<Generation>, GpuError | ModelError>
  /** Drops all known beginnings: to be called when the weights of the model or of an adapter have changed in place. */
  readonly forgetPrefixes: Effect.Effect<void>
  readonly stats: Effect.Effect<EngineStats>
}

/**
 * Chunks of prompts between two bursts at most. More than one only while fewer sequences decode than still read their
 * prompts: bursts of few rows use a device badly, and those who decode wait for a bounded time.
 */
const patience = 4

interface EngineJob extends Job {
  readonly request: SequenceRequest
  readonly ends: ReadonlySet<number>
  readonly chunk: (chunk: TokenChunk) => void
  readonly fail: (cause: Cause.Cause<GpuError | ModelError>) => void
}

const invalid = (message: string): ModelError => ModelError.invalid({ operation: "generate", message })

export const makeEngine = Effect.fn("Engine.make")(function* (
  decoder: Decoder,
  options: EngineOptions
): Effect.fn.Return<Engine, GpuError | ModelError, Gpu | Scope.Scope> {
  const gpu = yield* Gpu
  const { config } = decoder
  const { maxSequences, prefillTokens } = options
  for (const name of ["maxSequences", "maxTokens", "prefillTokens"] as const) {
    const value = options[name]
    if (!Number.isInteger(value) || value < 1)
      return yield* invalid(`the engine's ${name} is ${value}; it must be an integer of at least 1`)
  }
  const wanted = Math.min(options.maxTokens, decoder.rope.positions)
  const pages = Math.min(options.pages ?? maxSequences * pagesFor(wanted), largestPageCount(config, gpu.info))
  // The last token is never fed: a sequence of n tokens fills n - 1 rows.
  const maxTokens = Math.min(wanted, pagesFor(pages * 16) * 16)
  const limits = { maxSequences, maxTokens }
  const device = yield* makeEngineDevice(decoder, makeOps(gpu.info), { ...options, maxTokens, pages })
  // Hardware decodes with kernels for few rows: a response's pages differ from a prompt's in the last bits, and what a sequence says must
  // not hang on whether another has said it before.
  const scheduler = makeScheduler<EngineJob>({ slots: maxSequences, pages, shareResponses: gpu.info.software })
  const work = yield* Latch.make(false)
  const live = new Set<Sequence<EngineJob>>()
  const total = { tokensGenerated: 0, promptTokens: 0, prefixTokensReused: 0 }

  const end = (sequence: Sequence<EngineJob>): void => {
    live.delete(sequence)
    scheduler.end(sequence)
  }

  const failAll = (cause: Cause.Cause<GpuError | ModelError>): void => {
    const failed = [...live]
    failed.forEach(end)
    // What half-done passes have written is not to be trusted.
    scheduler.forget()
    for (const { job } of failed) job.fail(cause)
  }

  /** Hands on what a sequence has drawn, up to its end. */
  const accept = Effect.fnUntraced(function* (
    sequence: Sequence<EngineJob>,
    drawn: { readonly ids: ReadonlyArray<number>; readonly logProbs: ReadonlyArray<number> }
  ) {
    const { job, tokens } = sequence
    if (sequence.state === "done") return
    const before = tokens.length
    const stop = drawn.ids.findIndex((id) => job.ends.has(id))
    const room = Math.min(drawn.ids.length, job.maxTokens - before)
    let count = stop >= 0 ? Math.min(stop + 1, room) : room
    let finish: TokenChunk["finish"] =
      stop >= 0 && stop < count ? "stop" : before + count === job.maxTokens ? "length" : null
    const { shouldStop } = job.request
    if (shouldStop !== undefined) {
      const all = [...tokens, ...drawn.ids.slice(0, count)]
      const keep = yield* Effect.try({
        try: () => shouldStop(all),
        catch: (cause) => invalid(`shouldStop failed: ${String(cause)}`)
      }).pipe(
        Effect.catch((error) => {
          end(sequence)
          job.fail(Cause.fail(error))
          return Effect.succeed(null)
        })
      )
      if (keep === null) return
      if (keep !== undefined) {
        count = Math.max(0, Math.min(count, keep - before))
        finish = "stop"
      }
    }
    scheduler.push(sequence, drawn.ids.slice(0, count))
    total.tokensGenerated += count
    if (finish !== null) end(sequence)
    job.chunk({ ids: drawn.ids.slice(0, count), logProbs: drawn.logProbs.slice(0, count), finish })
  })

  /** Lets newcomers in and computes a chunk of prompts; false where there is none to compute. */
  const prefill = Effect.fnUntraced(function* () {
    for (const sequence of scheduler.admit()) yield* device.admit(sequence.slot, sequence.pages)
    const passes = scheduler.prefill(prefillTokens)
    for (const pass of passes) {
      const drawn = yield* device.prefill(
        pass,
        pass.complete.map(({ row, sequence }) => ({ row, ...sequence.job.request }))
      )
      for (const [i, { sequence }] of pass.complete.entries()) {
        total.promptTokens += sequence.job.prompt.length
        total.prefixTokensReused += sequence.reused
        const one = drawn[i]
        if (one !== undefined) yield* accept(sequence, one)
      }
    }
    return passes.length > 0
  })

  /** One turn: prompts, then a burst for each adapter. */
  const turn = Effect.fnUntraced(function* () {
    for (let chunks = 0; chunks < patience && (yield* prefill()); chunks++) {
      if (2 * scheduler.prefilling() <= scheduler.running()) break
    }
    for (const { lora, sequences } of scheduler.decoding()) {
      const steps = Math.min(burstSteps, Math.max(...sequences.map(({ job, tokens }) => job.maxTokens - tokens.length)))
      const rows = sequences.map((sequence) => ({
        ...decodeRows(sequence, steps),
        slot: sequence.slot,
        last: sequence.tokens.at(-1) ?? 0,
        sampling: sequence.job.request.sampling,
        stream: sequence.job.request.stream
      }))
      const drawn = yield* device.burst(lora, rows, steps)
      for (const [i, sequence] of sequences.entries()) {
        const own = drawn[i]
        if (own !== undefined) yield* accept(sequence, own)
      }
    }
  })

  const loop = Effect.suspend(() => {
    if (scheduler.waiting() + scheduler.running() > 0) return turn()
    work.closeUnsafe()
    return work.await
  }).pipe(
    Effect.catchCause((cause) =>
      Cause.hasInterrupts(cause) ? Effect.failCause(cause) : Effect.sync(() => failAll(cause))
    ),
    Effect.forever
  )
  let closed = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      closed = true
      failAll(Cause.fail(invalid("the engine was closed")))
    })
  )
  yield* Effect.forkScoped(loop)

  const problemOf = (request: SequenceRequest): ModelError | undefined => {
    if (closed) return invalid("the engine was closed")
    const { ids, lora, sampling } = request
    const wrong = unusableSampling(sampling)
    if (wrong !== undefined) return invalid(wrong)
    if (ids.length === 0) return invalid("a prompt is empty; give at least one token")
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= config.vocabSize)
    if (bad !== undefined) return invalid(`token id ${bad} is outside the vocabulary of ${config.vocabSize}`)
    if (!Number.isSafeInteger(request.stream)) return invalid(`stream is ${request.stream}; it must be an integer`)
    if (lora !== null && lora.rank > Math.max(1, options.rank))
      return invalid(`an adapter of rank ${lora.rank} exceeds the engine's ${options.rank}; make it with a larger rank`)
    if (ids.length + sampling.maxTokens > maxTokens)
      return invalid(
        `a prompt of ${ids.length} tokens with ${sampling.maxTokens} new ones exceeds the cache of ${maxTokens} tokens; shorten it or lower the maximum`
      )
    return undefined
  }

  const start = (request: SequenceRequest, sink: Pick<EngineJob, "chunk" | "fail">): Sequence<EngineJob> => {
    const sequence = scheduler.add({
      prompt: request.ids,
      maxTokens: request.sampling.maxTokens,
      lora: request.lora,
      request,
      ends: new Set([...config.eosTokenIds, ...(request.stopIds ?? [])]),
      ...sink
    })
    live.add(sequence)
    work.openUnsafe()
    return sequence
  }

  const sample: Engine["sample"] = (request) =>
    Stream.callback<TokenChunk, GpuError | ModelError>((queue) =>
      Effect.suspend(() => {
        const problem = problemOf(request)
        if (problem !== undefined) return Effect.fail(problem)
        return Effect.acquireRelease(
          Effect.sync(() =>
            start(request, {
              chunk: (chunk) => {
                Queue.offerUnsafe(queue, chunk)
                if (chunk.finish !== null) Queue.endUnsafe(queue)
              },
              fail: (cause) => Queue.failCauseUnsafe(queue, cause)
            })
          ),
          (sequence) => Effect.sync(() => end(sequence))
        )
      })
    )

  const generate: Engine["generate"] = Effect.fnUntraced(function* (requests, onProgress) {
    for (const request of requests) {
      const problem = problemOf(request)
      if (problem !== undefined) return yield* problem
    }
    const queue = yield* Queue.unbounded<number, GpuError | ModelError>()
    const out = requests.map(() => ({ ids: [] as number[], logProbs: [] as number[], truncated: false }))
    const startAll = Effect.sync(() =>
      requests.map((request, i) =>
        start(request, {
          chunk: ({ finish, ids, logProbs }) => {
            const own = out[i]
            own?.ids.push(...ids)
            own?.logProbs.push(...logProbs)
            if (finish === null) return
            if (own !== undefined) own.truncated = finish === "length"
            Queue.offerUnsafe(queue, i)
          },
          fail: (cause) => Queue.failCauseUnsafe(queue, cause)
        })
      )
    )
    const waitForAll = Effect.gen(function* () {
      let done = 0
      while (done < requests.length) {
        done += (yield* Queue.takeAll(queue)).length
        if (onProgress) yield* onProgress(done, requests.length)
      }
    })
    yield* Effect.acquireUseRelease(
      startAll,
      () => waitForAll,
      (sequences) => Effect.sync(() => sequences.forEach(end))
    )
    return out
  })

  return {
    limits,
    sample,
    generate: (requests, onProgress) => generate(requests, onProgress),
    forgetPrefixes: Effect.sync(scheduler.forget),
    stats: Effect.sync(() => ({
      running: scheduler.running(),
      waiting: scheduler.waiting(),
      pagesUsed: scheduler.pool.used(),
      pagesRetained: scheduler.pool.retained(),
      pagesTotal: pages,
      ...total
    }))
  }
})
