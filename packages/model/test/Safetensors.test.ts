import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { openModelWeights } from "../src/ModelWeights.ts"
import { openSafetensors } from "../src/Safetensors.ts"
import { encodeSafetensors, writeSafetensors } from "../src/SafetensorsWriter.ts"
import { below, failsWith, platform, seeded, temporaryFolder } from "./support.ts"

const utf8 = new TextEncoder()

/** A file from a header text and a body, with the true or a false length. */
const assemble = (header: string | Uint8Array, body: number | Uint8Array, length?: bigint): Uint8Array => {
  const json = typeof header === "string" ? utf8.encode(header) : header
  const data = typeof body === "number" ? new Uint8Array(body) : body
  const file = new Uint8Array(8 + json.length + data.length)
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(json.length), true)
  file.set(json, 8)
  file.set(data, 8 + json.length)
  return file
}

const tensor = (name: string, shape: ReadonlyArray<number>, seed: number) => {
  const random = seeded(seed)
  const size = shape.reduce((a, b) => a * b, 1)
  return { name, shape, data: Float32Array.from({ length: size }, () => random() * 4 - 2) }
}

const withBytes = Effect.fnUntraced(function* (bytes: Uint8Array) {
  const fs = yield* FileSystem.FileSystem
  const path = `${yield* temporaryFolder}/x.safetensors`
  yield* fs.writeFile(path, bytes)
  return path
})

