/**
 * Where in a response the secure construct stands. Spans are positions, not token types: the teacher quotes exact
 * substrings, and resolution maps characters → UTF-8 bytes → tokens.
 */
import { Schema } from "effect"
import { CweId } from "./Cwe.ts"

/** A teacher's quotation: `quote` is an exact substring of the response, `occurrence` counts its appearances from 0. */
export const Span = Schema.Struct({
  quote: Schema.String,
  occurrence: Schema.Int,
  label: Schema.String,
  cwe: Schema.NullOr(CweId),
  why: Schema.String
})
export type Span = typeof Span.Type

/** A span that was found: half-open range of UTF-8 byte offsets into the response. */
export const ByteRange = Schema.Struct({ start: Schema.Int, end: Schema.Int })
export type ByteRange = typeof ByteRange.Type
