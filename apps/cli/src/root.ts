/** The root command, the flag that every subcommand shares (`yield* srcode` reads it), and the kinds of flags they use. */
import { deviceChoices } from "@srcode/gpu"
import { Schema } from "effect"
import { Command, Flag } from "effect/cli"

const device = Flag.Literals("device", deviceChoices).pipe(
  Flag.withDescription("Where to compute (default: SRCODE_DEVICE, else auto: hardware, then a software driver)"),
  Flag.optional
)

/**
 * A flag that names a file or a folder, as the user wrote it. Whether it can be read or written is told on reading or writing:
 * pipes and /dev/stdin are files too.
 */
export const fileFlag = (name: string, description: string, metavar = "FILE") =>
  Flag.String(name).pipe(
    Flag.withDescription(description),
    Flag.withMetavar(metavar),
    Flag.withSchema(Schema.NonEmptyString)
  )

/** A flag that takes a whole number from 1 on. */
export const countFlag = (name: string, description: string) =>
  Flag.Int(name).pipe(Flag.withDescription(description), Flag.withSchema(Schema.Int.check(Schema.isGreaterThan(0))))

/** A flag that takes a seed, 1 unless it is given. */
export const seedFlag = (description: string) =>
  Flag.Int("seed").pipe(Flag.withDescription(`${description} (default 1)`), Flag.withDefault(1))

export const srcode = Command.make("srcode").pipe(
  Command.withDescription("Teach code language models to write secure code: data, training, evaluation"),
  Command.withSharedFlags({ device }),
  Command.withExamples([
    { command: "npm run srcode -- doctor", description: "What this machine can do" },
    { command: "npm run srcode -- rewards --help", description: "Help on one command, with examples" }
  ])
)
