/** `srcode export` as a process: what it writes, what it refuses, and what a kill or a full disk leaves. */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import type { ModelConfig } from "@srcode/model"
import {
  bytesUnder,
  compute,
  isUserError,
  micro,
  ownLines,
  readLines,
  speaking,
  succeeds,
  writeLines,
  writeLora,
  writeModel
} from "./internal/checkpoints.ts"
import { type Ended, inFolder, main, run, sharedFolder } from "./internal/process.ts"

/** 44 MB: long enough at work to be stopped in the middle. */
const wide: ModelConfig = {
  ...micro,
  hiddenSize: 512,
  intermediateSize: 4096,
  numHeads: 4,
  headDim: 128,
  vocabSize: 64
}

const at = sharedFolder(async (at) => {
  await writeModel(at("micro"), micro, 1)
  await writeLora(at("lora"), micro, { rank: 3, alpha: 5, seed: 2 })
  await writeLora(at("more"), micro, { rank: 2, alpha: 1, seed: 3, modules: ["v_proj"] })
  await writeModel(at("speaking"), speaking, 4)
  await writeLora(at("other"), speaking, { rank: 2, alpha: 2, seed: 5 })
  await writeModel(at("wide"), wide, 6)
  await writeLora(at("wide-lora"), wide, { rank: 16, alpha: 16, seed: 7 })
  fs.writeFileSync(at("micro/README.md"), "the base")
})

const merged = (...args: ReadonlyArray<string>) => [
  "export",
  "merged",
  "--model",
  at("micro"),
  "--adapter",
  at("lora"),
  ...args
]

describe.concurrent("export merged", () => {
  it("scores of the merged folder are those of base and adapter; a second run needs --overwrite", () =>
    inFolder(async (folder) => {
      const input = writeLines(nodePath.join(folder, "ids.jsonl"), [{ ids: [1, 2, 3, 4, 5] }, { ids: [9, 8, 7] }])
      const out = nodePath.join(folder, "deep/merged")
      const ended = succeeds(await run(merged("--out", out)))
      assert.match(ended.stdout, /deep\/merged: \d+ bytes of weights in 1 file, 14 of 27 tensors changed\n/)
      assert.include(ended.stderr, "export: ")
      assert.sameMembers(fs.readdirSync(out), ["config.json", "model.safetensors", "README.md"])
      const score = async (args: ReadonlyArray<string>, name: string) => {
        const file = nodePath.join(folder, name)
        succeeds(await compute(["score", ...args, "--input", input, "--out", file]))
        return readLines(file).flatMap((line) => line.logprobs)
      }
      const expected = await score(["--model", at("micro"), "--adapter", at("lora")], "a")
      for (const [i, x] of (await score(["--model", out], "b")).entries()) {
        assert.closeTo(x, expected[i], 1e-4 * (1 + Math.abs(expected[i])))
      }
      const before = bytesUnder(out)
      isUserError(await run(merged("--out", out)), "is not empty", "--overwrite")
      assert.deepStrictEqual(bytesUnder(out), before)
      succeeds(
        await run(
          merged("--adapter", at("more"), "--out", out, "--overwrite", "--dtype", "bf16", "--shard-size", "1kB")
        )
      )
      const names = fs.readdirSync(out)
      assert.isAbove(names.length, 6)
      assert.include(names, "model.safetensors.index.json")
      assert.notInclude(names, "model.safetensors")
      assert.strictEqual(JSON.parse(fs.readFileSync(nodePath.join(out, "config.json"), "utf8")).torch_dtype, "bfloat16")
      assert.deepStrictEqual(fs.readdirSync(nodePath.join(folder, "deep")), ["merged"])
    }))

  const refused = (name: string, args: () => ReadonlyArray<string>, ...texts: ReadonlyArray<string>) =>
    it(`refused: ${name}`, () =>
      inFolder(async (folder) => {
        fs.mkdirSync(nodePath.join(folder, "precious"))
        fs.writeFileSync(nodePath.join(folder, "precious/thesis.tex"), "x")
        fs.writeFileSync(nodePath.join(folder, "file"), "x")
        const before = bytesUnder(folder)
        isUserError(await run(args(), { cwd: folder }), ...texts)
        assert.deepStrictEqual(bytesUnder(folder), before)
        assert.sameMembers(fs.readdirSync(folder), ["precious", "file"])
      }))
  const base = () => ["export", "merged", "--model", at("micro")]
  refused("no adapter", () => [...base(), "--out", "x"], "--adapter")
  refused("an adapter that is not there", () => [...base(), "--adapter", "nowhere", "--out", "x"], "nowhere")
  refused(
    "another model's adapter",
    () => [...base(), "--adapter", at("other"), "--out", "x"],
    "shape [2, 16], expected"
  )
  refused("someone's folder, insisting", () => merged("--out", "precious", "--overwrite"), "config.json")
  refused("a folder that is read", () => merged("--out", at("micro"), "--overwrite"), "which is read")
  refused("a place where nothing can be made", () => merged("--out", "/proc/srcode/x"), "/proc")
  refused("a size that is none", () => merged("--out", "x", "--shard-size", "5 parsecs"), "5GB")

  it("a broken model or adapter is named and nothing is written", () =>
    inFolder(async (folder) => {
      const copy = (name: string) => {
        fs.cpSync(at(name), nodePath.join(folder, name), { recursive: true })
        return nodePath.join(folder, name)
      }
      const [model, adapter] = [copy("micro"), copy("lora")]
      fs.truncateSync(nodePath.join(adapter, "adapter_model.safetensors"), 3000)
      isUserError(
        await run([...base(), "--adapter", adapter, "--out", nodePath.join(folder, "x")]),
        "adapter_model.safetensors"
      )
      fs.truncateSync(nodePath.join(model, "model.safetensors"), 3000)
      const args = ["export", "merged", "--model", model, "--adapter", at("lora"), "--out", nodePath.join(folder, "x")]
      isUserError(await run(args), "model.safetensors")
      assert.sameMembers(fs.readdirSync(folder), ["micro", "lora"])
    }))
})

