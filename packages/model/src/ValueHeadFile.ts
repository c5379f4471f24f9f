/**
 * `value_head.safetensors` beside an adapter: the linear head V(s) = w · h + b on the last hidden state, under the names
 * that LLaMA-Factory and TRL use (`v_head.summary.weight [1, hidden]`, `v_head.summary.bias [1]`). A reward head has
 * the same form and may be stored under another file name.
 */
import { Effect, type FileSystem } from "effect"
import { makeDirectory } from "./internal/files.ts"
import { ModelError } from "./ModelError.ts"
import { openSafetensors, requireFinite } from "./Safetensors.ts"
import { writeSafetensors } from "./SafetensorsWriter.ts"

export interface ValueHead {
  /** `[hidden]` */
  readonly weight: Float32Array
  readonly bias: number
}

const weightName = "v_head.summary.weight"
const biasName = "v_head.summary.bias"
export const valueHeadFileName = "value_head.safetensors"

/** Reads the head; its width must be the model's hidden size. */
export const readValueHead = Effect.fn("ValueHeadFile.read")(function* (
  directory: string,
  hiddenSize: number,
  fileName: string = valueHeadFileName
): Effect.fn.Return<ValueHead, ModelError, FileSystem.FileSystem> {
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const file = yield* openSafetensors(`${directory}/${fileName}`)
      const weight = yield* file.readShape(weightName, [1, hiddenSize])
      const bias = yield* file.readShape(biasName, [1])
      yield* requireFinite("read value head", weightName, weight)
      yield* requireFinite("read value head", biasName, bias)
      return { weight, bias: bias[0] ?? 0 }
    })
  )
})

/** Writes the head atomically; the folder is made when it is not there. */
export const writeValueHead = Effect.fn("ValueHeadFile.write")(function* (
  directory: string,
  head: ValueHead,
  fileName: string = valueHeadFileName
): Effect.fn.Return<void, ModelError, FileSystem.FileSystem> {
  const operation = "write value head"
  if (head.weight.length === 0) {
    return yield* ModelError.invalid({ operation, message: `${operation}: the weight is empty` })
  }
  yield* makeDirectory(operation, directory)
  yield* writeSafetensors(`${directory}/${fileName}`, [
    { name: weightName, shape: [1, head.weight.length], data: head.weight },
    { name: biasName, shape: [1], data: Float32Array.of(head.bias) }
  ])
})
