/** Where a function body ends, and responses as text. */
import { assert, describe, it, layer } from "@effect/vitest"
import { makeGenerator } from "@srcode/model"
import { Effect } from "effect"
import { functionBody, respond } from "../src/index.ts"
import { DeviceLayer, tinyModel } from "./tinyWorld.ts"

describe("functionBody", () => {
  for (const [name, text, expected] of [
    ["ends at the first lone brace", "  a();\n}\nint g() {\n}\n", "  a();\n}"],
    ["inner braces are no end", "  if (x) {\n    a();\n  }\n}\nrest", "  if (x) {\n    a();\n  }\n}"],
    ["a body without an end stays whole", "  a();\n  b(", "  a();\n  b("],
    ["empty text stays empty", "", ""],
    ["the end of the text ends the line", "  a();\n}", "  a();\n}"],
    ["blanks and line ends of other systems", "  a();\r\n}\r\nint g", "  a();\r\n}"],
    ["blanks behind the brace", "  a();\n} \t\nint g", "  a();\n}"],
    ["a brace with more on its line is not alone", "  do {\n} while (x);\n}\n", "  do {\n} while (x);\n}"],
    ["a brace at the very start closes an empty body", "}\nint g() {\n  a();\n}\n", "}"],
    ["a brace inside a word's line", "x = {\n1};\n}\n", "x = {\n1};\n}"]
  ] as const) {
    it(name, () => {
      assert.strictEqual(functionBody(text), expected)
      assert.strictEqual(functionBody(functionBody(text)), expected)
    })
  }
})

layer(DeviceLayer)("respond", (it) => {
  it.effect("texts are the tokens without the end token, in the order of the prompts, numbered by stream", () =>
    Effect.gen(function* () {
      const { model, tokenizer } = yield* tinyModel
      const prompts = ["int f(", "return ", "if (n < ", "x"]
      const generator = yield* makeGenerator(model.decoder, { slots: 3, capacity: 64, prefill: 64, rank: 1 })
      const sampling = { temperature: 1, topP: 1, maxTokens: 24, seed: 4 }
      const ask = (some: ReadonlyArray<string>, firstStream?: number) =>
        respond({ generator, tokenizer, lora: null, prompts: some, sampling, ...(firstStream ? { firstStream } : {}) })
      const responses = yield* ask(prompts)
      assert.deepStrictEqual(
        responses.map((r) => r.prompt),
        prompts
      )
      for (const { prompt, promptIds, generation, text } of responses) {
        assert.deepStrictEqual(promptIds, tokenizer.encode(prompt))
        const ids = generation.truncated ? generation.ids : generation.ids.slice(0, -1)
        if (!generation.truncated) assert.strictEqual(generation.ids.at(-1), tokenizer.eosId)
        assert.isFalse(ids.includes(tokenizer.eosId))
        assert.strictEqual(text, tokenizer.decode(ids))
        assert.isAtMost(generation.ids.length, 24)
      }
      // a stream belongs to its prompt, wherever the prompt stands
      const [third] = yield* ask(prompts.slice(2, 3), 2)
      assert.deepStrictEqual(third?.generation.ids, responses[2]?.generation.ids)
      assert.notDeepEqual((yield* ask(prompts.slice(2, 3), 9))[0]?.generation.ids, third?.generation.ids)
      assert.deepStrictEqual(yield* ask([]), [])
    })
  )
})
