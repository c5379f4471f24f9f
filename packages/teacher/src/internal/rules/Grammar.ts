/**
 * Parsers for C and C++: tree-sitter's runtime and the grammar packages' own wasm files, found through Node's
 * resolution (the C++ package carries an older C grammar of its own, so nothing is looked up by folder). The C++ grammar
 * is 3 MB and is loaded when first asked for.
 */
import { createRequire } from "node:module"
import type { Language } from "@srcode/domain"
import { Effect, type Scope } from "effect"
import { Language as Grammar, Parser } from "web-tree-sitter"

const require = createRequire(import.meta.url)

const files = {
  c: "tree-sitter-c/tree-sitter-c.wasm",
  cpp: "tree-sitter-cpp/tree-sitter-cpp.wasm"
} as const

/** A parser of that language; its wasm memory is freed with the scope. A missing file is a defect of the installation. */
export const openParser = (language: keyof typeof files): Effect.Effect<Parser, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      await Parser.init()
      const parser = new Parser()
      parser.setLanguage(await Grammar.load(require.resolve(files[language])))
      return parser
    }),
    (parser) => Effect.sync(() => parser.delete())
  )

export const hasGrammar = (language: Language): language is keyof typeof files => language in files
