/** The reward channels against closed forms; properties over generated rollouts. */

import { assert, describe, it } from "@effect/vitest"
import { Severity } from "@srcode/domain"
import { Effect, Result, Schema } from "effect"
import {
  decodeRewardConfig,
  defaultRewardConfig,
  negativeChannel,
  penalty,
  positiveChannel,
  type RewardConfig,
  RewardInput,
  RewardOutput,
  rewardChannels,
  rewardPresets,
  rewardRollout
} from "../src/index.ts"

const near = (actual: number, expected: number, tolerance = 1e-12) =>
  assert.isTrue(
    Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected)),
    `expected ${expected}, got ${actual}`
  )
const sum = (values: ReadonlyArray<number>) => values.reduce((total, value) => total + value, 0)
const mask = (text: string) => [...text].map((mark) => mark === "x")

const rollout = (over: Partial<RewardInput> = {}): RewardInput => ({
  logProbs: [-1, -2, -0.5, -3],
  refLogProbs: [-1.5, -2, -1, -1],
  values: [0.1, 0.2, 0.3, 0.4],
  secureMask: mask(".xx."),
  severities: [],
  rewardModel: 0.7,
  truncated: false,
  ...over
})

describe("positive channel", () => {
  it("pays α on each token of a span and nothing elsewhere", () => {
    assert.deepStrictEqual(positiveChannel(defaultRewardConfig, mask(".xx.x"), []), [0, 0.2, 0.2, 0, 0.2])
  })

  it("is scaled to maxPositive once α·n passes it", () => {
    const channel = positiveChannel(defaultRewardConfig, mask("xxxxxxxx"), [])
    for (const value of channel) near(value, 1 / 8)
    near(sum(positiveChannel(defaultRewardConfig, mask("xxxxx"), [])), 1)
  })

  it("pays only the first maxRewardedTokens, and the cap counts only those", () => {
    const config = { ...defaultRewardConfig, maxRewardedTokens: 2 }
    assert.deepStrictEqual(positiveChannel(config, mask("x.xxx"), []), [0.2, 0, 0.2, 0, 0])
    const tight = { ...config, maxPositive: 0.1 }
    assert.deepStrictEqual(positiveChannel(tight, mask("x.xxx"), []), [0.05, 0, 0.05, 0, 0])
  })

  it("is unlimited with null limits", () => {
    near(sum(positiveChannel(rewardPresets.naive, mask("x".repeat(100)), ["high"])), 20)
  })

  it("closes with limits of zero and with α = 0, without dividing by it", () => {
    for (const over of [{ maxPositive: 0 }, { maxRewardedTokens: 0 }, { alpha: 0 }]) {
      assert.deepStrictEqual(positiveChannel({ ...defaultRewardConfig, ...over }, mask("xx"), []), [0, 0])
    }
  })

  it("gate: secureOnly pays only a response without findings, none pays any that has a verdict", () => {
    const open: RewardConfig = { ...defaultRewardConfig, gate: "none" }
    assert.strictEqual(sum(positiveChannel(defaultRewardConfig, mask("xx"), ["low"])), 0)
    near(sum(positiveChannel(open, mask("xx"), ["low"])), 0.4)
    assert.strictEqual(sum(positiveChannel(defaultRewardConfig, mask("xx"), null)), 0)
    assert.strictEqual(sum(positiveChannel(open, mask("xx"), null)), 0)
  })
})

describe("negative channel", () => {
  it("adds severities up to betaMax", () => {
    near(penalty(defaultRewardConfig, ["low", "medium"]), 0.09)
    near(penalty(defaultRewardConfig, ["high", "high"]), 0.2)
    near(penalty(defaultRewardConfig, ["critical", "critical", "low"]), 0.2)
    assert.strictEqual(penalty(defaultRewardConfig, []), 0)
    assert.strictEqual(penalty(defaultRewardConfig, null), 0)
  })

  it("lays β over the tokens in the three ways", () => {
    const spread = (over: RewardConfig["spread"]) =>
      negativeChannel({ ...defaultRewardConfig, spread: over }, 4, ["critical"])
    assert.deepStrictEqual(spread("perToken"), [-0.2, -0.2, -0.2, -0.2])
    assert.deepStrictEqual(spread("meanSpread"), [-0.05, -0.05, -0.05, -0.05])
    assert.deepStrictEqual(spread("terminal"), [0, 0, 0, -0.2])
  })
})

