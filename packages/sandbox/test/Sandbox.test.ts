/** Real bubblewrap, real compilers, real faults. Skipped as a whole, with the reason, where bubblewrap is missing. */
import { spawn, spawnSync } from "node:child_process"
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Fiber, Layer } from "effect"
import { defaultLimits, Sandbox, type SandboxJob, type SandboxResult } from "../src/index.ts"

const status = await Effect.runPromise(Sandbox.use((sandbox) => sandbox.status).pipe(Effect.provide(Sandbox.layer)))
const suite = describe.skipIf(!status.available)
const title = status.available ? "with bubblewrap" : `with bubblewrap (skipped: ${status.detail})`

const run = (job: SandboxJob) => Sandbox.use((sandbox) => sandbox.run(job))
const sh = (script: string, more: Partial<SandboxJob> = {}) =>
  run({ files: { "run.sh": script }, argv: ["/bin/sh", "/job/run.sh"], ...more })
const test = (name: string, body: () => Effect.Effect<void, unknown, Sandbox>) =>
  it.live(name, () => body().pipe(Effect.provide(Sandbox.layer)))

/** Runs a C program built inside the sandbox. */
const c = (
  source: string,
  limits: SandboxJob["limits"] = {},
  flags = "-O1"
): Effect.Effect<SandboxResult, unknown, Sandbox> =>
  run({
    files: { "main.c": source, "run.sh": `gcc ${flags} -o a.out /job/main.c || exit 125\nexec ./a.out` },
    argv: ["/bin/sh", "/job/run.sh"],
    limits
  })

/** How many processes of the host's view run `sleep <marker>`. */
const sleepers = (marker: string): number =>
  readdirSync("/proc").filter((entry) => {
    try {
      return /^\d+$/.test(entry) && readFileSync(`/proc/${entry}/cmdline`, "utf8") === `sleep\0${marker}\0`
    } catch {
      return false
    }
  }).length