describe("safetensors", () => {
  it.effect("round trip in the three float formats, whole and by rows", () =>
    Effect.gen(function* () {
      const path = `${yield* temporaryFolder}/x.safetensors`
      const tensors = [
        tensor("b.weight", [7, 5], 1),
        tensor("a", [3], 2),
        tensor("scalar", [], 3),
        tensor("empty", [0, 4], 4)
      ]
      for (const dtype of ["F32", "F16", "BF16"] as const) {
        yield* writeSafetensors(path, tensors, { dtype })
        const file = yield* openSafetensors(path)
        assert.deepStrictEqual([...file.metadata], [["format", "pt"]])
        assert.deepStrictEqual([...file.tensors.keys()].sort(), ["a", "b.weight", "empty", "scalar"])
        for (const { name, shape, data } of tensors) {
          const read = yield* file.readShape(name, shape)
          const tolerance = dtype === "F32" ? 0 : dtype === "F16" ? 2 ** -11 : 2 ** -8
          assert.strictEqual(read.length, data.length)
          read.forEach((x, i) => {
            assert.isAtMost(Math.abs(x - data[i]!), tolerance * Math.abs(data[i]!))
          })
        }
        const whole = yield* file.read("b.weight")
        assert.deepStrictEqual(yield* file.readRows("b.weight", 2, 5), whole.slice(10, 25))
        assert.strictEqual((yield* file.readRows("b.weight", 7, 7)).length, 0)
        yield* failsWith(file.readRows("b.weight", 2, 8), "Invalid")
        yield* failsWith(file.readRows("b.weight", 0.5, 1), "Invalid")
        yield* failsWith(file.read("c"), "Missing")
        const reason = yield* failsWith(file.readShape("b.weight", [5, 7]), "ShapeMismatch")
        assert.match(reason.message, /\[7, 5\].*\[5, 7\]/)
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("bytes are those of the reference implementation and do not depend on the order given", () =>
    Effect.gen(function* () {
      const tensors = [
        { name: "b", shape: [2], data: Float32Array.of(1, -2) },
        { name: "a", shape: [1, 1], data: Float32Array.of(0.5) },
        { name: "c", shape: [1], data: Float32Array.of(1), dtype: "F16" as const }
      ]
      const one = yield* encodeSafetensors("x", tensors)
      const two = yield* encodeSafetensors("x", [...tensors].reverse())
      assert.deepStrictEqual(one, two)
      const json =
        '{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},' +
        '"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"c":{"dtype":"F16","shape":[1],"data_offsets":[12,14]}}'
      const padded = json.padEnd(Math.ceil(json.length / 8) * 8, " ")
      const body = new Uint8Array([0, 0, 0, 63, 0, 0, 128, 63, 0, 0, 0, 192, 0, 60])
      assert.deepStrictEqual(Uint8Array.from(one.flatMap((chunk) => [...chunk])), assemble(padded, body))
    })
  )

  it.effect("a tensor larger than a piece and F64 widen correctly; integers are bytes only", () =>
    Effect.gen(function* () {
      const path = `${yield* temporaryFolder}/x.safetensors`
      const big = tensor("big", [3, 2_000_001], 5)
      yield* writeSafetensors(path, [big], { dtype: "BF16" })
      const file = yield* openSafetensors(path)
      const whole = yield* file.read("big")
      assert.strictEqual(whole.length, 6_000_003)
      assert.deepStrictEqual(yield* file.readRows("big", 2, 3), whole.subarray(4_000_002))
      for (let i = 0; i < whole.length; i += 997) assert.isAtMost(Math.abs(whole[i]! - big.data[i]!), 2 ** -7)
      const header =
        '{"d":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"i":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}'
      const body = new Uint8Array(24)
      new Float64Array(body.buffer, 0, 2).set([Math.PI, -1e-3])
      new BigInt64Array(body.buffer, 16, 1)[0] = 7n
      const other = yield* openSafetensors(yield* withBytes(assemble(header, body)))
      assert.deepStrictEqual(yield* other.read("d"), Float32Array.of(Math.PI, -1e-3))
      yield* failsWith(other.read("i"), "Unsupported")
      assert.deepStrictEqual(yield* other.readBytes("i"), new Uint8Array([7, 0, 0, 0, 0, 0, 0, 0]))
    }).pipe(Effect.provide(platform))
  )

  it.effect("raw ranges are the stored bytes of elements of every width, in one file and in several", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const widths = { BOOL: 1, F8_E4M3: 1, U8: 1, F16: 2, BF16: 2, I16: 2, F32: 4, I32: 4, F64: 8, U64: 8 }
      const random = seeded(77)
      const stored = new Map<string, Uint8Array>()
      const fileOf = (dtypes: ReadonlyArray<string>) => {
        const entries: Record<string, unknown> = {}
        const data: Array<number> = []
        for (const dtype of dtypes) {
          const bytes = Uint8Array.from({ length: 15 * widths[dtype as keyof typeof widths] }, () => below(random, 256))
          entries[dtype] = { dtype, shape: [3, 5], data_offsets: [data.length, data.length + bytes.length] }
          data.push(...bytes)
          stored.set(dtype, bytes)
        }
        return assemble(JSON.stringify(entries), Uint8Array.from(data))
      }
      const names = Object.keys(widths)
      yield* fs.writeFile(`${directory}/a.safetensors`, fileOf(names.slice(0, 5)))
      yield* fs.writeFile(`${directory}/b.safetensors`, fileOf(names.slice(5)))
      const weightMap = Object.fromEntries(names.map((name, i) => [name, i < 5 ? "a.safetensors" : "b.safetensors"]))
      yield* fs.writeFileString(`${directory}/model.safetensors.index.json`, JSON.stringify({ weight_map: weightMap }))
      const model = yield* openModelWeights(directory)
      const alone = yield* openSafetensors(`${directory}/a.safetensors`)
      for (const [name, size] of Object.entries(widths)) {
        const bytes = stored.get(name)!
        for (const file of alone.tensors.has(name) ? [alone, model] : [model]) {
          for (const [first, count] of [
            [0, 15],
            [4, 7],
            [14, 1],
            [15, 0],
            [0, 0]
          ] as const) {
            const raw = yield* file.readRaw(name, first, count)
            assert.deepStrictEqual(raw, bytes.slice(first * size, (first + count) * size), name)
            assert.deepStrictEqual([raw.byteOffset, raw.buffer.byteLength], [0, count * size])
          }
          assert.deepStrictEqual(yield* file.readBytes(name), bytes)
          for (const [first, count] of [
            [-1, 2],
            [0, -1],
            [0, 16],
            [15, 1],
            [0.5, 1],
            [0, Number.NaN],
            [2 ** 53, 1]
          ] as const) {
            const reason = yield* failsWith(file.readRaw(name, first, count), "Invalid")
            assert.include(reason.message, name)
          }
        }
      }
      yield* failsWith(model.readRaw("none", 0, 1), "Missing")
      yield* failsWith(alone.readRaw("none", 0, 0), "Missing")
    }).pipe(Effect.provide(platform))
  )

  it.effect("lying headers are refused before anything is allocated", () =>
    Effect.gen(function* () {
      const f32 = (shape: string, from: number, to: number) =>
        `{"dtype":"F32","shape":${shape},"data_offsets":[${from},${to}]}`
      const cases: ReadonlyArray<readonly [string, Uint8Array]> = [
        ["empty file", new Uint8Array(0)],
        ["seven bytes", new Uint8Array(7)],
        ["length 0", assemble("", 8)],
        ["header beyond the file", assemble("{}", 0, 500n)],
        ["header of 200 MB", assemble("{}", 0, 200_000_000n)],
        ["header of 2^63", assemble("{}", 0, 2n ** 63n)],
        ["not JSON", assemble("{a}", 0)],
        ["not an object", assemble("[1]", 0)],
        ["starts with a blank", assemble(" {}", 0)],
        ["broken UTF-8", assemble(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 0)],
        ["truncated body", assemble(`{"a":${f32("[4]", 0, 16)}}`, 12)],
        ["bytes behind the end", assemble(`{"a":${f32("[4]", 0, 16)}}`, 20)],
        ["overlap", assemble(`{"a":${f32("[4]", 0, 16)},"b":${f32("[2]", 8, 16)}}`, 16)],
        ["gap", assemble(`{"a":${f32("[1]", 0, 4)},"b":${f32("[1]", 8, 12)}}`, 12)],
        ["gap at the start", assemble(`{"a":${f32("[1]", 4, 8)}}`, 8)],
        ["shape larger than the range", assemble(`{"a":${f32("[5]", 0, 16)}}`, 16)],
        ["shape that overflows", assemble(`{"a":${f32("[9007199254740991,9007199254740991]", 0, 16)}}`, 16)],
        ["fractional shape", assemble(`{"a":${f32("[0.5]", 0, 2)}}`, 2)],
        ["negative shape", assemble(`{"a":${f32("[-1,-4]", 0, 16)}}`, 16)],
        ["negative offset", assemble(`{"a":${f32("[4]", -16, 0)}}`, 0)],
        ["backwards range", assemble(`{"a":${f32("[0]", 16, 0)}}`, 16)],
        ["shape is text", assemble(`{"a":${f32('"4"', 0, 16)}}`, 16)],
        ["no dtype", assemble('{"a":{"shape":[4],"data_offsets":[0,16]}}', 16)],
        ["unknown dtype", assemble('{"a":{"dtype":"toString","shape":[4],"data_offsets":[0,16]}}', 16)],
        ["dtype of another size", assemble('{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,16]}}', 16)],
        ["three offsets", assemble('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16,16]}}', 16)],
        ["entry is null", assemble('{"a":null}', 0)],
        ["name twice", assemble(`{"a":${f32("[2]", 0, 8)},"a":${f32("[2]", 0, 8)}}`, 8)],
        ["name twice, escaped", assemble(`{"a":${f32("[2]", 0, 8)},"\\u0061":${f32("[2]", 8, 16)}}`, 16)],
        ["metadata not strings", assemble('{"__metadata__":{"a":1}}', 0)],
        ["deep nesting", assemble(`{"a":${"[".repeat(100_000)}`, 0)]
      ]
      for (const [what, bytes] of cases) {
        const reason = yield* failsWith(openSafetensors(yield* withBytes(bytes)), "Malformed")
        assert.include(reason.message, "x.safetensors", what)
      }
      yield* failsWith(openSafetensors("/nowhere/x.safetensors"), "Missing")
      yield* failsWith(openSafetensors(yield* temporaryFolder), "Io")
    }).pipe(Effect.provide(platform))
  )

  it.effect("400 random corruptions: a typed error or tensors of the declared sizes", () =>
    Effect.gen(function* () {
      const chunks = yield* encodeSafetensors("x", [tensor("a", [4, 3], 1), tensor("b", [5], 2)])
      const good = Uint8Array.from(chunks.flatMap((chunk) => [...chunk]))
      const random = seeded(31)
      let refused = 0
      for (let round = 0; round < 400; round++) {
        const bytes = corrupt(good, random)
        const attempt = Effect.scoped(
          Effect.gen(function* () {
            const file = yield* openSafetensors(yield* withBytes(bytes))
            for (const info of file.tensors.values()) {
              assert.isAtMost(info.offset + info.bytes, bytes.length)
              if (info.dtype === "F32") assert.strictEqual((yield* file.read(info.name)).length, info.elements)
            }
          })
        )
        yield* attempt.pipe(
          Effect.catchTag("ModelError", (error) =>
            Effect.sync(() => {
              refused++
              assert.include(["Malformed", "Unsupported"], error.reason._tag)
            })
          )
        )
      }
      assert.isAbove(refused, 150)
    }).pipe(Effect.provide(platform))
  )

  it.effect("nothing is written when a number is missing, too large or the shape lies", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const path = `${directory}/x.safetensors`
      const one = (...data: ReadonlyArray<number>) => [
        { name: "w", shape: [data.length], data: Float32Array.from(data) }
      ]
      const reason = yield* failsWith(writeSafetensors(path, one(1, Number.NaN)), "NotFinite")
      assert.match(reason.message, /"w".*index 1/)
      yield* failsWith(writeSafetensors(path, one(Number.NEGATIVE_INFINITY)), "NotFinite")
      yield* failsWith(writeSafetensors(path, one(70_000), { dtype: "F16" }), "NotFinite")
      yield* failsWith(writeSafetensors(path, [{ name: "w", shape: [3], data: new Float32Array(2) }]), "ShapeMismatch")
      yield* failsWith(writeSafetensors(path, [...one(1), ...one(2)]), "Invalid")
      yield* failsWith(writeSafetensors(`${directory}/no/x.safetensors`, one(1)), "Missing")
      assert.deepStrictEqual(yield* fs.readDirectory(directory), [])
      yield* writeSafetensors(path, one(70_000), { dtype: "BF16" })
      yield* writeSafetensors(path, one(Number.NaN), { allowNonFinite: true })
      assert.deepStrictEqual(yield* fs.readDirectory(directory), ["x.safetensors"])
    }).pipe(Effect.provide(platform))
  )
})

/** One to three changes: a flipped bit, a random byte, a cut, or bytes put in. Half of them in the header. */
const corrupt = (good: Uint8Array, random: () => number): Uint8Array => {
  let bytes = Uint8Array.from(good)
  for (let change = 0; change <= below(random, 3); change++) {
    const at = below(random, random() < 0.5 ? Math.min(200, bytes.length) : bytes.length)
    const kind = below(random, 4)
    if (kind === 0) bytes[at] = (bytes[at] ?? 0) ^ (1 << below(random, 8))
    else if (kind === 1) bytes[at] = below(random, 256)
    else if (kind === 2) bytes = bytes.slice(0, at)
    else bytes = Uint8Array.from([...bytes.slice(0, at), below(random, 256), ...bytes.slice(at)])
  }
  return bytes
}
