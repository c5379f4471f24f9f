/** `srcode serve`: a model and its adapters behind an OpenAI-compatible HTTP API, until a signal. */
import * as nodePath from "node:path"
import { UserError } from "@srcode/domain"
import {
  type Adapter,
  type ChatTemplate,
  type Lora,
  loadChatTemplate,
  loadConfig,
  loadModel,
  loadModelTokenizer,
  locateAdapter,
  locateModel,
  type ModelConfig,
  makeEngine,
  readAdapter,
  uploadLora
} from "@srcode/model"
import { checkAddress, checkSettings, serve as listen, type ServeSettings, TextModel } from "@srcode/serve"
import { Config, Console, Duration, Effect, Layer, Option, Redacted, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { modelFlag } from "./score.ts"

const positive = Schema.Int.check(Schema.isGreaterThan(0))

/** Bytes of a request's body: enough for any context here, small enough to be parsed without a pause. */
const maxBodyBytes = 4 * 1024 * 1024
/** Prompt tokens computed between two bursts: what other sequences wait at most. */
const prefillTokens = 512

/** NAME=DIR pairs as they were given; a name that appears twice, or that is the model's own, would hide an adapter. */
const readAdapters = Effect.fnUntraced(function* (pairs: ReadonlyArray<string>, modelId: string, config: ModelConfig) {
  const adapters = new Map<string, Adapter>()
  for (const pair of pairs) {
    const at = pair.indexOf("=")
    const [name, place] = [pair.slice(0, at), pair.slice(at + 1)]
    if (at < 1 || place === "")
      return yield* new UserError({ message: `--adapter ${pair}: give NAME=DIR, the name that requests ask for` })
    if (name === modelId || adapters.has(name))
      return yield* new UserError({ message: `--adapter ${pair}: the name ${name} is taken; choose another` })
    adapters.set(name, yield* readAdapter(yield* locateAdapter(place), config))
  }
  return adapters
})

/** The template of a folder, or null where it has none. */
const findTemplate = (directory: string) =>
  loadChatTemplate(directory).pipe(
    Effect.map((template): ChatTemplate | null => template),
    Effect.catchReason("ModelError", "Missing", () => Effect.succeed(null))
  )

/** `--api-key`, else `SRCODE_API_KEY`; an empty variable counts as not set. */
const chosenKey = Effect.fnUntraced(function* (flag: Option.Option<Redacted.Redacted>) {
  if (Option.isSome(flag)) return flag.value
  const variable = yield* Config.option(Config.Redacted("SRCODE_API_KEY"))
  return Option.isSome(variable) && Redacted.value(variable.value) !== "" ? variable.value : null
})

export const serve = Command.make(
  "serve",
  {
    model: modelFlag,
    adapter: Flag.String("adapter").pipe(
      Flag.withDescription("An adapter that answers under NAME: a PEFT folder; may be given several times"),
      Flag.withMetavar("NAME=DIR"),
      Flag.atLeast(0)
    ),
    host: Flag.String("host").pipe(
      Flag.withDescription("Address to listen on; others than loopback need an API key"),
      Flag.withSchema(Schema.NonEmptyString),
      Flag.withDefault("127.0.0.1")
    ),
    port: Flag.Int("port").pipe(
      Flag.withDescription("Port to listen on; 0 takes a free one"),
      Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65535 }))),
      Flag.withDefault(8000)
    ),
    apiKey: Flag.Redacted("api-key").pipe(
      Flag.withDescription(
        "Key that requests must send; others on this machine can read flags, SRCODE_API_KEY they cannot"
      ),
      Flag.optional
    ),
    allowPublic: Flag.Boolean("allow-public").pipe(
      Flag.withDescription("Listen beyond loopback without an API key: anyone who reaches the port may use the model"),
      Flag.withDefault(false)
    ),
    maxSequences: Flag.Int("max-sequences").pipe(
      Flag.withDescription("Sequences decoded at once"),
      Flag.withSchema(positive),
      Flag.withDefault(8)
    ),
    maxTokens: Flag.Int("max-tokens").pipe(
      Flag.withDescription(
        "Tokens of a sequence, prompt and answer together (default: the model's positions, 4096 at most)"
      ),
      Flag.withSchema(positive),
      Flag.optional
    ),
    queue: Flag.Int("queue").pipe(
      Flag.withDescription("Sequences that may wait; more are answered with 429"),
      Flag.withSchema(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
      Flag.withDefault(64)
    ),
    grace: Flag.Int("grace").pipe(
      Flag.withDescription("Seconds that running answers get when the server is asked to stop"),
      Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3600 }))),
      Flag.withDefault(10)
    )
  },
  Effect.fnUntraced(function* (flags) {
    const settings: ServeSettings = {
      host: flags.host,
      port: flags.port,
      apiKey: yield* chosenKey(flags.apiKey),
      allowPublic: flags.allowPublic,
      queue: flags.queue,
      maxBodyBytes,
      grace: Duration.seconds(flags.grace),
      requestTimeout: Duration.seconds(60)
    }
    yield* checkSettings(settings)
    yield* checkAddress(settings)
    const program = Effect.gen(function* () {
      const directory = yield* locateModel(flags.model)
      // a folder's own name, or the id as it was given
      const id = directory === flags.model ? nodePath.basename(nodePath.resolve(directory)) : flags.model
      const adapters = yield* readAdapters(flags.adapter, id, yield* loadConfig(directory))
      const template = yield* findTemplate(directory)
      const model = yield* loadModel(
        directory,
        Option.isSome(flags.maxTokens) ? { maxTokens: flags.maxTokens.value } : {}
      )
      const tokenizer = yield* loadModelTokenizer(model)
      const loras = new Map<string, Lora>()
      for (const [name, adapter] of adapters) loras.set(name, yield* uploadLora(model.config, adapter))
      const maxTokens = model.decoder.rope.positions
      const engine = yield* makeEngine(model.decoder, {
        maxSequences: flags.maxSequences,
        maxTokens,
        prefillTokens: Math.min(prefillTokens, maxTokens),
        rank: Math.max(1, ...[...loras.values()].map((lora) => lora.rank))
      })
      const server = yield* listen(settings).pipe(
        Effect.provide(
          TextModel.layerEngine({
            engine,
            tokenizer,
            template,
            vocabSize: model.config.vocabSize,
            endIds: model.config.eosTokenIds,
            id,
            adapters: loras
          })
        )
      )
      const names = [id, ...loras.keys()].join(", ")
      yield* Console.log(
        `serving ${names} at ${server.url}/v1: ${engine.limits.maxSequences} sequences of ${engine.limits.maxTokens} tokens; Ctrl-C stops`
      )
      if (template === null)
        yield* Console.error(`srcode: ${directory} has no chat template; only /v1/completions answers`)
      yield* Effect.addFinalizer(() =>
        Effect.flatMap(engine.stats, ({ running, waiting }) =>
          running + waiting === 0
            ? Effect.void
            : Console.error(
                `srcode: stopping; ${running + waiting} running answers have ${flags.grace} s, a second Ctrl-C ends at once`
              )
        )
      )
      return yield* Effect.never
    })
    yield* program.pipe(Effect.provide(Layer.mergeAll(gpuLayerFromFlags, progressLayer)), Effect.scoped)
  })
).pipe(
  Command.withDescription("Serve a model over HTTP to clients of the OpenAI API, with adapters by name"),
  Command.withExamples([
    {
      command: "npm run srcode -- serve --model packages/model/assets/tiny-coder",
      description: "On http://127.0.0.1:8000/v1"
    },
    {
      command: "SRCODE_API_KEY=… npm run srcode -- serve --model DIR --adapter secure=runs/demo/adapter --host 0.0.0.0",
      description: "The base and an adapter, to other machines"
    }
  ])
)
