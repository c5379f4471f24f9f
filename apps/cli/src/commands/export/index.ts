/** `srcode export`: models and adapters as folders that other programs load. */
import { Command } from "effect/cli"
import { merged } from "./merged.ts"
import { peft } from "./peft.ts"

export const exportCommand = Command.make("export").pipe(
  Command.withDescription("Write a merged model, or an adapter, as a folder that transformers, PEFT and vLLM load"),
  Command.withSubcommands([merged, peft])
)
