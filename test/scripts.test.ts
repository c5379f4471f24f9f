/**
 * The set-up and start scripts: what they decide (as functions) and how they behave (as processes in a copy). Nothing
 * here installs anything or needs a network.
 */
import { execFileSync, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"

const scripts = nodePath.resolve(import.meta.dirname, "../scripts")
/** The scripts are plain JavaScript without types, so they are loaded by name. */
const load = (name: string) => import(pathToFileURL(nodePath.join(scripts, name)).href)

const inFolder = async <A>(use: (folder: string) => A | Promise<A>): Promise<A> => {
  const folder = fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-scripts-"))
  try {
    return await use(folder)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

const write = (path: string, value: unknown) => {
  fs.mkdirSync(nodePath.dirname(path), { recursive: true })
  fs.writeFileSync(path, typeof value === "string" ? value : JSON.stringify(value))
}

interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

const start = (
  args: ReadonlyArray<string>,
  options: {
    readonly env?: Record<string, string>
    readonly onOutput?: (kill: (signal: NodeJS.Signals) => void) => void
  } = {}
): Promise<Ended> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      env: { ...process.env, ...options.env },
      stdio: ["ignore", "pipe", "pipe"]
    })
    const text = { stdout: "", stderr: "" }
    child.stdout.on("data", (data) => {
      text.stdout += String(data)
      options.onOutput?.((signal) => child.kill(signal))
    })
    child.stderr.on("data", (data) => {
      text.stderr += String(data)
    })
    child.on("error", reject)
    child.on("close", (code, signal) => resolve({ code, signal, ...text }))
  })

describe("are the dependencies installed", () => {
  const lock = {
    packages: {
      "": { name: "root" },
      "packages/a": { name: "@x/a" },
      "node_modules/@x/a": { resolved: "packages/a", link: true },
      "node_modules/left": { version: "1.0.0", resolved: "r1" },
      "node_modules/for-another-system": { version: "2.0.0", resolved: "r2", optional: true }
    }
  }
  const installed = {
    packages: {
      "node_modules/@x/a": { resolved: "packages/a", link: true },
      "node_modules/left": { version: "1.0.0", resolved: "r1" }
    }
  }
  const reason = async (change: (folder: string) => void) => {
    const { staleReason } = await load("lib/modules.mjs")
    return inFolder((folder) => {
      write(nodePath.join(folder, "package-lock.json"), lock)
      write(nodePath.join(folder, "package.json"), { dependencies: { left: "1.0.0" } })
      write(nodePath.join(folder, "node_modules/.package-lock.json"), installed)
      write(nodePath.join(folder, "node_modules/left/package.json"), {})
      change(folder)
      return staleReason(folder)
    })
  }
  const replace = (packages: Record<string, unknown>) => (folder: string) =>
    write(nodePath.join(folder, "node_modules/.package-lock.json"), { packages })

  it("yes, when the installed tree is the locked one; other systems' packages may be absent", async () =>
    assert.isUndefined(await reason(() => {})))
  it("no, without node_modules", async () =>
    assert.include(
      await reason((folder) => fs.rmSync(nodePath.join(folder, "node_modules"), { recursive: true })),
      "missing"
    ))
  it("no, with another version", async () =>
    assert.include(
      await reason(replace({ ...installed.packages, "node_modules/left": { version: "0.9.0", resolved: "r1" } })),
      "left is not the locked version"
    ))
  it("no, when a workspace was added since", async () =>
    assert.include(
      await reason(replace({ "node_modules/left": { version: "1.0.0", resolved: "r1" } })),
      "@x/a is not installed"
    ))
  it("no, when somebody deleted a package", async () =>
    assert.include(
      await reason((folder) => fs.rmSync(nodePath.join(folder, "node_modules/left"), { recursive: true })),
      "left is not installed"
    ))
})