describe("stopped in the middle", () => {
  const command = (out: string) => [
    "export",
    "merged",
    "--model",
    at("wide"),
    "--adapter",
    at("wide-lora"),
    "--out",
    out,
    "--overwrite"
  ]
  /** Ends the process once a part of the weights lies in the staging folder. */
  const stop = (out: string, signal: NodeJS.Signals, least: number): Promise<Ended> =>
    run(command(out), {
      during: (child) => {
        const file = nodePath.join(`${out}.srcode-partial`, "model.safetensors.tmp")
        const timer = setInterval(() => {
          if (child.exitCode !== null) return clearInterval(timer)
          if (!fs.existsSync(file) || fs.statSync(file).size < least) return
          clearInterval(timer)
          child.kill(signal)
        }, 1)
      }
    })

  it("kill -9: the old export stays until the new one is whole, and the next run cleans up", () =>
    inFolder(async (folder) => {
      const out = nodePath.join(folder, "out")
      for (const [round, least] of [0, 10_000, 9_000_000, 25_000_000].entries()) {
        const before = round === 0 ? undefined : bytesUnder(out)
        const ended = await stop(out, "SIGKILL", least)
        assert.strictEqual(ended.signal, "SIGKILL", `${ended.stderr}: the work was over before the kill`)
        if (before === undefined) assert.isFalse(fs.existsSync(out))
        else assert.deepStrictEqual(bytesUnder(out), before)
        assert.include(fs.readdirSync(folder), "out.srcode-partial")
        if (round > 0) continue
        fs.mkdirSync(out)
        fs.writeFileSync(nodePath.join(out, "config.json"), "an earlier export")
      }
      succeeds(await run(command(out)))
      assert.deepStrictEqual(fs.readdirSync(folder), ["out"])
      assert.sameMembers(fs.readdirSync(out), ["config.json", "model.safetensors"])
      const size = fs.statSync(at("wide/model.safetensors")).size
      assert.strictEqual(fs.statSync(nodePath.join(out, "model.safetensors")).size, size)
    }))

  it("Ctrl-C: nothing is left", () =>
    inFolder(async (folder) => {
      const ended = await stop(nodePath.join(folder, "out"), "SIGINT", 1_000_000)
      assert.strictEqual(ended.code, 130)
      assert.deepStrictEqual(fs.readdirSync(folder), [])
    }))

  it("no room for the file: one line, exit code 1, nothing is left", () =>
    inFolder(async (folder) => {
      const ended = await new Promise<Ended>((resolve, reject) => {
        const quoted = [process.execPath, main, ...command(nodePath.join(folder, "out"))].map((arg) => `'${arg}'`)
        // blocks of 1 KiB: files may grow to 8 MB, the weights have 44
        const child = spawn("bash", ["-c", `ulimit -f 8000; exec ${quoted.join(" ")}`], { cwd: folder })
        const text = { stdout: "", stderr: "" }
        child.stdout.on("data", (data) => void (text.stdout += String(data)))
        child.stderr.on("data", (data) => void (text.stderr += String(data)))
        child.on("error", reject)
        child.on("close", (code, signal) => resolve({ code, signal, ...text }))
      })
      isUserError(ended, "EFBIG", "ulimit -f")
      assert.deepStrictEqual(fs.readdirSync(folder), [])
    }))
})

describe.concurrent("export peft", () => {
  it("writes a folder that holds the adapter and nothing else, under the name given", () =>
    inFolder(async (folder) => {
      const out = nodePath.join(folder, "out")
      const args = ["export", "peft", "--model", at("micro"), "--adapter", at("lora"), "--out", out]
      assert.include(succeeds(await run([...args, "--base-name", "org/base"])).stdout, "28 tensors")
      assert.sameMembers(fs.readdirSync(out), ["adapter_config.json", "adapter_model.safetensors"])
      const config = JSON.parse(fs.readFileSync(nodePath.join(out, "adapter_config.json"), "utf8"))
      assert.deepInclude(config, { r: 3, lora_alpha: 5, base_model_name_or_path: "org/base", task_type: "CAUSAL_LM" })
      assert.lengthOf(config.target_modules, 7)
      isUserError(await run(args), "not empty")
      succeeds(await run([...args, "--overwrite", "--dtype", "f16"]))
      const size = (name: string) => fs.statSync(nodePath.join(name, "adapter_model.safetensors")).size
      assert.isBelow(size(out), size(at("lora")))
      isUserError(
        await run([...args.slice(0, 4), "--adapter", at("other"), "--out", nodePath.join(folder, "x")]),
        "expected"
      )
      assert.deepStrictEqual(fs.readdirSync(folder), ["out"])
      assert.isEmpty(ownLines(await run(["export", "peft", "--help"])))
    }))
})
