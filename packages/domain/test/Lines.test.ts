import { assert, describe, it } from "@effect/vitest"
import { LineSplitter, type NumberedLine } from "../src/index.ts"

const split = (bytes: Uint8Array, cuts: ReadonlyArray<number>, maxBytes?: number): ReadonlyArray<NumberedLine> => {
  const splitter = new LineSplitter(maxBytes)
  const lines: Array<NumberedLine> = []
  let start = 0
  for (const cut of [...cuts, bytes.length]) {
    lines.push(...splitter.push(bytes.subarray(start, cut)))
    start = cut
  }
  return [...lines, ...splitter.end()]
}
const utf8 = (text: string) => new TextEncoder().encode(text)

describe("LineSplitter", () => {
  it("gives the same lines wherever the chunks are cut", () => {
    const bytes = utf8("\uFEFFa\r\nbé中\n\n😀 end")
    const whole = split(bytes, [])
    assert.deepStrictEqual(
      whole.map((line) => line.text),
      ["a", "bé中", "", "😀 end"]
    )
    for (let i = 0; i <= bytes.length; i++)
      for (let j = i; j <= bytes.length; j++) assert.deepStrictEqual(split(bytes, [i, j]), whole)
  })

  it("numbers lines from 1 and ends with a newline or without", () => {
    assert.deepStrictEqual(
      split(utf8("x\ny\n"), []).map((line) => line.number),
      [1, 2]
    )
    assert.strictEqual(split(utf8("x\ny"), []).length, 2)
    assert.strictEqual(split(utf8(""), []).length, 0)
  })

  it("names a line that is not UTF-8 and goes on after it", () => {
    const lines = split(new Uint8Array([0x61, 10, 0xff, 0xfe, 10, 0x62, 10]), [])
    assert.deepStrictEqual(
      lines.map((line) => line.text),
      ["a", null, "b"]
    )
    assert.match(lines[1]?.problem ?? "", /UTF-8/)
  })

  it("skips a line over the limit without keeping it, at the exact byte", () => {
    assert.deepStrictEqual(
      split(utf8("1234\n12345\n1\n"), [2, 7], 4).map((line) => line.text),
      ["1234", null, "1"]
    )
    const splitter = new LineSplitter(1024)
    const block = new Uint8Array(1 << 20).fill(0x78)
    for (let i = 0; i < 64; i++) assert.strictEqual(splitter.push(block).length, 0)
    assert.match(splitter.push(utf8("\n"))[0]?.problem ?? "", /longer than 1024 bytes/)
  })

  it("does not hold on to the caller's chunk", () => {
    const splitter = new LineSplitter()
    const chunk = utf8("abc")
    splitter.push(chunk)
    chunk.fill(0x7a)
    assert.strictEqual(splitter.push(utf8("\n"))[0]?.text, "abc")
  })
})
