/**
 * The whole way: official client, HTTP, engine, tiny-coder's weights on this machine's device. Answers are compared with
 * the engine asked directly, and a request among many with the same request alone.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { GpuDawn } from "@srcode/gpu"
import {
  type Engine,
  type LoraKey,
  type LoraPair,
  linearModules,
  linearShapes,
  loadAdapter,
  loadChatTemplate,
  loadModel,
  loadModelTokenizer,
  loraKey,
  type ModelConfig,
  makeEngine,
  type Tokenizer,
  writeAdapter
} from "@srcode/model"
import { Context, Effect, Layer, Random } from "effect"
import type OpenAI from "openai"
import { serve, TextModel } from "../src/index.ts"
import { clientOf, defaults, tinyCoder, until } from "./support/server.ts"

class Running extends Context.Service<
  Running,
  { readonly client: OpenAI; readonly url: string; readonly engine: Engine; readonly tokenizer: Tokenizer }
>()("@srcode/serve/test/Running") {}

/** A random adapter, B away from zero, so that it changes what is said. */
const writeRandomAdapter = Effect.fnUntraced(function* (folder: string, config: ModelConfig, rank: number) {
  const shapes = linearShapes(config)
  const tensors = new Map<LoraKey, LoraPair>()
  const uniform = (length: number, scale: number) =>
    Effect.map(Effect.all(Array.from({ length }, () => Random.next)), (all) =>
      Float32Array.from(all, (x) => scale * (2 * x - 1))
    )
  for (let i = 0; i < config.numLayers; i++) {
    for (const module of linearModules) {
      const [out, inner] = shapes[module]
      const pair = { a: yield* uniform(rank * inner, 1 / Math.sqrt(inner)), b: yield* uniform(out * rank, 0.4) }
      tensors.set(loraKey(i, module), pair)
    }
  }
  yield* writeAdapter(folder, config, { rank, alpha: rank, targetModules: linearModules, tensors })
}, Random.withSeed(5))

const running = Layer.effect(
  Running,
  Effect.gen(function* () {
    const model = yield* loadModel(tinyCoder, { maxTokens: 256 })
    const tokenizer = yield* loadModelTokenizer(model)
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-serve-"))),
      (path) => Effect.sync(() => fs.rmSync(path, { recursive: true, force: true }))
    )
    yield* writeRandomAdapter(folder, model.config, 3)
    const lora = yield* loadAdapter(model, folder)
    const engine = yield* makeEngine(model.decoder, {
      maxSequences: 6,
      maxTokens: 256,
      prefillTokens: 128,
      rank: lora.rank
    })
    const text = TextModel.layerEngine({
      engine,
      tokenizer,
      template: yield* loadChatTemplate(tinyCoder),
      vocabSize: model.config.vocabSize,
      endIds: model.config.eosTokenIds,
      id: "tiny-coder",
      adapters: new Map([["random", lora]])
    })
    const { url } = yield* serve({ ...defaults, queue: 100 }).pipe(Effect.provide(text))
    return Running.of({ client: clientOf(url), url, engine, tokenizer })
  })
)

const live = running.pipe(Layer.provide(GpuDawn.layerWith({ device: "auto" })), Layer.provide(NodeServices.layer))

const prompts = [
  "int add(int a, int b) {\n",
  "/* Copies at most n bytes. */\nvoid copy(char *to, const char *from, size_t n) {\n",
  "static int clamp(int x, int low, int high) {\n",
  "int main(void) {\n  char buffer[16];\n"
]

