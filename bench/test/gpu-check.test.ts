/** The check of a device, at its smallest on whatever device is here: what it writes, and what it says of faults. */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import {
  attentionVariants,
  Gpu,
  GpuDawn,
  type KernelName,
  kernelNames,
  matmulVariants,
  rungOf,
  unusable
} from "@srcode/gpu"
import { Effect, FileSystem, Layer } from "effect"
import { makeReport, Report } from "../src/gpu-check/Report.ts"
import { deadlinesOf, secondsFor } from "../src/gpu-check/schedule.ts"
import { sections } from "../src/gpu-check/sections.ts"
import { summarise } from "../src/gpu-check/summary.ts"
import { attentionCases } from "../src/gpu-check/verify/attention.ts"
import {
  type CheckCase,
  checkCase,
  choicesOf,
  errorOf,
  f32,
  result,
  rungsOf,
  type Verdict,
  waysOf
} from "../src/gpu-check/verify/harness.ts"
import { oneOfEach } from "../src/gpu-check/verify/products.ts"

const program = nodePath.resolve(import.meta.dirname, "../src/gpu-check/main.ts")

const inFolder = async <A>(use: (folder: string) => Promise<A>): Promise<A> => {
  const folder = fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-gpu-check-"))
  try {
    return await use(folder)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

const start = (args: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "pipe"] })
  let stdout = ""
  child.stdout.on("data", (data) => {
    stdout += String(data)
  })
  const ended = new Promise<{ readonly code: number | null; readonly stdout: string }>((resolve) =>
    child.on("close", (code) => resolve({ code, stdout }))
  )
  return { child, ended }
}

const readJson = (file: string) => JSON.parse(fs.readFileSync(file, "utf8"))

describe("gpu-check as a program", () => {
  it("runs its sections, verifies, and leaves one report and the traces", () =>
    inFolder(async (folder) => {
      const only = "training,decoding,robustness,matmul,consistency"
      const { code, stdout } = await start(["--size", "tiny", "--only", only, "--out", folder]).ended
      assert.strictEqual(code, 0, stdout)
      assert.include(stdout, "all verified")
      assert.deepStrictEqual(fs.readdirSync(folder).sort(), ["gpu-check.json", "trace-decode.json", "trace-sft.json"])
      const { sections } = readJson(nodePath.join(folder, "gpu-check.json"))
      assert.deepStrictEqual(Object.keys(sections), only.split(","))
      for (const section of Object.values<{ status: string }>(sections)) assert.strictEqual(section.status, "done")
      for (const row of sections.matmul.found.matmul) {
        assert.isAbove(row.seconds, 0)
        assert.closeTo(row.gflops, (2 * row.m * row.n * row.k) / row.seconds / 1e9, 0.01 * row.gflops)
      }
      const [[steps], [decode]] = [sections.training.found.work, sections.decoding.found.work]
      assert.strictEqual(steps.training.length, 3)
      const { cases, compared, different } = sections.robustness.found.robustness
      assert.match(cases, /^(\d+) of \1$/)
      assert.isAbove(compared, 5)
      assert.deepStrictEqual(different, [])
      assert.isBelow(steps.training[2].loss, steps.training[0].loss)
      assert.strictEqual(decode.dispatchesPerStep, decode.dispatches / 9)
      for (const held of sections.consistency.found.holds) assert.isTrue(held.ok, held.what)
      const { traceEvents } = readJson(nodePath.join(folder, "trace-sft.json"))
      assert.isAbove(traceEvents.length, steps.submits)
    }))

  it("a section that crashes and one that hangs keep what they found, and take no time from those that follow", () =>
    inFolder(async (folder) => {
      const faults = nodePath.resolve(import.meta.dirname, "faults.ts")
      const only = ["crash", "hang", "after"]
      const args = [
        "--before",
        faults,
        "--only",
        only.join(","),
        "--size",
        "tiny",
        "--minutes",
        "0.33",
        "--out",
        folder
      ]
      const { code, stdout } = await start(args).ended
      assert.strictEqual(code, 1)
      const { sections } = readJson(nodePath.join(folder, "gpu-check.json"))
      assert.deepStrictEqual(Object.keys(sections), only)
      const { after, crash, hang } = sections
      assert.deepStrictEqual([crash.status, hang.status, after.status], ["ended early", "out of time", "done"], stdout)
      for (const { found } of [crash, hang, after]) assert.isTrue(found.holds[0].ok)
      assert.deepStrictEqual([crash.during, hang.during], ["a rung that is wrong", "a rung that is wrong"])
      assert.isUndefined(after.during)
      // The parts are 8, 4 and 8 of 95 % of 19.8 seconds.
      const all = 0.95 * 19.8
      assert.approximately(crash.limit, 0.4 * all, 0.3)
      assert.approximately(hang.limit, 0.6 * all - crash.seconds, 0.5)
      assert.isAtLeast(hang.seconds, hang.limit - 0.1)
      assert.isAtLeast(after.limit, 0.4 * all - 1)
      assert.include(stdout, "NOT all verified; out of time: hang")
      assert.deepStrictEqual(fs.readdirSync(folder), ["gpu-check.json"])
    }))

  it("a section that is killed leaves what it had found", () =>
    inFolder(async (folder) => {
      const { child, ended } = start(["--section", "verification", "--size", "tiny", "--out", folder])
      const file = nodePath.join(folder, ".verification.json")
      const deadline = performance.now() + 60_000
      const found = () => (fs.existsSync(file) ? (readJson(file).verdicts ?? []) : [])
      while (found().length < 3 && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20))
      child.kill("SIGKILL")
      await ended
      assert.isAtLeast(found().length, 3)
      assert.isTrue(found()[0].ok)
    }))

  it("one that cannot be run, for want of a device, is said to have a problem; unknown ones are refused", () =>
    inFolder(async (folder) => {
      const { code, stdout } = await start(["--only", "consistency", "--device", "hardware", "--out", folder]).ended
      const { sections } = readJson(nodePath.join(folder, "gpu-check.json"))
      // On a machine with a GPU it can be run.
      if (code === 0) assert.include(stdout, "all verified")
      else assert.include(sections.consistency.found.problems[0].problem, "hardware")
      assert.strictEqual((await start(["--only", "weather", "--out", folder]).ended).code, 1)
    }))
})

