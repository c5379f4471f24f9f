/** Command-line arguments of the programs here: `--help` prints the usage; what is wrong is told in one line, with exit code 1. */
import { type ParseArgsConfig, parseArgs } from "node:util"

const stop = (text: string, code: number): never => {
  const stream = code === 0 ? process.stdout : process.stderr
  stream.write(`${text}\n`)
  process.exit(code)
}

export const argumentsOf = <T extends ParseArgsConfig>(usage: string, config: T): ReturnType<typeof parseArgs<T>> => {
  if (process.argv.slice(2).some((word) => word === "--help" || word === "-h")) return stop(usage, 0)
  try {
    return parseArgs(config)
  } catch (error) {
    return stop(`${error instanceof Error ? error.message.split(". ")[0] : String(error)}; see --help`, 1)
  }
}

/** The one of `choices` that a flag names. */
export const chosen = <A extends string>(flag: string, value: string, choices: ReadonlyArray<A>): A =>
  choices.find((choice) => choice === value) ?? stop(`--${flag} ${value}: choose one of ${choices.join(", ")}`, 1)
