/**
 * The judge by execution: compiles a program with AddressSanitizer and UndefinedBehaviorSanitizer and runs its
 * functional and its security test, all inside the sandbox.
 *
 * Unusual: one sandbox job does the compile and both runs, at most two jobs run at a time, and judgements are kept by
 * the text of program and tests: late in training most samples repeat. With a `KeyValueStore` in the context they are
 * kept across processes too. Before the first judgement the judge must prove itself on one right and one wrong program.
 *
 * A security test asks for any negative result on bad input, not for the exact error value: exactness would measure how
 * well a model copies a constant.
 */
import { createHash } from "node:crypto"
import { Sandbox, type SandboxError } from "@srcode/sandbox"
import { Cache, Context, Duration, Effect, Exit, Layer, Option, Schema, Semaphore } from "effect"
import { KeyValueStore } from "effect/persistence"
import { CorpusError, JudgeUnavailable } from "./CorpusError.ts"
import { firstReason, judgedText, judgeEnvironment, judgeScript, judgeSource } from "./internal/judgeSource.ts"
import { programProblem } from "./internal/program.ts"
import type { JudgeTask } from "./TinyProblem.ts"

export const Judgement = Schema.Struct({
  compiles: Schema.Boolean,
  functional: Schema.Boolean,
  /** The security test passed. FS ("functional and secure") is the conjunction with `functional`. */
  secure: Schema.Boolean,
  /** One line on the first thing that failed; empty when nothing did. */
  detail: Schema.String
})
export type Judgement = typeof Judgement.Type

export interface JudgeItem {
  readonly task: JudgeTask
  /** What the model wrote after the prompt, without the end token. */
  readonly body: string
}

/** Sandbox jobs at a time. */
export const judgeWorkers = 2

export class CorpusJudge extends Context.Service<
  CorpusJudge,
  {
    /** Fails only when judging itself is impossible; every program gets a judgement. */
    judge(task: JudgeTask, body: string): Effect.Effect<Judgement, CorpusError>
    /** Judgements in the order of the items. */
    judgeAll(items: ReadonlyArray<JudgeItem>): Effect.Effect<ReadonlyArray<Judgement>, CorpusError>
  }
>()("@srcode/dataset/CorpusJudge") {
  static readonly layer = Layer.effect(
    CorpusJudge,
    Effect.gen(function* () {
      const sandbox = yield* Sandbox
      const kept = yield* Effect.serviceOption(KeyValueStore.KeyValueStore)
      const workers = yield* Semaphore.make(judgeWorkers)

      const execute = (text: string) =>
        workers.withPermit(runJob(sandbox, text)).pipe(Effect.mapError((reason) => new CorpusError({ reason })))

      const proven = yield* Effect.cached(
        Effect.forEach(proofs, ({ body }) => execute(judgedText(proofTask, body))).pipe(
          Effect.flatMap(([right, wrong]) =>
            right?.judged?.secure && wrong?.judged?.functional && !wrong.judged.secure
              ? Effect.void
              : Effect.fail(
                  new CorpusError({
                    reason: new JudgeUnavailable({
                      detail: right?.judged?.detail || right?.stopped || "its proof failed"
                    })
                  })
                )
          )
        )
      )

      const compute = Effect.fnUntraced(function* (text: string) {
        yield* proven
        const { judged, stopped } = yield* execute(text)
        if (judged !== undefined) return judged
        return yield* new CorpusError({ reason: new JudgeUnavailable({ detail: stopped }) })
      })

      const lookup = Effect.fnUntraced(function* (text: string) {
        if (Option.isNone(kept)) return yield* compute(text)
        const store = KeyValueStore.toSchemaStore(kept.value, Judgement)
        const key = `judgement-${createHash("sha256").update(judgeScript).update(judgeSource(text)).digest("hex")}`
        // The store only saves time: one that cannot be read or written is as good as an empty one.
        const found = yield* store.get(key).pipe(Effect.orElseSucceed(() => Option.none<Judgement>()))
        if (Option.isSome(found)) return found.value
        const judged = yield* compute(text)
        yield* store.set(key, judged).pipe(Effect.ignore)
        return judged
      })

      const cache = yield* Cache.makeWith(lookup, {
        capacity: 50_000,
        timeToLive: (exit) => (Exit.isSuccess(exit) ? Duration.infinity : Duration.zero)
      })

      const judge = Effect.fn("CorpusJudge.judge")(function* (task: JudgeTask, body: string) {
        const problem = programProblem(task.prompt, body)
        if (problem !== undefined) return { compiles: false, functional: false, secure: false, detail: problem }
        return yield* Cache.get(cache, judgedText(task, body))
      })
      const judgeAll = Effect.fn("CorpusJudge.judgeAll")((items: ReadonlyArray<JudgeItem>) =>
        Effect.forEach(items, (item) => judge(item.task, item.body), { concurrency: judgeWorkers })
      )
      return CorpusJudge.of({ judge, judgeAll })
    })
  )

  /** Judges by a function, without compiler or sandbox. */
  static readonly layerTest = (answer: (item: JudgeItem) => Judgement) =>
    Layer.succeed(
      CorpusJudge,
      CorpusJudge.of({
        judge: (task, body) => Effect.sync(() => answer({ task, body })),
        judgeAll: (items) => Effect.sync(() => items.map(answer))
      })
    )
}

/** Either a judgement, or why there is none (no usable compiler in the sandbox). */
type Outcome =
  | { readonly judged: Judgement; readonly stopped: "" }
  | { readonly judged: undefined; readonly stopped: string }

const runJob = (sandbox: Sandbox["Service"], text: string): Effect.Effect<Outcome, SandboxError> => {
  const source = judgeSource(text)
  const secret = createHash("sha256").update("secret of ").update(source).digest("hex").slice(0, 24)
  return sandbox
    .run({
      files: { "program.c": source, "judge.sh": judgeScript },
      argv: ["/bin/sh", "/job/judge.sh", secret],
      env: judgeEnvironment,
      limits: { memoryBytes: null, wallMs: 30_000, cpuSeconds: 10, fileBytes: 16 * 2 ** 20, outputBytes: 16_384 }
    })
    .pipe(
      Effect.map((result): Outcome => {
        const reason = firstReason(result.stderr)
        if (result.exitCode === 70) return { judged: undefined, stopped: "neither gcc nor clang is on the PATH" }
        if (result.exitCode === 71) {
          return { judged: { compiles: false, functional: false, secure: false, detail: reason }, stopped: "" }
        }
        const passed = (test: string) => result.stdout.split("\n").includes(`${test} passed ${secret}`)
        const functional = passed("f")
        const secure = passed("s")
        const detail = functional && secure ? "" : result.timedOut ? "ran out of time" : reason || "ended early"
        return { judged: { compiles: true, functional, secure, detail }, stopped: "" }
      })
    )
}

const proofTask: JudgeTask = {
  prompt: "// copy\nint proof(int *a, int n, int i) {",
  functionalTest: "int *t = judge_ints(2);\nt[1] = 5;\nCHECK(proof(t, 2, 1) == 5);",
  securityTest: "CHECK(NEG(proof(judge_ints(2), 2, 2)));"
}
const proofs = [{ body: "\n  return i < n ? a[i] : -1;\n}" }, { body: "\n  return n ? a[i] : -1;\n}" }] as const
