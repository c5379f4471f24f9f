/** The flags of commands that sample. */
import { Schema } from "effect"
import { Flag } from "effect/cli"
import { countFlag, seedFlag } from "./root.ts"

export const temperatureFlag = Flag.Finite("temperature").pipe(
  Flag.withDescription("Sampling temperature; 0 takes the most likely token (default 0.8)"),
  Flag.withSchema(Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))),
  Flag.withDefault(0.8)
)

export const topPFlag = (initial: number) =>
  Flag.Finite("top-p").pipe(
    Flag.withDescription(`Mass of the nucleus, 0.01 to 1 (default ${initial})`),
    Flag.withSchema(Schema.Finite.check(Schema.isBetween({ minimum: 0.01, maximum: 1 }))),
    Flag.withDefault(initial)
  )

/** `--temperature`, `--top-p`, `--top-k`, `--min-p`, `--max-tokens`, `--stop` and `--seed`. */
export const samplingFlags = (defaults: { readonly maxTokens: number }) => ({
  temperature: temperatureFlag,
  topP: topPFlag(1),
  topK: Flag.Int("top-k").pipe(
    Flag.withDescription("Draw from so many of the most likely tokens; 0, the default, is off"),
    Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 }))),
    Flag.withDefault(0)
  ),
  minP: Flag.Finite("min-p").pipe(
    Flag.withDescription("Leave out tokens less likely than this part of the most likely one; 0, the default, is off"),
    Flag.withSchema(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))),
    Flag.withDefault(0)
  ),
  maxTokens: countFlag("max-tokens", `Most new tokens (default ${defaults.maxTokens})`).pipe(
    Flag.withDefault(defaults.maxTokens)
  ),
  stop: Flag.String("stop").pipe(
    Flag.withDescription("Text that ends an answer and is left out of it; may be given several times"),
    Flag.withSchema(Schema.NonEmptyString),
    Flag.atLeast(0)
  ),
  seed: seedFlag("Seed of the sampler")
})

export interface SamplingChoice {
  readonly temperature: number
  readonly topP: number
  readonly topK: number
  readonly minP: number
  readonly maxTokens: number
  readonly stop: ReadonlyArray<string>
  readonly seed: number
}

/** What the sampler takes of the flags. */
export const samplingOf = ({ temperature, topP, topK, minP, maxTokens, seed }: SamplingChoice) => ({
  temperature,
  topP,
  topK,
  minP,
  maxTokens,
  seed
})
