/**
 * The panel on one snippet: strip tricks, check the shape, run all tools in one sandboxed job, read their answers, merge.
 *
 * The three states, for C and C++:
 * - compiles (alone or with common headers): the answer of gcc, clang and cppcheck together;
 * - does not compile but mostly parses (a function quoted without its types): the answer of cppcheck alone, which `tools`
 *   shows, unless fragments are refused;
 * - otherwise, or when no tool answered, or when there is no function in it: `NotAnalysed` with the reason.
 */
import { Analysis, type Finding, type Snippet } from "@srcode/domain"
import { Sandbox, type SandboxError, stripAnalyzerTricks } from "@srcode/sandbox"
import { Effect } from "effect"
import { mergeFindings } from "../merge.ts"
import { clangFindings } from "./clang.ts"
import { cppcheckFindings } from "./cppcheck.ts"
import { gccFindings } from "./gcc.ts"
import { analysisScript, type PanelTools, parseAnswers, prelude, snippetFile, type ToolAnswer } from "./script.ts"
import type { Shape } from "./shape.ts"

export interface PanelOptions {
  /** Whether a text that does not compile may be answered by the tools which tolerate fragments. */
  readonly fragments: "accept" | "refuse"
  /** Wall clock of each tool on one snippet, in seconds. */
  readonly toolSeconds: number
}

/** Longest snippet looked at, in characters; longer ones are `NotAnalysed`. */
const maxLength = 1_000_000

/** Macros used as statements break a parse locally; text that is garbage breaks it everywhere. */
const toleratedErrorShare = 0.05

export const analyseSnippet = Effect.fnUntraced(function* (
  snippet: Snippet,
  tools: PanelTools,
  shapeOf: (code: string, language: "c" | "cpp") => Shape,
  options: PanelOptions
): Effect.fn.Return<Analysis, SandboxError, Sandbox> {
  const notAnalysed = (reason: string) => Analysis.cases.NotAnalysed.make({ snippetId: snippet.id, reason })
  const language = snippet.language
  if (language === "python") return notAnalysed("the panel has no analyzer for Python")
  if (snippet.code.length > maxLength) return notAnalysed(`longer than ${maxLength} characters`)
  const code = stripAnalyzerTricks(snippet.code.replace(/\r\n?/g, "\n"), language).code
  const shape = shapeOf(code, language)
  if (!shape.hasFunction) return notAnalysed("no function definition in it")

  const sandbox = yield* Sandbox
  const name = snippetFile(language)
  const result = yield* sandbox.run({
    files: { [name]: code, "prelude.h": prelude, "run.sh": analysisScript(tools, language, options.toolSeconds) },
    argv: ["/bin/sh", "/job/run.sh"],
    limits: { wallMs: options.toolSeconds * 6_000, outputBytes: 16 * 1024 * 1024, cpuSeconds: options.toolSeconds + 1 }
  })
  const answers = parseAnswers(result.stdout)
  const compile = answers.get("compile")
  const compiles = compile?.exitCode === 1
  if (compile !== undefined && !compiles) {
    const error = firstError(compile.output)
    if (options.fragments === "refuse") return notAnalysed(`does not compile: ${error}`)
    if (shape.errorShare > toleratedErrorShare) {
      return notAnalysed(`does not parse near line ${shape.firstError} and does not compile: ${error}`)
    }
  }

  const file = `/job/${name}`
  const answered: Array<string> = []
  const findings: Array<Finding> = []
  const complaints: Array<string> = []
  const take = (tool: string, found: ReadonlyArray<Finding> | undefined, complaint: string) => {
    if (found === undefined) complaints.push(complaint)
    else {
      answered.push(tool)
      findings.push(...found)
    }
  }
  for (const tool of ["gcc-analyzer", "gcc-warnings"]) {
    const answer = answers.get(tool)
    if (answer !== undefined) take(tool, yield* gccFindings(tool, answer, file, code), failure(tool, answer))
  }
  const clang = answers.get("clang-analyzer")
  if (clang !== undefined) {
    take("clang-analyzer", yield* clangFindings(clang, file, code), failure("clang-analyzer", clang))
  }
  const cppcheck = answers.get("cppcheck")
  if (cppcheck !== undefined) {
    const read = cppcheckFindings(cppcheck, file, code)
    if (read._tag === "Answered") take("cppcheck", read.findings, "")
    else complaints.push(read.reason)
  }

  if (answered.length === 0) {
    const cause = result.timedOut ? "the tools took too long" : complaints.join("; ")
    return notAnalysed(cause === "" ? "no tool gave an answer" : `no tool gave an answer: ${cause}`)
  }
  const merged = mergeFindings(findings)
  return merged.length > 0
    ? Analysis.cases.Alerts.make({ snippetId: snippet.id, findings: merged, tools: answered })
    : Analysis.cases.Clean.make({ snippetId: snippet.id, tools: answered })
})

const failure = (tool: string, answer: ToolAnswer): string =>
  answer.exitCode === 137 ? `${tool} took too long` : `${tool} ended with code ${answer.exitCode}`

const firstError = (output: string): string =>
  /^\S+?:(\d+):\d+: (?:fatal )?error: (.*)$/m.exec(output)?.slice(1).join(": ").slice(0, 200) ?? "no message"