layer(Layer.mergeAll(GpuDawn.layerWith({ device: "auto" }), NodeServices.layer))("the harness", (it) => {
  it.effect("finds wrong numbers, unwritten ones and refused dispatches, and runs each choice of kernels once", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const one = (name: string, expected: ReadonlyArray<number>, rows: number): CheckCase => ({
        name,
        prepare: Effect.gen(function* () {
          const [gu, y] = [yield* f32([1, -1, 2, 2]), yield* result(2)]
          return {
            record: (tape, ops) => ops.swiglu(tape, { gu, y, rows, dim: 2 }),
            outputs: [{ name: "y", tensor: y, expected }]
          }
        })
      })
      const ways = waysOf(gpu.info, false)
      const silu = (x: number) => x / (1 + Math.exp(-x))
      const right = [2 * silu(1), 2 * silu(-1)]
      const folder = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped()
      const options = { file: `${folder}/report.json`, folder, size: "tiny", device: "auto", seconds: 60 } as const
      const report = yield* makeReport(options)
      const run = Effect.fnUntraced(function* (name: string, expected: ReadonlyArray<number>, rows: number) {
        const verdicts: Array<Verdict> = []
        yield* checkCase(one(name, expected, rows), ways, (verdict) =>
          Effect.sync(() => void verdicts.push(verdict))
        ).pipe(Effect.provideService(Report, report))
        return verdicts
      })
      const good = yield* run("right", right, 1)
      assert.isAbove(good.length, 1)
      assert.strictEqual(new Set(good.map(({ variant }) => variant)).size, good.length)
      for (const { error, ok } of good) {
        assert.isTrue(ok)
        assert.isBelow(error, 1)
      }
      for (const { ok } of yield* run("wrong", [right[0]!, right[1]! * 1.01], 1)) assert.isFalse(ok)
      for (const { ok, problem } of yield* run("refused", right, 9)) {
        assert.isFalse(ok)
        assert.include(problem, "holds 4 of 36 elements")
      }
      // An empty launch writes nothing: what was there before is no result.
      for (const { ok } of yield* run("unwritten", right, 0)) assert.isFalse(ok)
      assert.strictEqual((yield* gpu.memory).live, 0)
    })
  )
})

describe("how time is shared", () => {
  const parts = [25, 65, 80, 30]

  it("parts add up to the whole but for a reserve, in any unit", () => {
    assert.deepStrictEqual(deadlinesOf(parts, 204), [25, 90, 170, 200])
    assert.deepStrictEqual(deadlinesOf(parts, 404), [50, 180, 340, 400])
    assert.deepStrictEqual(deadlinesOf([1, 1], 20), [9.5, 19])
    assert.deepStrictEqual(deadlinesOf([], 20), [])
    const all = deadlinesOf(
      sections.map(({ part }) => part),
      480
    )
    assert.closeTo(all.at(-1) ?? 0, 476, 1e-9)
    assert.strictEqual(
      sections.reduce((sum, { part }) => sum + part, 0),
      480
    )
  })

  it("each has at least its part whatever those before it took, and what they leave rolls on", () => {
    const deadlines = deadlinesOf(parts, 204)
    let state = 7
    for (let turn = 0; turn < 200; turn++) {
      let elapsed = 0
      for (const [i, part] of parts.entries()) {
        const own = secondsFor(deadlines, i, elapsed)
        assert.isAtLeast(own, part - 1e-9)
        state = (state * 16807) % 2147483647
        // One in three runs into its limit.
        elapsed += state % 3 === 0 ? own : own * (state / 2147483647)
      }
      assert.isAtMost(elapsed, 200 + 1e-9)
    }
    assert.strictEqual(secondsFor(deadlines, 1, 0), 90)
    assert.strictEqual(secondsFor(deadlines, 0, 30), 0)
    assert.strictEqual(secondsFor(deadlines, 9, 0), 0)
  })
})

