/**
 * The byte alphabet of byte-level BPE: every byte is written as one printable character. Printable Latin-1 stands for
 * itself, the other 68 bytes get U+0100 onwards in byte order (so space is Ġ and newline Ċ).
 */
const printable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)

/** Byte → character. */
export const byteToChar: ReadonlyArray<string> = (() => {
  const chars: Array<string> = []
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) chars.push(String.fromCharCode(printable(byte) ? byte : next++))
  return chars
})()

const charToByte: ReadonlyMap<string, number> = new Map(byteToChar.map((char, byte) => [char, byte]))

/** The 256 characters sorted by code point: the order in which vocabularies list them. */
export const sortedAlphabet: ReadonlyArray<string> = [...byteToChar].sort((a, b) => (a < b ? -1 : 1))

/** The bytes a token string stands for, or `undefined` if it holds a character outside the alphabet. */
export const tokenToBytes = (token: string): Uint8Array | undefined => {
  const bytes = new Uint8Array(token.length)
  for (let i = 0; i < token.length; i++) {
    const byte = charToByte.get(token[i]!)
    if (byte === undefined) return undefined
    bytes[i] = byte
  }
  return bytes
}
