/** `srcode rewards` on real files: the numbers of its contract, and every way the input can be wrong. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { inFolder, run } from "./internal/process.ts"

const row = (over: Record<string, unknown> = {}) => ({
  logProbs: [-1, -2, -0.5, -3],
  refLogProbs: [-1.5, -2, -1, -1],
  values: [0.1, 0.2, 0.3, 0.4],
  secureMask: [false, true, true, false],
  severities: [],
  rewardModel: 0.7,
  truncated: false,
  ...over
})

const near = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>) => {
  assert.lengthOf(actual, expected.length)
  for (const [t, value] of expected.entries()) assert.closeTo(actual[t] ?? Number.NaN, value, 1e-12)
}

/** Writes the input, runs the command, and gives back how it ended with what lies in the folder afterwards. */
const rewards = (input: string | Uint8Array, config?: string, options: { readonly out?: string } = {}) =>
  inFolder(async (folder) => {
    fs.writeFileSync(nodePath.join(folder, "in.jsonl"), input)
    if (config !== undefined) fs.writeFileSync(nodePath.join(folder, "config.json"), config)
    const out = nodePath.join(folder, options.out ?? "out.jsonl")
    const flags = config === undefined ? [] : ["--config", "config.json"]
    const ended = await run(["rewards", "--input", "in.jsonl", ...flags, "--out", out], { cwd: folder })
    const text = fs.existsSync(out) ? fs.readFileSync(out, "utf8") : null
    return { ...ended, text, left: fs.readdirSync(folder).sort() }
  })

const lines = (text: string | null) =>
  (text ?? "")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))

describe.concurrent("numbers", () => {
  it("writes one line per rollout with the channels of the default reward", async () => {
    const input = [row(), row({ severities: ["critical"] }), row({ severities: null })]
    const ended = await rewards(`${input.map((each) => JSON.stringify(each)).join("\n")}\n`)
    assert.strictEqual(ended.code, 0, ended.stderr)
    const [secure, vulnerable, unjudged] = lines(ended.text)
    near(secure.channels.positive, [0, 0.2, 0.2, 0])
    near(secure.channels.negative, [0, 0, 0, 0])
    near(secure.channels.rewardModel, [0, 0, 0, 0.7])
    near(secure.channels.kl, [-0.1, 0, -0.1, 0.4])
    near(secure.reward, [-0.1, 0.2, 0.1, 1.1])
    // A_3 = r_3 − V_3; A_t = r_t + V_{t+1} − V_t + .95·A_{t+1}
    const a3 = 0.7
    const a2 = 0.1 + 0.4 - 0.3 + 0.95 * a3
    const a1 = 0.2 + 0.3 - 0.2 + 0.95 * a2
    const a0 = -0.1 + 0.2 - 0.1 + 0.95 * a1
    near(secure.advantages, [a0, a1, a2, a3])
    near(secure.returns, [a0 + 0.1, a1 + 0.2, a2 + 0.3, a3 + 0.4])
    near(vulnerable.channels.positive, [0, 0, 0, 0])
    near(vulnerable.channels.negative, [-0.05, -0.05, -0.05, -0.05])
    near(unjudged.channels.positive, [0, 0, 0, 0])
    near(unjudged.channels.negative, [0, 0, 0, 0])
  })

  it("takes every option of the contract", async () => {
    const config = {
      alpha: 0.5,
      betaMax: 1,
      severityWeights: { low: 0.1, medium: 0.2, high: 0.3, critical: 0.4 },
      spread: "terminal",
      gate: "none",
      maxRewardedTokens: 1,
      maxPositive: 0.25,
      kl: { kind: "none", coef: 9 },
      gamma: 0.5,
      lambda: 0,
      bootstrapTruncated: true
    }
    const ended = await rewards(
      JSON.stringify(row({ severities: ["high", "low"], truncated: true })),
      JSON.stringify(config)
    )
    assert.strictEqual(ended.code, 0, ended.stderr)
    const [only] = lines(ended.text)
    near(only.channels.positive, [0, 0.25, 0, 0])
    near(only.channels.negative, [0, 0, 0, -0.4])
    near(only.channels.kl, [0, 0, 0, 0])
    near(only.reward, [0, 0.25, 0, 0.3])
    near(only.advantages, [0.5 * 0.2 - 0.1, 0.25 + 0.5 * 0.3 - 0.2, 0.5 * 0.4 - 0.3, 0.3 + 0.5 * 0.4 - 0.4])
  })

  it("streams many rollouts, over blank lines and CRLF", async () => {
    const text = `${JSON.stringify(row())}\r\n\r\n`.repeat(3000)
    const ended = await rewards(text)
    assert.strictEqual(ended.code, 0, ended.stderr)
    assert.include(ended.stdout, "3000 rollouts")
    assert.lengthOf(lines(ended.text), 3000)
  })
})

