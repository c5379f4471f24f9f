/**
 * Guesses the language of a function, and looks at its text without a grammar. A file name decides when its extension is
 * unambiguous; a header or no name leaves it to the content. Pure, and cheap enough for every row of a large data set.
 */
import type { Language } from "@srcode/domain"

const extensions: Record<string, Language> = {
  c: "c",
  cc: "cpp",
  cpp: "cpp",
  cxx: "cpp",
  "c++": "cpp",
  hh: "cpp",
  hpp: "cpp",
  hxx: "cpp",
  tcc: "cpp",
  ipp: "cpp",
  mm: "cpp",
  py: "python",
  pyx: "python"
}

/** Code with comments and the content of literals blanked out; lengths and line ends stay. C and C++ only. */
export const blankLiterals = (code: string): string =>
  code.replace(
    /\/\*[\s\S]*?(?:\*\/|$)|\/\/(?:\\\r?\n|[^\n])*|"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?/g,
    (match) => {
      const quote = match[0] === "/" ? "" : (match[0] ?? "")
      const inner = match.slice(quote.length).replace(/[^\n]/g, " ")
      return quote === "" ? inner : `${quote}${inner.slice(0, -1)}${inner.length > 0 ? quote : ""}`
    }
  )

const cppSigns =
  /\w::~?\w|\btemplate\s*<|\b(?:std|boost)::|\bnullptr\b|\b(?:static|dynamic|reinterpret|const)_cast\s*<|\bnamespace\b|\bnew\s+\w+\s*[([;]|\bdelete(?:\s*\[\s*\])?\s+\w|\boperator\s*[^\w\s(]|\bthrow\b|\bcatch\s*\(|\b(?:public|private|protected)\s*:|\bconst\s+\w+\s*&\s*\w|\)\s*(?:const|noexcept|override)\s*\{/

export const guessLanguage = (code: string, fileName: string | null): Language => {
  const extension = /\.([a-z+]+)$/i.exec(fileName ?? "")?.[1]?.toLowerCase()
  const known = extension === undefined ? undefined : extensions[extension]
  if (known !== undefined) return known
  if (
    /^\s*(?:@[^\n]*\n\s*)*(?:async\s+)?def\s+\w+\s*\([\s\S]*?\)\s*(?:->[^\n:]+)?:\s*(?:#[^\n]*)?\n/m.test(code) &&
    !/[;{]\s*$/m.test(code)
  )
    return "python"
  return cppSigns.test(blankLiterals(code)) ? "cpp" : "c"
}

/**
 * What names a function in front of its body: the identifier before the parameters, with the first argument when that
 * identifier is a macro in capitals (`PHP_FUNCTION(imagecopy)`). Empty when there is no such thing.
 */
export const functionName = (code: string): string => {
  const head = blankLiterals(code).replace(/^\s*#[^\n]*$/gm, "")
  const before = head.slice(0, head.includes("{") ? head.indexOf("{") : undefined)
  const match = /((?:~?[A-Za-z_]\w*\s*::\s*)*~?[A-Za-z_]\w*)\s*\(\s*([^,()]*)/.exec(before)
  if (match === null) return ""
  const name = (match[1] ?? "").replace(/\s+/g, "")
  return /^[A-Z_][A-Z0-9_]+$/.test(name) && /[A-Z]/.test(name) ? `${name}(${(match[2] ?? "").trim()})` : name
}
