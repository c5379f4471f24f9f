/** `srcode dataset`: data without training. */
import { Command } from "effect/cli"
import { build } from "./build.ts"

export const dataset = Command.make("dataset").pipe(
  Command.withDescription("Build training data"),
  Command.withSubcommands([build])
)
