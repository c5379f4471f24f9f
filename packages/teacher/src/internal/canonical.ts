/** Canonical JSON (keys sorted, no blanks) and its SHA-256: the name of a request in recordings. */
import { createHash } from "node:crypto"

export const canonicalJson = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`
  if (typeof value === "object" && value !== null)
    return `{${Object.entries(value)
      .filter(([, entry]) => entry !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
      .map(([key, entry]) => `${JSON.stringify(key)}:${canonicalJson(entry)}`)
      .join(",")}}`
  return JSON.stringify(value) ?? "null"
}

/** 64 hex digits. */
export const requestKey = (method: string, request: unknown): string =>
  createHash("sha256").update(canonicalJson({ method, request })).digest("hex")
