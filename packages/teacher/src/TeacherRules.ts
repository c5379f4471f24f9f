/**
 * The embedded teacher: static rules over syntax trees, no model and no network.
 *
 * A scan walks one function with what is known at each point (linear facts from guards, NULL and freed pointers, text
 * filters). Every dangerous operation has a requirement; a requirement that cannot be proved is a finding, and whatever
 * proved one is a secure construct. So a guard earns only if a later use needs it, and only once.
 *
 * Decisions about programs that count for nothing:
 *  - text that does not parse (unbalanced, cut off, another language): no signal, no spans; `earnsCredit` is false.
 *  - a lone program (a `//` line and one function over C's own types and structs) that uses an undeclared name, leaves a
 *    parameter unused or never returns: vulnerable with no class, severity medium, no spans. Deleting the task is no
 *    way to be secure.
 *  - a function out of a larger project in which no rule finds anything to judge: no signal.
 */
import { type CweId, cwe, noSignal, type Verdict } from "@srcode/domain"
import { Effect, Layer, Scope } from "effect"
import type { Parser } from "web-tree-sitter"
import { hasGrammar, openParser } from "./internal/rules/Grammar.ts"
import { leaks, promptsFor } from "./internal/rules/Prompts.ts"
import { spansOf } from "./internal/rules/Quotes.ts"
import { compareScans } from "./internal/rules/Reflect.ts"
import { repairSource } from "./internal/rules/Repair.ts"
import { type ScanResult, scanSource } from "./internal/rules/Scan.ts"
import { type Repair, type ResponseRequest, Teacher } from "./Teacher.ts"
import { NoRepair, NotParsed, type TeacherError, teacherError } from "./TeacherError.ts"

const notParsed = (detail: string): TeacherError => teacherError(new NotParsed({ detail }))

/** Programs judged lately: spans and verdict of one response come from one scan. */
const remembered = 64

const verdictOf = (result: ScanResult): Verdict => {
  if ("unreadable" in result) return noSignal(result.unreadable)
  const { broken, constructs, findings, walk } = result.scan
  if (findings.length > 0)
    return {
      vulnerable: true,
      cwes: [...new Set(findings.map((f) => f.cwe))].map(cwe),
      severities: findings.map((f) => f.severity),
      reason: findings.map((f) => `CWE-${f.cwe}: ${f.message}`).join("; ")
    }
  if (broken !== undefined) return { vulnerable: true, cwes: [], severities: ["medium"], reason: broken }
  if (!walk.closed && constructs.length === 0) return noSignal("no rule applies to this function")
  return {
    vulnerable: false,
    cwes: [],
    severities: [],
    reason:
      constructs.length === 0
        ? "nothing dangerous is used"
        : [...new Set(constructs.map((c) => `${c.label}: ${c.why}`))].join("; ")
  }
}

const layer: Layer.Layer<Teacher> = Layer.effect(
  Teacher,
  Effect.gen(function* () {
    const c = yield* openParser("c")
    const scope = yield* Effect.scope
    const cpp = yield* Effect.cached(openParser("cpp").pipe(Effect.provideService(Scope.Scope, scope)))
    const parserFor = (language: ResponseRequest["language"]): Effect.Effect<Parser, TeacherError> =>
      !hasGrammar(language)
        ? Effect.fail(notParsed(`the rules know C and C++, not ${language}`))
        : language === "c"
          ? Effect.succeed(c)
          : cpp

    const recent = new Map<string, ScanResult>()
    const scanResponse = (parser: Parser, { prompt, response }: ResponseRequest): ScanResult => {
      const source = prompt + response
      const key = `${prompt.length}:${source}`
      const known = recent.get(key)
      if (known !== undefined) return known
      const whole = scanSource(parser, source, { at: prompt.length })
      // A prompt in words with a whole function as the answer.
      const result = "unreadable" in whole && /\{/.test(response) ? own(parser, source, prompt.length) : whole
      recent.set(key, result)
      const oldest = recent.size > remembered ? recent.keys().next().value : undefined
      if (oldest !== undefined) recent.delete(oldest)
      return result
    }
    const judged = (request: ResponseRequest): Effect.Effect<ScanResult> =>
      parserFor(request.language).pipe(
        Effect.map((parser) => scanResponse(parser, request)),
        Effect.catch((error) => Effect.succeed({ unreadable: error.message }))
      )

    const scanWhole = Effect.fnUntraced(function* (
      language: ResponseRequest["language"],
      code: string,
      focus: ReadonlyArray<CweId>
    ) {
      const first = scanSource(yield* parserFor(language), code, { lenient: true, focus })
      // Collections call much C++ code C.
      const result =
        "unreadable" in first && language === "c" ? scanSource(yield* cpp, code, { lenient: true, focus }) : first
      if ("unreadable" in result) return yield* notParsed(result.unreadable)
      return result.scan
    })

    return Teacher.of({
      name: "rules",

      repair: Effect.fn("TeacherRules.repair")(function* (request) {
        const parser = yield* parserFor(request.language)
        const first = repairSource(parser, request.code, request.cwes)
        const result =
          "none" in first && first.unread && request.language === "c"
            ? repairSource(yield* cpp, request.code, request.cwes)
            : first
        if ("none" in result) return yield* teacherError(new NoRepair({ detail: result.none }))
        const main = result.fixed[0]
        const claimed = request.cwes[0] ?? cwe(main?.cwe ?? 20)
        const repair: Repair = {
          code: result.code,
          explanation: [
            ...result.fixed.map((f) => `CWE-${f.cwe}: ${f.message}, mended.`),
            ...result.left.map((f) => `Left: ${f.message}.`)
          ].join(" "),
          cwe: request.cwes.length === 0 && main !== undefined ? cwe(main.cwe) : claimed,
          cost: 0
        }
        return repair
      }),

      reflect: Effect.fn("TeacherRules.reflect")(function* (request) {
        const original = yield* scanWhole(request.language, request.original, [request.cwe])
        const patched = yield* scanWhole(request.language, request.patched, [request.cwe])
        return compareScans(original, patched, request.cwe)
      }),

      implicitPrompts: Effect.fn("TeacherRules.implicitPrompts")(function* (request) {
        const scan = yield* scanWhole(request.language, request.vulnerable, [])
        const prompts = promptsFor(scan.source, request.secure, scan.header, scan.added)
        if (prompts === undefined || prompts.some((p) => leaks(p.text)))
          return yield* notParsed("the function's own name gives the weakness away, so no prompt can be made of it")
        return prompts
      }),

      secureSpans: Effect.fnUntraced(function* (request) {
        const result = yield* judged(request)
        if ("unreadable" in result || result.scan.broken !== undefined) return []
        const offset = result.scan.source.length - request.response.length
        return spansOf(result.scan.constructs, result.scan.source, offset)
      }),

      verdict: Effect.fnUntraced(function* (request) {
        return verdictOf(yield* judged(request))
      })
    })
  })
)

/** Scans the response by itself, when it holds a whole function. */
const own = (parser: Parser, source: string, promptLength: number): ScanResult =>
  scanSource(parser, source.slice(promptLength))

export const TeacherRules = { layer } as const
