/** `srcode bench` as a process: figures and traces of a small shape, and what it refuses. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { compute, isUserError, succeeds } from "./internal/checkpoints.ts"
import { inFolder, run } from "./internal/process.ts"

const readJson = (file: string) => JSON.parse(fs.readFileSync(file, "utf8"))
const small = ["--batch", "2", "--sequence", "12", "--prompt", "5", "--steps", "9", "--rounds", "1"]

describe.concurrent("srcode bench", () => {
  it("profiles random weights of a shape: figures that hang together, and a trace for each kind of work", () =>
    inFolder(async (folder) => {
      const [out, trace] = [nodePath.join(folder, "out.json"), nodePath.join(folder, "trace.json")]
      const args = ["--preset", "tiny-qwen3", "--layers", "1", "--only", "decode,sft", ...small]
      const { stdout } = succeeds(await compute(["bench", ...args, "--out", out, "--trace", trace]))
      const result = readJson(out)
      assert.deepStrictEqual(
        result.profiles.map((p: { name: string }) => p.name),
        ["sft", "decode"]
      )
      assert.strictEqual(result.model.layers, 1)
      assert.isAbove(result.ceilings.bytesPerSecond, 0)
      for (const p of result.profiles) {
        assert.include(stdout, `${p.name}: ${p.tokens} tokens`)
        assert.isAbove(p.tokensPerSecond, 0)
        assert.strictEqual(p.dispatchesPerStep, p.dispatches / p.steps)
        const { traceEvents } = readJson(nodePath.join(folder, `trace-${p.name}.json`))
        if (!result.timestamps) {
          assert.include(stdout, "no timestamps")
          continue
        }
        const calls = p.kernels.reduce((sum: number, k: { calls: number }) => sum + k.calls, 0)
        assert.strictEqual(calls, p.dispatches)
        const seconds = p.kernels.reduce((sum: number, k: { seconds: number }) => sum + k.seconds, 0)
        assert.closeTo(seconds, p.deviceSeconds, 1e-9)
        const onDevice = traceEvents.filter((e: { ph: string; pid: number }) => e.ph === "X" && e.pid === 1)
        assert.lengthOf(onDevice, p.dispatches)
      }
      assert.strictEqual(result.profiles[1].tokens, 18)
    }))

  it("refuses what does not fit together, in one line", async () => {
    isUserError(await run(["bench", "--preset", "gpt-2"]), '--preset: "gpt-2"', "qwen2.5-coder-7b")
    isUserError(await run(["bench", "--model", "nowhere"]), "nowhere")
    isUserError(await run(["bench", "--out", "/"]), "cannot write /: it is a directory")
    isUserError(await run(["bench", "--preset", "tiny-qwen2", "--model", "x"]), "exclude each other")
    isUserError(await run(["bench", "--layers", "2"]), "--layers")
    isUserError(await run(["bench", "--only", "weather"]), "sft, logprob, prefill, decode")
    isUserError(await compute(["bench", "--preset", "tiny-qwen2", "--sequence", "5000"]), "exceed the model's")
  })
})
