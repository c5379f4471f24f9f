/** Where Python's comments are: a scan that knows strings (single, triple, raw; prefixes do not matter) and nothing else. */

export interface PythonComment {
  readonly start: number
  readonly end: number
  readonly line: number
  readonly text: string
}

const token =
  /#[^\n]*|"""(?:\\[\s\S]|(?!""")[^\\])*(?:"""|$)|'''(?:\\[\s\S]|(?!''')[^\\])*(?:'''|$)|"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?|\n/g

export const pythonComments = (code: string): ReadonlyArray<PythonComment> => {
  const comments: Array<PythonComment> = []
  let line = 1
  for (const match of code.matchAll(token)) {
    const text = match[0]
    if (text.startsWith("#")) comments.push({ start: match.index, end: match.index + text.length, line, text })
    line += text.split("\n").length - 1
  }
  return comments
}
