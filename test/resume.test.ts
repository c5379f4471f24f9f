/** kill -9 in the middle of stages, then the same command: it completes, and with the bytes of an uninterrupted run. */
import { type ChildProcess, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "vitest"

const main = fileURLToPath(new URL("../apps/cli/src/main.ts", import.meta.url))
const settings = {
  sftRows: 24,
  sft: { steps: 6, batchSize: 4, accumulation: 1, saveEvery: 1 },
  rewardModel: { steps: 2, batchSize: 2 },
  rl: { steps: 4, batchSize: 4, epochs: 1, maxTokens: 24, saveEvery: 1 },
  arms: ["gated"],
  evaluation: { limit: 2, maxTokens: 16 }
}
const results = [
  "sft/adapter/adapter_model.safetensors",
  "rl/gated/adapter/adapter_model.safetensors",
  "rl/gated/value_head.safetensors",
  "rl/gated/rollouts.jsonl",
  "adapter/adapter_model.safetensors",
  "metrics.jsonl"
]

let folder = ""
const start = (
  out: string
): { readonly child: ChildProcess; readonly ended: Promise<{ code: number | null; text: string }> } => {
  const child = spawn(
    process.execPath,
    [main, "run", "--config", join(folder, "run.json"), "--out", join(folder, out)],
    { stdio: ["ignore", "pipe", "pipe"] }
  )
  let text = ""
  child.stdout.on("data", (d) => (text += String(d)))
  child.stderr.on("data", (d) => (text += String(d)))
  return { child, ended: new Promise((resolve) => child.on("close", (code) => resolve({ code, text }))) }
}

/** Runs until `path` appears in the run directory, then kills the process; true when it was still running. */
const killWhen = async (out: string, path: string): Promise<boolean> => {
  const { child, ended } = start(out)
  let over = false
  void ended.then(() => (over = true))
  while (!over && !existsSync(join(folder, out, path))) await new Promise((resolve) => setTimeout(resolve, 5))
  const running = !over
  child.kill("SIGKILL")
  await ended
  return running
}

const digest = (out: string): Record<string, string> =>
  Object.fromEntries(
    results.map((file) => [
      file,
      createHash("sha256")
        .update(readFileSync(join(folder, out, file)))
        .digest("hex")
    ])
  )

describe("a run that is killed", () => {
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "srcode-resume-"))
    writeFileSync(join(folder, "run.json"), JSON.stringify(settings))
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  it("ends with the same bytes as one that was not", { timeout: 300_000 }, async () => {
    const whole = await start("whole").ended
    assert.strictEqual(whole.code, 0, whole.text)
    for (const moment of [
      "dataset/tasks.jsonl",
      "sft/state/state.safetensors",
      "rl/reward_model",
      "rl/gated/state/state.safetensors"
    ]) {
      assert.isTrue(await killWhen("killed", moment), `the run was to be killed when ${moment} appeared`)
    }
    const resumed = await start("killed").ended
    assert.strictEqual(resumed.code, 0, resumed.text)
    assert.deepStrictEqual(digest("killed"), digest("whole"))

    const again = await start("killed").ended
    assert.strictEqual(again.code, 0, again.text)
    assert.notMatch(again.text, /steps\/s/, "a finished run trains nothing")
  })
})
