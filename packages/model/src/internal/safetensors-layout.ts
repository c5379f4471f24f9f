/**
 * How tensors lie in a safetensors file that is to be written: their order, the header, and the division of a model into
 * several files.
 */
import { Effect } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import { type Dtype, elementBytes, maxHeaderBytes } from "./safetensors-header.ts"

export interface Placed {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: ReadonlyArray<number>
}

const operation = "write safetensors"

export const elementsOf = (shape: ReadonlyArray<number>): number => shape.reduce((product, size) => product * size, 1)

export const bytesOf = (tensor: Placed): number => elementsOf(tensor.shape) * elementBytes[tensor.dtype]

/** Wider dtypes first, then by name: the order of the reference implementation. It also keeps every tensor aligned. */
export const byWidthAndName = (a: Placed, b: Placed): number =>
  elementBytes[b.dtype] - elementBytes[a.dtype] || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)

/**
 * The length and the JSON of a file with these tensors in this order, padded with spaces to 8 bytes. Names must be
 * unique. `metadata` is `{"format":"pt"}` unless it is given; `path` only names the file in messages.
 */
export const encodeHeader = Effect.fnUntraced(function* (
  path: string,
  tensors: ReadonlyArray<Placed>,
  metadata: Readonly<Record<string, string>> = { format: "pt" }
) {
  const entries: Array<string> = []
  const sorted = Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : 1))
  if (sorted.length > 0) {
    const pairs = sorted.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`)
    entries.push(`"__metadata__":{${pairs.join(",")}}`)
  }
  const seen = new Set(["__metadata__"])
  let position = 0
  for (const tensor of tensors) {
    const { name, dtype, shape } = tensor
    if (seen.has(name)) {
      return yield* ModelError.invalid({
        operation,
        file: path,
        tensor: name,
        message: `${path}: the tensor name ${quote(name)} is used twice`
      })
    }
    seen.add(name)
    const end = position + bytesOf(tensor)
    entries.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(",")}],"data_offsets":[${position},${end}]}`
    )
    position = end
  }
  const json = new TextEncoder().encode(`{${entries.join(",")}}`)
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > maxHeaderBytes) {
    return yield* ModelError.invalid({
      operation,
      file: path,
      message: `${path}: the header would take ${padded} bytes, the limit is ${maxHeaderBytes}; write fewer tensors or less metadata`
    })
  }
  const head = new Uint8Array(8 + padded).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true)
  head.set(json, 8)
  return head
})

/** One file of a model and what it holds, in file order. */
export interface Shard<T extends Placed> {
  readonly file: string
  readonly tensors: ReadonlyArray<T>
}

/**
 * Fills files of at most `shardBytes` in the order given; a tensor larger than that has a file to itself. One file is
 * `model.safetensors`, several are `model-00001-of-0000N.safetensors`.
 */
export const divide = <T extends Placed>(tensors: ReadonlyArray<T>, shardBytes: number): ReadonlyArray<Shard<T>> => {
  const groups: Array<Array<T>> = []
  let room = 0
  for (const tensor of tensors) {
    const bytes = bytesOf(tensor)
    if (groups.length === 0 || bytes > room) {
      groups.push([])
      room = shardBytes
    }
    groups.at(-1)?.push(tensor)
    room -= bytes
  }
  const number = (n: number) => String(n).padStart(5, "0")
  return groups.map((group, i) => ({
    file: groups.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(groups.length)}.safetensors`,
    tensors: group
  }))
}