describe("rewardRollout", () => {
  it("adds the four channels, with the sequence reward on the last token and −κ(log π − log π_ref) on each", () => {
    const { channels, reward } = rewardRollout(defaultRewardConfig, rollout())
    assert.deepStrictEqual(channels.positive, [0, 0.2, 0.2, 0])
    assert.deepStrictEqual(channels.negative, [0, 0, 0, 0])
    assert.deepStrictEqual(channels.rewardModel, [0, 0, 0, 0.7])
    for (const [t, expected] of [-0.1, 0, -0.1, 0.4].entries()) near(channels.kl[t]!, expected)
    for (const [t, expected] of [-0.1, 0.2, 0.1, 1.1].entries()) near(reward[t]!, expected)
  })

  it("has closed-form advantages: γ = 1, λ = 1, V = 0 makes A_t the suffix sum of the rewards", () => {
    const config: RewardConfig = { ...rewardPresets.literal, lambda: 1, kl: { kind: "none", coef: 0 } }
    const { advantages } = rewardRollout(config, rollout({ values: [0, 0, 0, 0], severities: ["critical"] }))
    for (const [t, expected] of [0.3, 0.5, 0.5, 0.5].entries()) near(advantages[t]!, expected)
  })

  it("literal drowns the sequence reward of a long vulnerable response, meanSpread does not", () => {
    const length = 300
    const long = rollout({
      logProbs: new Array(length).fill(-1),
      refLogProbs: new Array(length).fill(-1),
      values: new Array(length).fill(0),
      secureMask: new Array(length).fill(false),
      severities: ["critical"],
      rewardModel: 0
    })
    const literal = rewardRollout(rewardPresets.literal, long)
    const gated = rewardRollout(rewardPresets.gated, long)
    near(sum(literal.reward), -60, 1e-9)
    assert.isBelow(literal.advantages[100]!, -3.9)
    near(sum(gated.reward), -0.2, 1e-9)
  })

  it("without a verdict leaves only the sequence reward and the KL", () => {
    for (const preset of ["gated", "naive", "literal"] as const) {
      const { channels } = rewardRollout(rewardPresets[preset], rollout({ severities: null }))
      assert.strictEqual(sum(channels.positive) + sum(channels.negative), 0)
      near(sum(channels.rewardModel), 0.7)
      assert.notStrictEqual(sum(channels.kl), 0)
    }
  })

  it("preset none pays no token rewards at all", () => {
    const { channels } = rewardRollout(rewardPresets.none, rollout({ severities: ["critical"] }))
    assert.strictEqual(sum(channels.positive) + sum(channels.negative), 0)
  })

  it("a truncated response is bootstrapped only on request", () => {
    const cut = rollout({ truncated: true })
    const plain = rewardRollout(defaultRewardConfig, cut)
    const extended = rewardRollout({ ...defaultRewardConfig, bootstrapTruncated: true }, cut)
    assert.deepStrictEqual(plain, rewardRollout(defaultRewardConfig, rollout()))
    // V after the end is the last value, .4, once
    near(extended.advantages[3]! - plain.advantages[3]!, 0.4)
    near(extended.returns[0]! - plain.returns[0]!, 0.4 * 0.95 ** 3)
  })
})

const Token = Schema.Struct({
  logProb: Schema.Finite.check(Schema.isBetween({ minimum: -20, maximum: 0 })),
  refLogProb: Schema.Finite.check(Schema.isBetween({ minimum: -20, maximum: 0 })),
  value: Schema.Finite.check(Schema.isBetween({ minimum: -5, maximum: 5 })),
  secure: Schema.Boolean
})
const Response = Schema.Struct({
  tokens: Schema.Array(Token).check(Schema.isMinLength(1), Schema.isMaxLength(80)),
  severities: Schema.NullOr(Schema.Array(Severity).check(Schema.isMaxLength(4))),
  rewardModel: Schema.Finite.check(Schema.isBetween({ minimum: -3, maximum: 3 })),
  truncated: Schema.Boolean
})
const toInput = ({ tokens, ...rest }: typeof Response.Type): RewardInput => ({
  ...rest,
  logProbs: tokens.map((token) => token.logProb),
  refLogProbs: tokens.map((token) => token.refLogProb),
  values: tokens.map((token) => token.value),
  secureMask: tokens.map((token) => token.secure)
})

