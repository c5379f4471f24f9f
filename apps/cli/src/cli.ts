/** The command tree and how it is run: `start()` is called by main.ts and by nothing else. */
// Not the whole package: most of its parts are never used, and loading them takes a third of the time before the first line.
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Logger } from "effect"
import { CliOutput, Command } from "effect/cli"
import packageJson from "../package.json" with { type: "json" }
import { bench } from "./commands/bench.ts"
import { chat } from "./commands/chat.ts"
import { dataset } from "./commands/dataset/index.ts"
import { doctor } from "./commands/doctor.ts"
import { evaluate } from "./commands/eval.ts"
import { exportCommand } from "./commands/export/index.ts"
import { generate } from "./commands/generate.ts"
import { pretrain } from "./commands/pretrain.ts"
import { pull } from "./commands/pull.ts"
import { rewards } from "./commands/rewards.ts"
import { run } from "./commands/run.ts"
import { score } from "./commands/score.ts"
import { serve } from "./commands/serve.ts"
import { train } from "./commands/train/index.ts"
import { verifyAdapterCommand } from "./commands/verify-adapter.ts"
import { runToExitCode } from "./errors.ts"
import { srcode } from "./root.ts"

export const command = srcode.pipe(
  Command.withSubcommands([
    doctor,
    run,
    dataset,
    train,
    generate,
    chat,
    serve,
    evaluate,
    score,
    pull,
    rewards,
    exportCommand,
    verifyAdapterCommand,
    pretrain,
    bench
  ])
)

/** Help is printed when it is asked for; an invocation that cannot be understood gets one line (errors.ts). */
const helpOnlyOnRequest = Effect.map(CliOutput.Presenter, (presenter) =>
  CliOutput.Presenter.of({
    present: (event) => (event._tag === "Help" && event.reason === "Implicit" ? Effect.void : presenter.present(event))
  })
)

const program = Effect.gen(function* () {
  const presenter = yield* helpOnlyOnRequest
  return yield* runToExitCode(
    Command.run(command, { version: packageJson.version, renderErrors: false }).pipe(
      Effect.provideService(CliOutput.Presenter, presenter)
    )
  )
}).pipe(Effect.provide(NodeServices.layer), Effect.provideService(Logger.LogToStderr, true))

const signals = ["SIGINT", "SIGTERM"] as const

/**
 * The first Ctrl-C lets the work stop in order (files closed, children ended); one that comes later ends the process at
 * once, which is the way out when something never returns. Within a second it counts as the same: npm hands on the
 * signal that the terminal has already sent to all of us.
 */
const endOnSecondSignal = () => {
  for (const signal of signals) {
    let first: number | undefined
    process.on(signal, () => {
      first ??= performance.now()
      if (performance.now() - first < 1000) return
      process.removeAllListeners(signal)
      process.kill(process.pid, signal)
    })
  }
}

/** Runs the command line of this process and ends it with the right exit code. */
export const start = () => {
  endOnSecondSignal()
  let code = 130
  const main = Effect.tap(program, (exitCode) =>
    Effect.sync(() => {
      code = exitCode
    })
  )
  NodeRuntime.runMain(main, {
    disableErrorReporting: true,
    teardown: (_exit, onExit) => {
      // Leaving waits for reads that are still blocked in the system: a further signal must end the process then.
      for (const signal of signals) process.removeAllListeners(signal)
      onExit(code)
    }
  })
}
