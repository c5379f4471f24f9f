/**
 * Lines that a person types or a pipe brings, and Ctrl-C as something that the program answers rather than ends by.
 *
 * On a terminal Node's line editor reads (history, arrows) and holds the terminal in raw mode, so Ctrl-C comes from it.
 * Elsewhere it comes as a signal: the handlers that would end the process are set aside while the input is open.
 */
import { createInterface } from "node:readline"
import { type Cause, Effect, Queue, type Scope } from "effect"

export interface ChatInput {
  /** A person reads and types. */
  readonly interactive: boolean
  /** The next line; fails with Done at the end of the input. `prompt` is shown to a person. */
  readonly line: (prompt: string) => Effect.Effect<string, Cause.Done>
  /** The next Ctrl-C from now on. */
  readonly interrupted: Effect.Effect<void>
}

/** npm hands on a signal that the terminal has already sent: within this many ms it counts as the same. */
const sameSignal = 1000

/** Opens standard input until the scope closes. */
export const openInput: Effect.Effect<ChatInput, never, Scope.Scope> = Effect.gen(function* () {
  const interactive = process.stdin.isTTY === true && process.stdout.isTTY === true
  const lines = yield* Queue.unbounded<string, Cause.Done>()
  const interrupts = yield* Queue.unbounded<void>()
  const editor = yield* Effect.acquireRelease(
    Effect.sync(() =>
      createInterface({
        input: process.stdin,
        ...(interactive ? { output: process.stdout, terminal: true, historySize: 500 } : { terminal: false })
      })
    ),
    (editor) => Effect.sync(() => editor.close())
  )
  const interrupt = () => {
    Queue.offerUnsafe(interrupts, undefined)
  }
  editor.on("line", (line) => {
    Queue.offerUnsafe(lines, line)
  })
  editor.on("close", () => {
    Queue.endUnsafe(lines)
  })
  editor.on("SIGINT", () => {
    // what was typed of a line is dropped with it
    editor.write(null, { ctrl: true, name: "e" })
    editor.write(null, { ctrl: true, name: "u" })
    interrupt()
  })
  let latest = Number.NEGATIVE_INFINITY
  const onSignal = () => {
    const now = performance.now()
    if (now - latest >= sameSignal) interrupt()
    latest = now
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      const others = process.listeners("SIGINT")
      process.removeAllListeners("SIGINT")
      process.on("SIGINT", onSignal)
      return others
    }),
    (others) =>
      Effect.sync(() => {
        process.removeListener("SIGINT", onSignal)
        for (const listener of others) process.on("SIGINT", listener)
      })
  )
  return {
    interactive,
    line: (prompt) =>
      Effect.suspend(() => {
        if (interactive) {
          editor.setPrompt(prompt)
          editor.prompt()
        }
        return Queue.take(lines)
      }),
    interrupted: Effect.andThen(Queue.clear(interrupts), Queue.take(interrupts))
  }
})
