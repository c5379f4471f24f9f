/**
 * Seeded damage to a model folder, of the kinds that disks, networks, editors and converters do: each kind changes the
 * folder in place and says what it did.
 */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { below } from "./support.ts"

type Random = () => number
/** Changes the folder; `undefined` where the kind does not apply to it. */
type Corruption = (directory: string, random: Random) => string | undefined
type Json = Record<string, unknown>

const pick = <A>(random: Random, from: ReadonlyArray<A>): A => from[below(random, from.length)]!
const filesOf = (directory: string) => fs.readdirSync(directory).sort()
const weightsOf = (directory: string) => filesOf(directory).filter((name) => name.endsWith(".safetensors"))
const pathOf = (directory: string, name: string) => `${directory}/${name}`

/** Rewrites a file by its bytes. */
const rewrite = (path: string, change: (bytes: Buffer) => Uint8Array) =>
  fs.writeFileSync(path, change(fs.readFileSync(path)))

const flip = (random: Random, bytes: Buffer, from: number, to: number, count: number) => {
  for (let i = 0; i < count; i++) {
    const at = from + below(random, to - from)
    bytes[at] = bytes[at]! ^ (1 << below(random, 8))
  }
  return bytes
}
const dataStart = (bytes: Buffer) => 8 + Number(bytes.readBigUInt64LE(0))

/** Values that JSON files end up with: other types, sizes beyond anything, signs, and texts that are not even JSON. */
const junk: ReadonlyArray<(random: Random) => string> = [
  () => "null",
  () => "true",
  () => "false",
  () => "-1",
  () => "0",
  () => "1",
  () => "2.5",
  () => "1e999",
  () => "1e15",
  () => "9007199254740993",
  () => "2147483648",
  () => "-0",
  () => "NaN",
  () => "-Infinity",
  () => '""',
  () => '"12"',
  () => '"\\ud800"',
  () => "[]",
  () => "{}",
  () => '[[[{"a":[null]}]]]',
  () => '{"__proto__":{"x":1},"constructor":7}',
  (random) => `"${"x".repeat(10_000 + below(random, 10))}"`,
  () => `${"[".repeat(50_000)}${"]".repeat(50_000)}`,
  (random) => String(below(random, 64)),
  (random) => String(2 ** below(random, 40))
]

/** Puts raw text in the place of a value: JSON itself could not write some of it. */
const withRaw = (value: Json, raw: string): string => JSON.stringify(value).replace('"@raw@"', () => raw)

/** Every object or list in a value, itself included, down to a depth. */
const nodes = (value: unknown, depth: number): ReadonlyArray<Json | Array<unknown>> => {
  if (typeof value !== "object" || value === null) return []
  const inner = depth === 0 ? [] : Object.values(value).flatMap((each) => nodes(each, depth - 1))
  return [value as Json, ...inner]
}

const editValue = (text: string, random: Random, depth: number): readonly [string, string] => {
  const value = JSON.parse(text) as Json
  const node = pick(
    random,
    nodes(value, depth).filter((each) => Object.keys(each).length > 0)
  ) as Json
  const key = pick(random, Object.keys(node))
  const kind = below(random, 8)
  if (kind === 0) {
    if (Array.isArray(node)) node.splice(Number(key), 1)
    else delete node[key]
    return [JSON.stringify(value), `${key} removed`]
  }
  if (kind === 1 && !Array.isArray(node)) {
    node[`${key}_x`] = node[key]
    delete node[key]
    return [JSON.stringify(value), `${key} renamed`]
  }
  const raw = pick(random, junk)(random)
  node[key] = "@raw@"
  return [withRaw(value, raw), `${key} = ${raw.slice(0, 30)}`]
}

const editJson =
  (name: string, depth = 3): Corruption =>
  (directory, random) => {
    const path = pathOf(directory, name)
    if (!fs.existsSync(path)) return undefined
    const [text, what] = editValue(fs.readFileSync(path, "utf8"), random, depth)
    fs.writeFileSync(path, text)
    return `${name}: ${what}`
  }

/** Rewrites a header, keeping the data; the length is right again unless `lie` makes another of it. */
const editHeader = (path: string, change: (header: string) => string, lie?: bigint) =>
  rewrite(path, (bytes) => {
    const start = dataStart(bytes)
    const header = Buffer.from(change(bytes.subarray(8, start).toString("utf8")))
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(lie ?? BigInt(header.length))
    return Buffer.concat([prefix, header, bytes.subarray(start)])
  })

const replaceFile = (path: string, make: () => void) => {
  fs.rmSync(path)
  make()
}

