/**
 * Cuts a long word where no merge can ever reach across, which leaves its tokens as they are. SentencePiece files have
 * no pre-tokenizer, so a whole text is one word; in pieces it is faster, and the library's cache of short words works.
 *
 * A merge joins two neighbours in the text between the last character of the left one and the first of the right one.
 * Where no merge has that pair of characters, both sides are independent.
 */
const pairKey = (left: number, right: number): number => left * 0x110000 + right

const lastCodePoint = (text: string): number => {
  const last = text.charCodeAt(text.length - 1)
  const isLowSurrogate = last >= 0xdc00 && last <= 0xdfff && text.length > 1
  return isLowSurrogate ? text.codePointAt(text.length - 2)! : last
}

export const makeCutter = (
  merges: ReadonlyArray<readonly [string, string]>
): ((word: string) => ReadonlyArray<string>) => {
  const joinable = new Set(merges.map(([left, right]) => pairKey(lastCodePoint(left), right.codePointAt(0)!)))
  return (word) => {
    const pieces: Array<string> = []
    let from = 0
    let previous = -1
    for (let at = 0; at < word.length; ) {
      const code = word.codePointAt(at)!
      if (previous >= 0 && !joinable.has(pairKey(previous, code))) {
        pieces.push(word.slice(from, at))
        from = at
      }
      previous = code
      at += code > 0xffff ? 2 : 1
    }
    if (from < word.length) pieces.push(word.slice(from))
    return pieces
  }
}
