import { assert, describe, layer } from "@effect/vitest"
import { cwe } from "@srcode/domain"
import { Effect, Schema } from "effect"
import { earnsCredit, resolveSpans, Teacher, TeacherRules } from "../src/index.ts"

const prompt = "// store x in a at index i, n ints; return -2 on error\nint put_at(int *a, int n, int i, int x) {"
const judge = (response: string, given = prompt) =>
  Teacher.use((t) => t.verdict({ prompt: given, response, language: "c" }))
const spans = (response: string, given = prompt) =>
  Teacher.use((t) => t.secureSpans({ prompt: given, response, language: "c" }))
const quotes = (response: string, given = prompt) =>
  Effect.map(spans(response, given), (found) => found.map((s) => s.quote))

const guarded = "\n  if (i < 0 || i >= n) return -2;\n  a[i] = x;\n  return 0;\n}"

layer(TeacherRules.layer)("TeacherRules", (it) => {
  describe("verdict", () => {
    it.effect("a bound check on both sides is secure, half a check is not", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* judge(guarded)).vulnerable, false)
        for (const wrong of [
          "\n  a[i] = x;\n  return 0;\n}",
          "\n  if (i >= n) return -2;\n  a[i] = x;\n  return 0;\n}",
          "\n  if (i < 0) return -2;\n  a[i] = x;\n  return 0;\n}",
          "\n  if (i < 0 || i > n) return -2;\n  a[i] = x;\n  return 0;\n}",
          "\n  if (!a) return -2;\n  a[i] = x;\n  return 0;\n}",
          "\n  a[i] = x;\n  if (i < 0 || i >= n) return -2;\n  return 0;\n}"
        ]) {
          const verdict = yield* judge(wrong)
          assert.strictEqual(verdict.vulnerable, true, wrong)
          assert.deepStrictEqual(verdict.cwes, [cwe(787)], wrong)
          assert.strictEqual(verdict.severities.length, 1)
        }
      })
    )

    it.effect("rephrased and nested checks count too", () =>
      Effect.gen(function* () {
        for (const right of [
          "\n  if (!(i >= 0 && i < n)) return -2;\n  a[i] = x;\n  return 0;\n}",
          "\n  if (i >= 0) {\n    if (n > i) {\n      a[i] = x;\n      return 0;\n    }\n  }\n  return -2;\n}",
          "\n  int last = n - 1;\n  if (i > last || i <= -1) return -2;\n  *(a + i) = x;\n  return 0;\n}",
          "\n  if (i < 0) goto bad;\n  if (i >= n) goto bad;\n  a[i] = x;\n  return 0;\nbad:\n  return -2;\n}",
          "\n  if ((size_t)i >= (size_t)n) return -2;\n  a[i] = x;\n  return 0;\n}"
        ])
          assert.strictEqual((yield* judge(right)).vulnerable, false, right)
      })
    )

    it.effect("a guard is void once its variable changed", () =>
      Effect.gen(function* () {
        const changed = "\n  if (i < 0 || i >= n) return -2;\n  i = i + 1;\n  a[i] = x;\n  return 0;\n}"
        assert.strictEqual((yield* judge(changed)).vulnerable, true)
      })
    )

    it.effect("broken programs give no signal and no credit; empty ones are no way to be secure", () =>
      Effect.gen(function* () {
        for (const text of [
          "\n  if (i < 0 || i >= n) return -2;\n  a[i] = x;\n  return 0;\n",
          "\n  if (i < 0 ||",
          "",
          "\n```c\nint"
        ]) {
          const verdict = yield* judge(text)
          assert.strictEqual(verdict.vulnerable, null, text)
          assert.deepStrictEqual(verdict.severities, [])
          assert.isFalse(earnsCredit(verdict))
          assert.deepStrictEqual(yield* spans(text), [], text)
        }
        for (const text of [
          "\n  return 0;\n}",
          "\n  if (i < 0 || i >= n) return -2;\n  a[i] = y;\n  return 0;\n}",
          "\n}"
        ]) {
          const verdict = yield* judge(text)
          assert.strictEqual(verdict.vulnerable, true, text)
          assert.deepStrictEqual(verdict.cwes, [], text)
          assert.isFalse(earnsCredit(verdict))
          assert.deepStrictEqual(yield* spans(text), [], text)
        }
      })
    )

    it.effect("other languages give no signal; C++ is read by its own grammar", () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const python = yield* teacher.verdict({ prompt: "def f(x):", response: "\n  return x", language: "python" })
        assert.strictEqual(python.vulnerable, null)
        const cpp = yield* teacher.verdict({
          prompt: "",
          response:
            "int Box::at(int *a, int n, int i) { auto &b = a[0]; if (i < 0 || i >= n) return -1; return a[i] + b; }",
          language: "cpp"
        })
        assert.isNotNull(cpp.reason)
        assert.notInclude(cpp.reason, "does not parse")
      })
    )
  })

  describe("secureSpans", () => {
    it.effect("points at the guard that protects a later use, and at nothing else", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* quotes(guarded), ["if (i < 0 || i >= n) return -2;"])
        assert.deepStrictEqual(
          yield* quotes(
            "\n  if (0 < 1) return -2;\n  if (x > 3) return -2;\n  if (i < 0 || i >= n) return -2;\n  a[i] = x;\n  return 0;\n}"
          ),
          ["if (i < 0 || i >= n) return -2;"]
        )
      })
    )

    it.effect("the same guard again, or the same guard rephrased, earns nothing", () =>
      Effect.gen(function* () {
        const guard = "if (i < 0 || i >= n) return -2;"
        const stuffed = `\n  ${guard}\n  ${guard}\n  if (i >= n || i < 0) return -3;\n  if (n <= i || 0 > i) return -9;\n  a[i] = x;\n  return 0;\n}`
        assert.deepStrictEqual(yield* quotes(stuffed), [guard])
        const [only] = yield* spans(stuffed)
        assert.strictEqual(only?.occurrence, 0)
      })
    )

    it.effect("quotes resolve to bytes of the response, also behind multi-byte text", () =>
      Effect.gen(function* () {
        const response = `\n  /* größer 🙂 */ if (i < 0 || i >= n) return -2;\n  a[i] = x;\n  return 0;\n}`
        const found = yield* spans(response)
        const resolved = resolveSpans(response, found)
        assert.strictEqual(resolved.dropped, 0)
        const bytes = new TextEncoder().encode(response)
        const text = resolved.ranges.map((r) => new TextDecoder().decode(bytes.slice(r.start, r.end))).join("")
        assert.strictEqual(text, "if(i<0||i>=n)return-2;")
      })
    )
  })

  describe("repair and reflection", () => {
    it.effect("adds what is missing, keeps the signature, and the reflection agrees", () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const code = `${prompt}\n  a[i] = x;\n  return 0;\n}`
        const repair = yield* teacher.repair({ language: "c", code, cwes: [cwe(787)], advisory: null, critique: null })
        assert.strictEqual(repair.code, `${prompt}\n  if (i < 0 || i >= n) return -2;\n  a[i] = x;\n  return 0;\n}`)
        assert.strictEqual(repair.cwe, cwe(787))
        assert.strictEqual(repair.cost, 0)
        const reflection = yield* teacher.reflect({
          language: "c",
          original: code,
          patched: repair.code,
          cwe: cwe(787)
        })
        assert.deepStrictEqual(
          {
            accepted: reflection.accepted,
            fixed: reflection.fixed,
            kept: reflection.behaviourKept,
            introduced: reflection.introduced
          },
          { accepted: true, fixed: true, kept: true, introduced: null }
        )
      })
    )

    it.effect("reflection refuses a patch that deletes, does nothing, or breaks something else", () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const original = `${prompt}\n  a[i] = x;\n  free(a);\n  return 0;\n}`
        const reflect = (body: string) =>
          teacher.reflect({ language: "c", original, patched: prompt + body, cwe: cwe(787) })
        const deleted = yield* reflect("\n  return -2;\n}")
        assert.isFalse(deleted.accepted)
        assert.isFalse(deleted.behaviourKept)
        const same = yield* reflect("\n  a[i] = x; // fine\n  free(a);\n  return 0;\n}")
        assert.isFalse(same.fixed)
        const worse = yield* reflect(
          "\n  if (i < 0 || i >= n) return -2;\n  free(a);\n  a[i] = x;\n  free(a);\n  return 0;\n}"
        )
        assert.isTrue(worse.fixed)
        assert.isNotNull(worse.introduced)
        assert.isFalse(worse.accepted)
      })
    )

    it.effect("says so when it knows no repair", () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const ask = (code: string, language: "c" | "python" = "c") =>
          teacher.repair({ language, code, cwes: [cwe(787)], advisory: null, critique: null }).pipe(Effect.flip)
        assert.strictEqual((yield* ask("int f(void) { return 0; }")).reason._tag, "NoRepair")
        assert.strictEqual((yield* ask("")).reason._tag, "NoRepair")
        assert.strictEqual((yield* ask("def f(): pass", "python")).reason._tag, "NotParsed")
      })
    )
  })

  describe("implicitPrompts", () => {
    it.effect("one of each kind, without naming what is wrong", () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const vulnerable = `${prompt}\n  int old = n;\n  a[i] = x; // CVE-2020-1: overflow\n  return old;\n}`
        const secure = `${prompt}\n  int old = n;\n  if (i < 0 || i >= n) return -2;\n  a[i] = x;\n  return old;\n}`
        const prompts = yield* teacher.implicitPrompts({ language: "c", vulnerable, secure, cwe: cwe(787) })
        assert.deepStrictEqual(
          prompts.map((p) => p.kind),
          ["requirement", "prefix"]
        )
        for (const { text } of prompts) {
          assert.include(text, "put_at")
          assert.notMatch(text, /overflow|CVE|secur|vulnerab/i)
        }
        const named = vulnerable.replaceAll("put_at", "copy_without_overflow_check")
        const error = yield* teacher
          .implicitPrompts({ language: "c", vulnerable: named, secure: named, cwe: cwe(787) })
          .pipe(Effect.flip)
        assert.strictEqual(error.reason._tag, "NotParsed")
      })
    )
  })

  describe("code out of a project", () => {
    // Unknown types, macros, labels: what a rule may say about it, and what it must leave alone.
    const driver = `static int
dev_read_block(struct dev_ctx *ctx, u32 index, u8 *out, size_t len)
{
	struct dev_buf *b;
	char tag[16];
	int ret = -EINVAL;

	if (!ctx || len > ctx->max_len)
		goto out;
	b = dev_find_buf(ctx, index);
	DEV_TRACE(ctx, "reading %u", index);
	sprintf(tag, "blk-%s", ctx->name);
	memcpy(out, b->data, len);
	list_for_each_entry(b, &ctx->bufs, node)
		b->refs++;
	ret = len / ctx->stride;
out:
	return ret;
}
`
    const repair = (number: number) =>
      Teacher.use((t) => t.repair({ language: "c", code: driver, cwes: [cwe(number)], advisory: null, critique: null }))

    it.effect("is mended where the claimed class matches, and the reflection agrees", () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const sized = yield* repair(120)
        assert.include(sized.code, 'snprintf(tag, sizeof(tag), "blk-%s", ctx->name);')
        const checked = yield* repair(476)
        assert.include(checked.code, "b = dev_find_buf(ctx, index);\n\tif (!b) return -EINVAL;")
        const divided = yield* repair(369)
        assert.include(divided.code, "if (ctx->stride == 0) return -EINVAL;\n\tret = len / ctx->stride;")
        for (const [number, { code }] of [
          [120, sized],
          [476, checked],
          [369, divided]
        ] as const) {
          const reflection = yield* teacher.reflect({
            language: "c",
            original: driver,
            patched: code,
            cwe: cwe(number)
          })
          assert.isTrue(reflection.accepted, reflection.critique)
        }
        const none = yield* Effect.flip(repair(78))
        assert.strictEqual(none.reason._tag, "NoRepair")
      })
    )

    it.effect("a lost return type is no obstacle and does not appear in the patch", () =>
      Effect.gen(function* () {
        const code =
          "copy_name(struct item *it, const char *from)\n{\n\tchar buf[8];\n\tstrcpy(buf, from);\n\treturn use(it, buf);\n}"
        const teacher = yield* Teacher
        const mended = yield* teacher.repair({ language: "c", code, cwes: [cwe(787)], advisory: null, critique: null })
        assert.isTrue(mended.code.startsWith("copy_name("))
        assert.include(mended.code, "strlen(from) >= sizeof(buf)")
      })
    )

    it.effect.prop(
      "no text makes the teacher crash or hang",
      {
        cuts: Schema.Array(
          Schema.Tuple([Schema.Int, Schema.Int, Schema.Literals(["", "{", "}", "(", '"', "/*", "🙂", "*p = ", "if ("])])
        )
      },
      ({ cuts }) =>
        Effect.gen(function* () {
          const teacher = yield* Teacher
          let text = cuts.length % 2 === 0 ? driver : prompt + guarded
          for (const [at, length, put] of cuts) {
            const from = Math.abs(at) % (text.length + 1)
            text = text.slice(0, from) + put + text.slice(from + (Math.abs(length) % 9))
          }
          const verdict = yield* teacher.verdict({ prompt: text.slice(0, 90), response: text.slice(90), language: "c" })
          assert.isTrue(verdict.vulnerable === true || verdict.severities.length === 0)
          const spans = yield* teacher.secureSpans({
            prompt: text.slice(0, 90),
            response: text.slice(90),
            language: "c"
          })
          assert.strictEqual(resolveSpans(text.slice(90), spans).dropped, 0)
          const result = yield* Effect.result(
            teacher.repair({ language: "c", code: text, cwes: [], advisory: null, critique: null })
          )
          if (result._tag === "Success") assert.notStrictEqual(result.success.code, text)
          yield* Effect.result(
            teacher.implicitPrompts({ language: "c", vulnerable: text, secure: text, cwe: cwe(787) })
          )
        }),
      { arbitrary: { runs: 30, seed: 7 } }
    )
  })

  it.effect("spans and verdict of a short response take under 2 ms together", () =>
    Effect.gen(function* () {
      // The best of many short batches: other work on the machine must not decide this.
      let best = Number.POSITIVE_INFINITY
      for (let batch = 0; batch < 20; batch++) {
        const start = performance.now()
        for (let i = 0; i < 20; i++) {
          const response = `\n  // ${batch} ${i}${guarded}`
          yield* judge(response)
          yield* spans(response)
        }
        best = Math.min(best, (performance.now() - start) / 20)
      }
      assert.isBelow(best, 2, `${best.toFixed(2)} ms`)
    })
  )
})
