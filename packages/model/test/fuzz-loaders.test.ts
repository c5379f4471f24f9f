/**
 * 400 seeded corruptions of small model folders. Whatever was done to a folder, loading it, tokenising and scoring a few
 * tokens ends in a typed error of one line, or in the numbers that an independent reading of the same folder gives. Never
 * in an exception, a hang, memory that stays taken, or numbers of something else.
 */
import * as fs from "node:fs"
import { assert, layer } from "@effect/vitest"
import { Gpu, GpuError } from "@srcode/gpu"
import { Cause, Effect, Exit, Option, Ref, References } from "effect"
import { loadModel, loadTokenizer, ModelError, makeScorer, openModelWeights, writeSafetensors } from "../src/index.ts"
import { corruptions } from "./corruptions.ts"
import { type Shape, writeCheckpoint } from "./reference/checkpoint.ts"
import { DeviceLayer, relativeError } from "./reference/device.ts"
import { readReferenceConfig, readTensors } from "./reference/folder.ts"
import { lossOf } from "./reference/loss.ts"
import { below, failsWith, seeded, temporaryFolder } from "./support.ts"
import { codeLlama, deepSeek, type Json, load, qwen } from "./tokenizer-fixtures.ts"

const small = { hidden: 16, intermediate: 20, layers: 2, heads: 2, kvHeads: 1, headDim: 8, vocab: 480 }
const shapes: ReadonlyArray<Shape> = [
  { ...small, name: "qwen2", tied: true, bias: true },
  { ...small, name: "llama", tied: false, bias: false, family: "llama", scaling: { type: "linear", factor: 2 } },
  { ...small, name: "qwen3", tied: false, bias: false, family: "qwen3", headDim: 12 }
]
const dtypes = ["F32", "BF16", "F16"] as const
const text = "int main(void) {\n  return add(1, 2); // é\n}\n"

/** One folder for each dtype, in one file and in two; each family with its kind of tokenizer comes twice. */
const makeBases = Effect.gen(function* () {
  const root = yield* temporaryFolder
  const bases: Array<string> = []
  const tokenizers = [yield* qwen(), codeLlama(), yield* deepSeek()]
  for (const [i, dtype] of dtypes.entries()) {
    for (const sharded of [false, true]) {
      const which = (i + (sharded ? 1 : 0)) % shapes.length
      const [shape, tokenizer] = [shapes[which]!, tokenizers[which]!]
      const directory = `${root}/${dtype}-${sharded ? "sharded" : "single"}`
      yield* writeCheckpoint(directory, shape, 11 + i)
      fs.writeFileSync(`${directory}/tokenizer.json`, JSON.stringify(tokenizer.json))
      fs.writeFileSync(`${directory}/tokenizer_config.json`, JSON.stringify(tokenizer.config))
      fs.writeFileSync(`${directory}/generation_config.json`, '{"eos_token_id":[1,2],"temperature":0.7,"top_p":0.8}')
      const tensors = [...readTensors(directory)].map(([name, tensor]) => ({
        name,
        shape: tensor.shape,
        data: Float32Array.from(tensor.data)
      }))
      fs.rmSync(`${directory}/model.safetensors`)
      const parts = sharded ? [tensors.slice(0, 9), tensors.slice(9)] : [tensors]
      const weightMap: Record<string, string> = {}
      for (const [p, part] of parts.entries()) {
        const file = sharded ? `model-0000${p + 1}-of-00002.safetensors` : "model.safetensors"
        yield* writeSafetensors(`${directory}/${file}`, part, { dtype })
        for (const { name } of part) weightMap[name] = file
      }
      if (sharded) {
        const bytes = tensors.reduce((sum, { data }) => sum + data.length * (dtype === "F32" ? 4 : 2), 0)
        const index = { metadata: { total_size: bytes }, weight_map: weightMap }
        fs.writeFileSync(`${directory}/model.safetensors.index.json`, JSON.stringify(index))
      }
      bases.push(directory)
    }
  }
  return bases
})

interface Loaded {
  readonly ids: ReadonlyArray<number>
  readonly decoded: string
  readonly logProbs: Float32Array
  readonly tensors: ReadonlyMap<string, Float32Array>
}

