/** Reinforcement in a run directory: its files, its rewards, and a run that is cut off and started again. */
import { assert, layer } from "@effect/vitest"
import { cwe, Rollout, type Task } from "@srcode/domain"
import {
  initialLora,
  linearModules,
  loadModel,
  loadState,
  makeScorer,
  readAdapter,
  readValueHead,
  saveState,
  tinyCoderDirectory,
  unpackLora,
  writeAdapter
} from "@srcode/model"
import { RunStore, readJsonLines } from "@srcode/store"
import { Teacher } from "@srcode/teacher"
import { decodePpoSettings, Trainer, uniforms } from "@srcode/trainer"
import { Effect, Exit, FileSystem, Layer, Stream } from "effect"
import { Progress, type ProgressEvent, reinforce } from "../src/index.ts"
import { DeviceLayer, temporaryFolder, tinyModel } from "./tinyWorld.ts"

const tasks = ["int f(", "return ", "if (n < ", "memcpy(d, ", "x"].map(
  (prompt, i): Task => ({
    id: `t${i}`,
    kind: "generate",
    group: "g",
    language: "c",
    cwe: cwe(120),
    difficulty: 0,
    prompt,
    completion: "return 0;\n}"
  })
)

/** Spans and verdicts that follow from the text alone. */
const teacher = Teacher.layerTest({
  verdict: ({ response }) =>
    Effect.succeed(
      response.length % 3 === 0
        ? { vulnerable: null, cwes: [], severities: [], reason: "no signal" }
        : response.length % 3 === 1
          ? { vulnerable: true, cwes: [], severities: ["high"], reason: "odd" }
          : { vulnerable: false, cwes: [], severities: [], reason: "even" }
    ),
  secureSpans: ({ response }) =>
    Effect.succeed([{ quote: response.slice(0, 4), occurrence: 0, label: "l", cwe: null, why: "w" }])
})

const Device = Trainer.layer.pipe(Layer.provideMerge(DeviceLayer))

const settingsOf = (over: object) =>
  decodePpoSettings({
    steps: 4,
    batchSize: 4,
    epochs: 2,
    maxTokens: 10,
    rank: 2,
    alpha: 4,
    lr: 5e-3,
    saveEvery: 2,
    ...over
  }).pipe(Effect.orDie)

