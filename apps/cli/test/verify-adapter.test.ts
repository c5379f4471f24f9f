/** `srcode verify-adapter` as a process: lines, JSON and exit codes. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { isUserError, micro, ownLines, speaking, succeeds, writeLora, writeModel } from "./internal/checkpoints.ts"
import { inFolder, run, sharedFolder } from "./internal/process.ts"

const at = sharedFolder(async (at) => {
  await writeModel(at("micro"), micro, 1)
  await writeModel(at("speaking"), speaking, 2)
  await writeLora(at("lora"), micro, { rank: 3, alpha: 5, seed: 2 })
})

/** A copy of the adapter with other settings. */
const changed = (folder: string, change: Record<string, unknown>) => {
  const copy = nodePath.join(folder, "adapter")
  fs.cpSync(at("lora"), copy, { recursive: true })
  const file = nodePath.join(copy, "adapter_config.json")
  fs.writeFileSync(file, JSON.stringify({ ...JSON.parse(fs.readFileSync(file, "utf8")), ...change }))
  return copy
}

describe.concurrent("verify-adapter", () => {
  it("a sound adapter: what it is, warnings, exit code 0", () =>
    inFolder(async (folder) => {
      const sound = changed(folder, { base_model_name_or_path: "org/micro" })
      const ended = succeeds(await run(["verify-adapter", sound, "--model", at("micro")]))
      const lines = ended.stdout.trimEnd().split("\n")
      assert.lengthOf(lines, 3)
      assert.match(lines[0] ?? "", /rank 3, alpha 5, scale 1.66667, 28 tensors, \d+ parameters, F32, base org\/micro$/)
      assert.match(lines[1] ?? "", /^note: peft, llama.cpp: base_model_name_or_path = "org\/micro", checked against/)
      assert.strictEqual(lines[2], "no errors, 0 warnings")
      assert.isEmpty(ownLines(ended))
    }))

  it("what would be refused: one line each, worst first, exit code 1", () =>
    inFolder(async (folder) => {
      const bad = changed(folder, { use_rslora: true, r: 600, modules_to_save: ["lm\u009bhead"], bias: "all" })
      const ended = await run(["verify-adapter", bad])
      isUserError(ended, "4 errors and 2 warnings", "refused")
      const lines = ended.stdout.trimEnd().split("\n").slice(1)
      assert.deepStrictEqual(
        lines.map((line) => line.split(":")[0]),
        ["error", "error", "error", "error", "warning", "warning"]
      )
      assert.isTrue(lines.some((line) => line.startsWith("error: vllm: r = 600: vLLM serves ranks up to 512")))
      assert.notInclude(ended.stdout, "\u009b")
    }))

  it("another model's adapter, as JSON", async () => {
    const ended = await run(["verify-adapter", at("lora"), "--model", at("speaking"), "--json"])
    isUserError(ended, "refused")
    const report = JSON.parse(ended.stdout)
    assert.deepInclude(report, { refused: true, rank: 3, alpha: 5, tensors: 28, dtypes: ["F32"], baseModel: null })
    const codes = report.findings.map((finding: { readonly code: string }) => finding.code)
    assert.includeMembers(codes, ["shape", "no-base-name"])
    assert.isTrue(report.findings.every((finding: object) => Object.keys(finding).length === 5))
  })

  it("nothing there, a file, a model instead of an adapter", async () => {
    isUserError(await run(["verify-adapter"]), "adapter")
    isUserError(await run(["verify-adapter", at("nowhere")]), "nowhere")
    isUserError(await run(["verify-adapter", at("micro/config.json")]), "is a file")
    const ended = await run(["verify-adapter", at("micro")])
    isUserError(ended, "2 errors")
    assert.include(ended.stdout, "adapter_config.json is not in the folder")
    isUserError(await run(["verify-adapter", at("lora"), "--model", at("lora")]), "config.json")
  })
})
