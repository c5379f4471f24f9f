import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { bytesOf } from "../src/internal/safetensors-layout.ts"
import { ModelError } from "../src/ModelError.ts"
import { openModelWeights } from "../src/ModelWeights.ts"
import { openSafetensors } from "../src/Safetensors.ts"
import {
  defaultShardBytes,
  planShards,
  type StreamedTensor,
  writeSafetensorsStream,
  writeShardedSafetensors
} from "../src/SafetensorsStream.ts"
import { writeSafetensors } from "../src/SafetensorsWriter.ts"
import { below, failsWith, platform, seeded, temporaryFolder } from "./support.ts"

/** An F32 tensor handed over in pieces of random sizes, always in the same buffer. */
const inPieces = (name: string, data: Float32Array, shape: ReadonlyArray<number>, seed: number): StreamedTensor => ({
  name,
  shape,
  dtype: "F32",
  produce: Effect.fnUntraced(function* (emit) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const random = seeded(seed)
    const buffer = new Uint8Array(64)
    for (let at = 0; at < bytes.length; ) {
      const now = Math.min(bytes.length - at, below(random, 65))
      buffer.fill(0xee)
      buffer.set(bytes.subarray(at, at + now))
      yield* emit(buffer.subarray(0, now))
      at += now
    }
  })
})

const numbers = (length: number, seed: number) => {
  const random = seeded(seed)
  return Float32Array.from({ length }, () => random() - 0.5)
}

