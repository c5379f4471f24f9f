/**
 * Are the dependencies installed, and are they the ones the lockfile names? Compared by content, not by time stamps: a
 * fresh checkout gives every file the same age.
 */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { npm, readJson, root, SetupError, say } from "./common.mjs"

/**
 * Why `npm ci` has to run, as a short phrase; undefined when the installed tree is the locked one. Optional packages
 * (those of other platforms) may be absent.
 */
export const staleReason = (folder = root) => {
  const locked = readJson(join(folder, "package-lock.json"))
  if (locked?.packages === undefined)
    throw new SetupError("package-lock.json is missing or unreadable: check the files out again.")
  const installed = readJson(join(folder, "node_modules/.package-lock.json"))
  if (installed?.packages === undefined) return "node_modules is missing"
  for (const [path, entry] of Object.entries(locked.packages)) {
    if (!path.startsWith("node_modules/")) continue
    const present = installed.packages[path]
    if (present === undefined) {
      if (entry.optional === true || entry.devOptional === true || entry.peer === true) continue
      return `${path.slice(13)} is not installed`
    }
    if (present.version !== entry.version || present.resolved !== entry.resolved)
      return `${path.slice(13)} is not the locked version`
  }
  const manifest = readJson(join(folder, "package.json"))
  for (const name of Object.keys({ ...manifest?.dependencies, ...manifest?.devDependencies })) {
    if (!existsSync(join(folder, "node_modules", name, "package.json"))) return `${name} is not installed`
  }
  return undefined
}

/** Installs what the lockfile names. */
export const installModules = (reason) => {
  say(`setup: installing the dependencies with "npm ci" (${reason}; about 650 MB on disk, a minute)`)
  const answer = npm(["ci", "--no-audit", "--no-fund", "--loglevel=error"], { show: true, timeout: 1_200_000 })
  if (answer.status !== 0)
    throw new SetupError(
      `"npm ci" failed (${answer.stderr.trim().split("\n")[0] || `exit code ${answer.status}`}): see its messages above; network access is needed once.`
    )
}