describe("what a command line means", () => {
  it("demo is a run with defaults that the user's own flags replace", async () => {
    const { plan } = await load("lib/plan.mjs")
    assert.deepStrictEqual(plan(["demo"]).args, ["run", "--preset", "demo", "--out", "runs/demo"])
    assert.deepStrictEqual(plan(["demo", "--out=x", "--limit", "3"]).args, [
      "run",
      "--preset",
      "demo",
      "--out=x",
      "--limit",
      "3"
    ])
    assert.deepStrictEqual(plan(["doctor", "--json"]), { program: "apps/cli/src/main.ts", args: ["doctor", "--json"] })
    assert.deepStrictEqual(plan(["--program", "a.ts", "b"]), { program: "a.ts", args: ["b"] })
  })

  it("the device decides which driver must be there before the start", async () => {
    const { requestedDevice } = await load("lib/plan.mjs")
    assert.strictEqual(requestedDevice(["doctor"], {}), "auto")
    assert.strictEqual(requestedDevice(["doctor"], { SRCODE_DEVICE: "lavapipe" }), "lavapipe")
    assert.strictEqual(requestedDevice(["doctor", "--device", "null"], { SRCODE_DEVICE: "lavapipe" }), "null")
    assert.strictEqual(requestedDevice(["--device=swiftshader", "doctor"], {}), "swiftshader")
  })

  it("the driver's variables are laid over the environment", async () => {
    const { overlay } = await load("lib/driver.mjs")
    const saved = { choice: "auto", VK_DRIVER_FILES: "/icd.json", LD_LIBRARY_PATH: "/lib" }
    const environment = overlay(saved, { LD_LIBRARY_PATH: "/mine", VK_DRIVER_FILES: "/other.json" })
    assert.strictEqual(environment.VK_DRIVER_FILES, "/icd.json")
    assert.strictEqual(environment.LD_LIBRARY_PATH, `/lib${nodePath.delimiter}/mine`)
    assert.isString(environment.XDG_RUNTIME_DIR)
    assert.strictEqual(overlay(undefined, { XDG_RUNTIME_DIR: "/run/me" }).XDG_RUNTIME_DIR, "/run/me")
  })
})

describe("counting results", () => {
  it("adds up tests, and counts a file that could not be loaded as a failure", async () => {
    const { closingLine, countResults } = await load("lib/results.mjs")
    const report = {
      numPassedTests: 5,
      numFailedTests: 1,
      numPendingTests: 2,
      numTodoTests: 1,
      testResults: [
        { status: "failed", assertionResults: [{ status: "failed" }, { status: "passed" }] },
        { status: "failed", assertionResults: [] },
        { status: "passed", assertionResults: [{ status: "passed" }] }
      ]
    }
    assert.deepStrictEqual(countResults(report), { passed: 5, failed: 2, skipped: 3 })
    assert.strictEqual(closingLine({ passed: 5, failed: 2, skipped: 3 }), "5 passed, 2 failed, 3 skipped")
    assert.strictEqual(closingLine({ passed: 5, failed: 0, skipped: 0 }), "5 passed, 0 failed")
  })
})

describe("unpacking", () => {
  it("reads what tar writes, and refuses a cut archive", async () => {
    const { untar } = await load("lib/swiftshader.mjs")
    await inFolder((folder) => {
      const content = Buffer.from(Array.from({ length: 1500 }, (_, index) => index % 251))
      write(nodePath.join(folder, "in/a.txt"), "alpha")
      fs.writeFileSync(nodePath.join(folder, "in/b.bin"), content)
      fs.writeFileSync(nodePath.join(folder, "in/empty"), "")
      execFileSync("tar", ["--format=ustar", "-cf", "x.tar", "in"], { cwd: folder })
      const archive = fs.readFileSync(nodePath.join(folder, "x.tar"))
      const files = new Map<string, Buffer>([...untar(archive)])
      assert.deepStrictEqual([...files.keys()].sort(), ["in/a.txt", "in/b.bin", "in/empty"])
      assert.strictEqual(files.get("in/a.txt")?.toString(), "alpha")
      assert.isTrue(files.get("in/b.bin")?.equals(content))
      assert.throws(() => [...untar(archive.subarray(0, 1200))], /damaged/)
    })
  })
})