describe.concurrent("input that is wrong", () => {
  const good = JSON.stringify(row())
  const cases: ReadonlyArray<readonly [string, string | Uint8Array, ReadonlyArray<string>]> = [
    ["a line that is not JSON", `${good}\n${good}\n{"logProbs": [\n`, ["in.jsonl:3"]],
    ["a line of another shape", `${good}\n{"ids": [1, 2]}\n`, ["in.jsonl:2", "logProbs"]],
    ["lengths that differ", `${JSON.stringify(row({ values: [0, 0] }))}\n`, ["in.jsonl:1", "values", "4", "2"]],
    ["a number that is none", `${good.replace("0.7", "null")}\n`, ["in.jsonl:1", "rewardModel"]],
    ["an unknown severity", `${JSON.stringify(row({ severities: ["severe"] }))}\n`, ["in.jsonl:1", "severities"]],
    ["no tokens at all", `${good.replaceAll(/\[[^\]]*\]/g, "[]")}\n`, ["in.jsonl:1", "at least one"]],
    [
      "sums past the range of doubles",
      `${good.replace("0.1", "1.7e308").replace("0.2", "-1.7e308")}\n`,
      ["in.jsonl:1", "double"]
    ],
    ["an empty file", "", ["in.jsonl", "no rows"]],
    ["bytes that are no text", new Uint8Array([0x7b, 0xff, 0xfe, 0x0a]), ["in.jsonl:1", "UTF-8"]]
  ]
  for (const [name, input, texts] of cases) {
    it(name, async () => {
      const ended = await rewards(input)
      assert.strictEqual(ended.code, 1)
      for (const text of texts) assert.include(ended.stderr, text)
      assert.lengthOf(ended.stderr.trim().split("\n"), 1, ended.stderr)
      assert.notMatch(ended.stderr, /\n\s+at /)
      assert.deepStrictEqual(ended.left, ["in.jsonl"])
    })
  }

  it("a config with an unknown, a wrong or no option at all", async () => {
    for (const [config, text] of [
      ['{"alhpa": 0.2}', "alhpa"],
      ['{"spread": "mean"}', "spread"],
      ['{"kl": {"kind": "fixed", "coef": -1}}', "coef"],
      ["{", "config.json"],
      ["", "config.json"],
      ["[]", "config.json"]
    ] as const) {
      const ended = await rewards(good, config)
      assert.strictEqual(ended.code, 1, config)
      assert.include(ended.stderr, text)
      assert.lengthOf(ended.stderr.trim().split("\n"), 1, ended.stderr)
      assert.isNull(ended.text)
    }
  })

  it("an output that cannot be written", async () => {
    const ended = await rewards(good, undefined, { out: "in.jsonl/out.jsonl" })
    assert.strictEqual(ended.code, 1)
    assert.include(ended.stderr, "cannot write")
    assert.deepStrictEqual(ended.left, ["in.jsonl"])
  })

  it("a failure leaves the earlier output as it was", () =>
    inFolder(async (folder) => {
      fs.writeFileSync(nodePath.join(folder, "in.jsonl"), `${good}\nbroken\n`)
      fs.writeFileSync(nodePath.join(folder, "out.jsonl"), "earlier\n")
      const ended = await run(["rewards", "--input", "in.jsonl", "--out", "out.jsonl"], { cwd: folder })
      assert.strictEqual(ended.code, 1)
      assert.strictEqual(fs.readFileSync(nodePath.join(folder, "out.jsonl"), "utf8"), "earlier\n")
      assert.deepStrictEqual(fs.readdirSync(folder).sort(), ["in.jsonl", "out.jsonl"])
    }))
})
