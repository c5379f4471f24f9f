/**
 * The programs that judge code: compilers, cppcheck, and bubblewrap to run things safely. All are optional to the
 * set-up: what is missing is said, and commands that need it say so again.
 */
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { aptUsable, dependsOn, install, osRelease } from "./apt.mjs"
import { onPath, readJson, say, state, writeJson } from "./common.mjs"

const clang = () => ["clang", ...[14, 15, 16, 17, 18, 19, 20, 21].map((version) => `clang-${version}`)].find(onPath)

/** clang's sanitizer runtime, a package of its own on Debian. */
const sanitizers = () => {
  const base = "/usr/lib/llvm-"
  const roots = existsSync("/usr/lib") ? readdirSync("/usr/lib").filter((name) => name.startsWith("llvm-")) : []
  return roots.some((name) => {
    const folder = join(base.slice(0, 9), name, "lib/clang")
    return existsSync(folder) && readdirSync(folder).some((version) => existsSync(join(folder, version, "lib/linux")))
  })
}

/** What is looked for: the name a person knows, whether it is there, and the package that has it. */
const wanted = () => [
  { name: "gcc", found: onPath("gcc"), packages: ["gcc", "libc6-dev"] },
  { name: "clang", found: clang() !== undefined, packages: [osRelease().VERSION_ID === "12" ? "clang-14" : "clang"] },
  { name: "clang's sanitizers", found: sanitizers(), packages: [] },
  { name: "cppcheck", found: onPath("cppcheck"), packages: ["cppcheck"] },
  { name: "bubblewrap", found: onPath("bwrap"), packages: ["bubblewrap"] },
  { name: "prlimit", found: onPath("prlimit"), packages: ["util-linux"] }
]

export const missingAnalyzers = () => wanted().filter((each) => !each.found)

const stamp = () => join(state, "analyzers.json")

/** The package with clang's sanitizers: named after the version that `clang` stands for. */
const sanitizerPackage = () => {
  const version = /clang-(\d+)/.exec(`${clang() ?? ""} ${dependsOn("clang").join(" ")}`)?.[1]
  return version === undefined ? [] : [`libclang-rt-${version}-dev`]
}

/** Installs what is missing where that is possible. A failure is a note, and is not tried again unless `retry`. */
export const ensureAnalyzers = ({ retry }) => {
  const missing = missingAnalyzers()
  if (missing.length === 0 || process.platform !== "linux") return missing
  const names = missing.map((each) => each.name).join(", ")
  if (readJson(stamp())?.missing === names && !retry) return missing
  if (aptUsable()) {
    for (const each of missing) {
      const packages = each.name === "clang's sanitizers" ? sanitizerPackage() : each.packages
      const failure = packages.length === 0 ? "no package is known for it" : install(packages)
      if (failure !== undefined) say(`setup: note: ${each.name} could not be installed (${failure})`)
    }
  }
  const left = missingAnalyzers()
  const still = left.map((each) => each.name).join(", ")
  if (left.length > 0)
    say(`setup: note: not here: ${still}. Everything else works; install them for more checks on generated code.`)
  writeJson(stamp(), { missing: still })
  return left
}