describe("run", () => {
  const run = nodePath.join(scripts, "run.mjs")
  /** Starts a program of two lines through run.mjs; `before` are arguments to Node itself. */
  const program = (
    text: string,
    args: ReadonlyArray<string>,
    options: Parameters<typeof start>[1] = {},
    before: ReadonlyArray<string> = []
  ) =>
    inFolder((folder) => {
      const path = nodePath.join(folder, "program.ts")
      write(path, text)
      const env = { SRCODE_DEVICE: "null", ...options.env }
      return start([...before, run, "--program", path, ...args], { ...options, env })
    })
  const withoutExecve = ["--import", "data:text/javascript,process.execve = undefined"]

  for (const [name, before] of [
    ["by taking its place", []],
    ["as a child", withoutExecve]
  ] as const) {
    describe(name, () => {
      it("passes arguments, output and exit code through, and says nothing itself", async () => {
        const text = "const code: number = 7; console.log(JSON.stringify(process.argv.slice(2))); process.exit(code)"
        const ended = await program(text, ["a b", "--flag=1", ""], {}, before)
        assert.deepStrictEqual(ended, { code: 7, signal: null, stdout: '["a b","--flag=1",""]\n', stderr: "" })
      })

      it("passes a signal on to the program, which ends in order", async () => {
        const text =
          'process.on("SIGTERM", () => { console.log("closing"); process.exit(3) }); console.log("ready"); setInterval(() => {}, 1000)'
        let sent = false
        const ended = await program(
          text,
          [],
          {
            onOutput: (kill) => {
              if (!sent) kill("SIGTERM")
              sent = true
            }
          },
          before
        )
        assert.strictEqual(ended.code, 3)
        assert.strictEqual(ended.stdout, "ready\nclosing\n")
      })
    })
  }

  it("a driver of the user's own choice stays, without a search", async () => {
    const text = "console.log(process.env.VK_DRIVER_FILES)"
    const ended = await program(text, [], { env: { SRCODE_DEVICE: "auto", VK_DRIVER_FILES: "/own.json" } })
    assert.deepStrictEqual(ended, { code: 0, signal: null, stdout: "/own.json\n", stderr: "" })
  })

  it("a program that does not exist is told in one line", async () => {
    const ended = await start([run, "--program", "no/such.ts"])
    assert.deepStrictEqual(ended, {
      code: 1,
      signal: null,
      stdout: "",
      stderr: "srcode: there is no program no/such.ts.\n"
    })
  })
})

describe("setup", () => {
  /** A copy of the scripts in a checkout where nothing is installed. */
  const bare = (use: (folder: string) => Promise<void>) =>
    inFolder((folder) => {
      fs.cpSync(scripts, nodePath.join(folder, "scripts"), { recursive: true })
      write(nodePath.join(folder, "package.json"), { dependencies: { left: "1.0.0" } })
      write(nodePath.join(folder, "package-lock.json"), { packages: { "node_modules/left": { version: "1.0.0" } } })
      return use(folder)
    })

  it("--check tells what is missing and changes nothing", () =>
    bare(async (folder) => {
      const before = fs.readdirSync(folder)
      const ended = await start([nodePath.join(folder, "scripts/setup.mjs"), "--check"])
      assert.strictEqual(ended.code, 1)
      assert.include(ended.stderr, "dependencies: node_modules is missing")
      assert.deepStrictEqual(fs.readdirSync(folder), before)
    }))

  it("an unknown option or driver is refused with the choices", () =>
    bare(async (folder) => {
      for (const args of [["--chekc"], ["--driver", "abacus"], ["--driver"]]) {
        const ended = await start([nodePath.join(folder, "scripts/setup.mjs"), ...args])
        assert.strictEqual(ended.code, 1)
        assert.lengthOf(ended.stderr.trim().split("\n"), 1)
        assert.include(ended.stderr, "swiftshader")
      }
    }))

  it("takes over the lock of a set-up that died, and waits for one that lives", async () => {
    await bare(async (folder) => {
      const lock = nodePath.join(folder, ".srcode/setup.lock")
      const { href } = pathToFileURL(nodePath.join(folder, "scripts/lib/common.mjs"))
      const take = `import { withLock } from ${JSON.stringify(href)}; withLock(() => console.log("held"))`
      const dead = Number(execFileSync(process.execPath, ["-p", "process.pid"]).toString())
      write(lock, String(dead))
      const taken = await start(["--input-type=module", "-e", take])
      assert.deepStrictEqual(taken, { code: 0, signal: null, stdout: "held\n", stderr: "" })
      assert.isFalse(fs.existsSync(lock))
      write(lock, String(process.pid))
      setTimeout(() => fs.rmSync(lock), 1500)
      const waited = await start(["--input-type=module", "-e", take])
      assert.strictEqual(waited.stdout, "held\n")
      assert.include(waited.stderr, "waiting for another set-up")
    })
  })
})
