/** `srcode run`, `train rl` and `dataset build` as processes: small real runs, teachers, and input that is wrong. */
import * as fs from "node:fs"
import * as http from "node:http"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import {
  bytesUnder,
  compute,
  isUserError,
  readLines,
  speaking,
  succeeds,
  writeLines,
  writeModel
} from "./internal/checkpoints.ts"
import { inFolder, run, sharedFolder } from "./internal/process.ts"

const at = sharedFolder(async (at) => {
  await writeModel(at("speaking"), speaking, 2)
})

const prompts = ["int add(int a, int b) {\n", "int first(const int *p) {\n", "void f(void) {\n", "int g(int x) {\n"]
const settings = { steps: 2, batchSize: 4, maxTokens: 8, epochs: 1, rank: 2, alpha: 4 }

/** A chat-completions server whose verdicts differ from response to response; counts what it was asked. */
const withTeacher = async <A>(use: (url: string, asked: () => number) => Promise<A>): Promise<A> => {
  let asked = 0
  const server = http.createServer((request, response) => {
    let body = ""
    request.on("data", (data) => {
      body += String(data)
    })
    request.on("end", () => {
      asked++
      const vulnerable = [...body].reduce((sum, c) => sum + (c.codePointAt(0) ?? 0), 0) % 2 === 0
      const findings = vulnerable ? [{ cwe: "CWE-787", severity: "high", why: "no check" }] : []
      const answer = body.includes("vulnerable") ? { vulnerable, findings, reason: "seen" } : { spans: [] }
      const message = { role: "assistant", content: JSON.stringify({ ...answer, spans: [] }) }
      response.setHeader("content-type", "application/json")
      response.end(JSON.stringify({ id: "1", choices: [{ index: 0, finish_reason: "stop", message }] }))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  try {
    return await use(`http://127.0.0.1:${port}/v1`, () => asked)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

describe("train rl", () => {
  const train = (folder: string, ...flags: ReadonlyArray<string>) => {
    writeLines(
      nodePath.join(folder, "prompts.jsonl"),
      prompts.map((prompt) => ({ prompt }))
    )
    fs.writeFileSync(nodePath.join(folder, "rl.json"), JSON.stringify(settings))
    const fixed = ["--model", at("speaking"), "--data", "prompts.jsonl", "--config", "rl.json"]
    return ["train", "rl", ...fixed, ...flags]
  }

  it("learns from a chat teacher, records it, and replays to the same bytes without it; presets none and gated", () =>
    inFolder(async (folder) => {
      for (const preset of ["none", "gated"]) {
        const flags = ["--preset", preset, "--recordings", `answers-${preset}`]
        await withTeacher(async (url, asked) => {
          const env = { SRCODE_TEACHER_URL: url, SRCODE_TEACHER_MODEL: "stand-in", SRCODE_TEACHER_KEY: "secret-key" }
          const command = train(folder, ...flags, "--teacher", "chat", "--out", `chat-${preset}`)
          const ended = succeeds(await compute(command, { cwd: folder, env }))
          assert.notInclude(ended.stdout + ended.stderr, "secret-key")
          assert.isAtLeast(asked(), 8)
        })
        const command = train(folder, ...flags, "--teacher", "replay", "--out", `replay-${preset}`)
        succeeds(await compute(command, { cwd: folder }))
        const [chat, replay] = ["chat", "replay"].map((name) => nodePath.join(folder, `${name}-${preset}`))
        assert.deepStrictEqual(bytesUnder(`${replay}/adapter`), bytesUnder(`${chat}/adapter`))
        assert.strictEqual(
          fs.readFileSync(`${replay}/metrics.jsonl`, "utf8"),
          fs.readFileSync(`${chat}/metrics.jsonl`, "utf8")
        )
        const metrics = readLines(`${chat}/metrics.jsonl`)
        assert.lengthOf(metrics, 2)
        for (const line of metrics) assert.containsAllKeys(line, ["objective/kl", "policy/clipfrac_avg", "val/ratio"])
        const rollouts = readLines(`${chat}/rollouts.jsonl`)
        assert.lengthOf(rollouts, 8)
        // without token rewards the teacher is asked for verdicts alone
        assert.strictEqual(
          rollouts.every((r) => r.severities === null),
          preset === "none"
        )
        assert.isTrue(fs.existsSync(`${chat}/value_head.safetensors`))
        const again = succeeds(await compute(command, { cwd: folder }))
        assert.include(again.stdout, "nothing to do")
      }
      writeLines(nodePath.join(folder, "ids.jsonl"), [{ ids: [1, 2, 3] }])
      const score = ["--adapter", "chat-gated/adapter", "--input", "ids.jsonl", "--out", "scores.jsonl"]
      succeeds(await compute(["score", "--model", at("speaking"), ...score], { cwd: folder }))
    }))

  it("wrong settings, prompts and teachers get one line", () =>
    inFolder(async (folder) => {
      const refused = async (command: ReadonlyArray<string>, ...texts: ReadonlyArray<string>) => {
        isUserError(await run(command, { cwd: folder }), ...texts)
        assert.isFalse(fs.existsSync(nodePath.join(folder, "out/adapter")))
      }
      await refused(train(folder, "--out", "out", "--teacher", "replay"), "--recordings")
      const chat = train(folder, "--out", "out", "--teacher", "chat")
      await refused(chat, "SRCODE_TEACHER_URL", "SRCODE_TEACHER_MODEL")
      const command = train(folder, "--out", "out")
      fs.writeFileSync(nodePath.join(folder, "rl.json"), '{"steps":1,"clip":0.2}')
      await refused(command, "rl.json", "clip")
      fs.writeFileSync(nodePath.join(folder, "rl.json"), '{"steps":1,"batchSize":1}')
      await refused(command, "rl.json", "batchSize")
      fs.writeFileSync(nodePath.join(folder, "rl.json"), JSON.stringify(settings))
      fs.writeFileSync(nodePath.join(folder, "prompts.jsonl"), '{"prompt":"int"}\n{"promt":"int"}\n')
      await refused(command, "prompts.jsonl:2", "prompt")
      fs.writeFileSync(nodePath.join(folder, "prompts.jsonl"), "")
      await refused(command, "prompts.jsonl", "no rows")
    }))
})

const row = (over: Record<string, unknown>) => ({
  idx: 1,
  project: "demo",
  commit_id: "a1",
  target: 1,
  func: 'int tag_of(struct ctx *ctx)\n{\n\tchar tag[16];\n\n\tsprintf(tag, "blk-%s", ctx->name);\n\treturn send(ctx, tag);\n}',
  cwe: ["CWE-120"],
  ...over
})

describe.concurrent("dataset build", () => {
  it("writes the embedded corpus's tasks, seeded, and skips what is done", () =>
    inFolder(async (folder) => {
      succeeds(await run(["dataset", "build", "--out", "a", "--seed", "3"], { cwd: folder }))
      succeeds(await run(["dataset", "build", "--out", "b", "--seed", "3"], { cwd: folder }))
      const tasks = readLines(nodePath.join(folder, "a/dataset/tasks.jsonl"))
      assert.isAbove(tasks.length, 500)
      assert.deepStrictEqual([...new Set(tasks.map((task) => task.kind))].sort(), ["detect", "generate", "repair"])
      const files = bytesUnder(nodePath.join(folder, "a/dataset"))
      assert.deepStrictEqual(bytesUnder(nodePath.join(folder, "b/dataset")), files)
      const again = succeeds(await run(["dataset", "build", "--out", "a", "--seed", "3"], { cwd: folder }))
      assert.include(again.stdout, "nothing to do")
      succeeds(await run(["dataset", "build", "--out", "b", "--seed", "4"], { cwd: folder }))
      assert.notDeepEqual(bytesUnder(nodePath.join(folder, "b/dataset")), files)
    }))

  it("takes PrimeVul rows through repair and gate: what passes becomes tasks, every reject has its reason", () =>
    inFolder(async (folder) => {
      const rows = [row({}), row({ idx: 2, commit_id: "b2", func: "int odd(int x) { return x; }", cwe: ["CWE-20"] })]
      writeLines(nodePath.join(folder, "rows.jsonl"), rows)
      const ended = await run(["dataset", "build", "--data", "rows.jsonl", "--out", "out"], { cwd: folder })
      if (ended.code === 1 && /bubblewrap|analyzer|analyser/.test(ended.stderr)) return isUserError(ended)
      succeeds(ended)
      const triplets = readLines(nodePath.join(folder, "out/dataset/triplets.jsonl"))
      assert.lengthOf(triplets, 1)
      assert.include(triplets[0].secure, "snprintf(tag, sizeof(tag)")
      const rejects = readLines(nodePath.join(folder, "out/dataset/rejects.jsonl"))
      assert.deepStrictEqual(
        rejects.map((r) => [r.stage, r.reason]),
        [["select", "cwe-not-selected"]]
      )
      assert.isAbove(readLines(nodePath.join(folder, "out/dataset/tasks.jsonl")).length, 2)
    }))

  it("rows that are wrong get one line", () =>
    inFolder(async (folder) => {
      const build = ["dataset", "build", "--data", "rows.jsonl", "--out", "out"]
      const refused = async (text: string, ...texts: ReadonlyArray<string>) => {
        fs.writeFileSync(nodePath.join(folder, "rows.jsonl"), text)
        isUserError(await run(build, { cwd: folder }), ...texts)
      }
      await refused(`${JSON.stringify(row({}))}\n{"idx":3}\n`, "rows.jsonl:2", "PrimeVul row")
      await refused("", "rows.jsonl", "no rows")
      await refused(`${JSON.stringify(row({ cwe: ["CWE-20"] }))}\n`, "none of the", "rows.jsonl", "cwe-not-selected")
    }))
})

describe.concurrent("run", () => {
  const refused = (
    name: string,
    flags: ReadonlyArray<string>,
    texts: ReadonlyArray<string>,
    prepare: (folder: string) => void = () => {},
    env: Record<string, string> = {}
  ) =>
    it(name, () =>
      inFolder(async (folder) => {
        prepare(folder)
        isUserError(await run(["run", "--out", "out", ...flags], { cwd: folder, env }), ...texts)
        assert.isFalse(fs.existsSync(nodePath.join(folder, "out/report.html")))
      })
    )
  const file = (name: string, text: string) => (folder: string) => fs.writeFileSync(nodePath.join(folder, name), text)

  refused("an unknown key", ["--config", "c.json"], ["c.json", "stepz"], file("c.json", '{"sft":{"stepz":1}}'))
  refused("a value of another type", ["--config", "c.json"], ["c.json", "arms"], file("c.json", '{"arms":"gated"}'))
  refused("settings that are not JSON", ["--config", "c.json"], ["c.json", "not JSON"], file("c.json", "{,}"))
  refused("settings that are no object", ["--config", "c.json"], ["c.json", "JSON object"], file("c.json", "[1]"))
  refused("a settings file that is not there", ["--config", "c.json"], ["c.json does not exist"])
  refused("a model that is not there", ["--config", "c.json"], ["nowhere"], file("c.json", '{"model":"nowhere"}'))
  refused(
    "a data file that is not there",
    ["--config", "c.json", "--data", "rows.jsonl"],
    ["rows.jsonl does not exist"],
    (folder) => file("c.json", JSON.stringify({ model: at("speaking") }))(folder)
  )
  refused("no recordings", ["--teacher", "replay"], ["--recordings"])
  refused("a chat teacher without settings", ["--teacher", "chat"], ["SRCODE_TEACHER_URL is missing"])
  refused("an unknown device variable", [], ["SRCODE_DEVICE"], undefined, { SRCODE_DEVICE: "abacus" })
  refused(
    "data without one usable row",
    ["--config", "c.json", "--data", "rows.jsonl"],
    ["none of the", "rows.jsonl"],
    (folder) => {
      file("c.json", JSON.stringify({ model: at("speaking") }))(folder)
      writeLines(nodePath.join(folder, "rows.jsonl"), [row({ cwe: ["CWE-20"] })])
    }
  )

  it("a place that cannot be written", () =>
    inFolder(async (folder) => {
      fs.writeFileSync(nodePath.join(folder, "file"), "")
      isUserError(await run(["run", "--out", "file/out"], { cwd: folder }), "cannot write", "file/out")
    }))

  it("hardware where there is none", () =>
    inFolder(async (folder) => {
      const probe = JSON.parse((await compute(["doctor", "--json"])).stdout)
      const ended = await run(
        ["run", "--device", "hardware", "--preset", "quick", "--config", "no.json", "--out", "o"],
        {
          cwd: folder
        }
      )
      if (/llvmpipe|SwiftShader/i.test(probe.adapter.name)) isUserError(ended, "--device hardware")
      else isUserError(ended, "no.json does not exist")
    }))

  it("too little memory for the model", () =>
    inFolder(async (folder) => {
      fs.writeFileSync(nodePath.join(folder, "in.jsonl"), '{"prompt":"int"}\n')
      const env = { SRCODE_GPU_MEMORY: "1000000" }
      const flags = ["--model", at("speaking"), "--data", "in.jsonl", "--out", "out"]
      isUserError(await run(["train", "rl", ...flags], { cwd: folder, env }), "not enough device memory", "1000000")
    }))
})
