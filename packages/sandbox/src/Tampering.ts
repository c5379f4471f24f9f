/**
 * Constructs which change what an analyzer or a sanitizer says instead of what the program does. A policy rewarded by
 * analyzers finds them, so generated code is checked before any tool sees it.
 *
 * Lexical on purpose: it works on fragments which no compiler accepts, and it reads the text as the preprocessor does
 * (line splices, raw strings), not as a regular expression over lines would. What a lexer cannot know (names built by
 * macros) is reported as `token-paste` rather than guessed.
 *
 * Honest code uses some of these too (kernel code has inline assembly): what to refuse is the caller's choice.
 */
import type { Language } from "@srcode/domain"
import { lex, type Token } from "./internal/lexer.ts"
import { pythonComments } from "./internal/pythonComments.ts"

export type TamperingKind =
  /** Defines or calls a sanitizer's own entry points (`__asan_default_options`). */
  | "sanitizer-hook"
  /** Takes a function out of instrumentation. */
  | "no-sanitize"
  /** Runs code before or after `main`. */
  | "constructor"
  /** Inline assembly: unreadable to every analyzer, and it can embed files at compile time. */
  | "assembly"
  /** Switches a compiler's diagnostics off. */
  | "diagnostic-pragma"
  /** `#line` and line markers: moves findings elsewhere, or declares the text a system header. */
  | "line-directive"
  /** Shows other code to an analyzer than to the compiler. */
  | "analyzer-macro"
  /** A comment that tells an analyzer to be quiet. */
  | "suppression-comment"
  /** Replaces `malloc`, `free`, `exit` and their like. */
  | "libc-override"
  /** `##` in a macro: names that cannot be seen here. */
  | "token-paste"
  /** Reads a file outside the job while compiling. */
  | "host-include"
  /** Trigraphs, and raw strings in C: text which tools read differently. */
  | "spelling"

export interface Tampering {
  readonly kind: TamperingKind
  /** The offending text, shortened to 80 characters. */
  readonly text: string
  /** 1-based. */
  readonly line: number
  /** Whether `stripAnalyzerTricks` takes it out; what stays needs a decision by the caller. */
  readonly removed: boolean
}

export interface Stripped {
  /** Same length and same lines as the input, so locations stay true. */
  readonly code: string
  readonly found: ReadonlyArray<Tampering>
}

const sanitizerHook = /^__(?:asan|ubsan|lsan|msan|tsan|hwasan|dfsan|sanitizer|interceptor|llvm_profile|gcov)_/
const noSanitize =
  /^_{0,2}(?:no_sanitize(?:_[a-z_]+?)?|no_address_safety_analysis|disable_sanitizer_instrumentation|no_instrument_function|no_profile_instrument_function)_{0,2}$/
const constructor = /^_{0,2}(?:constructor|destructor|init_priority)_{0,2}$/
const initSection = /^"\.(?:preinit|init|fini|ctors|dtors)/
const assembly = /^(?:asm|__asm|__asm__)$/
const analyzerMacro =
  /^(?:__clang_analyzer__|__clang__|__clang_major__|__SANITIZE_[A-Z]+__|[a-z]+_sanitizer|__OPTIMIZE__|__?(?:cppcheck|coverity|klocwork|codeql|semmle|pvs_studio|infer|smatch|sparse|checker)[a-z_]*|PVS_STUDIO|CODEQL[A-Z_]*|SEMMLE[A-Z_]*)$/i
const suppression =
  /\b(?:NOLINT(?:NEXTLINE|BEGIN|END)?|nosec|noqa|NOSONAR|cppcheck-suppress(?:-\w+)?|clang-analyzer|DeepCode\s+ignore)\b|\b(?:flawfinder|its4|rats):\s*ignore|\b(?:lgtm|codeql|coverity|snyk|semgrep)\s*\[|\bnosemgrep\b|\btype:\s*ignore\b/i
const diagnosticPragma =
  /^(?:(?:GCC|clang)\s+(?:diagnostic|system_header|optimize|attribute)|warning\b|optimize\b|STDC_ANALYZER)/
const libc = new Set(
  `malloc calloc realloc free reallocarray aligned_alloc posix_memalign memalign exit _exit _Exit quick_exit abort atexit
  memcpy memmove memset strcpy strncpy strcat strncat strlen strdup printf fprintf sprintf snprintf vsnprintf puts gets
  fgets read write system popen execve signal sigaction raise setjmp longjmp __libc_start_main _start operator_new`.split(
    /\s+/
  )
)
const hostPath = /^["<](?:\/|~|[A-Za-z]:)|(?:^["<]|\/)\.\.\//

