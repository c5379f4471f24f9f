/** From a teacher's answers to token masks and severities: who may earn, what is silent, what stops a run. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { cwe, type Severity, type Span, type Task, type Verdict } from "@srcode/domain"
import {
  BadAnswer,
  NoRepair,
  NotParsed,
  NotRecorded,
  OutOfCredit,
  Rejected,
  Storage,
  Teacher,
  type TeacherErrorReason,
  type TeacherShape,
  teacherError,
  Unreachable
} from "@srcode/teacher"
import { Effect } from "effect"
import { askTeacher, isRepetitive, mayEarn } from "../src/index.ts"
import { tinyTokenizer } from "./tinyWorld.ts"

const reference = "  if (n < 3)\n    return -1;\n  return 0;\n}"
const task: Task = {
  id: "t",
  kind: "generate",
  group: "g",
  language: "c",
  cwe: cwe(120),
  difficulty: 0,
  prompt: "int f(char *d, int n) {\n",
  completion: reference
}
const quote = (text: string, occurrence = 0): Span => ({ quote: text, occurrence, label: "guard", cwe: null, why: "w" })
const verdict = (vulnerable: boolean | null, severities: ReadonlyArray<Severity> = []): Verdict => ({
  vulnerable,
  cwes: [],
  severities,
  reason: "r"
})
const teacher = (judged: Verdict, spans: ReadonlyArray<Span>): Partial<TeacherShape> => ({
  verdict: () => Effect.succeed(judged),
  secureSpans: () => Effect.succeed(spans)
})

describe("who may earn", () => {
  it("a response is repetitive when more than half of its lines that say something repeat", () => {
    assert.isFalse(isRepetitive(""))
    assert.isFalse(isRepetitive("  check(n);\n  check(n);\n  check(n);"))
    assert.isTrue(isRepetitive("  check(n);\n  check(n);\n  check(n);\n  other(n);\n  check(n);"))
    assert.isFalse(isRepetitive("  a(n + 1);\n  a(n + 1);\n  b(n + 1);\n  b(n + 1);"))
    // braces and blank lines say nothing, indentation does not tell lines apart
    assert.isFalse(isRepetitive("}\n}\n}\n}\n\n\n  return 0;\n"))
    assert.isTrue(isRepetitive("check(n);\n  check(n);\n\tcheck(n);\n    check(n);"))
  })

  it("neither does one cut off, nor one a quarter as long as the reference", () => {
    assert.isTrue(mayEarn(reference, reference, false))
    assert.isFalse(mayEarn(reference, reference, true))
    assert.isTrue(mayEarn("x".repeat(25), "y".repeat(100), false))
    assert.isFalse(mayEarn("x".repeat(24), "y".repeat(100), false))
    assert.isFalse(mayEarn(`${" ".repeat(90)}x`, "y".repeat(100), false))
    assert.isFalse(mayEarn("  check(n);\n".repeat(8), reference, false))
  })
})

layer(NodeServices.layer)("asking the teacher", (it) => {
  const ask = Effect.fnUntraced(function* (
    methods: Partial<TeacherShape>,
    response: string,
    options: { readonly truncated?: boolean; readonly ids?: ReadonlyArray<number> } = {}
  ) {
    const tokenizer = yield* tinyTokenizer
    const truncated = options.truncated ?? false
    const ids = options.ids ?? [...tokenizer.encode(response), ...(truncated ? [] : [tokenizer.eosId])]
    const feedback = yield* askTeacher({ task, response, responseIds: ids, truncated, tokenizer }).pipe(
      Effect.provide(Teacher.layerTest(methods))
    )
    assert.strictEqual(feedback.secureMask.length, ids.length)
    const decoder = new TextDecoder()
    const masked = ids.filter((_, t) => feedback.secureMask[t]).map((id) => decoder.decode(tokenizer.tokenBytes(id)))
    return { ...feedback, ids, masked, tokenizer }
  })

  it.effect("tokens that overlap a quoted span are marked; the end token never is", () =>
    Effect.gen(function* () {
      const spans = [quote("if (n < 3)"), quote("return 0;"), quote("free(d);")]
      const {
        masked,
        secureMask,
        severities,
        dropped,
        spans: kept
      } = yield* ask(teacher(verdict(false), spans), reference)
      assert.strictEqual(masked.join("").replaceAll(/\s/g, ""), "if(n<3)return0;")
      assert.isFalse(secureMask.at(-1))
      assert.deepStrictEqual(severities, [])
      assert.strictEqual(dropped, 1)
      assert.deepStrictEqual(kept, spans)
      // everything quoted: everything but the end token and blanks
      const all = yield* ask(teacher(verdict(false), [quote(reference)]), reference)
      assert.strictEqual(all.masked.join("").replaceAll(/\s/g, ""), reference.replaceAll(/\s/g, ""))
      assert.isFalse(all.secureMask.at(-1))
    })
  )

  it.effect("characters of several bytes before a span do not move it", () =>
    Effect.gen(function* () {
      const response = `  puts("é😀中");\n${reference}`
      const { masked } = yield* ask(teacher(verdict(false), [quote("if (n < 3)")]), response)
      assert.strictEqual(masked.join("").replaceAll(/\s/g, ""), "if(n<3)")
    })
  )

  it.effect("bytes that are no text earn nothing", () =>
    Effect.gen(function* () {
      const tokenizer = yield* tinyTokenizer
      const broken = tokenizer.encode("😀").slice(0, 1)
      assert.strictEqual(tokenizer.decode(broken), "\ufffd")
      const ids = [...broken, ...tokenizer.encode(reference), tokenizer.eosId]
      const response = tokenizer.decode(ids.slice(0, -1))
      const { masked, severities } = yield* ask(teacher(verdict(false), [quote("if (n < 3)")]), response, { ids })
      assert.deepStrictEqual(masked, [])
      assert.deepStrictEqual(severities, [])
    })
  )

  it.effect("the verdict becomes severities: none when secure, null without a signal", () =>
    Effect.gen(function* () {
      const severitiesOf = (judged: Verdict) => Effect.map(ask(teacher(judged, []), reference), (f) => f.severities)
      assert.deepStrictEqual(yield* severitiesOf(verdict(false)), [])
      assert.deepStrictEqual(yield* severitiesOf(verdict(true, ["high", "low"])), ["high", "low"])
      assert.isNull(yield* severitiesOf(verdict(null)))
    })
  )

  it.effect("a response that may not earn keeps its verdict and loses its spans", () =>
    Effect.gen(function* () {
      const methods = teacher(verdict(true, ["high"]), [quote("if")])
      for (const [response, truncated] of [
        [reference, true],
        ["if", false],
        ["  if (n) return;\n".repeat(6), false]
      ] as const) {
        const { masked, severities } = yield* ask(methods, response, { truncated })
        assert.deepStrictEqual(masked, [])
        assert.deepStrictEqual(severities, ["high"])
      }
    })
  )

  it.effect("an empty response is asked about like any other", () =>
    Effect.gen(function* () {
      const { secureMask, severities } = yield* ask(teacher(verdict(true, ["medium"]), [quote("if")]), "")
      assert.deepStrictEqual(secureMask, [false])
      assert.deepStrictEqual(severities, ["medium"])
    })
  )

  const reasons: ReadonlyArray<readonly [TeacherErrorReason, boolean]> = [
    [new BadAnswer({ attempts: 3, detail: "d" }), true],
    [new NoRepair({ detail: "d" }), true],
    [new NotParsed({ detail: "d" }), true],
    [new Rejected({ status: 401, detail: "d" }), false],
    [new OutOfCredit({ detail: "d" }), false],
    [new Unreachable({ attempts: 5, detail: "d" }), false],
    [new NotRecorded({ method: "verdict", key: "k", path: "p" }), false],
    [new Storage({ path: "p", detail: "d" }), false]
  ]
  it.effect("an answer that cannot be used is no signal; every other error stops the run", () =>
    Effect.gen(function* () {
      for (const [reason, silent] of reasons) {
        const failing = () => Effect.fail(teacherError(reason))
        for (const methods of [
          { ...teacher(verdict(true, ["high"]), [quote("if (n < 3)")]), verdict: failing },
          { ...teacher(verdict(true, ["high"]), [quote("if (n < 3)")]), secureSpans: failing }
        ]) {
          if (silent) {
            const { masked, severities, spans, dropped } = yield* ask(methods, reference)
            assert.deepStrictEqual(
              { masked, severities, spans, dropped },
              { masked: [], severities: null, spans: [], dropped: 0 }
            )
          } else {
            const error = yield* Effect.flip(ask(methods, reference))
            assert.strictEqual(error._tag, "TeacherError")
            assert.strictEqual((error as { readonly reason: unknown }).reason, reason)
          }
        }
      }
    })
  )
})
