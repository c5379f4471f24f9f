/** The official client against the server: chat and completions, whole and streamed, and what each field does. */
import { assert, describe, it } from "@effect/vitest"
import OpenAI from "openai"
import { scriptedLogProb, withServer } from "./support/server.ts"

const hello = { model: "tiny", messages: [{ role: "user" as const, content: "int add(int a, int b) {" }] }

describe.concurrent("with the official client", () => {
  it("chat: message, finish reason, usage, and what the engine was asked for", () =>
    withServer({}, async ({ client, tokenizer, seen }) => {
      const answer = await client.chat.completions.create({
        ...hello,
        temperature: 0.5,
        top_p: 0.9,
        seed: 7,
        max_completion_tokens: 40,
        ...{ top_k: 20, min_p: 0.05 }
      })
      assert.match(answer.id, /^chatcmpl-/)
      assert.strictEqual(answer.object, "chat.completion")
      assert.strictEqual(answer.model, "tiny")
      const [choice] = answer.choices
      assert.strictEqual(choice?.message.role, "assistant")
      assert.strictEqual(choice?.message.content, "return a + b;")
      assert.strictEqual(choice?.finish_reason, "stop")
      assert.isNull(choice?.logprobs)
      const prompt = tokenizer.encode("int add(int a, int b) {").length
      const said = tokenizer.encode("return a + b;").length + 1
      assert.deepStrictEqual(answer.usage, {
        prompt_tokens: prompt,
        completion_tokens: said,
        total_tokens: prompt + said
      })
      const [request] = seen.requests
      assert.deepStrictEqual(request?.ids, tokenizer.encode("int add(int a, int b) {"))
      assert.deepStrictEqual(request?.sampling, {
        temperature: 0.5,
        topP: 0.9,
        topK: 20,
        minP: 0.05,
        maxTokens: 40,
        seed: 7
      })
      assert.isNull(request?.lora)
    }))

  it("chat stream: role first, text, finish reason, usage last; joined it is the whole answer", () =>
    withServer({}, async ({ client }) => {
      const stream = await client.chat.completions.create({
        ...hello,
        stream: true,
        stream_options: { include_usage: true }
      })
      const chunks = []
      for await (const chunk of stream) chunks.push(chunk)
      assert.strictEqual(chunks[0]?.choices[0]?.delta.role, "assistant")
      assert.strictEqual(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), "return a + b;")
      const reasons = chunks.map((c) => c.choices[0]?.finish_reason ?? null).filter((reason) => reason !== null)
      assert.deepStrictEqual(reasons, ["stop"])
      assert.isTrue(chunks.slice(0, -1).every((c) => c.usage === null && c.choices.length === 1))
      const last = chunks.at(-1)
      assert.deepStrictEqual(last?.choices, [])
      const whole = await client.chat.completions.create(hello)
      assert.deepStrictEqual(last?.usage, whole.usage)
      assert.isTrue(new Set(chunks.map((c) => c.id)).size === 1)
    }))

  it("the text that the client's own helper gathers from a stream is the answer", () =>
    withServer({}, async ({ client }) => {
      const runner = client.chat.completions.stream({ ...hello, n: 2 })
      const final = await runner.finalChatCompletion()
      assert.deepStrictEqual(
        final.choices.map((choice) => choice.message.content),
        ["return a + b;", "return a + b;"]
      )
    }))

  it("chat with system and developer messages, content in parts, and template variables goes through the template", () =>
    withServer(
      {
        template:
          "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% if loud %}!{% endif %}{% endif %}"
      },
      async ({ client, tokenizer, seen }) => {
        await client.chat.completions.create({
          model: "tiny",
          messages: [
            { role: "developer", content: "be brief" },
            {
              role: "user",
              content: [
                { type: "text", text: "a" },
                { type: "text", text: "b" }
              ]
            },
            { role: "assistant", content: "c", refusal: null },
            { role: "user", content: "d" }
          ],
          ...{ chat_template_kwargs: { loud: true } }
        })
        assert.deepStrictEqual(seen.requests[0]?.ids, tokenizer.encode("[system]be brief[user]ab[assistant]c[user]d>!"))
      }
    ))

  it("n choices: each is a sequence of its own under the request's seed; without a seed requests differ", () =>
    withServer({ script: (request) => [{ say: `x${request.stream}` }, { end: true }] }, async ({ client, seen }) => {
      const answer = await client.chat.completions.create({ ...hello, n: 3, seed: 11 })
      assert.deepStrictEqual(
        answer.choices.map((c) => [c.index, c.message.content]),
        [
          [0, "x0"],
          [1, "x1"],
          [2, "x2"]
        ]
      )
      assert.deepStrictEqual(
        seen.requests.map((r) => r.sampling.seed),
        [11, 11, 11]
      )
      await client.chat.completions.create(hello)
      await client.chat.completions.create(hello)
      const [a, b] = seen.requests.slice(3).map((r) => r.sampling.seed)
      assert.notStrictEqual(a, b)
    }))

  it("completions: several prompts times n, as texts or token ids, with echo", () =>
    withServer(
      { script: (request) => [{ say: ` ${request.ids.length}/${request.stream}` }, { end: true }] },
      async ({ client, tokenizer }) => {
        const prompts = ["int", "int main(void) {"]
        const lengths = prompts.map((prompt) => tokenizer.encode(prompt).length)
        const expected = [` ${lengths[0]}/0`, ` ${lengths[0]}/1`, ` ${lengths[1]}/2`, ` ${lengths[1]}/3`]
        const texts = await client.completions.create({ model: "tiny", prompt: prompts, n: 2 })
        assert.strictEqual(texts.object, "text_completion")
        assert.deepStrictEqual(
          texts.choices.map((c) => c.text),
          expected
        )
        const ids = prompts.map((prompt) => [...tokenizer.encode(prompt)])
        const echoed = await client.completions.create({ model: "tiny", prompt: ids, n: 2, echo: true })
        assert.deepStrictEqual(
          echoed.choices.map((c) => c.text),
          expected.map((text, i) => `${prompts[i >> 1]}${text}`)
        )
        const gathered = ["", ""]
        const stream = await client.completions.create({ model: "tiny", prompt: "int", n: 2, echo: true, stream: true })
        for await (const chunk of stream) for (const c of chunk.choices) gathered[c.index] += c.text
        assert.deepStrictEqual(gathered, [`int${expected[0]}`, `int${expected[1]}`])
      }
    ))

  it("stop strings end the answer before them, also when they come in pieces; the sequence is let go", () =>
    withServer(
      { script: () => [{ say: "one; two; three; four" }, { gate: { opened: new Promise(() => {}), open: () => {} } }] },
      async ({ client, tokenizer, seen }) => {
        const answer = await client.chat.completions.create({ ...hello, stop: ["; three", "nowhere"] })
        assert.strictEqual(answer.choices[0]?.message.content, "one; two")
        assert.strictEqual(answer.choices[0]?.finish_reason, "stop")
        assert.isAtMost(answer.usage?.completion_tokens ?? 99, tokenizer.encode("one; two; three; four").length)
        assert.strictEqual(seen.running, 0)
        let text = ""
        const stream = await client.completions.create({
          model: "tiny",
          prompt: "int",
          stop: "; t",
          max_tokens: 60,
          stream: true
        })
        for await (const chunk of stream) text += chunk.choices[0]?.text ?? ""
        assert.strictEqual(text, "one")
        assert.strictEqual(seen.running, 0)
      }
    ))

  it("max_tokens ends with length; completions take 16 tokens unless told", () =>
    withServer({ script: () => [{ say: "x".repeat(100) }] }, async ({ client, seen }) => {
      const five = await client.chat.completions.create({ ...hello, max_tokens: 5 })
      assert.strictEqual(five.choices[0]?.finish_reason, "length")
      assert.strictEqual(five.usage?.completion_tokens, 5)
      const plain = await client.completions.create({ model: "tiny", prompt: "int" })
      assert.strictEqual(plain.usage?.completion_tokens, 16)
      await client.chat.completions.create(hello)
      assert.strictEqual(seen.requests[2]?.sampling.maxTokens, 128 - (seen.requests[2]?.ids.length ?? 0))
    }))

  it("log-probabilities: one per token with its bytes, whole and streamed alike, end token and stop string left out", () =>
    withServer({ script: () => [{ say: "naïve ✓ x;y" }, { end: true }] }, async ({ client, tokenizer }) => {
      const ids = tokenizer.encode("naïve ✓ x;y")
      const chat = await client.chat.completions.create({ ...hello, logprobs: true, top_logprobs: 0 })
      const content = chat.choices[0]?.logprobs?.content ?? []
      assert.deepStrictEqual(
        content.map((token) => token.bytes),
        ids.map((id) => [...tokenizer.tokenBytes(id)])
      )
      assert.deepStrictEqual(
        content.map((token) => token.logprob),
        ids.map((_, k) => scriptedLogProb(k))
      )
      for (const token of content) assert.deepStrictEqual(token.top_logprobs, [])
      const streamed = await client.chat.completions.create({ ...hello, logprobs: true, stream: true })
      const gathered = []
      for await (const chunk of streamed) gathered.push(...(chunk.choices[0]?.logprobs?.content ?? []))
      assert.deepStrictEqual(gathered, content)

      const cut = await client.completions.create({
        model: "tiny",
        prompt: "a",
        logprobs: 0,
        stop: ";",
        max_tokens: 60
      })
      const logprobs = cut.choices[0]?.logprobs
      assert.strictEqual(cut.choices[0]?.text, "naïve ✓ x")
      const kept = ids.filter(
        (_, k) =>
          new TextDecoder().decode(Uint8Array.from(ids.slice(0, k).flatMap((id) => [...tokenizer.tokenBytes(id)])))
            .length < "naïve ✓ x".length
      )
      assert.strictEqual(logprobs?.tokens?.length, logprobs?.text_offset?.length)
      assert.isAtMost(logprobs?.tokens?.length ?? 99, kept.length)
      assert.strictEqual(logprobs?.text_offset?.[0], 0)
      assert.isNull(logprobs?.top_logprobs)
      const greedy = await client.completions.create({
        model: "tiny",
        prompt: "a",
        logprobs: 1,
        temperature: 0,
        max_tokens: 60
      })
      const one = greedy.choices[0]?.logprobs
      assert.deepStrictEqual(
        one?.top_logprobs,
        one?.tokens?.map((token, i) => ({ [token]: one.token_logprobs?.[i] ?? Number.NaN }))
      )
    }))

  it("adapters answer under their names; models are listed; an unknown one is NotFound", () =>
    withServer({ adapters: ["secure", "org/plain v2"] }, async ({ client, seen }) => {
      const list = await client.models.list()
      assert.deepStrictEqual(
        list.data.map((model) => model.id),
        ["tiny", "secure", "org/plain v2"]
      )
      const one = await client.models.retrieve("org/plain v2")
      assert.strictEqual(one.id, "org/plain v2")
      await client.chat.completions.create({ ...hello, model: "secure" })
      assert.deepStrictEqual(seen.requests[0]?.lora as unknown, { name: "secure" })
      const refused = await client.chat.completions.create({ ...hello, model: "gpt-5" }).catch((error) => error)
      assert.instanceOf(refused, OpenAI.NotFoundError)
      assert.strictEqual(refused.code, "model_not_found")
      assert.match(refused.message, /tiny, secure/)
      assert.instanceOf(await client.models.retrieve("%zz").catch((error) => error), OpenAI.NotFoundError)
    }))

  it("a character over several bursts arrives whole", () =>
    withServer({ script: () => [{ say: "a𝄞é✓漢字🙂z" }, { end: true }] }, async ({ client }) => {
      const stream = await client.chat.completions.create({ ...hello, stream: true })
      const parts = []
      for await (const chunk of stream) parts.push(chunk.choices[0]?.delta.content ?? "")
      assert.strictEqual(parts.join(""), "a𝄞é✓漢字🙂z")
      assert.isTrue(parts.every((part) => !part.includes("\ufffd")))
    }))

  it("an engine that fails is a 500 before and an error event inside a stream; the server goes on", () =>
    withServer(
      {
        script: (_, index) =>
          index < 2
            ? [{ say: "abc" }, { fail: "the device was lost" }]
            : index === 2
              ? [{ die: "boom" }]
              : [{ end: true }]
      },
      async ({ client, seen }) => {
        const failed = await client.chat.completions.create(hello).catch((error) => error)
        assert.instanceOf(failed, OpenAI.InternalServerError)
        assert.match(failed.message, /device was lost/)
        const stream = await client.chat.completions.create({ ...hello, stream: true })
        let text = ""
        let thrown: unknown
        try {
          for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ""
        } catch (error) {
          thrown = error
        }
        assert.strictEqual(text, "abc")
        assert.match(String(thrown), /device was lost/)
        const died = await client.chat.completions.create(hello).catch((error) => error)
        assert.instanceOf(died, OpenAI.InternalServerError)
        assert.notMatch(died.message, /boom/)
        const answer = await client.chat.completions.create(hello)
        assert.strictEqual(answer.choices[0]?.message.content, "")
        assert.strictEqual(seen.running, 0)
      }
    ))
})
