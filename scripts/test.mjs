/**
 * `npm test`: set-up, lint, generated files, type checks and every workspace's tests, then one closing line.
 *
 * turbo keeps each workspace's result with its inputs, so an unchanged workspace is not run again; its counts come
 * back with the restored `.vitest/results.json`. Stale counts are removed first, so that a workspace whose tests
 * could not start is counted as failed and never as what it was before.
 */
import { existsSync, readdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { execute, readJson, root, say, toolPath } from "./lib/common.mjs"
import { describeDriver } from "./lib/driver.mjs"
import { closingLine, countResults } from "./lib/results.mjs"
import { prepare, runScript } from "./setup.mjs"

/** Folders of the workspaces (`packages/*` and plain names), as in the root package.json. */
const workspaces = () =>
  readJson(join(root, "package.json")).workspaces.flatMap((pattern) =>
    pattern.endsWith("/*")
      ? readdirSync(join(root, pattern.slice(0, -2))).map((name) => join(pattern.slice(0, -2), name))
      : [pattern]
  )

const hasTests = (folder) => {
  const walk = (path) =>
    readdirSync(path, { withFileTypes: true }).some((entry) =>
      entry.isDirectory()
        ? entry.name !== "node_modules" && walk(join(path, entry.name))
        : entry.name.endsWith(".test.ts")
    )
  return walk(join(root, folder))
}

const resultsOf = (folder) => join(root, folder, ".vitest/results.json")

const main = () => {
  const started = process.hrtime.bigint()
  const { driver, environment, node } = prepare({ device: process.env.SRCODE_DEVICE ?? "auto" })
  say(`test: Node ${node.version}, ${driver === undefined ? "no driver" : describeDriver(driver)}`)
  const env = {
    ...environment,
    PATH: toolPath(),
    SRCODE_ADAPTER: driver?.adapter ?? "none",
    TURBO_TELEMETRY_DISABLED: "1",
    DO_NOT_TRACK: "1"
  }
  const total = { passed: 0, failed: 0, skipped: 0 }
  const failures = []
  const check = (name, command, args) => {
    say(`test: ${name}`)
    if (execute(command, args, { env, show: true, timeout: 4_800_000 }).status === 0) return true
    failures.push(name)
    return false
  }

  const bin = (name) => join(root, "node_modules/.bin", name)
  check("lint", bin("turbo"), ["run", "//#lint", "--output-logs=new-only", "--no-update-notifier"])
  const codegen = join(root, "packages/gpu/scripts/codegen.ts")
  if (existsSync(codegen)) check("generated files", node.path, [codegen, "--check"])

  const tested = workspaces().filter(
    (folder) => readJson(join(root, folder, "package.json"))?.scripts?.test !== undefined && hasTests(folder)
  )
  for (const folder of tested) rmSync(resultsOf(folder), { force: true })
  const whole = check("type checks and tests", bin("turbo"), [
    "run",
    "typecheck",
    "test",
    "--concurrency=2",
    "--continue=always",
    "--output-logs=new-only",
    "--no-update-notifier"
  ])

  for (const folder of tested) {
    const report = readJson(resultsOf(folder))
    if (report === undefined) {
      total.failed += 1
      say(`test: ${folder} left no results: its tests did not run to the end`)
      continue
    }
    const counts = countResults(report)
    for (const key of Object.keys(total)) total[key] += counts[key]
    if (counts.failed > 0) say(`test: ${folder}: ${closingLine(counts)}`)
  }
  // A failed check is a failure even where no single test failed.
  total.failed += failures.length - (whole || total.failed === 0 ? 0 : 1)
  if (failures.length > 0) say(`test: failed: ${failures.join(", ")}`)
  say(`test: ${Math.round(Number(process.hrtime.bigint() - started) / 1e9)} s`)
  process.stdout.write(`${closingLine(total)}\n`)
  return total.failed === 0 ? 0 : 1
}

runScript("test", main)