layer(Device)("reinforce", (it) => {
  /** One attempt in `directory`; `stopAt` interrupts after that step has been reported. */
  const attempt = Effect.fnUntraced(function* (directory: string, over: object = {}, stopAt?: number) {
    const { model, tokenizer } = yield* tinyModel
    const events: Array<ProgressEvent> = []
    const exit = yield* reinforce({
      model,
      tokenizer,
      tasks,
      settings: yield* settingsOf(over),
      seed: 3,
      directory: "rl/arm",
      stage: "rl-arm",
      score: (responses) => Effect.succeed(responses.map((r) => r.text.length / 10))
    }).pipe(
      Effect.provideService(Progress, {
        report: (event) => {
          events.push(event)
          return event.step === stopAt ? Effect.interrupt : Effect.void
        }
      }),
      Effect.provide(Layer.mergeAll(RunStore.layer(directory), teacher)),
      Effect.exit
    )
    return { exit, events, model }
  }, Effect.scoped)

  const files = Effect.fnUntraced(function* (directory: string) {
    const fs = yield* FileSystem.FileSystem
    const read = (name: string) => fs.readFile(`${directory}/${name}`)
    return {
      adapter: yield* read("rl/arm/adapter/adapter_model.safetensors"),
      head: yield* read("rl/arm/value_head.safetensors"),
      rollouts: yield* read("rl/arm/rollouts.jsonl"),
      metrics: yield* read("metrics.jsonl")
    }
  })

  it.effect("writes adapter, value head, rollouts and metrics that belong together", () =>
    Effect.gen(function* () {
      const directory = `${yield* temporaryFolder}/run`
      const { exit, events, model } = yield* attempt(directory)
      if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
      assert.deepStrictEqual(exit.value, ["rl/arm/adapter", "rl/arm/value_head.safetensors", "rl/arm/rollouts.jsonl"])
      assert.deepStrictEqual(
        events.map((e) => e.step),
        [0, 1, 2, 3, 4]
      )
      const rollouts = yield* Stream.runCollect(readJsonLines(`${directory}/rl/arm/rollouts.jsonl`, Rollout))
      assert.deepStrictEqual(
        rollouts.map((r) => r.id),
        [1, 2, 3, 4].flatMap((step) => [0, 1, 2, 3].map((i) => `${step}/${i}`))
      )
      for (const r of rollouts) {
        const length = r.responseIds.length
        for (const list of [r.logProbs, r.refLogProbs, r.values, r.secureMask, ...Object.values(r.channels)])
          assert.strictEqual(list.length, length)
        const earns = r.channels.positive.some((x) => x > 0)
        if (earns) {
          assert.deepStrictEqual(r.severities, [])
          assert.isFalse(r.truncated)
        }
        for (const [t, x] of r.channels.positive.entries()) if (x > 0) assert.isTrue(r.secureMask[t])
        if (r.severities === null) assert.isTrue(r.channels.negative.every((x) => x === 0))
        assert.strictEqual(r.channels.rewardModel.at(-1), r.rewardModel)
      }
      assert.isTrue(rollouts.some((r) => r.severities !== null && r.severities.length > 0))
      const adapter = yield* readAdapter(`${directory}/rl/arm/adapter`, model.config)
      assert.deepStrictEqual([adapter.rank, adapter.alpha], [2, 4])
      assert.isTrue([...adapter.tensors.values()].some((pair) => pair.b.some((x) => x !== 0)))
      const head = yield* readValueHead(`${directory}/rl/arm`, model.config.hiddenSize)
      assert.strictEqual(head.weight.length, model.config.hiddenSize)
      const fs = yield* FileSystem.FileSystem
      assert.isFalse(yield* fs.exists(`${directory}/rl/arm/state`))
    })
  )

  it.effect(
    "an adapter can be start and reference, over a base that is quantised: policy and reference first agree",
    () =>
      Effect.gen(function* () {
        const { tokenizer } = yield* tinyModel
        const model = yield* loadModel(tinyCoderDirectory, { quantize: "int8" })
        const directory = `${yield* temporaryFolder}/run`
        const flat = initialLora(model.config, 4, uniforms(1, 2)).map((x) => (x === 0 ? 0.01 : x))
        const tensors = unpackLora(model.config, 4, flat)
        yield* writeAdapter(`${directory}/start`, model.config, {
          rank: 4,
          alpha: 8,
          useRslora: true,
          targetModules: linearModules,
          tensors
        })
        const initial = yield* readAdapter(`${directory}/start`, model.config)
        yield* reinforce({
          model,
          tokenizer,
          tasks,
          settings: yield* settingsOf({ steps: 2, preset: "none" }),
          seed: 3,
          initial,
          directory: "rl",
          stage: "rl",
          score: (responses) => Effect.succeed(responses.map((r) => r.text.length / 10))
        }).pipe(Effect.provide(Layer.mergeAll(RunStore.layer(directory), teacher)))
        const rollouts = yield* Stream.runCollect(readJsonLines(`${directory}/rl/rollouts.jsonl`, Rollout))
        const [first, second] = [1, 2].map((step) => rollouts.filter((r) => r.step === step))
        for (const r of first!) assert.deepStrictEqual(r.logProbs, r.refLogProbs)
        assert.isTrue(second!.some((r) => r.logProbs.some((x, i) => x !== r.refLogProbs[i])))
        // The reference is not the bare model.
        const scorer = yield* makeScorer(model.decoder, { capacity: 256, rank: 1 })
        const [bare] = yield* scorer.score(null, [
          { ids: [...first![0]!.promptIds, ...first![0]!.responseIds], loss: (t) => t >= first![0]!.promptIds.length }
        ])
        assert.isAbove(Math.max(...first![0]!.refLogProbs.map((x, i) => Math.abs(x - bare!.logProbs[i]!))), 1e-3)
        const adapter = yield* readAdapter(`${directory}/rl/adapter`, model.config)
        assert.deepStrictEqual([adapter.rank, adapter.scale, adapter.useRslora], [4, 4, false])
      })
  )

  it.effect("cut off anywhere and started again, it ends with the same bytes", () =>
    Effect.gen(function* () {
      const root = yield* temporaryFolder
      yield* attempt(`${root}/whole`)
      const whole = yield* files(`${root}/whole`)
      for (const at of [1, 3]) {
        const directory = `${root}/cut-${at}`
        const cut = yield* attempt(directory, {}, at)
        assert.isTrue(Exit.isFailure(cut.exit))
        const rest = yield* attempt(directory)
        assert.isTrue(Exit.isSuccess(rest.exit))
        assert.strictEqual(rest.events[0]?.step, at >= 2 ? 2 : 0)
        assert.deepStrictEqual(yield* files(directory), whole)
      }
      const other = `${root}/other`
      yield* attempt(other, { seed: 2 })
      assert.notDeepEqual((yield* files(other)).adapter, whole.adapter)
    })
  )

  it.effect("a state of another rank, or of something else, is refused and stays", () =>
    Effect.gen(function* () {
      const directory = `${yield* temporaryFolder}/run`
      yield* attempt(directory, {}, 2)
      const refuse = Effect.fnUntraced(function* (over: object, expected: string) {
        const { exit } = yield* attempt(directory, over)
        const error = yield* Effect.flip(exit)
        assert.include(String(error.message), expected)
      })
      yield* refuse({ rank: 3 }, "another model or rank")
      const state = yield* loadState(`${directory}/rl/arm/state`)
      yield* saveState(`${directory}/rl/arm/state`, { tensors: state.tensors, json: { step: 2 } })
      yield* refuse({}, "not a training state")
      assert.isTrue(yield* (yield* FileSystem.FileSystem).exists(`${directory}/rl/arm/state`))
    })
  )

  it.effect("the arm without token rewards asks no teacher; prompts that leave no room are an error", () =>
    Effect.gen(function* () {
      const root = yield* temporaryFolder
      const { exit } = yield* attempt(`${root}/none`, { preset: "none", steps: 1 })
      if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
      const rollouts = yield* Stream.runCollect(readJsonLines(`${root}/none/rl/arm/rollouts.jsonl`, Rollout))
      for (const r of rollouts) {
        assert.isNull(r.severities)
        assert.isTrue([...r.channels.positive, ...r.channels.negative].every((x) => x === 0))
      }
      const full = yield* attempt(`${root}/full`, { maxTokens: 128 })
      const error = yield* Effect.flip(full.exit)
      assert.include(String(error.message), "take shorter prompts")
    })
  )
})
