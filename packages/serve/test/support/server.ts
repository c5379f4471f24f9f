/**
 * A real server on a free port of 127.0.0.1 over an engine that follows a script: bursts of tokens, waits on gates the
 * test opens, failures. It counts what starts, runs and ends, and how.
 */
import * as nodePath from "node:path"
import { NodeServices } from "@effect/platform-node"
import {
  compileChatTemplate,
  type Engine,
  type Lora,
  loadChatTemplate,
  loadTokenizer,
  ModelError,
  type SequenceRequest,
  type TokenChunk,
  type Tokenizer
} from "@srcode/model"
import { Deferred, Duration, Effect, Exit, Semaphore, Stream } from "effect"
import OpenAI from "openai"
import { type RunningServer, type ServeSettings, serve, TextModel } from "../../src/index.ts"

export const tinyCoder = nodePath.resolve(import.meta.dirname, "../../../model/assets/tiny-coder")

/** One thing that a scripted sequence does. */
export type Step =
  /** Tokens of this text, in bursts of two. */
  | { readonly say: string }
  /** Tokens as they are, in one burst. */
  | { readonly ids: ReadonlyArray<number> }
  /** Waits until the test opens the gate. */
  | { readonly gate: Gate }
  | { readonly fail: string }
  | { readonly die: string }
  /** The end token and the end. */
  | { readonly end: true }

export interface Gate {
  readonly opened: Promise<void>
  readonly open: () => void
}
export const makeGate = (): Gate => {
  const deferred = Deferred.makeUnsafe<void>()
  return {
    opened: Effect.runPromise(Deferred.await(deferred)),
    open: () => Deferred.doneUnsafe(deferred, Exit.void)
  }
}

export interface Seen {
  readonly requests: Array<SequenceRequest>
  running: number
  ended: number
  cancelled: number
}

/** Log-probability of the k-th token of a scripted sequence. */
export const scriptedLogProb = (k: number): number => -(k + 1) / 8

const scriptedEngine = (
  tokenizer: Tokenizer,
  limits: Engine["limits"],
  script: (request: SequenceRequest, index: number) => ReadonlyArray<Step>
) => {
  const seen: Seen = { requests: [], running: 0, ended: 0, cancelled: 0 }
  const slots = Semaphore.makeUnsafe(limits.maxSequences)
  let waiting = 0

  const play = (request: SequenceRequest, steps: ReadonlyArray<Step>): Stream.Stream<TokenChunk, ModelError> => {
    let count = 0
    const burst = (ids: ReadonlyArray<number>, finish: TokenChunk["finish"] = null): TokenChunk => ({
      ids,
      logProbs: ids.map(() => scriptedLogProb(count++)),
      finish
    })
    const one = (step: Step): Stream.Stream<TokenChunk, ModelError> => {
      if ("say" in step) {
        const ids = tokenizer.encode(step.say)
        const pairs = Array.from({ length: Math.ceil(ids.length / 2) }, (_, i) => ids.slice(2 * i, 2 * i + 2))
        return Stream.map(Stream.fromIterable(pairs), (pair) => burst(pair))
      }
      if ("ids" in step) return Stream.sync(() => burst(step.ids))
      if ("gate" in step) return Stream.fromEffectDrain(Effect.promise(() => step.gate.opened))
      if ("fail" in step) return Stream.fail(ModelError.invalid({ operation: "sample", message: step.fail }))
      if ("die" in step) return Stream.die(new Error(step.die))
      return Stream.sync(() => burst([tokenizer.eosId], "stop"))
    }
    const all = steps.reduce(
      (before, step) => Stream.concat(before, one(step)),
      Stream.empty as Stream.Stream<TokenChunk, ModelError>
    )
    // what the engine does at the limit: the burst is cut and says so
    return Stream.suspend(() => {
      let left = request.sampling.maxTokens
      return all.pipe(
        Stream.map((chunk): TokenChunk => {
          if (chunk.ids.length < left || (chunk.ids.length === left && chunk.finish !== null)) {
            left -= chunk.ids.length
            return chunk
          }
          return { ids: chunk.ids.slice(0, left), logProbs: chunk.logProbs.slice(0, left), finish: "length" }
        }),
        Stream.takeUntil((chunk) => chunk.finish !== null)
      )
    })
  }

  const engine: Engine = {
    limits,
    generate: () => Effect.die("not used here"),
    forgetPrefixes: Effect.void,
    stats: Effect.sync(() => ({
      running: seen.running,
      waiting,
      pagesUsed: seen.running,
      pagesRetained: 0,
      promptTokens: 0,
      pagesTotal: limits.maxSequences,
      tokensGenerated: 0,
      prefixTokensReused: 0
    })),
    sample: (request) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const steps = script(request, seen.requests.length)
          seen.requests.push(request)
          waiting++
          yield* Effect.acquireRelease(
            Effect.onExit(slots.take(1), () => Effect.sync(() => waiting--)),
            () => slots.release(1)
          )
          yield* Effect.acquireRelease(
            Effect.sync(() => {
              seen.running++
            }),
            (_, exit) =>
              Effect.sync(() => {
                seen.running--
                if (Exit.hasInterrupts(exit)) seen.cancelled++
                else seen.ended++
              })
          )
          return play(request, steps)
        })
      )
  }
  return { engine, seen }
}