describe("properties", () => {
  it.prop(
    "reward = sum of channels; channels stay within their limits",
    { response: Response, config: Schema.toType(Schema.Literals(["gated", "naive", "literal", "none"])) },
    ({ config: preset, response }) => {
      const config = rewardPresets[preset]
      const input = toInput(response)
      const length = input.logProbs.length
      const { channels, reward, advantages, returns } = rewardRollout(config, input)
      for (const array of [reward, advantages, returns, ...Object.values(channels)]) {
        assert.strictEqual(array.length, length)
        assert.isTrue(array.every(Number.isFinite))
      }
      const parts = rewardChannels(config, input)
      for (let t = 0; t < length; t++) {
        near(reward[t]!, parts.positive[t]! + parts.negative[t]! + parts.rewardModel[t]! + parts.kl[t]!)
        if (!input.secureMask[t]) assert.strictEqual(channels.positive[t], 0)
      }
      assert.isTrue(channels.positive.every((value) => value >= 0))
      assert.isTrue(channels.negative.every((value) => value <= 0))
      if (config.maxPositive !== null) assert.isAtMost(sum(channels.positive), config.maxPositive + 1e-9)
      if (config.spread !== "perToken") assert.isAtLeast(sum(channels.negative), -config.betaMax - 1e-9)
      if (input.severities === null) assert.strictEqual(sum(channels.positive) + sum(channels.negative), 0)
    }
  )

  it.effect.prop("a response round-trips through JSON", { response: Response }, ({ response }) =>
    Effect.gen(function* () {
      const input = toInput(response)
      const json: unknown = JSON.parse(JSON.stringify(input))
      assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(RewardInput)(json), json)
      const output = rewardRollout(defaultRewardConfig, input)
      yield* Schema.decodeUnknownEffect(RewardOutput)(JSON.parse(JSON.stringify(output)))
    })
  )
})

describe("schemas", () => {
  it.effect("an empty configuration is the default, and presets decode to themselves", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* decodeRewardConfig({}), defaultRewardConfig)
      for (const preset of Object.values(rewardPresets)) {
        assert.deepStrictEqual(yield* decodeRewardConfig(JSON.parse(JSON.stringify(preset))), preset)
      }
    })
  )

  it.effect("misspelt, negative and out-of-range options are refused by name", () =>
    Effect.gen(function* () {
      for (const [key, config] of [
        ["alhpa", { alhpa: 0.1 }],
        ["sevre", { severityWeights: { sevre: 1 } }],
        ["alpha", { alpha: -1 }],
        ["lambda", { lambda: 1.5 }],
        ["spread", { spread: "mean" }],
        ["maxRewardedTokens", { maxRewardedTokens: 1.5 }],
        ["gamma", { gamma: "1" }]
      ] as const) {
        const result = yield* Effect.result(decodeRewardConfig(config))
        assert.isTrue(Result.isFailure(result), key)
        if (Result.isFailure(result)) assert.include(result.failure.message, key)
      }
    })
  )

  it("lengths must agree, numbers must be finite, names must be known, and there must be a token", () => {
    const refused = (over: Record<string, unknown>, message: string) => {
      const result = Schema.decodeUnknownResult(RewardInput)({ ...rollout(), ...over })
      assert.isTrue(Result.isFailure(result), message)
      if (Result.isFailure(result)) assert.include(result.failure.message, message)
    }
    refused({ values: [0, 0] }, "values")
    refused({ secureMask: mask(".....") }, "secureMask")
    refused({ refLogProbs: [0, 0, 0, null] }, "refLogProbs")
    refused({ severities: ["severe"] }, "severities")
    refused({ rewardModel: "0.7" }, "rewardModel")
    refused({ logProbs: [], refLogProbs: [], values: [], secureMask: [] }, "at least one")
  })
})