layer(live, { excludeTestServices: true })("over the engine", (it) => {
  it.effect("greedy text, log-probabilities and usage are the engine's; a stream says the same", () =>
    Effect.gen(function* () {
      const { client, engine, tokenizer } = yield* Running
      for (const prompt of prompts) {
        const ids = tokenizer.encode(prompt)
        const sampling = { temperature: 0, topP: 1, topK: 0, minP: 0, maxTokens: 24, seed: 1 }
        const [direct] = yield* engine.generate([{ ids, stream: 0, lora: null, sampling }])
        const messages = [{ role: "user" as const, content: prompt }]
        const asked = { model: "tiny-coder", messages, temperature: 0, max_tokens: 24, logprobs: true }
        const answer = yield* Effect.promise(() => client.chat.completions.create(asked))
        const [choice] = answer.choices
        const said = direct?.truncated === true ? direct.ids : (direct?.ids.slice(0, -1) ?? [])
        assert.strictEqual(choice?.message.content, tokenizer.decode(said))
        assert.strictEqual(choice?.finish_reason, direct?.truncated === true ? "length" : "stop")
        assert.strictEqual(answer.usage?.prompt_tokens, ids.length)
        assert.strictEqual(answer.usage?.completion_tokens, direct?.ids.length)
        assert.deepStrictEqual(
          choice?.logprobs?.content?.map((token) => token.logprob),
          direct?.logProbs.slice(0, said.length)
        )
        const streamed = yield* Effect.promise(async () => {
          let text = ""
          const stream = await client.chat.completions.create({ ...asked, stream: true })
          for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ""
          return text
        })
        assert.strictEqual(streamed, choice?.message.content)
      }
    })
  )

  it.effect("many requests at once, base and adapter mixed, say what each says alone", () =>
    Effect.gen(function* () {
      const { client } = yield* Running
      const requests = Array.from({ length: 10 }, (_, i) => ({
        model: i % 3 === 2 ? "random" : "tiny-coder",
        prompt: prompts[i % prompts.length] ?? "",
        max_tokens: 6 + (i % 5) * 4,
        n: i % 4 === 3 ? 2 : 1,
        seed: 40 + i,
        temperature: 1,
        top_p: i % 2 === 0 ? 1 : 0.9,
        logprobs: 0
      }))
      const ask = (request: (typeof requests)[number]) =>
        Effect.map(
          Effect.promise(() => client.completions.create(request)),
          ({ choices, usage }) => ({ choices, usage })
        )
      const alone = yield* Effect.forEach(requests, ask)
      const together = yield* Effect.forEach(requests, ask, { concurrency: "unbounded" })
      assert.deepStrictEqual(together, alone)
      // the adapter is really applied, seeds and choices really differ
      const same = { prompt: prompts[0] ?? "", max_tokens: 20, seed: 3, temperature: 1, logprobs: 0, n: 1, top_p: 1 }
      const base = yield* ask({ ...same, model: "tiny-coder" })
      const adapted = yield* ask({ ...same, model: "random" })
      const reseeded = yield* ask({ ...same, model: "tiny-coder", seed: 4 })
      assert.notDeepEqual(adapted.choices, base.choices)
      assert.notDeepEqual(reseeded.choices, base.choices)
      const two = yield* ask({ ...same, model: "tiny-coder", n: 2 })
      assert.deepStrictEqual(two.choices[0], base.choices[0])
      assert.notDeepEqual(two.choices[1]?.text, two.choices[0]?.text)
    })
  )

  it.effect("a stop string ends an answer where a longer answer has it", () =>
    Effect.gen(function* () {
      const { client } = yield* Running
      const asked = { model: "tiny-coder", prompt: prompts[0] ?? "", temperature: 0, max_tokens: 40 }
      const whole = yield* Effect.promise(() => client.completions.create(asked))
      const text = whole.choices[0]?.text ?? ""
      const stop = text.slice(5, 8)
      const cut = yield* Effect.promise(() => client.completions.create({ ...asked, stop }))
      assert.strictEqual(cut.choices[0]?.text, text.slice(0, text.indexOf(stop)))
      assert.strictEqual(cut.choices[0]?.finish_reason, "stop")
      assert.isBelow(cut.usage?.completion_tokens ?? 99, whole.usage?.completion_tokens ?? 0)
    })
  )

  it.effect("a client that goes away frees its pages, in the middle of an answer and in the queue", () =>
    Effect.gen(function* () {
      const { client, engine } = yield* Running
      const used = () => Effect.runSync(engine.stats)
      yield* Effect.promise(() => until(() => used().running === 0))
      const asked = Array.from({ length: 10 }, async (_, i) => {
        const controller = new AbortController()
        const stream = await client.completions.create(
          { model: "tiny-coder", prompt: prompts[i % 4] ?? "", max_tokens: 180, seed: i, stream: true },
          { signal: controller.signal }
        )
        // the first six see text and go; the others go while they wait
        if (i < 6) for await (const _ of stream) break
        controller.abort()
      })
      yield* Effect.promise(() => Promise.allSettled(asked))
      yield* Effect.promise(() => until(() => used().running + used().waiting === 0))
      assert.strictEqual(used().pagesUsed, 0)
      const after = yield* Effect.promise(() =>
        client.completions.create({ model: "tiny-coder", prompt: "int", max_tokens: 4 })
      )
      assert.isAtMost(after.usage?.completion_tokens ?? 99, 4)
    })
  )

  it.effect("metrics count the engine's pages and tokens", () =>
    Effect.gen(function* () {
      const { url, engine } = yield* Running
      const text = yield* Effect.promise(async () => (await fetch(`${url}/metrics`)).text())
      const value = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1])
      const stats = yield* engine.stats
      assert.strictEqual(value("srcode_engine_pages"), stats.pagesTotal)
      assert.strictEqual(value("srcode_engine_tokens_sampled"), stats.tokensGenerated)
      assert.isAbove(value("srcode_sampled_tokens_total"), 0)
      assert.strictEqual(value("srcode_sequences_admitted"), 0)
    })
  )
})