export interface Options {
  readonly script?: (request: SequenceRequest, index: number) => ReadonlyArray<Step>
  readonly settings?: Partial<ServeSettings>
  readonly limits?: Engine["limits"]
  readonly adapters?: ReadonlyArray<string>
  /** null takes the template away; a text replaces it. */
  readonly template?: string | null
}

export interface Served extends RunningServer {
  readonly client: OpenAI
  readonly tokenizer: Tokenizer
  readonly seen: Seen
  /** Stops the server as a signal would, and resolves when it has. */
  readonly stop: () => Promise<void>
}

export const defaults: ServeSettings = {
  host: "127.0.0.1",
  port: 0,
  apiKey: null,
  allowPublic: false,
  queue: 8,
  maxBodyBytes: 65_536,
  grace: Duration.millis(300),
  requestTimeout: Duration.seconds(20)
}

export const clientOf = (url: string, apiKey = "unused"): OpenAI =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 60_000 })

/** Loras are passed through to the engine and never looked at here. */
const fakeLora = (name: string): Lora => ({ name }) as unknown as Lora

/** Runs `use` against a server, and stops it. */
export const withServer = (options: Options, use: (served: Served) => Promise<void>): Promise<void> =>
  Effect.runPromise(
    Effect.gen(function* () {
      const tokenizer = yield* loadTokenizer(tinyCoder)
      const template =
        options.template === null
          ? null
          : options.template === undefined
            ? yield* loadChatTemplate(tinyCoder)
            : yield* compileChatTemplate(options.template, {})
      const limits = options.limits ?? { maxSequences: 4, maxTokens: 128 }
      const { engine, seen } = scriptedEngine(
        tokenizer,
        limits,
        options.script ?? (() => [{ say: "return a + b;" }, { end: true }])
      )
      const layer = TextModel.layerEngine({
        engine,
        tokenizer,
        template,
        vocabSize: tokenizer.vocabSize,
        endIds: [],
        id: "tiny",
        adapters: new Map((options.adapters ?? []).map((name) => [name, fakeLora(name)]))
      })
      const stopped = makeGate()
      const ready = Deferred.makeUnsafe<RunningServer, unknown>()
      const fiber = yield* serve({ ...defaults, ...options.settings }).pipe(
        Effect.tap((server) => Deferred.succeed(ready, server)),
        Effect.andThen(Effect.never),
        Effect.scoped,
        Effect.provide(layer),
        Effect.tapCause((cause) => Deferred.failCause(ready, cause)),
        Effect.ensuring(Effect.sync(stopped.open)),
        Effect.forkScoped
      )
      const server = yield* Deferred.await(ready)
      const stop = async () => {
        fiber.interruptUnsafe()
        await stopped.opened
      }
      yield* Effect.promise(() => use({ ...server, client: clientOf(server.url), tokenizer, seen, stop }))
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

/** Waits for a condition that the server reaches on its own. */
export const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}

/** POSTs a value as JSON, or a text as it is. */
export const post = (url: string, path: string, body: unknown, headers: Record<string, string> = {}) =>
  fetch(`${url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })

/** An error answer: its status and OpenAI's error object. */
export const errorOf = async (response: Response) => ({
  status: response.status,
  headers: response.headers,
  ...(
    (await response.json()) as { error: { message: string; type: string; param: string | null; code: string | null } }
  ).error
})
