import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type ChatMessage, compileChatTemplate, type RenderOptions } from "../src/ChatTemplate.ts"
import { codeLlamaInstruct, deepSeekCoder, qwen3, qwen25 } from "./chat-fixtures.ts"
import { failsWith, platform } from "./support.ts"
import { codeLlama, deepSeek, load, qwen } from "./tokenizer-fixtures.ts"

const system: ChatMessage = { role: "system", content: "Be brief." }
const ask: ChatMessage = { role: "user", content: "  Fix {{ this }}\n" }
const answer: ChatMessage = { role: "assistant", content: "<think>\nhm\n</think>\n\nDone.\n" }
const again: ChatMessage = { role: "user", content: "Why?" }

const rendering = (source: string, tokens: Readonly<Record<string, string | null>> = {}) =>
  Effect.map(
    compileChatTemplate(source, tokens),
    (template) => (messages: ReadonlyArray<ChatMessage>, options?: RenderOptions) => template.render(messages, options)
  )
const open: RenderOptions = { addGenerationPrompt: true }
const closed: RenderOptions = { addGenerationPrompt: false }

describe("chat templates of the families", () => {
  it.effect("Qwen2.5", () =>
    Effect.gen(function* () {
      const render = yield* rendering(qwen25)
      const turn = (role: string, text: string) => `<|im_start|>${role}\n${text}<|im_end|>\n`
      assert.strictEqual(
        yield* render([again], open),
        `${turn("system", "Default instructions.")}${turn("user", "Why?")}<|im_start|>assistant\n`
      )
      const whole = turn("system", "Be brief.") + turn("user", ask.content) + turn("assistant", answer.content)
      assert.strictEqual(yield* render([system, ask, answer], closed), whole)
      assert.strictEqual(
        yield* render([system, ask, answer, again]),
        `${whole}${turn("user", "Why?")}<|im_start|>assistant\n`
      )
      const results = [again, { role: "tool", content: "1" }, { role: "tool", content: "2" }] as const
      assert.include(
        yield* render(results, closed),
        "<|im_start|>user\n<result>\n1\n</result>\n<result>\n2\n</result><|im_end|>\n"
      )
      const tools = [{ name: "run", parameters: { type: "object" } }]
      assert.include(yield* render([again], { variables: { tools } }), '# Tools\n\n{"name": "run", "parameters"')
    })
  )

  it.effect("Qwen3: thoughts of earlier answers are dropped, thinking can be switched off", () =>
    Effect.gen(function* () {
      const render = yield* rendering(qwen3)
      const start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n  Fix {{ this }}\n<|im_end|>\n"
      assert.strictEqual(yield* render([system, ask]), `${start}<|im_start|>assistant\n`)
      const off = { variables: { enable_thinking: false } }
      assert.strictEqual(yield* render([system, ask], off), `${start}<|im_start|>assistant\n<think>\n\n</think>\n\n`)
      assert.strictEqual(
        yield* render([system, ask], { variables: { enable_thinking: true } }),
        `${start}<|im_start|>assistant\n`
      )
      assert.strictEqual(
        yield* render([system, ask, answer], closed),
        `${start}<|im_start|>assistant\n<think>\nhm\n</think>\n\nDone.\n<|im_end|>\n`
      )
      assert.strictEqual(
        yield* render([system, ask, answer, again], closed),
        `${start}<|im_start|>assistant\nDone.\n<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n`
      )
    })
  )

  it.effect("DeepSeek-Coder", () =>
    Effect.gen(function* () {
      const render = yield* rendering(deepSeekCoder, { bos_token: "<B>", eos_token: "<|EOT|>" })
      assert.strictEqual(yield* render([again]), "<B>You help with programs only.\n### Task:\nWhy?\n### Answer:\n")
      const turns = "<B>Be brief.### Task:\n  Fix {{ this }}\n\n### Answer:\nDone.\n<|EOT|>\n"
      const done: ChatMessage = { role: "assistant", content: "Done." }
      assert.strictEqual(yield* render([system, ask, done], closed), turns)
      assert.strictEqual(yield* render([system, ask, done, again], open), `${turns}### Task:\nWhy?\n### Answer:\n`)
    })
  )

  it.effect("CodeLlama: roles must alternate", () =>
    Effect.gen(function* () {
      const render = yield* rendering(codeLlamaInstruct, { bos_token: "<s>", eos_token: "</s>", pad_token: null })
      assert.strictEqual(yield* render([again]), "<s>[INST] Why? [/INST]")
      assert.strictEqual(
        yield* render([system, ask, { role: "assistant", content: " Done. " }, again]),
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n  Fix {{ this }} [/INST] Done. </s><s>[INST] Why? [/INST]"
      )
      const broken: ReadonlyArray<ReadonlyArray<ChatMessage>> = [
        [answer],
        [ask, again],
        [system, ask, ask],
        [ask, answer, answer]
      ]
      for (const messages of broken) {
        const reason = yield* failsWith(render(messages), "Invalid")
        assert.include(reason.message, "Turns must alternate")
      }
    })
  )

  it.effect("a template that meets what it does not expect is a typed error", () =>
    Effect.gen(function* () {
      const failing = [
        [qwen25, []],
        [codeLlamaInstruct, []],
        ["{{ messages[0].content.nothing() }}", [ask]],
        ["{{ messages | no_such_filter }}", [ask]],
        ["{% for x in messages[0].content.y %}{% endfor %}{{ 1 + none }}", [ask]]
      ] as const
      for (const [source, messages] of failing) {
        const render = yield* rendering(source, { bos_token: "<s>" })
        yield* failsWith(render(messages), "Invalid")
      }
    })
  )

  it.effect("rendered texts become ids with each special token once", () =>
    Effect.gen(function* () {
      const count = (ids: ReadonlyArray<number>, id: number | null) => ids.filter((each) => each === id).length
      const messages = [system, ask, answer, again]
      const llama = yield* load(codeLlama())
      const llamaText = yield* (yield* rendering(codeLlamaInstruct, { bos_token: "<s>", eos_token: "</s>" }))(messages)
      for (const addSpecialTokens of [false, true]) {
        const ids = llama.encode(llamaText, { addSpecialTokens })
        assert.strictEqual(ids[0], llama.bosId)
        assert.strictEqual(count(ids, llama.bosId), 2)
        assert.strictEqual(count(ids, llama.eosId), 1)
      }
      const deep = yield* load(yield* deepSeek())
      const bos = "<｜begin▁of▁sentence｜>"
      const deepText = yield* (yield* rendering(deepSeekCoder, { bos_token: bos }))(messages)
      const deepIds = deep.encode(deepText, { addSpecialTokens: true })
      assert.strictEqual(count(deepIds, deep.bosId), 1)
      assert.strictEqual(count(deepIds, deep.eosId), 1)
      assert.strictEqual(deep.decode(deepIds), deepText)
      const qwenIds = (yield* load(yield* qwen())).encode(yield* (yield* rendering(qwen25))(messages))
      const tokenizer = yield* load(yield* qwen())
      assert.strictEqual(count(qwenIds, tokenizer.eosId), 4)
      assert.strictEqual(count(qwenIds, tokenizer.tokenId("<|im_start|>") ?? -1), 5)
    }).pipe(Effect.provide(platform))
  )
})
