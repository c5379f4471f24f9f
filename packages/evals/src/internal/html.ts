/** Text into HTML. What a model wrote is hostile: it is escaped, and characters that hide or reorder text are shown. */

const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" }

/** Controls except tab and line end, lone surrogates, bidirectional controls, non-characters. */
const hidden = /(?![\t\n])\p{Cc}|\p{Surrogate}|[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]/gu

export const escapeHtml = (text: string): string =>
  text
    .replace(/\r\n/g, "\n")
    .replace(
      hidden,
      (character) => `\u27e8U+${character.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0")}\u27e9`
    )
    .replace(/[&<>"']/g, (character) => entities[character] ?? "")

/** `<pre>` with the text as it is. */
export const pre = (text: string): string => `<pre>${escapeHtml(text)}</pre>`

export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  `<div class="wide"><table><thead><tr>${head.map((cell) => `<th>${escapeHtml(cell)}</th>`).join("")}</tr></thead>` +
  `<tbody>${rows.map((row) => `<tr>${row.map((cell) => `<td>${cell}</td>`).join("")}</tr>`).join("\n")}</tbody></table></div>`

/** Number for people: four significant digits. */
export const short = (value: number): string => {
  if (!Number.isFinite(value)) return String(value)
  if (value === 0) return "0"
  const size = Math.abs(value)
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)))
}
