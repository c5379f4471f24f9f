/** The command line as a user meets it: help, typos, missing things, closed pipes, signals. Real processes. */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { type Ended, inFolder, run, tinyCoder } from "./internal/process.ts"

/** One clear line on stderr that says `text`; nothing on stdout; no stack trace; exit code 1. */
const isUserError = (ended: Ended, ...texts: ReadonlyArray<string>) => {
  for (const text of texts) assert.include(ended.stderr, text)
  assert.lengthOf(ended.stderr.trim().split("\n"), 1, ended.stderr)
  assert.match(ended.stderr, /^srcode: /)
  assert.notMatch(ended.stderr, /\n\s+at /)
  assert.strictEqual(ended.stdout, "")
  assert.strictEqual(ended.code, 1)
}

describe.concurrent("help", () => {
  it("of the program lists the commands, of a command its flags and examples (all of them: Docs.test.ts)", async () => {
    const all = await run(["--help"])
    assert.match(all.stdout, /SUBCOMMANDS.*\n {2}doctor .*\n {2}bench /s)
    const one = await run(["train", "sft", "--help"])
    assert.match(one.stdout, /FLAGS.*--init-adapter DIR.*EXAMPLES.*npm run srcode -- train sft/s)
    for (const ended of [all, one]) {
      assert.strictEqual(ended.code, 0)
      assert.strictEqual(ended.stderr, "")
    }
  })

  it("prints the version", async () => {
    const ended = await run(["--version"])
    assert.strictEqual(ended.code, 0)
    assert.match(ended.stdout, /0\.\d+\.\d+/)
  })
})

describe.concurrent("invocations that cannot be understood", () => {
  it("no command", async () => isUserError(await run([]), "a command is missing", "srcode --help"))
  it("a typo in a command", async () => isUserError(await run(["docter"]), '"docter"', 'did you mean "doctor"?'))
  it("a typo in a flag", async () =>
    isUserError(await run(["rewards", "--inptu", "x"]), "--inptu", "did you mean --input?", "srcode rewards --help"))
  it("a missing flag", async () => isUserError(await run(["rewards"]), "--input is missing"))
  it("a flag given twice", async () =>
    isUserError(await run(["rewards", "--input", "a", "--input", "b", "--out", "c"]), "--input is given 2 times"))
  it("a value that is none of the choices", async () =>
    isUserError(await run(["doctor", "--device", "abacus"]), "--device", "abacus", "lavapipe"))
  it("an argument too many", async () => isUserError(await run(["doctor", "now"]), '"now"'))
  it("control characters in an argument do not reach the terminal", async () => {
    const ended = await run(["\u001b[31mred\u0007"])
    isUserError(ended, "red")
    assert.notInclude(ended.stderr, "\u001b")
    assert.notInclude(ended.stderr, "\u0007")
  })
})

describe.concurrent("the process", () => {
  it("an old Node is told in one line before anything is loaded", async () => {
    const pretend =
      "data:text/javascript,Object.defineProperty(process,'versions',{value:{...process.versions,node:'20.1.0'}})"
    const ended = await run(["doctor"], { nodeArgs: ["--import", pretend] })
    isUserError(ended, "Node 22.19 or newer is needed")
  })

  it("a reader that closes the pipe causes no stack trace and no hang", async () => {
    const ended = await run(["doctor", "--json", "--device", "null"], { during: (child) => child.stdout?.destroy() })
    assert.isNull(ended.signal)
    assert.notInclude(ended.stderr, "EPIPE")
    assert.notMatch(ended.stderr, /\n\s+at /)
    const quiet = await run(["--help"], { during: (child) => child.stdout?.destroy() })
    assert.strictEqual(quiet.code, 0)
    assert.strictEqual(quiet.stderr, "")
  })

  it.skipIf(process.platform === "win32")("Ctrl-C ends with 130 and leaves nothing half-written", () =>
    inFolder(async (folder) => {
      const pipe = nodePath.join(folder, "rows")
      const out = nodePath.join(folder, "out.jsonl")
      execFileSync("mkfifo", [pipe])
      const ended = await run(["rewards", "--input", pipe, "--out", out], {
        during: (child) => {
          // "r+" opens at once; the command then waits for rows that never come
          const writer = fs.openSync(pipe, "r+")
          fs.writeSync(writer, "\n")
          const timer = setInterval(() => {
            // once its temporary output is there, it is in the middle of its work
            if (fs.readdirSync(folder).length < 2) return
            clearInterval(timer)
            child.kill("SIGINT")
            setTimeout(() => fs.closeSync(writer), 500)
          }, 50)
          child.once("exit", () => clearInterval(timer))
        }
      })
      assert.strictEqual(ended.code, 130)
      assert.strictEqual(ended.stderr, "srcode: interrupted\n")
      assert.deepStrictEqual(fs.readdirSync(folder), ["rows"])
    })
  )

  it("--log-level debug and SRCODE_DEBUG add the details that are left out otherwise", async () => {
    const args = ["rewards", "--input", "missing.jsonl", "--out", "out.jsonl"]
    isUserError(await run(args), "missing.jsonl does not exist")
    for (const ended of [
      await run([...args, "--log-level", "debug"]),
      await run(args, { env: { SRCODE_DEBUG: "1" } })
    ]) {
      assert.strictEqual(ended.code, 1)
      assert.match(ended.stderr, /\n\s+at /)
    }
  })
})