suite(title, () => {
  test("hands over files, arguments, stdin and environment exactly, and returns both streams", () =>
    Effect.gen(function* () {
      const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
      const result = yield* run({
        files: { "run.sh": 'cat; od -An -v -tx1 /job/sub/all.bin; echo "$1|$X" >&2', "sub/all.bin": bytes },
        argv: ["/bin/sh", "/job/run.sh", "a b;$(id) é"],
        stdin: "in: ü\n",
        env: { X: "y z" }
      })
      const lines = result.stdout.split("\n")
      assert.strictEqual(lines[0], "in: ü")
      const hex = lines.slice(1).join(" ").trim().split(/\s+/)
      assert.deepStrictEqual(
        hex,
        Array.from(bytes, (b) => b.toString(16).padStart(2, "0"))
      )
      assert.strictEqual(result.stderr, "a b;$(id) é|y z\n")
      assert.deepInclude(result, { exitCode: 0, signal: null, timedOut: false, truncated: false })
    }))

  test("a large file arrives whole", () =>
    Effect.gen(function* () {
      const big = "x".repeat(5_000_000)
      const result = yield* run({ files: { big, other: "y" }, argv: ["/usr/bin/wc", "-c", "/job/big", "/job/other"] })
      assert.match(result.stdout, /5000000 \/job\/big\n\s+1 \/job\/other/)
    }))

  test("exit codes and signals come through", () =>
    Effect.gen(function* () {
      for (const code of [0, 1, 2, 77, 127]) assert.strictEqual((yield* sh(`exit ${code}`)).exitCode, code)
      assert.deepInclude(yield* sh("kill -SEGV $$"), { exitCode: 139, signal: "SIGSEGV", timedOut: false })
      assert.deepInclude(yield* c("#include <stdlib.h>\nint main(void){abort();}"), {
        exitCode: 134,
        signal: "SIGABRT"
      })
    }))

  test("no network: not the host's loopback, not the outside", () =>
    Effect.gen(function* () {
      let connections = 0
      const server = createServer((socket) => {
        connections++
        socket.destroy()
      })
      const port = yield* Effect.promise<number>(
        () =>
          new Promise((resolve) =>
            server.listen(0, "127.0.0.1", () => {
              const address = server.address()
              resolve(typeof address === "object" && address !== null ? address.port : 0)
            })
          )
      )
      const result = yield* c(`
        #include <stdio.h>
        #include <string.h>
        #include <errno.h>
        #include <arpa/inet.h>
        #include <sys/socket.h>
        static void try(const char *ip, int port) {
          struct sockaddr_in a; memset(&a, 0, sizeof a);
          a.sin_family = AF_INET; a.sin_port = htons(port); inet_pton(AF_INET, ip, &a.sin_addr);
          int s = socket(AF_INET, SOCK_STREAM, 0);
          printf("%s %d\\n", ip, connect(s, (struct sockaddr *)&a, sizeof a) == 0);
        }
        int main(void) { try("127.0.0.1", ${port}); try("1.1.1.1", 80); try("169.254.169.254", 80); }`)
      server.close()
      assert.strictEqual(result.stdout, "127.0.0.1 0\n1.1.1.1 0\n169.254.169.254 0\n")
      assert.strictEqual(connections, 0)
    }))

  test("host files, host processes and host environment are invisible; only /tmp can be written", () =>
    Effect.gen(function* () {
      const result = yield* sh(
        `for f in /etc/passwd /etc/hostname /root /home /sys /var /run ${process.cwd()} /proc/${process.pid}/environ; do
           [ -e "$f" ] && echo "sees $f"; done
         ls /tmp; id -u; ls -d /proc/[0-9]* | wc -l
         tr '\\0' '\\n' < /proc/1/environ; ls -l /proc/self/fd | sed 1d | grep -v -e /proc/ -e /dev/null | wc -l
         for d in / /job /usr /usr/bin /dev/nothere /tmp; do touch $d/probe 2>/dev/null && echo "writes $d"; done
         env | sort`
      )
      const lines = result.stdout.trim().split("\n")
      assert.isFalse(result.stdout.includes("sees "), result.stdout)
      assert.strictEqual(lines[0], "65534")
      assert.isAtMost(Number(lines[1]), 5)
      assert.strictEqual(lines[2], "3", "only the three standard streams lead out of the sandbox")
      assert.strictEqual(lines[3], "writes /tmp")
      assert.deepStrictEqual(
        lines.slice(4).filter((line) => !/^(PWD|OLDPWD|SHLVL|_)=/.test(line)),
        ["HOME=/tmp", "LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin", "TMPDIR=/tmp"]
      )
    }))

  test("a descriptor this process inherited and did not close is not handed on", () =>
    Effect.gen(function* () {
      const folder = mkdtempSync(join(tmpdir(), "srcode-secret-"))
      writeFileSync(join(folder, "secret"), "host secret")
      const secret = openSync(join(folder, "secret"), "r")
      const script = `
        import { Effect } from "effect"
        import { Sandbox } from "${new URL("../src/index.ts", import.meta.url).href}"
        const job = { files: {}, argv: ["/bin/sh", "-c", "cat /proc/self/fd/40; ls -l /proc/self/fd/40"] }
        const result = await Effect.runPromise(Sandbox.use((s) => s.run(job)).pipe(Effect.provide(Sandbox.layer)))
        process.stdout.write(result.stdout)`
      const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
        cwd: new URL("..", import.meta.url),
        // Far above the range in which Node itself sets close-on-exec at start.
        stdio: Array.from({ length: 41 }, (_, fd) => (fd === 40 ? secret : fd === 1 || fd === 2 ? "pipe" : "ignore")),
        encoding: "utf8"
      })
      closeSync(secret)
      rmSync(folder, { recursive: true })
      assert.match(child.stdout, /^[^\n]*\/dev\/null\n$/, child.stderr)
    }))

  test("compilers cannot read host files either (.incbin, #include)", () =>
    Effect.gen(function* () {
      const included = yield* c('#include "/etc/passwd"\nint main(void){return 0;}')
      assert.strictEqual(included.exitCode, 125)
      assert.isFalse(included.stderr.includes("root:"))
      const incbin = yield* c('__asm__(".incbin \\"/etc/passwd\\"");int main(void){return 0;}')
      assert.strictEqual(incbin.exitCode, 125)
    }))

  test("an endless program is killed at the wall clock with all its descendants, also one that ignores SIGTERM", () =>
    Effect.gen(function* () {
      const result = yield* sh('trap "" TERM INT HUP; (trap "" TERM; sleep 1000) & echo started; sleep 1000', {
        limits: { wallMs: 400 }
      })
      assert.deepInclude(result, { exitCode: null, signal: "SIGKILL", timedOut: true, stdout: "started\n" })
      assert.isAtLeast(result.wallMs, 390)
      assert.isAtMost(result.wallMs, 3000)
    }))

  test("a grandchild that keeps the pipes open does not keep the job open", () =>
    Effect.gen(function* () {
      const result = yield* sh("(sleep 1000) & exit 7", { limits: { wallMs: 5000 } })
      assert.deepInclude(result, { exitCode: 7, timedOut: false })
      assert.isAtMost(result.wallMs, 2000)
    }))

  test("output past the cap is drained: the program ends by itself", () =>
    Effect.gen(function* () {
      const result = yield* sh("head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2; exit 4", {
        limits: { outputBytes: 1000 }
      })
      assert.deepInclude(result, { exitCode: 4, stdout: "x".repeat(1000), stderr: "done\n", truncated: true })
    }))

  test("an endless flood of output is killed", () =>
    Effect.gen(function* () {
      const result = yield* run({ files: {}, argv: ["/usr/bin/yes"], limits: { wallMs: 30_000 } })
      assert.deepInclude(result, { signal: "SIGKILL", truncated: true, timedOut: false })
      assert.strictEqual(result.stdout.length, defaultLimits.outputBytes)
    }))

  test("processor time, file size and memory limits hold", () =>
    Effect.gen(function* () {
      const spin = yield* c("int main(void){for(volatile int i=0;;)i++;}", { cpuSeconds: 1, wallMs: 20_000 })
      assert.deepInclude(spin, { exitCode: 152, signal: "SIGXCPU", timedOut: false })
      const file = yield* sh("head -c 2000000 /dev/zero > f; echo $?; stat -c %s f", {
        limits: { fileBytes: 1_000_000 }
      })
      assert.match(file.stdout, /^153\n1000000\n$/)
      const tmp = yield* sh("head -c 3000000 /dev/zero > f; echo $?", { limits: { tmpBytes: 1_000_000 } })
      assert.strictEqual(tmp.stdout, "1\n")
      const memory = yield* c(
        '#include <stdlib.h>\n#include <stdio.h>\nint main(void){printf("%d", malloc(900ul<<20)!=NULL);}',
        { memoryBytes: 512 * 1024 * 1024 }
      )
      assert.strictEqual(memory.stdout, "0")
    }))

  test("a fork bomb stays small and dies", () =>
    Effect.gen(function* () {
      const bomb = yield* c(
        `#include <stdio.h>
         #include <unistd.h>
         int main(void) {
           int made = 0;
           for (int i = 0; i < 5000; i++) { int p = fork(); if (p == 0) { sleep(100); _exit(0); } if (p < 0) break; made++; }
           printf("%d", made);
         }`,
        { processes: 40, wallMs: 20_000 }
      )
      assert.strictEqual(bomb.exitCode, 0)
      assert.isAbove(Number(bomb.stdout), 5)
      if (process.getuid?.() === 0) assert.isBelow(Number(bomb.stdout), 41)
      assert.isBelow(Number(bomb.stdout), 5000)
    }))

  test("AddressSanitizer works when the address space is not limited", () =>
    Effect.gen(function* () {
      const result = yield* c(
        "#include <stdlib.h>\nint main(void){char*p=malloc(4);free(p);return p[1];}",
        { memoryBytes: null },
        "-O0 -g -fsanitize=address"
      )
      assert.match(result.stderr, /AddressSanitizer: heap-use-after-free/)
      assert.strictEqual(result.exitCode, 1)
    }))

  test("interruption kills every process of the job before it completes", () =>
    Effect.gen(function* () {
      const marker = `7${process.pid}31`
      const fiber = yield* Effect.forkChild(sh(`sleep ${marker} & sleep ${marker}`, { limits: { wallMs: 60_000 } }))
      for (let i = 0; i < 200 && sleepers(marker) < 2; i++) yield* Effect.sleep(10)
      assert.strictEqual(sleepers(marker), 2)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(sleepers(marker), 0)
    }))

  test("kill -9 of this process takes its jobs along", () =>
    Effect.gen(function* () {
      const marker = `8${process.pid}32`
      const script = `
        import { Effect } from "effect"
        import { Sandbox } from "${new URL("../src/index.ts", import.meta.url).href}"
        const job = { files: {}, argv: ["/bin/sh", "-c", "sleep ${marker} & sleep ${marker}"], limits: { wallMs: 60000 } }
        await Effect.runPromise(Sandbox.use((s) => s.run(job)).pipe(Effect.provide(Sandbox.layer)))`
      const parent = spawn(process.execPath, ["--input-type=module", "-e", script], {
        cwd: new URL("..", import.meta.url),
        stdio: "ignore"
      })
      for (let i = 0; i < 500 && sleepers(marker) < 2; i++) yield* Effect.sleep(10)
      assert.strictEqual(sleepers(marker), 2)
      parent.kill("SIGKILL")
      for (let i = 0; i < 300 && sleepers(marker) > 0; i++) yield* Effect.sleep(10)
      assert.strictEqual(sleepers(marker), 0)
    }))

  test("a command that does not exist is an error of the job, not a result", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(run({ files: {}, argv: ["/usr/bin/no-such-tool"] }))
      assert.match(String(error), /did not start: bwrap: execvp \/usr\/bin\/no-such-tool/)
    }))

  test("malformed jobs are refused before anything runs", () =>
    Effect.gen(function* () {
      const jobs: ReadonlyArray<readonly [SandboxJob, RegExp]> = [
        [{ files: {}, argv: [] }, /argv is empty/],
        [{ files: { "../x": "" }, argv: ["true"] }, /file name "..\/x"/],
        [{ files: { "/etc/x": "" }, argv: ["true"] }, /file name/],
        [{ files: { "-o": "" }, argv: ["true"] }, /file name/],
        [{ files: {}, argv: ["true", "a\0b"] }, /NUL/],
        [{ files: {}, argv: ["true"], env: { "A=B": "" } }, /environment/],
        [{ files: {}, argv: ["true"], limits: { wallMs: Number.NaN } }, /limit wallMs/],
        [
          { files: Object.fromEntries(Array.from({ length: 257 }, (_, i) => [`f${i}`, ""])), argv: ["true"] },
          /257 files/
        ]
      ]
      for (const [job, message] of jobs) assert.match(String(yield* Effect.flip(run(job))), message)
    }))

  test("256 files fit, jobs run side by side, and the overhead is small", () =>
    Effect.gen(function* () {
      const files = Object.fromEntries(Array.from({ length: 256 }, (_, i) => [`f${i}`, String(i)]))
      const many = yield* run({ files, argv: ["/bin/sh", "-c", "cat /job/* | wc -c"] })
      assert.strictEqual(many.stdout.trim(), String(Object.values(files).join("").length))
      const results = yield* Effect.forEach(
        Array.from({ length: 40 }, (_, i) => i),
        (i) => sh(`echo ${i}`),
        {
          concurrency: 4
        }
      )
      assert.deepStrictEqual(
        results.map((r) => r.stdout),
        Array.from({ length: 40 }, (_, i) => `${i}\n`)
      )
      const quickest = Math.min(...results.map((r) => r.wallMs))
      assert.isBelow(quickest, 100, `${quickest} ms for an empty job`)
    }))
})

