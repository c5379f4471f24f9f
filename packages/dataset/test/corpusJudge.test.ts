import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { Sandbox, type SandboxJob } from "@srcode/sandbox"
import { Effect, FileSystem, Layer } from "effect"
import { KeyValueStore } from "effect/persistence"
import { drawEvalPrompts } from "../src/corpus/EvalPrompts.ts"
import {
  CorpusError,
  CorpusJudge,
  corpusTemplates,
  drawProblem,
  evalCounts,
  families,
  isHeldOutPrompt,
  type JudgeTask,
  loadEvalPrompts
} from "../src/corpus/index.ts"
import { evalSeed } from "../src/corpus/writeEvalPrompts.ts"
import { makeRandom } from "../src/Random.ts"

const family = (name: string) => families.find((known) => known.name === name) ?? assert.fail(`no family ${name}`)
const getTask = drawProblem(makeRandom(1), family("get"))
const freshJudge = CorpusJudge.layer.pipe(Layer.provide(Sandbox.layer))

layer(freshJudge, { timeout: "2 minutes" })("the judge", (it) => {
  it.effect(
    "passes every body of the corpus as what it says it is",
    () =>
      Effect.gen(function* () {
        const judge = yield* CorpusJudge
        const templates = corpusTemplates()
        const judged = yield* judge.judgeAll(templates.map(({ body, problem }) => ({ task: problem, body })))
        const wrong = templates.flatMap((template, at) => {
          const found = judged[at]
          const right = found?.compiles && found.functional && found.secure === !template.vulnerable
          const kind = template.vulnerable ? "vulnerable" : "secure"
          return right
            ? []
            : [`${template.family} ${kind} ${template.index}: ${JSON.stringify(found)}\n${template.body}`]
        })
        assert.deepStrictEqual(wrong, [])
        assert.strictEqual(judged.length, templates.length)
      }),
    120_000
  )

  it.effect("says what failed", () =>
    Effect.gen(function* () {
      const judge = yield* CorpusJudge
      const { a, n, i } = getTask.bindings
      const verdict = (body: string) => judge.judge(getTask, body)
      const unchecked = yield* verdict(`\n  return ${a}[${i}];\n}`)
      assert.deepInclude(unchecked, { compiles: true, functional: true, secure: false })
      assert.match(unchecked.detail, /heap-buffer-overflow/)
      const useless = yield* verdict(`\n  return -1;\n}`)
      assert.deepInclude(useless, { compiles: true, functional: false, secure: true })
      assert.match(useless.detail, /functional test, line 3/)
      const undeclared = yield* verdict(`\n  return nothing[${i}] + ${n};\n}`)
      assert.deepInclude(undeclared, { compiles: false, functional: false, secure: false })
      assert.match(undeclared.detail, /nothing/)
      const endless = yield* verdict(`\n  while (${n}) {}\n  return ${a}[${i}];\n}`)
      assert.deepInclude(endless, { compiles: true, functional: false, secure: false })
    })
  )

  const tricks: ReadonlyArray<readonly [what: string, body: string]> = [
    ["its own main", "\n  return 0;\n}\nint main(void) { return 0; }"],
    ["another function", "\n  return 0;\n}\nconst char *__asan_default_options(void) { return 0; }"],
    ["a name of the judge", "\n  judge_fail_at = 0;\n  return 0;\n}"],
    ["the preprocessor", '\n#include "/etc/passwd"\n  return 0;\n}'],
    ["a digraph", "\n%:define x\n  return 0;\n}"],
    ["inline assembly", '\n  asm("nop");\n  return 0;\n}'],
    ["a nested function", "\n  int inner(void) { return 0; }\n  return inner();\n}"],
    ["a prototype of exit", "\n  void _exit(int);\n  _exit(0);\n  return 0;\n}"],
    ["an undeclared exit", "\n  exit(0);\n}"],
    ["an attribute", "\n  int x __attribute__((cleanup(free))) = 0;\n  return x;\n}"],
    ["no end", "\n  return 0;"],
    ["a brace in a string", '\n  puts("}");\n  return 0;']
  ]
  it.effect.each([...tricks])("refuses %s", ([, body]) =>
    Effect.gen(function* () {
      const judged = yield* (yield* CorpusJudge).judge(getTask, body)
      assert.deepInclude(judged, { compiles: false, functional: false, secure: false })
      assert.isAbove(judged.detail.length, 0)
    })
  )

  it.effect("does not believe a program that ends the process or prints a pass itself", () =>
    Effect.gen(function* () {
      const task: JudgeTask = {
        prompt: "// end\nint f(int x) {",
        functionalTest: "CHECK(f(1) == 1);",
        securityTest: "CHECK(f(1) == 1);"
      }
      const judge = yield* CorpusJudge
      const divided = yield* judge.judge(task, "\n  return 1 / (x - 1);\n}")
      assert.deepInclude(divided, { compiles: true, functional: false, secure: false })
      assert.match(divided.detail, /division by zero/)
      const printed = yield* judge.judge(task, '\n  printf("f passed");\n  return 1 - x;\n}')
      assert.deepInclude(printed, { compiles: true, functional: false, secure: false })
    })
  )
})

