/** `srcode rewards`: token rewards and advantages of recorded rollouts. Pure arithmetic, streamed, no device. */
import { UserError } from "@srcode/domain"
import { readJsonLinesNumbered, writeJsonLines } from "@srcode/store"
import { defaultRewardConfig, RewardConfig, RewardInput, RewardOutput, rewardRollout } from "@srcode/trainer"
import { Console, Effect, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { readConfig } from "../config.ts"
import { fileFlag } from "../root.ts"

const input = fileFlag("input", "Rollouts, one JSON object per line (required)")
const config = fileFlag("config", "Reward options as JSON (default: gated by the verdict, capped)").pipe(Flag.optional)
const out = fileFlag("out", "Where to write one line per rollout; replaced only when all went well (required)")

const finite = (output: RewardOutput): boolean =>
  [output.reward, output.advantages, output.returns, ...Object.values(output.channels)].every((values) =>
    values.every(Number.isFinite)
  )

export const rewards = Command.make(
  "rewards",
  { input, config, out },
  Effect.fnUntraced(function* ({ config, input, out }) {
    const options = Option.isSome(config) ? yield* readConfig(config.value, RewardConfig) : defaultRewardConfig
    const rows = readJsonLinesNumbered(input, RewardInput).pipe(
      Stream.mapEffect(({ line, value }) => {
        const output = rewardRollout(options, value)
        return finite(output)
          ? Effect.succeed(output)
          : Effect.fail(
              new UserError({ message: `${input}:${line}: these numbers add up to more than a double holds` })
            )
      })
    )
    const count = yield* writeJsonLines(out, RewardOutput, rows)
    yield* Console.log(`${count} ${count === 1 ? "rollout" : "rollouts"} written to ${out}`)
  })
).pipe(
  Command.withDescription(
    "Compute token rewards, advantages and returns of recorded rollouts, with every reward channel kept apart"
  ),
  Command.withExamples([
    {
      command: "npm run srcode -- rewards --input rollouts.jsonl --out rewards.jsonl",
      description: "With the default reward"
    },
    {
      command: "npm run srcode -- rewards --input rollouts.jsonl --config naive.json --out rewards.jsonl",
      description: 'With options of your own, such as {"gate":"none","maxPositive":null}'
    }
  ])
)