const headerKinds: ReadonlyArray<(random: Random) => (header: string) => string> = [
  // Another dtype of the same or of another width.
  (random) => (header) => {
    const value = JSON.parse(header) as Record<string, { dtype: string }>
    const name = pick(
      random,
      Object.keys(value).filter((key) => key !== "__metadata__")
    )
    value[name]!.dtype = pick(random, ["F32", "F16", "BF16", "F64", "I32", "I16", "U8", "BOOL", "F8_E4M3", "f32", ""])
    return JSON.stringify(value)
  },
  // The dtype of every tensor: bf16 read as f16 is another model of the same size.
  (random) => (header) => header.replaceAll(/"(F32|BF16|F16)"/g, `"${pick(random, ["F32", "BF16", "F16", "I32"])}"`),
  // A turned shape, or one with other sizes of the same product.
  (random) => (header) => {
    const value = JSON.parse(header) as Record<string, { shape: Array<number> }>
    const name = pick(
      random,
      Object.keys(value).filter((key) => (value[key]!.shape ?? []).length > 1)
    )
    const [rows = 0, cols = 0] = value[name]!.shape
    value[name]!.shape = pick(random, [
      [cols, rows],
      [rows * cols],
      [1, rows, cols],
      [rows / 2, cols * 2],
      [-rows, -cols]
    ])
    return JSON.stringify(value)
  },
  // Two tensors change places: ranges, or names.
  (random) => (header) => {
    const value = JSON.parse(header) as Record<string, { data_offsets: Array<number> }>
    const names = Object.keys(value).filter((key) => key !== "__metadata__")
    const [one, two] = [value[pick(random, names)]!, value[pick(random, names)]!]
    ;[one.data_offsets, two.data_offsets] = [two.data_offsets, one.data_offsets]
    return JSON.stringify(value)
  },
  (random) => (header) => {
    const value = JSON.parse(header) as Json
    const names = Object.keys(value).filter((key) => key !== "__metadata__")
    const [one, two] = [pick(random, names), pick(random, names)]
    ;[value[one], value[two]] = [value[two], value[one]]
    return JSON.stringify(value)
  },
  // The same name twice.
  (random) => (header) => {
    const names = Object.keys(JSON.parse(header) as Json).filter((key) => key !== "__metadata__")
    const [one, two] = [pick(random, names), pick(random, names)]
    return header.replace(JSON.stringify(one), JSON.stringify(two))
  },
  // Shifted ranges.
  (random) => (header) =>
    header.replace(
      /"data_offsets":\[(\d+),(\d+)\]/,
      (_, from, to) =>
        `"data_offsets":[${Number(from) + pick(random, [-4, 0, 4])},${Number(to) + pick(random, [-4, 4, 2 ** 40])}]`
    ),
  (random) => (header) => editValue(header, random, 2)[0],
  () => (header) => header.padEnd(header.length + 64),
  () => (header) => ` ${header}`
]

