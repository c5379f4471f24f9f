/** The identity of a function: SHA-256 of its text without any whitespace, so that reformatting is not a new sample. */
import { createHash } from "node:crypto"

export const withoutWhitespace = (code: string): string => code.replace(/\s+/g, "")

/** Hex. */
export const contentHash = (code: string): string => createHash("sha256").update(withoutWhitespace(code)).digest("hex")
