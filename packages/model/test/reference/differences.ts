/** The reference against itself: its gradients are the central differences of its loss. */
import { assert } from "@effect/vitest"
import {
  randomPairs,
  randomSequences,
  randomTensors,
  referenceConfig,
  referenceLora,
  type Shape
} from "./checkpoint.ts"
import { toF64, zeroGradients } from "./decoder.ts"
import { type LossWeights, lossOf } from "./loss.ts"

/** Looks at the first element, one at a third, and the last of every tensor and adapter of a small model of this shape. */
export const checkOwnGradients = (shape: Shape, weights: LossWeights): void => {
  const config = referenceConfig(shape)
  const parameters = toF64(new Map([...randomTensors(shape, 3)].map(([name, { data }]) => [name, data])))
  const lora = referenceLora(2, 0.7, randomPairs(shape, 2, 4))
  const sequences = randomSequences(shape.vocab, [5, 1, 7], 5)
  const into = zeroGradients(parameters, lora)
  lossOf(config, parameters, lora, sequences, weights, into)
  const loss = () => lossOf(config, parameters, lora, sequences, weights).loss
  const check = (name: string, data: Float64Array, gradient: Float64Array) => {
    for (const i of new Set([0, Math.floor(data.length / 3), data.length - 1])) {
      const [at, step] = [data[i]!, 1e-5]
      data[i] = at + step
      const above = loss()
      data[i] = at - step
      const below = loss()
      data[i] = at
      const difference = (above - below) / (2 * step)
      assert.closeTo(gradient[i]!, difference, 1e-8 + 1e-7 * Math.abs(difference), `${name}[${i}]`)
    }
  }
  for (const [name, data] of parameters) check(name, data, into.parameters.get(name)!)
  for (const [key, { a, b }] of lora.pairs) {
    check(`${key}.a`, a, into.lora.get(key)!.a)
    check(`${key}.b`, b, into.lora.get(key)!.b)
  }
}
