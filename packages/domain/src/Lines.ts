/**
 * Splits a sequence of byte chunks into numbered text lines, for every reader of JSONL in the project.
 *
 * Unusual: memory is bounded whatever the file holds. A line longer than `maxBytes` is skipped without being kept and
 * comes out as a `problem` with its number, and so does a line that is not UTF-8, so a reader can name the line. LF and
 * CRLF both end a line, a byte order mark at the start is dropped, a last line without an end counts.
 */

/** One line: its 1-based number and either its text (without the line end) or what is wrong with it. */
export type NumberedLine =
  | { readonly number: number; readonly text: string; readonly problem: null }
  | { readonly number: number; readonly text: null; readonly problem: string }

/** 64 MiB: far above any real row, far below what would exhaust a small machine. */
export const defaultMaxLineBytes = 64 * 1024 * 1024

const newline = 0x0a

/** Stateful: `push` every chunk in order, then `end` once. Chunks may be cut anywhere, even inside a character. */
export class LineSplitter {
  readonly #maxBytes: number
  readonly #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
  #parts: Array<Uint8Array> = []
  #bytes = 0
  #number = 0

  constructor(maxBytes: number = defaultMaxLineBytes) {
    this.#maxBytes = maxBytes
  }

  push(chunk: Uint8Array): ReadonlyArray<NumberedLine> {
    const lines: Array<NumberedLine> = []
    let start = 0
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      this.#take(chunk.subarray(start, end))
      lines.push(this.#finish())
      start = end + 1
    }
    // A copy: the caller may reuse the chunk's memory for the next read.
    if (start < chunk.length) this.#take(chunk.slice(start))
    return lines
  }

  end(): ReadonlyArray<NumberedLine> {
    return this.#bytes === 0 ? [] : [this.#finish()]
  }

  #take(part: Uint8Array): void {
    this.#bytes += part.length
    if (this.#bytes > this.#maxBytes) this.#parts = []
    else if (part.length > 0) this.#parts.push(part)
  }

  #finish(): NumberedLine {
    const number = ++this.#number
    const tooLong = this.#bytes > this.#maxBytes
    const joined = new Uint8Array(tooLong ? 0 : this.#bytes)
    let offset = 0
    for (const part of this.#parts) {
      joined.set(part, offset)
      offset += part.length
    }
    this.#parts = []
    this.#bytes = 0
    if (tooLong) return { number, text: null, problem: `the line is longer than ${this.#maxBytes} bytes` }
    try {
      const text = this.#decoder.decode(joined)
      const from = number === 1 && text.startsWith("\uFEFF") ? 1 : 0
      return { number, text: text.slice(from, text.endsWith("\r") ? -1 : undefined), problem: null }
    } catch {
      return { number, text: null, problem: "the line is not valid UTF-8" }
    }
  }
}
