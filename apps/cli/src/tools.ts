/** Programs that judge code, found on PATH and asked for their version. */
import { Duration, Effect, Option } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"

export interface Tool {
  readonly name: string
  /** As the program itself gives it; null when it is not there or says nothing that looks like one. */
  readonly version: string | null
  readonly found: boolean
}

export interface ToolSpec {
  readonly name: string
  /** Names it goes by, the preferred first. */
  readonly commands: ReadonlyArray<string>
  readonly versionFlag: string
}

const plain = (name: string): ToolSpec => ({ name, commands: [name], versionFlag: "--version" })

export const analyzerTools: ReadonlyArray<ToolSpec> = [
  plain("gcc"),
  { ...plain("clang"), commands: ["clang", ...[21, 20, 19, 18, 17, 16, 15, 14].map((version) => `clang-${version}`)] },
  plain("cppcheck")
]

export const codeqlTool = plain("codeql")

const ask = Effect.fnUntraced(function* (command: string, flag: string) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const text = yield* spawner.string(ChildProcess.make(command, [flag]))
  return /\d+(?:\.\d+)+/.exec(text)?.[0] ?? null
})

/** Never fails: a program that is not there, hangs or crashes is not found. */
export const findTool = Effect.fn("findTool")(function* (spec: ToolSpec) {
  for (const command of spec.commands) {
    const version = yield* ask(command, spec.versionFlag).pipe(Effect.timeout(Duration.seconds(20)), Effect.option)
    if (Option.isSome(version)) {
      const tool: Tool = { name: spec.name, version: version.value, found: true }
      return tool
    }
  }
  const none: Tool = { name: spec.name, version: null, found: false }
  return none
})