/** What a command does with a model: load, tokenise, score. `allocations` counts what the device was asked for. */
const use = Effect.fnUntraced(function* (directory: string, allocations: Ref.Ref<number>) {
  const gpu = yield* Gpu
  const counted = Gpu.of({
    ...gpu,
    alloc: (...args: Parameters<typeof gpu.alloc>) =>
      Effect.andThen(
        Ref.update(allocations, (n) => n + 1),
        gpu.alloc(...args)
      )
  } as typeof gpu)
  return yield* Effect.gen(function* () {
    const model = yield* loadModel(directory)
    const tokenizer = yield* loadTokenizer(directory)
    const ids = tokenizer.encode(text)
    const scorer = yield* makeScorer(model.decoder, { capacity: 64, rank: 0 })
    const [scores] = yield* scorer.score(null, [{ ids, loss: () => true }])
    const file = yield* openModelWeights(directory)
    const tensors = new Map<string, Float32Array>()
    for (const name of file.tensors.keys()) tensors.set(name, yield* file.read(name))
    const loaded: Loaded = { ids, decoded: tokenizer.decode(ids), logProbs: scores!.logProbs, tensors }
    return loaded
  }).pipe(
    Effect.provideService(Gpu, counted),
    Effect.provideService(References.MinimumLogLevel, "Error"),
    Effect.scoped
  )
})

/** Remembers what was asked for: a tensor that the model leaves out makes it another model. */
class Noted extends Map<string, Float64Array> {
  readonly asked = new Set<string>()
  override get(name: string) {
    this.asked.add(name)
    return super.get(name)
  }
}

/** The same from the files alone. `null`: its numbers are too large for single precision to follow. */
const expectedOf = (directory: string, ids: ReadonlyArray<number>) => {
  const tensors = readTensors(directory)
  const parameters = new Noted([...tensors].map(([name, { data }]) => [name, data]))
  const tame = [...parameters.values()].every((data) => data.every((x) => Math.abs(x) < 100))
  if (!tame) return { tensors, logProbs: null }
  const weights = { logProb: 1, entropy: 0, temperature: 1 }
  const { logProbs } = lossOf(readReferenceConfig(directory), parameters, null, [{ ids, loss: () => true }], weights)
  for (const name of tensors.keys()) assert.isTrue(parameters.asked.has(name), `${name} is not part of the model`)
  return { tensors, logProbs }
}

/** A load that went well must be of exactly what lies in the folder. */
const assertTrue = (what: string, directory: string, loaded: Loaded) => {
  const expected = expectedOf(directory, loaded.ids)
  assert.strictEqual(loaded.tensors.size, expected.tensors.size, what)
  for (const [name, { data }] of expected.tensors) {
    const read = loaded.tensors.get(name)!
    assert.strictEqual(read.length, data.length, `${what}: ${name}`)
    for (let i = 0; i < data.length; i++) {
      if (read[i] !== Math.fround(data[i]!))
        assert.fail(`${what}: ${name}[${i}] is ${read[i]}, the file has ${data[i]}`)
    }
  }
  assert.strictEqual(loaded.decoded, text, what)
  assert.lengthOf(loaded.logProbs, loaded.ids.length - 1)
  if (expected.logProbs === null) return
  const error = relativeError(loaded.logProbs, expected.logProbs)
  assert.isTrue(error < 1e-3, `${what}: log-probabilities are off by ${error}`)
}

/** Reasons that are known before the device is asked for anything. */
const early = new Set(["Missing", "Malformed", "ShapeMismatch", "Io"])

