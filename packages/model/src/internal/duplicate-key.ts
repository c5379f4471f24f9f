/**
 * Finds what `JSON.parse` hides: the same key twice in one object (the last one silently wins). A scan over the text
 * with an explicit stack, so that deep nesting costs no call stack; nesting beyond `maxDepth` is reported as well.
 * The text is otherwise taken to be JSON; `JSON.parse` judges the rest.
 */
export const duplicateKey = (text: string, maxDepth: number): string | undefined => {
  const stack: Array<Set<string> | undefined> = []
  let at = 0
  while (at < text.length) {
    const char = text.charCodeAt(at)
    if (char === 0x22) {
      const start = at
      at++
      while (at < text.length && text.charCodeAt(at) !== 0x22) at += text.charCodeAt(at) === 0x5c ? 2 : 1
      at++
      const keys = stack[stack.length - 1]
      if (keys !== undefined && nextIsColon(text, at)) {
        const key = unescape(text.slice(start, at))
        if (keys.has(key)) return `the key ${JSON.stringify(key.slice(0, 80))} stands twice`
        keys.add(key)
      }
      continue
    }
    if (char === 0x7b) stack.push(new Set())
    else if (char === 0x5b) stack.push(undefined)
    else if (char === 0x7d || char === 0x5d) stack.pop()
    if (stack.length > maxDepth) return `nested deeper than ${maxDepth}`
    at++
  }
  return undefined
}

const nextIsColon = (text: string, from: number): boolean => {
  let at = from
  while (at < text.length && text.charCodeAt(at) <= 0x20) at++
  return text.charCodeAt(at) === 0x3a
}

/** A string literal's value; a broken literal stands for itself and fails later in `JSON.parse`. */
const unescape = (literal: string): string => {
  try {
    return String(JSON.parse(literal))
  } catch {
    return literal
  }
}