describe("streamed safetensors", () => {
  it.effect("pieces of any size give the bytes of the writer that holds everything", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const data = [numbers(0, 1), numbers(1, 2), numbers(300, 3), numbers(77, 4)]
      const shapes = [[0, 5], [], [12, 25], [77]]
      const whole = data.map((data, i) => ({ name: `t${i}`, shape: shapes[i]!, data }))
      yield* writeSafetensors(`${directory}/whole.safetensors`, whole)
      let told = 0
      yield* writeSafetensorsStream(
        `${directory}/pieces.safetensors`,
        whole.map(({ name, shape, data }, i) => inPieces(name, data, shape, i)),
        { onBytes: (bytes) => Effect.sync(() => void (told += bytes)) }
      )
      assert.deepStrictEqual(
        yield* fs.readFile(`${directory}/pieces.safetensors`),
        yield* fs.readFile(`${directory}/whole.safetensors`)
      )
      assert.strictEqual(told, 378 * 4)
      assert.deepStrictEqual((yield* fs.readDirectory(directory)).sort(), ["pieces.safetensors", "whole.safetensors"])
    }).pipe(Effect.provide(platform))
  )

  it.effect("shards: names, index, limits, and the same tensors back, for many sizes of shard", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const random = seeded(5)
      const root = yield* temporaryFolder
      for (let round = 0; round < 12; round++) {
        const directory = `${root}/${round}`
        const given = Array.from({ length: 1 + below(random, 14) }, (_, i) => {
          const shape = [1 + below(random, 9), 1 + below(random, 9)]
          return { name: `layers.${i}`, shape, data: numbers(shape[0]! * shape[1]!, i) }
        })
        const tensors = given.map(({ name, shape, data }, i) => inPieces(name, data, shape, i))
        const shardBytes = 1 + below(random, 600)
        const { files, totalBytes } = yield* writeShardedSafetensors(directory, tensors, { shardBytes })
        assert.strictEqual(
          totalBytes,
          given.reduce((sum, { data }) => sum + data.byteLength, 0)
        )
        const one = files.length === 1
        const pad = (n: number) => String(n).padStart(5, "0")
        const names = files.map((_, i) => `model-${pad(i + 1)}-of-${pad(files.length)}.safetensors`)
        assert.deepStrictEqual(files, one ? ["model.safetensors"] : names)
        assert.sameMembers(yield* fs.readDirectory(directory), one ? files : [...files, "model.safetensors.index.json"])
        for (const shard of planShards(tensors, shardBytes)) {
          const size = shard.tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0)
          assert.isTrue(size <= shardBytes || shard.tensors.length === 1)
        }
        if (!one) {
          const index = JSON.parse(yield* fs.readFileString(`${directory}/model.safetensors.index.json`))
          assert.deepStrictEqual(index.metadata, { total_size: totalBytes })
          assert.sameMembers(
            Object.keys(index.weight_map),
            given.map(({ name }) => name)
          )
        }
        yield* Effect.scoped(
          Effect.gen(function* () {
            const back = yield* openModelWeights(directory)
            for (const { name, shape, data } of given) {
              assert.deepStrictEqual(yield* back.readShape(name, shape), data)
            }
          })
        )
      }
      assert.strictEqual(defaultShardBytes, 5e9)
      assert.lengthOf(planShards([{ ...inPieces("a", numbers(0, 1), [], 1), shape: [2 ** 40] }]), 1)
    }).pipe(Effect.provide(platform))
  )

  it.effect(
    "a producer that fails, or gives too much or too little, leaves nothing that a loader takes for whole",
    () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const root = yield* temporaryFolder
        const good = inPieces("a", numbers(64, 1), [64], 1)
        const broken = (bytes: number, fail = false): StreamedTensor => ({
          name: "b",
          shape: [8],
          dtype: "BF16",
          produce: (emit) =>
            Effect.andThen(
              emit(new Uint8Array(bytes)),
              fail ? Effect.fail(ModelError.invalid({ operation: "test", message: "stopped half-way" })) : Effect.void
            )
        })
        for (const [i, last] of [broken(15), broken(17), broken(8, true)].entries()) {
          const directory = `${root}/${i}`
          // weights of before: an index and a single file that must not stand over the new shards
          yield* writeShardedSafetensors(directory, [good, inPieces("b", numbers(4, 2), [4], 2)], { shardBytes: 256 })
          yield* writeSafetensors(`${directory}/model.safetensors`, [{ name: "old", shape: [1], data: numbers(1, 1) }])
          const reason = yield* failsWith(
            writeShardedSafetensors(directory, [good, last], { shardBytes: 256 }),
            "Invalid"
          )
          if (i < 2) assert.include(reason.message, `takes 16 bytes, ${15 + 2 * i} were given`)
          yield* failsWith(Effect.scoped(openModelWeights(directory)), "Missing")
          assert.isEmpty((yield* fs.readDirectory(directory)).filter((name) => name.endsWith(".tmp")))
        }
        yield* failsWith(writeShardedSafetensors(`${root}/x`, [good, good], { shardBytes: 1 }), "Invalid")
        yield* failsWith(writeShardedSafetensors(`${root}/x`, [good, good]), "Invalid")
        yield* failsWith(writeShardedSafetensors(`${root}/x`, [good], { shardBytes: 0 }), "Invalid")
        yield* failsWith(writeShardedSafetensors(`${root}/x`, [good], { shardBytes: Number.NaN }), "Invalid")
        yield* fs.writeFileString(`${root}/file`, "")
        yield* failsWith(writeShardedSafetensors(`${root}/file/x`, [good]), "Io")
        yield* failsWith(writeSafetensorsStream("/dev/full/x", [good]), "Io")
      }).pipe(Effect.provide(platform))
  )

  it.effect("192 MiB pass through one piece: memory does not grow with the tensor", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      const piece = new Uint8Array(2 ** 21).fill(7)
      let most = 0
      const before = process.memoryUsage().arrayBuffers
      const big: StreamedTensor = {
        name: "w",
        shape: [96 * 2 ** 20],
        dtype: "BF16",
        produce: Effect.fnUntraced(function* (emit) {
          for (let i = 0; i < 96; i++) {
            yield* emit(piece)
            most = Math.max(most, process.memoryUsage().arrayBuffers - before)
          }
        })
      }
      yield* writeSafetensorsStream(`${directory}/model.safetensors`, [big])
      assert.isBelow(most, 32 * 2 ** 20)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const file = yield* openSafetensors(`${directory}/model.safetensors`)
          assert.deepStrictEqual(yield* file.readRaw("w", 96 * 2 ** 20 - 2, 2), Uint8Array.of(7, 7, 7, 7))
        })
      )
    }).pipe(Effect.provide(platform))
  )
})
