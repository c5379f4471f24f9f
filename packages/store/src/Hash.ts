/**
 * SHA-256 as lower-case hex: of text, of JSON values independent of key order, of files of any size (streamed).
 */
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import { Effect } from "effect"
import { readFailure } from "./internal/failure.ts"

export const hashText = (text: string): string => createHash("sha256").update(text, "utf8").digest("hex")

export const hashBytes = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

const canonical = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
      .map(([key, field]) => `${JSON.stringify(key)}:${canonical(field)}`)
    return `{${fields.join(",")}}`
  }
  return JSON.stringify(value) ?? "null"
}

/** Hash of a JSON-like value; equal for objects that differ only in the order of their keys. */
export const hashJson = (value: unknown): string => hashText(canonical(value))

/** Streams the file: memory does not grow with it. Fails with `Missing` or `Unreadable`. */
export const hashFile = Effect.fn("hashFile")((file: string) =>
  Effect.tryPromise({
    try: async (signal) => {
      const hash = createHash("sha256")
      for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20, signal })) hash.update(chunk)
      return hash.digest("hex")
    },
    catch: readFailure(file)
  })
)