describe("rungs by name", () => {
  it("are those whose kernels and constants ran, not those that were asked for", () => {
    const ran = (kernel: KernelName, constants: Record<string, number>) =>
      rungsOf([{ kernel, constants, tensors: [], immediates: new Uint32Array(4), grid: [1, 1, 1] }])
    for (const variant of matmulVariants) {
      const { constants, family } = rungOf(variant)
      if (family === "subgroup") continue
      const kernel = kernelNames.find((name) => name === `matmul_${family}` || name === `matmul_${family}_f16`)
      if (kernel === undefined) continue
      assert.deepStrictEqual(ran(kernel, { MODE: 1, ...constants }), [variant])
    }
    assert.deepStrictEqual(ran("matmul_nt_subgroup_few", { SG: 8 }), ["subgroup"])
    assert.deepStrictEqual(ran("matmul_pack", {}), [])
    assert.deepStrictEqual(ran("matmul_register", {}), [])
  })
})

layer(GpuDawn.layerNull)("on a card", (it) => {
  it.effect("every rung that it can run is led to, and every variant of attention", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const info = {
        ...gpu.info,
        ...{ software: false, subgroupSize: [32, 32] as const },
        subgroupMatrixConfigs: [{ componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 }],
        limits: { ...gpu.info.limits, maxComputeWorkgroupStorageSize: 49152, maxComputeInvocationsPerWorkgroup: 1024 }
      }
      const ways = waysOf(info, true)
      const reached = Effect.fnUntraced(function* (cases: ReadonlyArray<CheckCase>) {
        const choices = yield* Effect.forEach(cases, ({ prepare }) =>
          Effect.flatMap(prepare, ({ record }) => choicesOf(record, ways)).pipe(Effect.scoped)
        )
        return choices.flatMap((own) => own.choices)
      })
      const products = yield* reached(oneOfEach())
      const rungs = new Set(products.flatMap(({ dispatches }) => rungsOf(dispatches)))
      const usable = matmulVariants.filter((variant) => unusable(info, variant) === undefined)
      assert.isAbove(usable.length, 15)
      assert.deepStrictEqual(
        usable.filter((variant) => !rungs.has(variant)),
        []
      )
      const kernels = new Set((yield* reached(attentionCases(true).slice(4, 5))).flatMap((choice) => choice.kernels))
      for (const variant of attentionVariants(info, { rows: 100, heads: 8, kvHeads: 2, headDim: 128 }))
        assert.isTrue(
          kernels.has(variant === "invocation" ? "attention_forward" : `attention_forward_${variant}`),
          variant
        )
    })
  )
})

describe("errors and summaries", () => {
  it("errors are in units of the tolerance, and what is no number is infinitely wrong", () => {
    assert.closeTo(errorOf([1.1, 1], [1, 1], 0.1), 0.5, 1e-9)
    assert.strictEqual(errorOf([Number.NaN, 1], [1, 1], 0.1), Number.POSITIVE_INFINITY)
    assert.strictEqual(errorOf([1], [1, 1], 0.1), Number.POSITIVE_INFINITY)
    assert.closeTo(errorOf([0, 7, 1], [1], 0.1, [2]), 0, 1e-9)
  })

  it("a failed variant, a problem and a broken statement each make it not verified", () => {
    const summary = { cases: "1 of 1", passed: 1, failed: [], worstError: 0.5, untouched: [] }
    assert.isTrue(summarise("x", { summary }).ok)
    const failed = [{ name: "matmul", variant: "hardware", error: 3 }]
    const bad = summarise("x", { summary: { ...summary, failed } })
    assert.isFalse(bad.ok)
    assert.include(bad.lines.join("\n"), "FAILED matmul (hardware)")
    assert.isFalse(summarise("x", { problems: [{ part: "a", problem: "b" }] }).ok)
    assert.isFalse(summarise("x", { holds: [{ what: "a", ok: false }] }).ok)
    assert.isFalse(summarise("x", null).ok)
    const different = [{ case: "a", variant: "b" }]
    assert.isFalse(summarise("x", { robustness: { cases: "1 of 1", compared: 1, different } }).ok)
    assert.isTrue(summarise("x", { robustness: { cases: "1 of 1", compared: 1, different: [] } }).ok)
    const standings = [
      { name: "tiled", verified: 3, failed: ["x: y"] },
      { name: "matrix16", verified: 0, failed: [], reason: "no units" }
    ]
    assert.deepStrictEqual(summarise("x", { variants: standings }).lines, [
      "tiled: verified in 3 cases, FAILED in 1: x: y",
      "matrix16: not verified, no units"
    ])
  })
})