/** Says how a round ended; throws when it may not end so. */
const judge = (
  what: string,
  directory: string,
  exit: Exit.Exit<Option.Option<Loaded>, unknown>,
  asked: number
): string => {
  if (Exit.isSuccess(exit)) {
    if (Option.isNone(exit.value)) assert.fail(`${what}: hangs`)
    assertTrue(what, directory, exit.value.value)
    return "loaded"
  }
  const [reason] = exit.cause.reasons
  if (exit.cause.reasons.length !== 1 || reason?._tag !== "Fail") assert.fail(`${what}: ${Cause.pretty(exit.cause)}`)
  const { error } = reason
  if (!(error instanceof ModelError || error instanceof GpuError)) assert.fail(`${what}: ${String(error)}`)
  assert.notMatch(error.message, /[\n\r]/, what)
  assert.isTrue(error.message.length > 20 && error.message.length < 1000, `${what}: ${error.message}`)
  const atTokens = /tokenizer/.test(error.message)
  if (early.has(error.reason._tag) && !atTokens) assert.strictEqual(asked, 0, `${what}: ${error.message}`)
  return `${error._tag} ${error.reason._tag}`
}

layer(DeviceLayer, { excludeTestServices: true })("damaged model folders", (it) => {
  it.effect(
    "400 corruptions: a typed error of one line, or the numbers of what lies in the folder",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const bases = yield* makeBases
        const kinds = Object.entries(corruptions)
        const counts = new Map<string, number>()
        const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1)
        const failures: Array<string> = []
        const nothing = yield* Ref.make(0)
        for (const base of bases) assertTrue(base, base, yield* use(base, nothing))
        const { live } = yield* gpu.memory
        for (let round = 0; round < 400; round++) {
          const random = seeded(3000 + round)
          const [kind, corrupt] = kinds[round % kinds.length]!
          const directory = `${yield* temporaryFolder}/model`
          let what: string | undefined
          for (let base = below(random, bases.length); what === undefined; base = (base + 1) % bases.length) {
            fs.rmSync(directory, { recursive: true, force: true })
            fs.cpSync(bases[base]!, directory, { recursive: true })
            what = corrupt(directory, random)
            if (what !== undefined) what = `round ${round}, ${kind} (${what}) of ${bases[base]!.split("/").at(-1)}`
          }
          const allocations = yield* Ref.make(0)
          const exit = yield* use(directory, allocations).pipe(Effect.timeoutOption("20 seconds"), Effect.exit)
          const asked = yield* Ref.get(allocations)
          try {
            count(judge(what, directory, exit, asked))
            assert.strictEqual((yield* gpu.memory).live, live, `${what}: device memory stays taken`)
          } catch (cause) {
            failures.push(cause instanceof Error ? cause.message : String(cause))
          }
          fs.chmodSync(directory, 0o700)
        }
        assert.deepStrictEqual(failures, [])
        assert.isAbove(counts.get("loaded") ?? 0, 50)
        assert.isAbove([...counts.values()].reduce((a, b) => a + b, 0) - (counts.get("loaded") ?? 0), 200)
      }),
    120_000
  )

  it.effect("parts of a tokenizer that would silently drop or change text are refused by name", () =>
    Effect.gen(function* () {
      const [a, b] = [yield* qwen(), codeLlama()]
      const split = (...change: ReadonlyArray<unknown>) => ({
        ...a.json,
        pre_tokenizer: { type: "Sequence", pretokenizers: change }
      })
      const [first, last] = (a.json.pre_tokenizer as { pretokenizers: ReadonlyArray<Json> }).pretokenizers
      const steps = (b.json.decoder as { decoders: ReadonlyArray<Json> }).decoders
      const decoded = (...decoders: ReadonlyArray<unknown>) => ({ ...b.json, decoder: { type: "Sequence", decoders } })
      for (const [json, config] of [
        [split({ ...first, pattern: {} }, last), a.config],
        [split({ ...first, pattern: { Regex: 7 } }, last), a.config],
        [split({ ...first, pattern: { Regex: "" } }, last), a.config],
        [split({ ...first, behavior: "Is\nolated".repeat(5000) }, last), a.config],
        [split(first, 7, last), a.config],
        [{ ...a.json, normalizer: 7 }, a.config],
        [{ ...a.json, post_processor: "x" }, a.config],
        [decoded(...steps.slice(0, 3), 7), b.config],
        [decoded(...steps.slice(0, 3), null), b.config]
      ] as const) {
        const reason = yield* failsWith(load({ json, config }), "Unsupported")
        assert.include(reason.message, "tokenizer.json")
      }
    })
  )
})