export const corruptions: Readonly<Record<string, Corruption>> = {
  "bits of a header": (directory, random) => {
    const name = pick(random, weightsOf(directory))
    rewrite(pathOf(directory, name), (bytes) => flip(random, bytes, 0, dataStart(bytes), 1 + below(random, 3)))
    return name
  },
  "bits of tensor data": (directory, random) => {
    const name = pick(random, weightsOf(directory))
    rewrite(pathOf(directory, name), (bytes) =>
      flip(random, bytes, dataStart(bytes), bytes.length, 1 + below(random, 8))
    )
    return name
  },
  "bits of any file": (directory, random) => {
    const name = pick(random, filesOf(directory))
    rewrite(pathOf(directory, name), (bytes) => flip(random, bytes, 0, bytes.length, 1 + below(random, 3)))
    return name
  },
  "a file cut short": (directory, random) => {
    const name = pick(random, filesOf(directory))
    rewrite(pathOf(directory, name), (bytes) => bytes.subarray(0, below(random, bytes.length)))
    return name
  },
  "weights cut short or lengthened": (directory, random) => {
    const name = pick(random, weightsOf(directory))
    rewrite(pathOf(directory, name), (bytes) =>
      random() < 0.5
        ? bytes.subarray(0, bytes.length - 1 - below(random, 64))
        : Buffer.concat([bytes, Buffer.alloc(1 + below(random, 64))])
    )
    return name
  },
  "a file gone": (directory, random) => {
    const name = pick(random, filesOf(directory))
    fs.rmSync(pathOf(directory, name))
    return name
  },
  "a file in the place of another": (directory, random) => {
    const [from, to] = [pick(random, filesOf(directory)), pick(random, filesOf(directory))]
    if (from !== to) fs.copyFileSync(pathOf(directory, from), pathOf(directory, to))
    return `${from} over ${to}`
  },
  "two files swapped": (directory, random) => {
    const weights = weightsOf(directory)
    const names = weights.length > 1 && random() < 0.7 ? weights : filesOf(directory)
    const [one, two] = [pick(random, names), pick(random, names)]
    fs.renameSync(pathOf(directory, one), pathOf(directory, "swap"))
    if (one !== two) fs.renameSync(pathOf(directory, two), pathOf(directory, one))
    fs.renameSync(pathOf(directory, "swap"), pathOf(directory, two))
    return `${one} with ${two}`
  },
  "a file renamed": (directory, random) => {
    const name = pick(random, filesOf(directory))
    const to = pick(random, [
      "model.safetensors",
      "model.safetensors.index.json",
      "pytorch_model.bin",
      `${name}.1`,
      "x.gguf"
    ])
    fs.renameSync(pathOf(directory, name), pathOf(directory, to))
    return `${name} to ${to}`
  },
  "an empty file": (directory, random) => {
    const name = pick(random, filesOf(directory))
    fs.writeFileSync(pathOf(directory, name), "")
    return name
  },
  "a folder, a pipe or a device for a file": (directory, random) => {
    const name = pick(random, filesOf(directory))
    const path = pathOf(directory, name)
    const kind = pick(random, ["folder", "pipe", "device"])
    replaceFile(path, () =>
      kind === "folder"
        ? fs.mkdirSync(path)
        : kind === "pipe"
          ? execFileSync("mkfifo", [path])
          : fs.symlinkSync("/dev/zero", path)
    )
    return `${name}: ${kind}`
  },
  "links in a circle, into nothing or elsewhere": (directory, random) => {
    const name = pick(random, filesOf(directory))
    const path = pathOf(directory, name)
    const target = pick(random, [name, "nothing", "/", "config.json"])
    replaceFile(path, () => fs.symlinkSync(target, path))
    return `${name} → ${target}`
  },
  "no permission": (directory, random) => {
    const name = pick(random, filesOf(directory))
    fs.chmodSync(pathOf(directory, name), 0)
    return name
  },
  "a lie about the header's length": (directory, random) => {
    const name = pick(random, weightsOf(directory))
    const lie = pick(random, [0n, 1n, 2n, 7n, 100n, 100_000_000n, 100_000_001n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n])
    editHeader(pathOf(directory, name), (header) => header, lie)
    return `${name}: ${lie}`
  },
  "an edited header": (directory, random) => {
    const name = pick(random, weightsOf(directory))
    const kind = below(random, headerKinds.length)
    editHeader(pathOf(directory, name), headerKinds[kind]!(random))
    return `${name}: kind ${kind}`
  },
  "config.json": editJson("config.json"),
  "config.json, again": editJson("config.json", 0),
  "a config.json of a sibling": (directory, random) => {
    const path = pathOf(directory, "config.json")
    const config = JSON.parse(fs.readFileSync(path, "utf8")) as Json
    const key = pick(
      random,
      Object.keys(config).filter((each) => /_size|num_|head_dim|tie_|_bias|rope_theta|model_type/.test(each))
    )
    const value = config[key]
    config[key] =
      typeof value === "number"
        ? pick(random, [value * 2, Math.ceil(value / 2), value + 1, value - 1])
        : typeof value === "boolean"
          ? !value
          : pick(random, ["qwen2", "llama", "qwen3", "Qwen2", "mistral", "gpt2"])
    fs.writeFileSync(path, JSON.stringify(config))
    return `${key} = ${String(config[key])}`
  },
  "generation_config.json": editJson("generation_config.json", 1),
  "tokenizer.json": editJson("tokenizer.json", 2),
  "tokenizer.json, inside": editJson("tokenizer.json", 4),
  "tokenizer_config.json": editJson("tokenizer_config.json", 1),
  "the index": (directory, random) => {
    const path = pathOf(directory, "model.safetensors.index.json")
    if (!fs.existsSync(path)) return undefined
    const index = JSON.parse(fs.readFileSync(path, "utf8")) as { weight_map: Record<string, unknown>; metadata: Json }
    const name = pick(random, Object.keys(index.weight_map))
    const shards = weightsOf(directory)
    const kind = below(random, 6)
    if (kind === 0)
      index.weight_map[name] = pick(random, ["../x.safetensors", "/etc/passwd", "", "x", 7, null, ["a"], {}])
    else if (kind === 1) index.weight_map[name] = pick(random, shards)
    else if (kind === 2) delete index.weight_map[name]
    else if (kind === 3) index.weight_map[`${name}.more`] = pick(random, shards)
    else if (kind === 4) index.metadata.total_size = pick(random, [-1, 0, "much", 1e300, null])
    else return editJson("model.safetensors.index.json")(directory, random)
    fs.writeFileSync(path, JSON.stringify(index))
    return `kind ${kind}: ${name}`
  }
}
