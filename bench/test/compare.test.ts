/** The comparison with PyTorch: ratios in closed form, and that a missing Python costs only the other side. */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { decodeSide, ratiosOf, renderRatios } from "../src/compare/report.ts"

const program = nodePath.resolve(import.meta.dirname, "../src/compare/main.ts")

describe("ratios", () => {
  const ours = [
    { what: "sft", name: "LoRA step", seconds: 2, tokens: 100, peak_bytes: 2 ** 30 },
    { what: "gemm", name: "o NT", seconds: 0.5, flops: 1e12, peak_bytes: null },
    { what: "prefill", name: "prefill", peak_bytes: null, problem: "no memory" }
  ]
  const torch = [
    { what: "sft", name: "LoRA step", seconds: 4, tokens: 100, peak_bytes: 2 ** 31 },
    { what: "gemm", name: "o NT", seconds: 0.25, flops: 1e12, peak_bytes: 5 },
    { what: "generate", name: "generate", seconds: 1, tokens: 7, peak_bytes: null }
  ]

  it("are rates over rates; what one side lacks has none", () => {
    const [step, product, prefill, generate] = ratiosOf(ours, torch)
    assert.deepInclude(step, { ours: 50, torch: 25, ratio: 2, unit: "tokens/s", ourPeakBytes: 2 ** 30 })
    assert.deepInclude(product, { ours: 2e12, torch: 4e12, ratio: 0.5, unit: "FLOP/s", torchPeakBytes: 5 })
    assert.deepInclude(prefill, { ours: null, ratio: null, problem: "no memory" })
    assert.deepInclude(generate, { ours: null, torch: 7, ratio: null })
    const lines = renderRatios(ratiosOf(ours, torch))
    assert.match(lines[1] ?? "", /^LoRA step +50 +25 +tokens\/s +2\.000 +1\.00 +2\.00$/)
    assert.match(lines[2] ?? "", /^o NT +2 +4 +TFLOP\/s +0\.500 /)
    assert.match(lines[3] ?? "", /no memory$/)
  })

  it("another library's way of the same work is held against ours of it", () => {
    const [own, theirs] = ratiosOf(ours.slice(0, 1), [
      torch[0]!,
      { what: "sft", name: "LoRA step (PEFT)", seconds: 8, tokens: 100, peak_bytes: 7 }
    ])
    assert.deepInclude(own, { name: "LoRA step", ratio: 2 })
    assert.deepInclude(theirs, { name: "LoRA step (PEFT)", ours: 50, torch: 12.5, ratio: 4, torchPeakBytes: 7 })
  })

  it("a file that is not a side's is none", () => {
    assert.isUndefined(decodeSide("{"))
    assert.isUndefined(decodeSide('{"rows":[{"what":1}]}'))
    assert.strictEqual(decodeSide(JSON.stringify({ rows: torch, torch: "2" }))?.rows.length, 3)
  })
})

const tiny = [
  "--preset",
  "tiny-llama",
  "--layers",
  "1",
  "--batch",
  "2",
  "--sequence",
  "12",
  "--prompt",
  "5",
  "--new",
  "4"
]
const quick = [...tiny, "--prefill", "7", "--gen-batch", "2", "--rounds", "1"]

const run = (use: (folder: string) => ReadonlyArray<string>, check: (result: Result, stdout: string) => void) => {
  const folder = fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-compare-"))
  try {
    const out = nodePath.join(folder, "out.json")
    const ended = spawnSync(process.execPath, [program, ...quick, "--out", out, ...use(folder)], { encoding: "utf8" })
    assert.isNull(ended.signal, ended.stderr)
    // What grew beside the result is gone.
    assert.deepStrictEqual(
      fs.readdirSync(folder).filter((name) => name.startsWith("out")),
      ["out.json"]
    )
    check(JSON.parse(fs.readFileSync(out, "utf8")), ended.stdout)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

interface Result {
  readonly ratios: ReadonlyArray<{
    readonly name: string
    readonly ours: number
    readonly torch: number | null
    readonly ratio: number | null
    readonly ourPeakBytes: number
  }>
  readonly ours: { readonly problem?: string }
  readonly torch: { readonly problem?: string }
}

const names = ["qkv NT", "down NN", "log-probabilities", "prefill", "generate, batch 2", "LoRA step"]

/** A Python with torch, where there is one: what is compared with needs no GPU to be tried. */
const python = ["python3", "/usr/bin/python3"].find(
  (program) => spawnSync(program, ["-c", "import torch"], { encoding: "utf8" }).status === 0
)

describe("the program", () => {
  it("without Python says so, measures ours, and writes both", () =>
    run(
      (folder) => ["--python", nodePath.join(folder, "no-python")],
      ({ ratios, torch }, stdout) => {
        assert.include(stdout, "PyTorch is not measured any further")
        assert.include(torch.problem, "no-python")
        assert.includeMembers(
          ratios.map(({ name }) => name),
          names
        )
        for (const r of ratios) {
          assert.isAbove(r.ours, 0, r.name)
          assert.isNull(r.ratio)
          assert.isAbove(r.ourPeakBytes, 0, r.name)
        }
      }
    ))

  it("a side that hangs is ended at its part of the time, and ours has its own", () =>
    run(
      (folder) => {
        const hanging = nodePath.join(folder, "python")
        fs.writeFileSync(hanging, "#!/bin/sh\ntrap '' TERM\nexec sleep 600\n", { mode: 0o755 })
        return ["--python", hanging, "--seconds", "10", "--what", "gemm"]
      },
      ({ ours, ratios, torch }) => {
        // Four ninths of 9.5 seconds, and what is left of them.
        assert.match(torch.problem ?? "", /ended after the [34] seconds/)
        const measured = ratios.some((r) => r.name === "qkv NT" && r.ours > 0)
        // A busy machine without compiled shaders may need more than its part.
        if (!measured) assert.match(ours.problem ?? "", /ended after the [56] seconds/)
      }
    ))

  // PyTorch is no dependency of this project: without it there is nothing to compare with.
  it.skipIf(python === undefined)("with torch gives every ratio, and says in a line what else is missing", () =>
    run(
      () => ["--python", python ?? "", "--torch-device", "cpu"],
      ({ ratios, torch }, stdout) => {
        assert.isUndefined(torch.problem)
        for (const name of names) {
          const own = ratios.find((r) => r.name === name)
          assert.closeTo(own?.ratio ?? 0, (own?.ours ?? 0) / (own?.torch ?? 1), 1e-9)
          assert.isAbove(own?.ratio ?? 0, 0)
          assert.include(stdout, name)
        }
        const missing = stdout
          .split("\n")
          .filter((line) => line.startsWith("transformers' generate and PEFT's step are left"))
        const timed = ratios.some(({ name }) => name === "LoRA step (PEFT)")
        assert.isTrue(
          timed ? missing.length === 0 : missing.length + Number(stdout.includes("not measured any further")) > 0
        )
      }
    )
  )
})
