/**
 * Runs untrusted programs (and the compilers and analyzers that read untrusted text) under bubblewrap: no network, no
 * host files, no host processes, an empty environment, and limits on time, memory, files, output and processes.
 *
 * Unusual: without bubblewrap nothing is executed at all; there is no "unsafe" fallback. Whether isolation works is
 * tried once, by running `true` in it, since many systems ship bubblewrap and forbid the namespaces it needs.
 */
import { Context, Effect, Layer } from "effect"
import { commandLine, exitCodeOfStatus, jobProblem, signalOfExitCode, type Tools } from "./internal/command.ts"
import { findTools } from "./internal/discovery.ts"
import { type RawResult, start } from "./internal/process.ts"
import { InvalidJob, NotStarted, SandboxError, SandboxUnavailable } from "./SandboxError.ts"
import { defaultLimits, type SandboxJob, type SandboxLimits, type SandboxResult } from "./SandboxJob.ts"

export class Sandbox extends Context.Service<
  Sandbox,
  {
    /** Whether jobs can run here, and a line on why not. Never fails. */
    readonly status: Effect.Effect<{ readonly available: boolean; readonly detail: string }>
    /** Runs one job to its end. Interruption kills every process of it before the interrupt completes. */
    run(job: SandboxJob): Effect.Effect<SandboxResult, SandboxError>
  }
>()("@srcode/sandbox/Sandbox") {
  /**
   * Finds `bwrap` by the setting `BWRAP_PATH` or on `PATH`, `prlimit` and `setpriv` (util-linux) on `PATH`. Building
   * the layer never fails: what is missing shows in `status` and as `SandboxUnavailable` from `run`.
   */
  static readonly layer = Layer.effect(
    Sandbox,
    Effect.gen(function* () {
      const found = yield* findTools
      const ready = yield* Effect.cached(
        Effect.gen(function* () {
          if (found._tag === "Missing") {
            return yield* unavailable(found.detail, found.install)
          }
          return yield* chooseMode(found.tools)
        })
      )
      const run = Effect.fn("Sandbox.run")(function* (job: SandboxJob) {
        const limits = { ...defaultLimits, ...job.limits }
        const problem = jobProblem(job, limits)
        if (problem !== undefined) {
          return yield* new SandboxError({ reason: new InvalidJob({ detail: problem }) })
        }
        const mode = yield* ready
        return yield* execute(mode.tools, job, limits, mode.nextUid())
      })
      const status = ready.pipe(
        Effect.match({
          onFailure: (error) => ({ available: false, detail: error.message }),
          onSuccess: (mode) => ({ available: true, detail: mode.detail })
        })
      )
      return Sandbox.of({ status, run })
    })
  )

  /** A sandbox which answers jobs by a function; partial answers are completed as a quiet success. */
  static readonly layerTest = (
    answer: (job: SandboxJob) => Partial<SandboxResult> | Effect.Effect<Partial<SandboxResult>, SandboxError>
  ) =>
    Layer.succeed(
      Sandbox,
      Sandbox.of({
        status: Effect.succeed({ available: true, detail: "test sandbox" }),
        run: Effect.fnUntraced(function* (job: SandboxJob) {
          const given = answer(job)
          return { ...quietSuccess, ...(Effect.isEffect(given) ? yield* given : given) }
        })
      })
    )
}

const quietSuccess: SandboxResult = {
  exitCode: 0,
  signal: null,
  timedOut: false,
  stdout: "",
  stderr: "",
  truncated: false,
  wallMs: 0
}

interface Mode {
  readonly tools: Tools
  readonly detail: string
  readonly nextUid: () => number | null
}

const unavailable = (detail: string, install: string) =>
  Effect.fail(new SandboxError({ reason: new SandboxUnavailable({ detail, install }) }))

/**
 * Root first steps down to an unprivileged user, one per job out of a small range nobody uses: the process limit is
 * ignored for root and counted per user. Where that is not allowed (an outer container), jobs run as this user.
 */
const chooseMode = Effect.fnUntraced(function* (tools: Tools): Effect.fn.Return<Mode, SandboxError> {
  if (tools.setpriv !== null) {
    let uidCounter = process.pid * 7
    const nextUid = () => 60_600 + (uidCounter++ % 500)
    if ((yield* probe(tools, nextUid()))._tag === "Works") {
      return { tools, nextUid, detail: `bubblewrap at ${tools.bwrap}, jobs run as an unprivileged user` }
    }
  }
  const plain = yield* probe(tools, null)
  if (plain._tag === "Works") {
    return { tools, nextUid: () => null, detail: `bubblewrap at ${tools.bwrap}, jobs run as the current user` }
  }
  return yield* unavailable(
    `bubblewrap is installed but does not work here (${plain.detail})`,
    "allow unprivileged user namespaces for bwrap (sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile)"
  )
})

const probe = (tools: Tools, uid: number | null) =>
  execute(tools, { files: {}, argv: ["/bin/sh", "-c", "exit 0"] }, defaultLimits, uid).pipe(
    Effect.match({
      onFailure: (error) => ({ _tag: "Broken" as const, detail: error.message }),
      onSuccess: (result) =>
        result.exitCode === 0
          ? { _tag: "Works" as const }
          : { _tag: "Broken" as const, detail: `a trial ended with code ${result.exitCode} ${result.stderr.trim()}` }
    })
  )

const execute = (tools: Tools, job: SandboxJob, limits: SandboxLimits, uid: number | null) =>
  Effect.callback<SandboxResult, SandboxError>((resume) => {
    const notStarted = (detail: string) =>
      resume(Effect.fail(new SandboxError({ reason: new NotStarted({ detail: oneLine(detail) }) })))
    let onClosed: () => void = () => {}
    const closed = new Promise<void>((resolve) => {
      onClosed = resolve
    })
    try {
      const handle = start(
        {
          command: commandLine(tools, job, limits, uid),
          stdin: job.stdin,
          inputs: Object.values(job.files),
          wallMs: limits.wallMs,
          outputBytes: limits.outputBytes
        },
        (raw) => {
          onClosed()
          const exitCode = exitCodeOfStatus(raw.status)
          if (exitCode === undefined && !raw.killed && raw.signal === null) return notStarted(raw.stderr)
          resume(Effect.succeed(toResult(raw, exitCode)))
        },
        (cause) => {
          onClosed()
          notStarted(cause.message)
        }
      )
      return Effect.promise(() => {
        handle.kill()
        return closed
      })
    } catch (cause) {
      notStarted(String(cause))
    }
  })

/** A job ended by its limit or its flood of output is reported as killed even if it raced to an exit code. */
const toResult = (raw: RawResult, exitCode: number | undefined): SandboxResult => ({
  exitCode: raw.killed || exitCode === undefined ? null : exitCode,
  signal: raw.killed || exitCode === undefined ? (raw.signal ?? "SIGKILL") : signalOfExitCode(exitCode),
  timedOut: raw.timedOut,
  stdout: raw.stdout,
  stderr: raw.stderr,
  truncated: raw.truncated,
  wallMs: raw.wallMs
})

const oneLine = (text: string): string => text.trim().split("\n").slice(-1).join("") || "no reason given"
