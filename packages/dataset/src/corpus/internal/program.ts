/**
 * Whether a text may be handed to the judge at all: exactly one function after its prompt, with nothing in it that
 * speaks to the preprocessor, the sanitizers or the judge's own names.
 */
import { findTampering } from "@srcode/sandbox"
import { judgePrefix } from "../Prelude.ts"

/** Comments and literals become blanks and empty literals, so that braces and words in them do not count. */
const skeleton = (code: string): string =>
  code.replace(/\/\*[\s\S]*?(?:\*\/|$)|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'/g, (part) =>
    part.startsWith("/") ? " " : part.startsWith('"') ? '""' : "0"
  )

const overflowBuiltin = /^__builtin_(?:add|sub|mul)_overflow$/
const forbiddenWord = /^(?:asm|extern|main|typedef|environ|setjmp|longjmp|alloca)$/

/** The reason why `prompt + body` is no honest single function, or undefined. */
export const programProblem = (prompt: string, body: string): string | undefined => {
  const code = skeleton(prompt + body)
  if (body.length > 4000) return "the body is longer than 4000 characters"
  if (/[#\\@`$]|\?\?|<%|%>|<:|:>|%:/.test(code)) return "the body uses characters that no plain function needs"
  for (const word of code.match(/[A-Za-z_]\w*/g) ?? []) {
    if (word.startsWith(judgePrefix)) return `the body uses ${word}, a name of the judge`
    if (word.startsWith("__") && !overflowBuiltin.test(word)) return `the body uses ${word}, a name of the compiler`
    if (forbiddenWord.test(word)) return `the body uses ${word}`
  }
  const [trick] = findTampering(prompt + body, "c").filter((found) => found.kind !== "libc-override")
  if (trick !== undefined) return `the body tampers with its analysis (${trick.kind})`
  let depth = 0
  for (let at = 0; at < code.length; at++) {
    if (code[at] === "{") depth++
    if (code[at] !== "}") continue
    depth--
    if (depth === 0) return code.slice(at + 1).trim() === "" ? undefined : "there is text after the function"
  }
  return "the function does not end"
}
