/** `srcode train`: the two kinds of training. */
import { Command } from "effect/cli"
import { rl } from "./rl.ts"
import { sft } from "./sft.ts"

export const train = Command.make("train").pipe(
  Command.withDescription("Train an adapter: sft on completions, rl by PPO with token-level rewards"),
  Command.withSubcommands([sft, rl])
)
