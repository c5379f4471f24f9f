import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { trainBpe, writeTokenizer } from "../src/BpeTrainer.ts"
import { compileChatTemplate, loadChatTemplate } from "../src/ChatTemplate.ts"
import { failsWith, platform, temporaryFolder } from "./support.ts"

/** The shape of Qwen's template: named turns between markers. */
const chatMl =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

describe("ChatTemplate", () => {
  it.effect("renders named turns and the opening of the next", () =>
    Effect.gen(function* () {
      const { render } = yield* compileChatTemplate(chatMl, {})
      const messages = [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hi {{ 7 * 7 }}" }
      ] as const
      const text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ 7 * 7 }}<|im_end|>\n"
      assert.strictEqual(yield* render(messages), `${text}<|im_start|>assistant\n`)
      assert.strictEqual(yield* render(messages, { addGenerationPrompt: false }), text)
    })
  )

  it.effect("the embedded template hands a single user turn to the base model as it is", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      yield* writeTokenizer(directory, yield* trainBpe(["aa aa"], { vocabSize: 258 }))
      const { render } = yield* loadChatTemplate(directory)
      const prompt = "// return the larger\nint max(int a, int b) {"
      assert.strictEqual(yield* render([{ role: "user", content: prompt }]), prompt)
      const turns = [
        { role: "system", content: "C only" },
        { role: "user", content: prompt },
        { role: "assistant", content: "\n    return a > b ? a : b;\n}\n" },
        { role: "user", content: "next" }
      ] as const
      assert.strictEqual(yield* render(turns), `// C only\n${prompt}\n    return a > b ? a : b;\n}\n<|endoftext|>next`)
    }).pipe(Effect.provide(platform))
  )

  it.effect("chat_template.jinja wins, named lists have a default, special tokens may be objects", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const config = (value: unknown) => fs.writeFileString(`${directory}/tokenizer_config.json`, JSON.stringify(value))
      yield* failsWith(loadChatTemplate(directory), "Missing")
      yield* config({ eos_token: "</s>" })
      yield* failsWith(loadChatTemplate(directory), "Missing")
      yield* config({
        eos_token: { content: "<eos>" },
        chat_template: [
          { name: "tool_use", template: "T" },
          { name: "default", template: "{{ messages[0].content }}{{ eos_token }}" }
        ]
      })
      const user = [{ role: "user", content: "x" }] as const
      assert.strictEqual(yield* (yield* loadChatTemplate(directory)).render(user), "x<eos>")
      yield* fs.writeFileString(`${directory}/chat_template.jinja`, "J{{ extra }}{{ messages | length }}")
      const { render } = yield* loadChatTemplate(directory)
      assert.strictEqual(yield* render(user, { variables: { extra: "!" } }), "J!1")
    }).pipe(Effect.provide(platform))
  )

  it.effect("templates that are broken or refuse are typed errors", () =>
    Effect.gen(function* () {
      yield* failsWith(compileChatTemplate("{% for x in %}", {}), "Malformed")
      yield* failsWith(compileChatTemplate("{% if a %}", {}), "Malformed")
      const { render } = yield* compileChatTemplate("{{ raise_exception('roles must\\nalternate') }}", {})
      const reason = yield* failsWith(render([{ role: "user", content: "x" }]), "Invalid")
      assert.include(reason.message, "roles must; alternate")
      const nothing = yield* failsWith(render([]), "Invalid")
      assert.include(nothing.message, "at least one message")
    })
  )
})
