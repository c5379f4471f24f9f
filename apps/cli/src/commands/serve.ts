/** `srcode serve`: a model and its adapters behind an OpenAI-compatible HTTP API, until a signal. */
import { UserError } from "@srcode/domain"
import { checkAddress, checkSettings, serve as listen, type ServeSettings, TextModel } from "@srcode/serve"
import { Config, Console, Duration, Effect, Layer, Option, Redacted, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { modelFlags } from "../model.ts"
import { countFlag } from "../root.ts"
import { openTextModel, readTextModel } from "../textModel.ts"

/** Bytes of a request's body: enough for any context here, small enough to be parsed without a pause. */
const maxBodyBytes = 4 * 1024 * 1024
/** `NAME=DIR` in two. */
const namedAdapter = (pair: string): Effect.Effect<readonly [string, string], UserError> => {
  const at = pair.indexOf("=")
  const [name, place] = [pair.slice(0, at), pair.slice(at + 1)]
  return at < 1 || place === ""
    ? Effect.fail(new UserError({ message: `--adapter ${pair}: give NAME=DIR, the name that requests ask for` }))
    : Effect.succeed([name, place])
}

/** `--api-key`, else `SRCODE_API_KEY`; an empty variable counts as not set. */
const chosenKey = Effect.fnUntraced(function* (flag: Option.Option<Redacted.Redacted>) {
  if (Option.isSome(flag)) return flag.value
  const variable = yield* Config.option(Config.Redacted("SRCODE_API_KEY"))
  return Option.isSome(variable) && Redacted.value(variable.value) !== "" ? variable.value : null
})

export const serve = Command.make(
  "serve",
  {
    ...modelFlags,
    adapter: Flag.String("adapter").pipe(
      Flag.withDescription("An adapter that answers under NAME: a PEFT folder; may be given several times"),
      Flag.withMetavar("NAME=DIR"),
      Flag.atLeast(0)
    ),
    host: Flag.String("host").pipe(
      Flag.withDescription("Address to listen on (default 127.0.0.1); others than loopback need an API key"),
      Flag.withSchema(Schema.NonEmptyString),
      Flag.withDefault("127.0.0.1")
    ),
    port: Flag.Int("port").pipe(
      Flag.withDescription("Port to listen on (default 8000); 0 takes a free one"),
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
    maxSequences: countFlag("max-sequences", "Sequences decoded at once (default 8)").pipe(Flag.withDefault(8)),
    maxTokens: countFlag(
      "max-tokens",
      "Tokens of a sequence, prompt and answer together (default: the model's positions, 4096 at most)"
    ).pipe(Flag.optional),
    queue: Flag.Int("queue").pipe(
      Flag.withDescription("Sequences that may wait (default 64); more are answered with 429"),
      Flag.withSchema(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
      Flag.withDefault(64)
    ),
    grace: Flag.Int("grace").pipe(
      Flag.withDescription("Seconds that running answers get when the server is asked to stop (default 10)"),
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
    const adapters = yield* Effect.forEach(flags.adapter, namedAdapter)
    const program = Effect.gen(function* () {
      const files = yield* readTextModel(flags.model, adapters)
      const text = yield* openTextModel(flags, files, {
        maxSequences: flags.maxSequences,
        ...(Option.isSome(flags.maxTokens) ? { maxTokens: flags.maxTokens.value } : {})
      })
      const server = yield* Effect.provideService(listen(settings), TextModel, text)
      const names = text.models.map(({ id }) => id).join(", ")
      const { maxSequences, maxTokens } = text.limits
      yield* Console.log(
        `serving ${names} at ${server.url}/v1: ${maxSequences} sequences of ${maxTokens} tokens; Ctrl-C stops`
      )
      if (files.template === null)
        yield* Console.error(`srcode: ${files.directory} has no chat template; only /v1/completions answers`)
      yield* Effect.addFinalizer(() =>
        Effect.flatMap(text.stats, ({ running, waiting }) =>
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
