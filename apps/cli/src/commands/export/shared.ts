/** Flags of both exports, and how sizes are written. */
import { Option, Schema } from "effect"
import { Flag } from "effect/cli"
import { fileFlag } from "../../root.ts"

export const outFlag = fileFlag("out", "Folder to write; it appears when it is complete (required)", "DIR")

export const overwriteFlag = Flag.Boolean("overwrite").pipe(
  Flag.withDescription("Replace an earlier export there, once the new one is complete"),
  Flag.withDefault(false)
)

export const dtypeFlag = Flag.Literals("dtype", ["auto", "f32", "f16", "bf16"]).pipe(
  Flag.withDescription("How numbers are stored (default auto: as they were)"),
  Flag.withDefault("auto" as const)
)

export const storedDtype = { auto: "auto", f32: "F32", f16: "F16", bf16: "BF16" } as const

const units: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30
}

/** "5GB", "500 MB", "2GiB" or a number of bytes; undefined when it is none of these or nothing. */
export const parseSize = (text: string): number | undefined => {
  const match = /^(\d+(?:\.\d+)?) ?([a-z]*)$/i.exec(text.trim())
  const unit = units[(match?.[2] ?? "?").toLowerCase()]
  if (match === null || unit === undefined) return undefined
  const bytes = Math.floor(Number(match[1]) * unit)
  return bytes >= 1 && Number.isSafeInteger(bytes) ? bytes : undefined
}

export const shardSizeFlag = Flag.String("shard-size").pipe(
  Flag.withDescription("Divide the weights into files of at most this size, such as 5GB (default: the base's files)"),
  Flag.withMetavar("SIZE"),
  Flag.withSchema(
    Schema.String.check(
      Schema.makeFilter((text: string) => parseSize(text) !== undefined || "a size such as 5GB, 500MB or 2GiB")
    )
  ),
  Flag.optional,
  Flag.map(Option.flatMap((text) => Option.fromUndefinedOr(parseSize(text))))
)