/** Everything suspicious in `code`, in order of appearance. Pure, total, linear. */
export const findTampering = (code: string, language: Language = "c"): ReadonlyArray<Tampering> =>
  stripAnalyzerTricks(code, language).found

/**
 * Blanks comments, diagnostic pragmas, hiding attributes and line directives, and renames sanitizer hooks and analyzer
 * macros so that they lose their meaning. Length and line structure are kept.
 */
export const stripAnalyzerTricks = (code: string, language: Language = "c"): Stripped =>
  language === "python" ? stripPython(code) : stripC(code, language)

const stripPython = (code: string): Stripped => {
  const edit = editor(code)
  for (const comment of pythonComments(code)) {
    edit.blank(comment.start, comment.end)
    if (suppression.test(comment.text)) edit.report("suppression-comment", comment.text, comment.line, true)
  }
  return edit.result()
}

const stripC = (code: string, language: Language): Stripped => {
  const edit = editor(code)
  const all = lex(code, { digitSeparators: language === "cpp" })
  for (const comment of all.filter((token) => token.kind === "comment")) {
    edit.blank(comment.start, comment.end)
    if (suppression.test(comment.text)) edit.report("suppression-comment", comment.text, comment.line, true)
  }
  let line = 1
  for (const match of code.matchAll(/\?\?[=/'()!<>-]|\n/g)) {
    if (match[0] === "\n") line++
    else edit.report("spelling", match[0], line, false)
  }
  const tokens = all.filter((token) => token.kind !== "comment")
  const ends = groupEnds(tokens)
  let depth = 0
  let skipTo = 0
  for (const [index, token] of tokens.entries()) {
    const report = (kind: TamperingKind, removed: boolean, text = token.text) =>
      edit.report(kind, text, token.line, removed)
    if (token.text === "##" || token.text === "%:%:") report("token-paste", false)
    if (token.kind === "string" && language === "c" && /^(?:u8|u|U|L)?R"/.test(token.text)) report("spelling", false)
    if (token.directive < 0 && token.text === "{") depth++
    if (token.directive < 0 && token.text === "}") depth = Math.max(0, depth - 1)
    if (token.startsDirective) {
      const line = directiveLine(tokens, index)
      skipTo = Math.max(skipTo, directiveTricks(line, code, edit, report) ? index + line.length : 0)
      continue
    }
    if (token.kind !== "identifier" || index < skipTo) continue
    if (token.text === "__attribute__" || token.text === "__attribute" || token.text === "__declspec") {
      const end = ends.get(index + 1) ?? index + 1
      skipTo = Math.max(
        skipTo,
        attributeTricks(tokens.slice(index, Math.min(end, index + 513)), edit, report) ? end : 0
      )
    } else if (tokens[index - 1]?.text === "[[") {
      const end = ends.get(index - 1) ?? index
      skipTo = Math.max(
        skipTo,
        attributeTricks(tokens.slice(index - 1, Math.min(end, index + 512)), edit, report) ? end : 0
      )
    } else if (token.text === "_Pragma" || token.text === "__pragma") {
      const end = ends.get(index + 1) ?? index + 1
      report("diagnostic-pragma", true, code.slice(token.start, tokens[end - 1]?.end))
      edit.blank(token.start, tokens[end - 1]?.end ?? token.end)
      skipTo = end
    } else if (assembly.test(token.text)) {
      report("assembly", false)
    } else if (
      depth === 0 &&
      token.directive < 0 &&
      libc.has(token.text) &&
      definesFunction(tokens, ends.get(index + 1))
    ) {
      report("libc-override", false)
    }
    if (index >= skipTo) renameTricks(token, edit, report)
  }
  return edit.result()
}

type Report = (kind: TamperingKind, removed: boolean, text?: string) => void

/** Names that carry the trick themselves: the same name everywhere, so uses and definitions stay consistent. */
const renameTricks = (token: Token, edit: Editor, report: Report): void => {
  const kind = sanitizerHook.test(token.text)
    ? "sanitizer-hook"
    : noSanitize.test(token.text)
      ? "no-sanitize"
      : analyzerMacro.test(token.text)
        ? "analyzer-macro"
        : undefined
  if (kind === undefined) return
  report(kind, true)
  edit.rename(token)
}

/** Returns true when the whole directive was blanked. */
const directiveTricks = (line: ReadonlyArray<Token>, code: string, edit: Editor, report: Report): boolean => {
  const [hash, name, first] = line
  const last = line[line.length - 1]
  if (hash === undefined || last === undefined || name === undefined) return false
  const blank = (kind: TamperingKind) => {
    report(kind, true, code.slice(hash.start, last.end))
    edit.blank(hash.start, last.end)
    return true
  }
  const rest = line
    .slice(2)
    .map((token) => token.text)
    .join(" ")
  if (name.text === "pragma" && diagnosticPragma.test(rest)) return blank("diagnostic-pragma")
  if (name.text === "line" || name.kind === "number") return blank("line-directive")
  if (/^(?:include|include_next|import|embed)$/.test(name.text)) {
    if (name.text === "embed" || (first !== undefined && hostPath.test(first.text))) {
      report("host-include", false, `#${name.text} ${rest}`)
    }
  }
  if ((name.text === "define" || name.text === "undef") && first !== undefined && libc.has(first.text)) {
    report("libc-override", false, `#${name.text} ${first.text}`)
  }
  return false
}

/** Returns true when the whole attribute was blanked. */
const attributeTricks = (tokens: ReadonlyArray<Token>, edit: Editor, report: Report): boolean => {
  // No honest attribute is this long; refusing it keeps the check linear for nested ones.
  const hiding = tokens.length > 512 ? tokens[0] : tokens.find(({ text }) => noSanitize.test(text))
  const early = tokens.find(({ text }) => constructor.test(text) || initSection.test(text))
  const found = hiding ?? early
  const first = tokens[0]
  const last = tokens[tokens.length - 1]
  if (found === undefined || first === undefined || last === undefined) return false
  const text = tokens.slice(0, 32).map((token) => token.text)
  report(hiding === undefined ? "constructor" : "no-sanitize", true, text.join(""))
  edit.blank(first.start, last.end)
  return true
}

const directiveLine = (tokens: ReadonlyArray<Token>, start: number): ReadonlyArray<Token> => {
  let end = start
  while (end < tokens.length && tokens[end]?.directive === tokens[start]?.directive) end++
  return tokens.slice(start, end)
}

/**
 * For each opening parenthesis and `[[` that is closed, the index after its close. One pass: nested and unclosed groups
 * must not make the whole quadratic.
 */
const groupEnds = (tokens: ReadonlyArray<Token>): ReadonlyMap<number, number> => {
  const ends = new Map<number, number>()
  const open: Record<string, Array<number>> = { ")": [], "]]": [] }
  for (const [index, { text }] of tokens.entries()) {
    if (text === "(") open[")"]?.push(index)
    else if (text === "[[") open["]]"]?.push(index)
    else if (text === ")" || text === "]]") {
      const start = open[text]?.pop()
      if (start !== undefined) ends.set(start, index + 1)
    }
  }
  return ends
}

const definesFunction = (tokens: ReadonlyArray<Token>, parametersEnd: number | undefined): boolean =>
  parametersEnd !== undefined && tokens[parametersEnd]?.text === "{"

type Editor = ReturnType<typeof editor>

const editor = (code: string) => {
  const units = code.split("")
  const found: Array<Tampering & { readonly order: number }> = []
  const seen = new Set<string>()
  return {
    blank: (start: number, end: number): void => {
      for (let i = start; i < end; i++) if (units[i] !== "\n" && units[i] !== "\r") units[i] = " "
    },
    rename: (token: Token): void => {
      for (const position of token.positions.slice(0, 2)) units[position] = "x"
    },
    report: (kind: TamperingKind, text: string, line: number, removed: boolean): void => {
      const key = `${kind} ${line} ${text}`
      if (seen.has(key)) return
      seen.add(key)
      found.push({ kind, text: text.replace(/\s+/g, " ").slice(0, 80), line, removed, order: found.length })
    },
    result: (): Stripped => ({
      code: units.join(""),
      found: found
        .sort((a, b) => a.line - b.line || a.order - b.order)
        .map(({ kind, text, line, removed }) => ({ kind, text, line, removed }))
    })
  }
}
