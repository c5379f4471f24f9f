/**
 * Parsed code for the gate: is it broken, what are its tokens, what do its functions declare. tree-sitter grammars for
 * C, C++ and Python, as WebAssembly.
 *
 * Unusual: real functions torn out of their files often do not parse without errors (macros as headers, attributes), so
 * errors are counted, and the gate compares counts instead of asking for none. C that the C grammar cannot read is tried
 * with the C++ grammar too: one in five real functions was cut off after its return type, which only that one accepts.
 */
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import type { Language } from "@srcode/domain"
import { Context, Effect, Layer } from "effect"
import { Language as Grammar, type Node, Parser } from "web-tree-sitter"
import { DatasetError } from "./DatasetError.ts"

export interface ParsedCode {
  /** Error and missing nodes. */
  readonly errors: number
  /** Leaf texts without comments and whitespace, in order. */
  readonly tokens: ReadonlyArray<string>
  /** What each function definition says before its body, tokens joined by a space, in order. */
  readonly headers: ReadonlyArray<string>
}

const grammarFiles: Record<Language, string> = {
  c: "tree-sitter-c/tree-sitter-c.wasm",
  cpp: "tree-sitter-cpp/tree-sitter-cpp.wasm",
  python: "tree-sitter-python/tree-sitter-python.wasm"
}

const damaged = (file: string) => (cause: unknown) =>
  new DatasetError({
    reason: "Installation",
    message: `cannot load ${file}: ${cause instanceof Error ? cause.message : String(cause)}; install the packages again`,
    file,
    line: null
  })

const loadGrammar = (language: Language) =>
  Effect.tryPromise({
    try: async () => Grammar.load(await readFile(fileURLToPath(import.meta.resolve(grammarFiles[language])))),
    catch: damaged(grammarFiles[language])
  })

export class Syntax extends Context.Service<
  Syntax,
  {
    /** Never fails for the sake of the code: what cannot be parsed has errors. */
    parse(language: Language, code: string): Effect.Effect<ParsedCode, DatasetError>
  }
>()("@srcode/dataset/Syntax") {
  /** Loads each grammar when it is first needed. */
  static readonly layer: Layer.Layer<Syntax, DatasetError> = Layer.effect(
    Syntax,
    Effect.gen(function* () {
      yield* Effect.tryPromise({ try: () => Parser.init(), catch: damaged("web-tree-sitter") })
      const parser = yield* Effect.acquireRelease(
        Effect.sync(() => new Parser()),
        (parser) => Effect.sync(() => parser.delete())
      )
      const grammars = {
        c: yield* Effect.cached(loadGrammar("c")),
        cpp: yield* Effect.cached(loadGrammar("cpp")),
        python: yield* Effect.cached(loadGrammar("python"))
      }
      const parse = Effect.fn("Syntax.parse")(function* (language: Language, code: string) {
        const grammar = yield* grammars[language]
        const parsed = yield* Effect.sync(() => parseWith(parser, grammar, code))
        if (language !== "c" || parsed.errors === 0) return parsed
        const cpp = yield* grammars.cpp
        const second = yield* Effect.sync(() => parseWith(parser, cpp, code))
        return second.errors < parsed.errors ? second : parsed
      })
      return Syntax.of({ parse })
    })
  )
}

/** Synchronous, so that the shared parser is never used by two fibers at once. */
const parseWith = (parser: Parser, grammar: Grammar, code: string): ParsedCode => {
  parser.setLanguage(grammar)
  const tree = parser.parse(code)
  if (tree === null) return { errors: 1, tokens: [], headers: [] }
  const tokens: Array<string> = []
  const headers: Array<string> = []
  let errors = 0
  // Where in `tokens` a definition began, while its body has not been reached.
  const visit = (root: Node): void => {
    const stack: Array<Node | { readonly header: number }> = [root]
    for (let item = stack.pop(); item !== undefined; item = stack.pop()) {
      if ("header" in item) {
        headers.push(tokens.slice(item.header).join(" "))
        continue
      }
      if (item.isError || item.isMissing) errors++
      if (item.type === "comment") continue
      if (item.childCount === 0) {
        if (item.text.trim() !== "") tokens.push(item.text)
        continue
      }
      const body = item.type === "function_definition" ? item.childForFieldName("body") : null
      const mark = { header: tokens.length }
      for (let index = item.childCount - 1; index >= 0; index--) {
        const child = item.child(index)
        if (child === null) continue
        stack.push(child)
        if (body !== null && child.id === body.id) stack.push(mark)
      }
    }
  }
  visit(tree.rootNode)
  tree.delete()
  return { errors, tokens, headers }
}

/** Tokens up to the body, for code without a recognised definition: to the first `{`, in Python to the first outer `:`. */
export const looseHeader = (tokens: ReadonlyArray<string>, language: Language): string => {
  let depth = 0
  const end = tokens.findIndex((token) => {
    if (token === "(" || token === "[") depth++
    if (token === ")" || token === "]") depth--
    return language === "python" ? token === ":" && depth === 0 : token === "{"
  })
  return tokens.slice(0, end < 0 ? undefined : end).join(" ")
}
