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

  it("a file that is not a side's is none", () => {
    assert.isUndefined(decodeSide("{"))
    assert.isUndefined(decodeSide('{"rows":[{"what":1}]}'))
    assert.strictEqual(decodeSide(JSON.stringify({ rows: torch, torch: "2" }))?.rows.length, 3)
  })
})

describe("the program", () => {
  it("without Python says so, measures ours, and writes both", () => {
    const folder = fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-compare-"))
    try {
      const out = nodePath.join(folder, "out.json")
      const sizes = [
        "--batch",
        "2",
        "--sequence",
        "12",
        "--prompt",
        "5",
        "--new",
        "4",
        "--prefill",
        "7",
        "--rounds",
        "1"
      ]
      const args = ["--preset", "tiny-llama", "--layers", "1", "--gen-batch", "2", ...sizes, "--out", out]
      const ended = spawnSync(process.execPath, [program, ...args, "--python", nodePath.join(folder, "no-python")], {
        encoding: "utf8"
      })
      assert.strictEqual(ended.status, 0, ended.stderr)
      assert.include(ended.stdout, "PyTorch is not measured any further")
      const result = JSON.parse(fs.readFileSync(out, "utf8"))
      assert.include(result.torch.problem, "no-python")
      const names = result.ratios.map((r: { name: string }) => r.name)
      assert.includeMembers(names, [
        "qkv NT",
        "down NN",
        "log-probabilities",
        "prefill",
        "generate, batch 2",
        "LoRA step"
      ])
      for (const r of result.ratios) {
        assert.isAbove(r.ours, 0, r.name)
        assert.isNull(r.ratio)
        assert.isAbove(r.ourPeakBytes, 0, r.name)
      }
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
  })
})
