import { assert, describe, it } from "@effect/vitest"
import type { EvalResult, Rollout, RunManifest } from "@srcode/domain"
import { type MetricRecord, type ReportInput, rate, renderReport } from "../src/index.ts"

const hostile = `</pre><script>alert("x")</script><img src=x onerror=y> & ' \u202Eevil \u0000 \uD800`
const voidTags = new Set(["meta", "line", "rect", "path", "circle", "br", "img", "!doctype"])

/** Names of tags still open or closed out of order; empty when the page nests well. */
const badNesting = (html: string): ReadonlyArray<string> => {
  const open: Array<string> = []
  const bad: Array<string> = []
  for (const match of html
    .replace(/<style>[\s\S]*?<\/style>/, "")
    .matchAll(/<(\/?)([!a-z0-9]+)((?:"[^"]*"|[^>"])*)>/gi)) {
    const name = (match[2] ?? "").toLowerCase()
    if (match[1] === "/") {
      if (open.pop() !== name) bad.push(`/${name}`)
    } else if (!voidTags.has(name) && !(match[3] ?? "").endsWith("/")) open.push(name)
  }
  return [...bad, ...open]
}

const pieces = ["if (n", " < 0)", hostile, "}"]
const rollout: Rollout = {
  id: "r",
  step: 4,
  taskId: hostile,
  prompt: hostile,
  response: pieces.join(""),
  promptIds: [1],
  responseIds: [1, 2, 3, 4],
  truncated: false,
  logProbs: [0, 0, 0, 0],
  refLogProbs: [0, 0, 0, 0],
  values: [0, 0, 0, 0],
  secureMask: [true, false, false, false],
  spans: [],
  severities: ["high"],
  rewardModel: 0.5,
  channels: { positive: [0.2, 0, 0, 0], negative: [0, -0.1, 0, 0], rewardModel: [0, 0, 0, 0.5], kl: [0, 0, 0, 0] }
}
const result = (arm: string, k: number): EvalResult => ({
  benchmark: hostile,
  arm,
  seeds: [0, 1],
  sampling: { temperature: 0.8, topP: 0.9 },
  rates: { "FS@1": rate(k, 80), "heldOut/FS@1": rate(1, 8) }
})
const manifest: RunManifest = {
  name: hostile,
  config: { x: hostile },
  seed: 1,
  versions: { node: hostile },
  device: { name: "llvmpipe", backend: "vulkan", software: true },
  gitCommit: null,
  inputs: {},
  startedAt: "2026-01-01T00:00:00.000Z"
}
const metrics: ReadonlyArray<MetricRecord> = Array.from({ length: 1000 }, (_, step) => ({
  stage: step < 500 ? "sft" : "rl-gated",
  step: step % 500,
  loss: step === 3 ? null : 1 / (step + 1),
  "objective/kl": step,
  "policy/entropy": 2,
  "reward/positive": 0.1,
  "val/mean_length": 30,
  [hostile]: 1,
  note: hostile
}))
const outcome = {
  taskId: hostile,
  group: "g",
  prompt: hostile,
  response: hostile,
  compiles: true,
  functional: true,
  secure: false,
  detail: hostile
}
const input: ReportInput = {
  title: hostile,
  manifest,
  results: ["base", "sft", "rl-none", "rl-gated", hostile].map((arm, index) => result(arm, 20 * index)),
  metrics,
  rollouts: [{ rollout, pieces }],
  samples: [{ arm: "base", outcome }],
  notes: [hostile]
}

describe("the report", () => {
  const html = renderReport(input)
  it("nests well and refers to nothing outside", () => {
    assert.deepStrictEqual(badNesting(html), [])
    assert.deepStrictEqual(badNesting("<p><b></p>"), ["/p", "p"])
    const bare = html.replace(/"[^"]*"/g, '""')
    assert.notMatch(bare, /<(script|link|iframe|object|embed|img|base)\b|<[a-z][^>]*\s(src|href|on\w+)=/i)
    assert.notMatch(html, /url\(|@import|https?:/i)
  })
  it("escapes everything hostile and shows what hides", () => {
    assert.notInclude(html, "<script")
    assert.notInclude(html, "onerror=y>")
    assert.notMatch(html, /(?!\n)\p{Cc}|\u202e|\p{Surrogate}/u)
    assert.include(html, "⟨U+202E⟩")
    assert.include(html, "&lt;script&gt;alert(&quot;x&quot;)")
  })
  it("colours tokens by what they earned and lost", () => {
    assert.include(html, `style="background:rgba(0,114,178,0.72)">if (n</span>`)
    assert.include(html, `style="background:rgba(213,94,0,0.42)"> &lt; 0)</span>`)
    assert.match(html, /<span title="r\+ 0 {2}r- 0 {2}rm 0.5 {2}kl 0">}<\/span>/)
  })
  it("draws the interval where the numbers are", () => {
    // 204 px high axis: 40 of 80 stands at 118, its whiskers at the Wilson bounds.
    const { low, high } = rate(40, 80)
    const y = (value: number) => String(Math.round((16 + 204 * (1 - value)) * 100) / 100)
    assert.include(html, ` ${y(low)}V${y(high)}M`)
    assert.include(html, `y="118"`)
  })
  it("has a chart per kind, thinned, with a hole where a value is missing", () => {
    for (const heading of ["Loss", "KL", "Entropy", "Length", "Reward channels"])
      assert.include(html, `<h3>${heading}</h3>`)
    const loss = /<figcaption>loss<\/figcaption>[\s\S]*?<\/figure>/.exec(html)?.[0] ?? ""
    assert.strictEqual(loss.match(/class="line"/g)?.length, 2)
    assert.isTrue((loss.match(/[ML]/g)?.length ?? 0) < 620)
    const short = renderReport({ ...input, metrics: metrics.slice(0, 6) })
    const path = /<figcaption>loss[\s\S]*? d="([^"]*)"/.exec(short)?.[1] ?? ""
    assert.strictEqual(path.match(/M/g)?.length, 2)
  })
  it("leaves out what there is nothing to say about, and survives one point and constants", () => {
    const empty = renderReport({
      title: "t",
      manifest: null,
      results: [],
      metrics: [],
      rollouts: [],
      samples: [],
      notes: []
    })
    assert.notInclude(empty, "<h2>")
    assert.deepStrictEqual(badNesting(empty), [])
    const one = renderReport({ ...input, metrics: [{ stage: "sft", step: 0, loss: 0, kl: null }] })
    assert.include(one, "<circle")
    assert.notInclude(one, "NaN")
    assert.notInclude(html, "NaN")
  })
  it("is the same bytes each time", () => assert.strictEqual(renderReport(input), html))
})