describe("without a working bubblewrap", () => {
  const withConfig = (settings: Record<string, string>) =>
    Sandbox.layer.pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(settings))))
  const job: SandboxJob = { files: {}, argv: ["/bin/sh", "-c", "exit 0"] }

  it.live("refuses to execute and says what to install", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(run(job))
      assert.strictEqual(error.reason._tag, "SandboxUnavailable")
      assert.match(error.message, /apt install bubblewrap/)
      assert.isFalse(error.message.includes("\n"))
      const found = yield* Sandbox.use((sandbox) => sandbox.status)
      assert.isFalse(found.available)
    }).pipe(Effect.provide(withConfig({ PATH: "/nonexistent" })))
  )

  it.live("a configured path that is no executable is named", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(run(job))
      assert.match(error.message, /BWRAP_PATH is \/nonexistent\/bwrap/)
    }).pipe(Effect.provide(withConfig({ PATH: "/usr/bin:/bin", BWRAP_PATH: "/nonexistent/bwrap" })))
  )

  it.live("a bwrap that cannot make namespaces is refused, and the job never runs", () =>
    Effect.gen(function* () {
      const folder = mkdtempSync(join(tmpdir(), "srcode-bwrap-"))
      const fake = join(folder, "bwrap")
      writeFileSync(fake, "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n", {
        mode: 0o755
      })
      const error = yield* Effect.flip(run(job)).pipe(
        Effect.provide(withConfig({ PATH: "/usr/bin:/bin", BWRAP_PATH: fake }))
      )
      rmSync(folder, { recursive: true })
      assert.isFalse(existsSync(folder))
      assert.match(error.message, /does not work here .*uid map: Permission denied.*user namespaces/)
    })
  )
})

describe("layerTest", () => {
  it.effect("answers by the function", () =>
    Effect.gen(function* () {
      const result = yield* run({ files: {}, argv: ["x", "y"] })
      assert.deepInclude(result, { stdout: "y", exitCode: 0, timedOut: false })
    }).pipe(Effect.provide(Sandbox.layerTest((job) => ({ stdout: job.argv[1] ?? "" }))))
  )
})