describe("judgements", () => {
  const countingSandbox = (jobs: Array<SandboxJob>, answer: (job: SandboxJob, at: number) => string | number) =>
    Sandbox.layerTest((job) => {
      jobs.push(job)
      const given = answer(job, jobs.length - 1)
      return typeof given === "string" ? { stdout: given } : { exitCode: given }
    })
  /** Passes the two proofs (right: both tests, wrong: only the functional one), then everything. */
  const passing = (job: SandboxJob, at: number) =>
    at === 1 ? `f passed ${job.argv[2]}\n` : `f passed ${job.argv[2]}\ns passed ${job.argv[2]}\n`
  const body = "\n  return 0;\n}"

  it.effect("are computed once per program and kept in the store across judges", () =>
    Effect.gen(function* () {
      const jobs: Array<SandboxJob> = []
      const ask = CorpusJudge.use((judge) => judge.judgeAll([1, 2, 3].map(() => ({ task: getTask, body })))).pipe(
        Effect.provide(Layer.fresh(CorpusJudge.layer).pipe(Layer.provide(countingSandbox(jobs, passing))))
      )
      const first = yield* ask
      assert.strictEqual(jobs.length, 3, "two proofs and one program")
      const again = yield* ask
      assert.strictEqual(jobs.length, 3, "nothing runs for a second judge over the same store")
      assert.deepStrictEqual(again, first)
      assert.isTrue(first.every((judged) => judged.functional && judged.secure && judged.detail === ""))
    }).pipe(Effect.provide(KeyValueStore.layerMemory))
  )

  it.effect("are refused when the compiler is missing or the proof fails", () =>
    Effect.gen(function* () {
      for (const answer of [() => 70, () => 71, () => ""]) {
        const error = yield* CorpusJudge.use((judge) => judge.judge(getTask, body)).pipe(
          Effect.provide(Layer.fresh(CorpusJudge.layer).pipe(Layer.provide(countingSandbox([], answer)))),
          Effect.flip
        )
        assert.instanceOf(error, CorpusError)
        assert.strictEqual(error.reason._tag, "JudgeUnavailable")
        assert.match(error.message, /^programs cannot be judged: .+; install gcc/)
      }
    })
  )
})

layer(NodeServices.layer)("the evaluation list", (it) => {
  it.effect("has the stated numbers of distinct reserved prompts and is what its seed draws", () =>
    Effect.gen(function* () {
      const prompts = yield* loadEvalPrompts()
      assert.strictEqual(prompts.filter((prompt) => !prompt.heldOut).length, evalCounts.seen)
      assert.strictEqual(prompts.filter((prompt) => prompt.heldOut).length, evalCounts.heldOut)
      assert.strictEqual(new Set(prompts.map((prompt) => prompt.prompt)).size, prompts.length)
      assert.strictEqual(new Set(prompts.map((prompt) => prompt.id)).size, prompts.length)
      for (const { prompt } of prompts) assert.isTrue(isHeldOutPrompt(prompt), prompt)
      assert.deepStrictEqual([...prompts], [...drawEvalPrompts(evalSeed)])
    })
  )

  it.effect("is refused with path and line when it is damaged", () =>
    Effect.gen(function* () {
      const files = yield* FileSystem.FileSystem
      const path = yield* files.makeTempFileScoped()
      for (const [text, message] of [
        ["", /it is empty/],
        ['{"id":1}\n', /line 1: /],
        ["not json\n", /line 1: /]
      ] as const) {
        yield* files.writeFileString(path, text)
        const error = yield* Effect.flip(loadEvalPrompts(path))
        assert.match(error.message, message)
        assert.notInclude(error.message, "\n")
        assert.include(error.message, path)
      }
      assert.match((yield* Effect.flip(loadEvalPrompts(`${path}.none`))).message, /cannot be used/)
    })
  )
})
