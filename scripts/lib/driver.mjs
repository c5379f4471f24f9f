/**
 * Finds or provides something Dawn can run on, in this order: a hardware adapter, Mesa's lavapipe, SwiftShader. Each
 * candidate counts only after Dawn really started on it in a child process and computed a few numbers.
 *
 * The result is kept in `.srcode/env.json`: `{ VK_DRIVER_FILES?, LD_LIBRARY_PATH?, driver, adapter, choice,
 * fingerprint }`. The first two have to be in the environment before the program starts (the Vulkan loader and the
 * dynamic linker read them once), which is why a script sets them and not the program.
 */
import { existsSync, readdirSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { aptUsable, enableBackports, install, osRelease } from "./apt.mjs"
import { execute, programNode, readJson, root, SetupError, say, state, writeJson } from "./common.mjs"
import { installSwiftshader, swiftshaderFolder, swiftshaderPresent } from "./swiftshader.mjs"

export const choices = ["auto", "hardware", "lavapipe", "swiftshader"]

const manifestFolders = [
  "/usr/share/vulkan/icd.d",
  "/usr/local/share/vulkan/icd.d",
  "/etc/vulkan/icd.d",
  "/usr/local/nvidia/share/vulkan/icd.d"
]
const manifests = () =>
  manifestFolders.flatMap((folder) =>
    existsSync(folder)
      ? readdirSync(folder)
          .sort()
          .map((name) => join(folder, name))
      : []
  )

const lavapipeManifest = () => manifests().find((path) => /\/lvp_icd[^/]*\.json$/.test(path))
/** The driver a GPU container mounts outside the loader's own search path. */
const mountedManifest = () => manifests().find((path) => path.startsWith("/usr/local/nvidia/"))
const gpuInSight = () => existsSync("/dev/nvidia0") || existsSync("/dev/dri/renderD128") || existsSync("/dev/dxg")

/** A driver the user chose in the environment: it stands above everything but a device named on the command line. */
const ownDriver = () => process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES

/** Changes when a driver is installed or removed, or when Dawn changes. */
const fingerprint = (choice) => {
  const parts = manifests().map((path) => `${path}@${Math.floor(statSync(path).mtimeMs)}`)
  const dawn = readJson(join(root, "node_modules/webgpu/package.json"))?.version ?? "none"
  return [choice, dawn, gpuInSight() ? "gpu" : "", ...parts].join("|")
}

/**
 * The variables of `saved`, laid over the environment. Mesa complains on stderr when XDG_RUNTIME_DIR is unset, so it
 * gets a harmless value then.
 */
export const overlay = (saved, base = process.env) => {
  const environment = { ...base, XDG_RUNTIME_DIR: base.XDG_RUNTIME_DIR ?? tmpdir() }
  if (saved?.VK_DRIVER_FILES !== undefined) environment.VK_DRIVER_FILES = saved.VK_DRIVER_FILES
  if (saved?.LD_LIBRARY_PATH !== undefined) {
    environment.LD_LIBRARY_PATH = [saved.LD_LIBRARY_PATH, base.LD_LIBRARY_PATH].filter(Boolean).join(delimiter)
  }
  return environment
}

/** Starts Dawn in a child with these variables: `{ name, software, … }`, or `{ reason }`. */
export const probe = (variables) => {
  const environment = { ...process.env, XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? tmpdir(), ...variables }
  const answer = execute(programNode().path, [join(root, "scripts/probe.mjs")], { env: environment, timeout: 90_000 })
  const line = answer.stdout.trim().split("\n").at(-1) ?? ""
  let said = {}
  try {
    said = JSON.parse(line)
  } catch {
    // a driver that ends the process leaves no line: the status below tells
  }
  if (answer.status === 0 && typeof said.name === "string") return said
  const reason =
    said.reason ??
    (answer.status === null ? "it did not start or did not answer within 90 s" : `it ended with code ${answer.status}`)
  return { reason }
}

const attempt = (driver, variables, accept) => {
  const found = probe(variables)
  if (found.reason !== undefined) return { reason: found.reason }
  return accept(found) ? { driver, adapter: found.name, variables } : { reason: `it is ${found.name}` }
}

/** Tries each set of variables; the first that works, else the last reason. */
const firstOf = (driver, sets, accept) => {
  let last = { reason: "not found" }
  for (const variables of sets) {
    last = attempt(driver, variables, accept)
    if (last.driver !== undefined) return last
  }
  return last
}

const ownLoader = () => ({ LD_LIBRARY_PATH: swiftshaderFolder() })

const hardware = (allowInstall) => {
  const accept = (found) => found.software === false
  const mounted = mountedManifest()
  const sets = [{}, ...(mounted === undefined ? [] : [{ VK_DRIVER_FILES: mounted }])]
  const first = firstOf("hardware", sets, accept)
  if (first.driver !== undefined || process.platform !== "linux" || !gpuInSight() || !allowInstall) return first
  // A GPU is there and nothing answers: what is missing most often is the loader, libvulkan.so.1.
  if (aptUsable()) {
    install(["libvulkan1"])
  } else if (!swiftshaderPresent()) {
    try {
      installSwiftshader()
    } catch (error) {
      return { reason: `${first.reason}; ${error.message}` }
    }
  }
  return firstOf(
    "hardware",
    [...sets, ...(swiftshaderPresent() ? sets.map((set) => ({ ...set, ...ownLoader() })) : [])],
    accept
  )
}

const installLavapipe = () => {
  const { ID, VERSION_ID, VERSION_CODENAME } = osRelease()
  if (ID === "debian" && VERSION_ID === "12") {
    const suite = `${VERSION_CODENAME}-backports`
    return enableBackports(suite)
      ? install(["mesa-vulkan-drivers", "libvulkan1"], suite)
      : `no mirror of ${suite} is configured`
  }
  return install(["mesa-vulkan-drivers", "libvulkan1"])
}

const lavapipe = (allowInstall) => {
  const tryIt = () => {
    const manifest = lavapipeManifest()
    if (manifest === undefined) return { reason: "not installed" }
    return attempt("lavapipe", { VK_DRIVER_FILES: manifest }, (found) => /llvmpipe/i.test(found.name))
  }
  const first = tryIt()
  if (first.driver !== undefined || !allowInstall || process.platform !== "linux") return first
  if (!aptUsable())
    return {
      reason: `${first.reason}; as root on Debian or Ubuntu the set-up would install it (package mesa-vulkan-drivers, 23.1 or newer)`
    }
  const failure = installLavapipe()
  return failure === undefined ? tryIt() : { reason: failure }
}

const swiftshader = (allowInstall) => {
  const variables = { VK_DRIVER_FILES: join(swiftshaderFolder(), "vk_swiftshader_icd.json") }
  const accept = (found) => /swiftshader/i.test(found.name)
  if (!swiftshaderPresent()) {
    if (!allowInstall) return { reason: "not installed" }
    try {
      installSwiftshader()
    } catch (error) {
      return { reason: error.message }
    }
  }
  return firstOf("swiftshader", [variables, { ...variables, ...ownLoader() }], accept)
}

const finders = { hardware, lavapipe, swiftshader }

const savedPath = (choice) => join(state, choice === "auto" ? "env.json" : `env.${choice}.json`)

/** The saved answer for a choice, when nothing has changed since and its files are still there. */
export const savedDriver = (choice) => {
  const own = ownDriver()
  if (choice === "auto" && own !== undefined) return { driver: "environment", adapter: own, choice }
  const saved = readJson(savedPath(choice))
  if (saved === undefined || saved.fingerprint !== fingerprint(saved.choice)) return undefined
  const files = [saved.VK_DRIVER_FILES, saved.LD_LIBRARY_PATH].filter((path) => path !== undefined)
  return files.every((path) => existsSync(path)) ? saved : undefined
}

const tryOwn = (own) => {
  const found = probe({})
  return found.reason === undefined
    ? { driver: "environment", adapter: found.name, choice: "auto" }
    : { driver: "none", adapter: null, choice: "auto", reasons: { [`your own setting ${own}`]: found.reason } }
}

/**
 * Finds a driver for a choice and saves it. `allowInstall: false` only looks. With no driver the answer has
 * `driver: "none"` and the reasons, and nothing is tried again until `retry` or until something on the system changes.
 * `keep` makes the answer the one that every later command uses.
 */
export const ensureDriver = ({ choice, allowInstall, retry, keep = false }) => {
  const kept = savedDriver(choice)
  if (kept?.driver === "environment" && !keep) return retry ? tryOwn(ownDriver()) : kept
  const saved = keep && kept?.choice !== choice ? undefined : kept
  if (saved !== undefined && saved.driver !== "environment" && !(retry && saved.driver === "none")) return saved
  const order = choice === "auto" ? ["hardware", "lavapipe", "swiftshader"] : [choice]
  const reasons = {}
  let result = { driver: "none", adapter: null }
  say(`setup: looking for a Vulkan driver (${order.join(", then ")})`)
  for (const driver of order) {
    const found = finders[driver](allowInstall)
    if (found.driver !== undefined) {
      result = { ...found.variables, driver, adapter: found.adapter }
      break
    }
    reasons[driver] = found.reason
  }
  const answer = {
    ...result,
    choice,
    fingerprint: fingerprint(choice),
    ...(result.driver === "none" ? { reasons } : {})
  }
  if (allowInstall) {
    writeJson(savedPath(choice), answer)
    if (keep) writeJson(savedPath("auto"), answer)
  }
  return answer
}

/** One line on what was found, or on what to do. */
export const describeDriver = (answer) =>
  answer.driver === "none"
    ? `no Vulkan driver works here (${Object.entries(answer.reasons ?? {})
        .map(([name, why]) => `${name}: ${why}`)
        .join("; ")})`
    : `${answer.adapter} (${answer.driver})`

/** Fails with one line when a choice that was asked for cannot be had. */
export const requireDriver = (answer) => {
  if (answer.driver === "none")
    throw new SetupError(
      `${describeDriver(answer)}. Install a Vulkan driver for your GPU, or Mesa's lavapipe 23.1 or newer, and run "npm run setup".`
    )
}
