/** The parts of an export that know no policy: the product, the files beside the weights, the room on the disk. */
import { statfs } from "node:fs/promises"
import { Effect, FileSystem } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import type { LoraPair } from "../Peft.ts"
import type { SafetensorsFile } from "../Safetensors.ts"
import type { StoredDtype } from "../SafetensorsWriter.ts"
import { ioError, isRecord, readJsonObject, readText, writeAtomic, writeTextAtomic } from "./files.ts"
import type { TensorInfo } from "./safetensors-header.ts"

/**
 * values += scale · B A for rows from `firstRow` on, `values` `[rows, width]`, A `[rank, width]`, B `[out, rank]`. Two
 * rows by four ranks at a time: a number of A is loaded once for two products, one of values once for four.
 */
export const addProduct = (
  values: Float64Array,
  width: number,
  firstRow: number,
  { a, b }: LoraPair,
  rank: number,
  scale: number
): void => {
  const rows = values.length / width
  const wholeRows = rows - (rows % 2)
  const wholeRanks = rank - (rank % 4)
  for (let row = 0; row < wholeRows; row += 2) {
    const [one, two] = [row * width, (row + 1) * width]
    const at = (firstRow + row) * rank
    for (let r = 0; r < wholeRanks; r += 4) {
      const [s0, s1] = [scale * b[at + r]!, scale * b[at + r + 1]!]
      const [s2, s3] = [scale * b[at + r + 2]!, scale * b[at + r + 3]!]
      const [t0, t1] = [scale * b[at + rank + r]!, scale * b[at + rank + r + 1]!]
      const [t2, t3] = [scale * b[at + rank + r + 2]!, scale * b[at + rank + r + 3]!]
      const [a0, a1, a2, a3] = [r * width, (r + 1) * width, (r + 2) * width, (r + 3) * width]
      for (let j = 0; j < width; j++) {
        const [x0, x1, x2, x3] = [a[a0 + j]!, a[a1 + j]!, a[a2 + j]!, a[a3 + j]!]
        values[one + j]! += s0 * x0 + s1 * x1 + s2 * x2 + s3 * x3
        values[two + j]! += t0 * x0 + t1 * x1 + t2 * x2 + t3 * x3
      }
    }
  }
  for (let row = 0; row < rows; row++) {
    for (let r = row < wholeRows ? wholeRanks : 0; r < rank; r++) {
      const s = scale * b[(firstRow + row) * rank + r]!
      for (let j = 0; j < width; j++) values[row * width + j]! += s * a[r * width + j]!
    }
  }
}

/** The base's weight files in order, each with its tensors in file order. */
export const weightFiles = Effect.fnUntraced(function* (operation: string, base: SafetensorsFile) {
  const files = new Map<string, Array<TensorInfo>>()
  const put = (file: string, info: TensorInfo) => {
    const there = files.get(file)
    if (there === undefined) files.set(file, [info])
    else there.push(info)
  }
  if (!base.path.endsWith(".index.json")) {
    for (const info of base.tensors.values()) put("model.safetensors", info)
    return files
  }
  const { weight_map: map } = yield* readJsonObject(operation, base.path)
  for (const [name, file] of Object.entries(isRecord(map) ? map : {})) {
    const info = base.tensors.get(name)
    if (info !== undefined && typeof file === "string") put(file, info)
  }
  const sorted = [...files].sort(([a], [b]) => (a < b ? -1 : 1))
  return new Map(sorted.map(([file, infos]) => [file, infos.sort((a, b) => a.offset - b.offset)]))
})

/** Files that make a model folder usable beside its weights: settings, tokenizer, templates, code, licence. */
const companions: ReadonlyArray<RegExp> = [
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json$/,
  /^(merges|vocab)\.txt$/,
  /\.(jinja|model|tiktoken)$/,
  /^(configuration|modeling|tokenization)_\w+\.py$/,
  /^(readme|licen[cs]e|notice|copying|use_policy)([._-].*)?$/i
]

const torchNames = { F32: "float32", F16: "float16", BF16: "bfloat16" } as const

/** Copies those files; `config.json` says the dtype of the weights where that changes. */
export const copyCompanions = Effect.fnUntraced(function* (
  operation: string,
  model: string,
  target: string,
  dtype: "auto" | StoredDtype
) {
  const fs = yield* FileSystem.FileSystem
  const failed = Effect.mapError(ioError(operation, model))
  const names = (yield* fs.readDirectory(model).pipe(failed)).filter((name) =>
    companions.some((pattern) => pattern.test(name))
  )
  for (const name of names.sort()) {
    const source = `${model}/${name}`
    if ((yield* fs.stat(source).pipe(Effect.mapError(ioError(operation, source)))).type !== "File") continue
    if (name === "config.json" && dtype !== "auto") {
      const text = withDtype(yield* readText(operation, source), torchNames[dtype])
      yield* writeTextAtomic(operation, `${target}/${name}`, text)
    } else {
      const bytes = yield* fs.readFile(source).pipe(Effect.mapError(ioError(operation, source)))
      yield* writeAtomic(operation, `${target}/${name}`, [bytes])
    }
  }
})

/**
 * The text of a config.json with another dtype, all else untouched: other programs tell 1000000.0 from 1000000, which a
 * round trip through JSON.parse does not keep.
 */
export const withDtype = (text: string, dtype: string): string => {
  const changed = text.replace(/("(?:torch_)?dtype"\s*:\s*)("[^"]*"|null)/g, `$1"${dtype}"`)
  return /"(?:torch_)?dtype"\s*:/.test(text) ? changed : text.replace("{", `{\n  "torch_dtype": "${dtype}",`)
}

/** Fails early when the disk has no room for so many bytes; says nothing where the system does not tell. */
export const requireSpace = Effect.fnUntraced(function* (operation: string, directory: string, bytes: number) {
  const free = yield* Effect.tryPromise(() => statfs(directory)).pipe(
    Effect.map(({ bavail, bsize }) => bavail * bsize),
    Effect.orElseSucceed(() => Number.POSITIVE_INFINITY)
  )
  if (free < bytes) {
    return yield* ModelError.io({
      operation,
      file: directory,
      message: `${operation}: ${bytes} bytes are to be written, the disk of ${quote(directory)} has ${free} free; free space or choose another place`
    })
  }
})
