/**
 * GPT-2's byte alphabet: the 188 printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards, so
 * that every byte string is a string of visible symbols.
 */
const symbols: ReadonlyArray<string> = (() => {
  const table: Array<string> = []
  let spare = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    table.push(String.fromCharCode(printable ? byte : spare++))
  }
  return table
})()

export const symbolOfByte = (byte: number): string => symbols[byte & 0xff] ?? ""

export const byteOfSymbol: ReadonlyMap<string, number> = new Map(symbols.map((symbol, byte) => [symbol, byte]))
