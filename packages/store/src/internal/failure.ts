/** From Node's exceptions and Schema's issues to one-line `StoreError`s. */
import type { Schema } from "effect"
import { StoreError, type StoreReason } from "../StoreError.ts"

const codeOf = (cause: unknown): string =>
  typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "string" ? cause.code : ""

const phrases: Record<string, string> = {
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  ENOSPC: "no space left on the device",
  EDQUOT: "the disk quota is used up",
  ENOTDIR: "a part of the path is a file, not a directory",
  EEXIST: "a file of that name is in the way",
  EISDIR: "it is a directory, not a file",
  ENOENT: "it does not exist",
  ENAMETOOLONG: "the name is too long",
  EMFILE: "too many open files",
  EIO: "input/output error"
}

/** A cause as a short phrase without line ends. */
export const phrase = (cause: unknown): string => {
  const known = phrases[codeOf(cause)]
  if (known !== undefined) return known
  return oneLine(cause instanceof Error ? cause.message : String(cause))
}

/** Joins a multi-line message to one line of at most 300 characters. */
export const oneLine = (text: string): string => {
  const joined = text
    .replace(/\n\s+/g, " ")
    .replace(/\s*\n\s*/g, "; ")
    .replace(/\s+/g, " ")
    .trim()
  return joined.length > 300 ? `${joined.slice(0, 297)}...` : joined
}

export const writeFailure = (file: string) => (cause: unknown) =>
  new StoreError({
    reason: "Unwritable",
    message: `cannot write ${file}: ${phrase(cause)}; choose another place or free it`,
    file,
    line: null
  })

export const readFailure = (file: string) => (cause: unknown) => {
  const missing = codeOf(cause) === "ENOENT"
  const message = missing ? `${file} does not exist; check the path` : `cannot read ${file}: ${phrase(cause)}`
  return new StoreError({ reason: missing ? "Missing" : "Unreadable", message, file, line: null })
}

export const failure = (reason: StoreReason, file: string, line: number | null, what: string) =>
  new StoreError({ reason, message: `${line === null ? file : `${file}:${line}`}: ${oneLine(what)}`, file, line })

export const schemaFailure = (file: string, line: number | null, error: Schema.SchemaError) =>
  failure("Malformed", file, line, error.message)