describe.concurrent("the null device", () => {
  const model = ["--model", tinyCoder]
  for (const args of [
    ["generate", ...model, "--prompt", "int"],
    ["serve", ...model, "--port", "0"],
    ["bench", ...model, "--only", "decode", "--steps", "1"]
  ])
    it(`${args[0]} refuses it: it computes nothing`, async () => {
      const ended = await run(args, { env: { SRCODE_DEVICE: "null" } })
      assert.match(ended.stderr, /srcode: no usable GPU adapter for --device null: it computes nothing; .*--device\n$/)
      assert.notMatch(ended.stdout, /int|serving|ceilings/)
      assert.strictEqual(ended.code, 1)
    })
})

describe.concurrent("doctor", () => {
  it("--json keeps its contract", async () => {
    const ended = await run(["doctor", "--json", "--device", "null"])
    const told = JSON.parse(ended.stdout)
    assert.containsAllKeys(told, ["node", "adapter", "analyzers", "codeql", "sandbox", "ok"])
    assert.strictEqual(told.node, process.versions.node)
    assert.isString(told.adapter.name)
    assert.strictEqual(told.adapter.backend, "null")
    assert.isArray(told.adapter.features)
    assert.isAbove(told.adapter.limits.maxStorageBufferBindingSize, 0)
    for (const analyzer of told.analyzers) assert.containsAllKeys(analyzer, ["name", "version", "found"])
    // the null device computes nothing, so the pipeline cannot run on it
    assert.isFalse(told.ok)
    assert.strictEqual(ended.code, 1)
    assert.include(ended.stderr, "the null device computes nothing")
  })

  it("the table and the JSON tell the same", async () => {
    const table = await run(["doctor", "--device", "null"])
    const json = JSON.parse((await run(["doctor", "--json", "--device", "null"])).stdout)
    assert.include(table.stdout, json.adapter.name)
    for (const analyzer of json.analyzers) assert.include(table.stdout, analyzer.version ?? "not found")
  })

  it("says what is missing on a machine without tools", async () => {
    const ended = await run(["doctor", "--json", "--device", "null"], { env: { PATH: "/nonexistent" } })
    const told = JSON.parse(ended.stdout)
    assert.isTrue(told.analyzers.every((each: { found: boolean }) => !each.found))
    assert.isFalse(told.sandbox.available)
    assert.strictEqual(ended.code, 1)
    assert.include(ended.stderr, "no C compiler")
    assert.include(ended.stderr, "npm run setup")
  })

  it("a device that is not there is told, and the rest is told as well", async () => {
    const ended = await run(["doctor", "--json"], {
      env: { SRCODE_DEVICE: "auto", VK_DRIVER_FILES: "/nonexistent", VK_ICD_FILENAMES: "/nonexistent" }
    })
    const told = JSON.parse(ended.stdout)
    if (told.adapter?.backend === "metal" || told.adapter?.backend === "d3d12") return
    assert.isNull(told.adapter)
    assert.isString(told.adapterProblem)
    assert.isFalse(told.ok)
    assert.strictEqual(ended.code, 1)
  })

  it("settings that make no sense are named", async () => {
    const device = await run(["doctor"], { env: { SRCODE_DEVICE: "abacus" } })
    assert.include(device.stderr, "SRCODE_DEVICE must be one of")
    for (const SRCODE_GPU_MEMORY of ["16GB", "-1"]) {
      const memory = await run(["doctor"], { env: { SRCODE_GPU_MEMORY } })
      assert.include(memory.stderr, "SRCODE_GPU_MEMORY must be a number of bytes")
    }
  })
})
