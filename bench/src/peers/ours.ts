/** Our engine as a side: the same matmul launches, forward pass and generator that training and sampling use. */
import { Gpu, type GpuError, makeOps } from "@srcode/gpu"
import {
  allocBatch,
  allocWorkspace,
  forward,
  loadModel,
  type ModelError,
  makeGenerator,
  packSequences,
  uploadBatch,
  writeSafetensors
} from "@srcode/model"
import { Effect, FileSystem, Path, type PlatformError } from "effect"
import { PeerError, type Prompts, type Side, type TinyModel } from "./Peer.ts"

const name = "srcode"

/** The folder Hugging Face would have for the model. */
const writeFolder = Effect.fnUntraced(function* ({ shape, tensors }: TinyModel) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-bench-" })
  const config = {
    model_type: "qwen2",
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    vocab_size: shape.vocab,
    max_position_embeddings: shape.maxPositions,
    rms_norm_eps: shape.eps,
    rope_theta: shape.theta,
    tie_word_embeddings: false,
    hidden_act: "silu"
  }
  yield* fs.writeFileString(path.join(folder, "config.json"), JSON.stringify(config))
  const { hidden: C, headDim: D, heads, kvHeads, intermediate: F, vocab } = shape
  const dims: Readonly<Record<string, ReadonlyArray<number>>> = {
    q_proj: [heads * D, C],
    k_proj: [kvHeads * D, C],
    v_proj: [kvHeads * D, C],
    o_proj: [C, heads * D],
    gate_proj: [F, C],
    up_proj: [F, C],
    down_proj: [C, F],
    embed_tokens: [vocab, C],
    lm_head: [vocab, C]
  }
  const list = [...tensors].map(([key, data]) => ({
    name: key,
    data,
    shape: (key.endsWith(".weight") ? dims[key.split(".").at(-2) ?? ""] : undefined) ?? [data.length]
  }))
  yield* writeSafetensors(path.join(folder, "model.safetensors"), list)
  return folder
})

export const openOurs = Effect.gen(function* () {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const services = yield* Effect.context<FileSystem.FileSystem | Path.Path | Gpu>()
  const wrap =
    (operation: string) =>
    <A, R>(effect: Effect.Effect<A, GpuError | ModelError | PlatformError.PlatformError, R>) =>
      effect.pipe(
        Effect.provideContext(services),
        Effect.mapError((error) => new PeerError({ side: name, operation, detail: error.message }))
      )

  const chain: Side["chain"] = ({ layout, m, k, repeats, a, b }) =>
    Effect.gen(function* () {
      const first = yield* gpu.alloc("bench.a", "f32", m * k)
      const weight = yield* gpu.alloc("bench.b", "f32", k * k)
      const turns = [yield* gpu.alloc("bench.0", "f32", m * k), yield* gpu.alloc("bench.1", "f32", m * k)] as const
      yield* gpu.write(first, a)
      yield* gpu.write(weight, b)
      const launch = layout === "NT" ? ops.matmulNT : ops.matmulNN
      const record = (tape: Parameters<typeof launch>[0]) => {
        for (let i = 0; i < repeats; i++) {
          const from = i === 0 ? first : turns[i % 2 === 0 ? 0 : 1]
          launch(tape, { a: from, b: weight, out: turns[i % 2 === 0 ? 1 : 0], m, n: k, k })
        }
      }
      return gpu
        .submit("bench chain", record)
        .pipe(Effect.andThen(gpu.read(turns[repeats % 2 === 0 ? 0 : 1])), wrap("matmul"))
    }).pipe(wrap("matmul"))

  const decoder: Side["decoder"] = (model, use) =>
    Effect.gen(function* () {
      const { config, decoder } = yield* loadModel(yield* writeFolder(model))
      const endless = { ...decoder, config: { ...config, eosTokenIds: [] } }
      const rows = model.shape.maxPositions
      const ws = yield* allocWorkspace(config, { capacity: use === "hidden" ? rows : 1, save: false, rank: 1 })
      const buffers = yield* allocBatch(use === "hidden" ? rows : 1)
      const generator = yield* makeGenerator(endless, { slots: 8, capacity: rows, prefill: 4 * rows, rank: 1 })
      const hidden = (prompts: Prompts) =>
        Effect.gen(function* () {
          const batch = yield* uploadBatch(buffers, packSequences(prompts.map((ids) => ({ ids }))))
          yield* gpu.submit("bench forward", (tape) => forward(tape, ops, decoder, null, batch, ws))
          return yield* gpu.read({ ...ws.hidden, length: batch.rows * config.hiddenSize })
        }).pipe(wrap("forward"))
      const generate = (prompts: Prompts, count: number) =>
        generator
          .generate(
            null,
            prompts.map((ids, stream) => ({ ids, stream })),
            { temperature: 0, topP: 1, maxTokens: count, seed: 1 }
          )
          .pipe(
            Effect.map((all) => all.map(({ ids }) => ids)),
            wrap("generate")
          )
      return { hidden, generate }
    }).pipe(wrap("load model"))

  const side: Side = { name, version: "0.1.0", device: gpu.info.driver, notes: [], chain, decoder }
  return side
})
