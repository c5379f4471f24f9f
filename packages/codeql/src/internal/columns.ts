/**
 * Tools count columns in different units; findings count 0-based UTF-16 code units (what `String.slice` takes).
 * Every `column` here is 1-based, as tools print it.
 */

export type ColumnUnit = "bytes" | "codePoints" | "utf16"

/** A reader of columns for one text: `(line, column, unit)` to a 0-based UTF-16 column, clamped to the line's end. */
export const columnReader = (code: string) => {
  const lines = code.split("\n")
  return (line: number, column: number, unit: ColumnUnit): number => {
    const text = lines[line - 1] ?? ""
    if (unit === "utf16") return Math.max(0, Math.min(column - 1, text.length))
    let units = 0
    let seen = 0
    for (const character of text) {
      if (seen >= column - 1) break
      seen += unit === "codePoints" ? 1 : utf8Length(character.codePointAt(0) ?? 0)
      units += character.length
    }
    return units
  }
}

const utf8Length = (codePoint: number): number =>
  codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4
