/** The system's package manager, used only on Debian and Ubuntu and only when we are root. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { execute, onPath, say } from "./common.mjs"

/** `{ ID, VERSION_ID, … }` of /etc/os-release; empty where there is none. */
export const osRelease = () => {
  try {
    const lines = readFileSync("/etc/os-release", "utf8").split("\n")
    return Object.fromEntries(
      lines
        .filter((line) => line.includes("="))
        .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1).replaceAll('"', "")])
    )
  } catch {
    return {}
  }
}

export const isRoot = () => typeof process.getuid === "function" && process.getuid() === 0
export const aptUsable = () => process.platform === "linux" && isRoot() && onPath("apt-get")

const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" }
const settings = [
  "-qq",
  "-o",
  "Acquire::http::Timeout=20",
  "-o",
  "Acquire::https::Timeout=20",
  "-o",
  "Acquire::Retries=1",
  "-o",
  "DPkg::Lock::Timeout=60"
]
const apt = (args) => execute("apt-get", [...settings, ...args], { env: environment, timeout: 600_000 })

let updated = false
const update = () => {
  if (updated) return
  updated = true
  say("setup: refreshing the package lists (apt-get update)")
  apt(["update"])
}

/** What a package depends on directly, by name. */
export const dependsOn = (name) =>
  [...execute("apt-cache", ["depends", name], { timeout: 60_000 }).stdout.matchAll(/^\s*Depends:\s*(\S+)/gm)].map(
    (match) => match[1]
  )

/**
 * Installs packages, from `suite` when given. Returns undefined on success, else the first line of what went wrong.
 */
export const install = (names, suite) => {
  update()
  say(`setup: installing ${names.join(", ")} (apt-get install${suite === undefined ? "" : ` -t ${suite}`})`)
  const answer = apt([
    "install",
    "-y",
    "--no-install-recommends",
    ...(suite === undefined ? [] : ["-t", suite]),
    ...names
  ])
  if (answer.status === 0) return undefined
  const lines = answer.stderr.trim().split("\n")
  return lines.find((line) => line.startsWith("E:")) ?? lines[0] ?? "apt-get failed"
}

const sourceTexts = () => {
  const folder = "/etc/apt/sources.list.d"
  const files = [
    "/etc/apt/sources.list",
    ...(existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [])
  ]
  return files.filter((file) => existsSync(file)).map((file) => readFileSync(file, "utf8"))
}

/**
 * Makes Debian 12's backports suite available, from the mirror the system already uses. Returns false when no mirror
 * of the suite can be told from the system's own settings.
 */
export const enableBackports = (suite) => {
  const texts = sourceTexts()
  if (texts.some((text) => text.split("\n").some((line) => !line.startsWith("#") && line.includes(suite)))) return true
  const mirror = texts
    .map((text) => /^(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(https?:\/\/\S+\/debian\/?)(?=\s|$)/m.exec(text)?.[1])
    .find((found) => found !== undefined)
  if (mirror === undefined) return false
  const file = "/etc/apt/sources.list.d/srcode-backports.list"
  say(`setup: adding ${suite} to the package sources (${file})`)
  writeFileSync(file, `deb ${mirror} ${suite} main\n`)
  updated = false
  return true
}
