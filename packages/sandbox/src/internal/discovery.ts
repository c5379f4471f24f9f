/** Where bubblewrap and its helpers are, and how this system lays out /usr. Read once per layer. */
import { accessSync, constants, lstatSync, readdirSync, readlinkSync } from "node:fs"
import { delimiter, join } from "node:path"
import { Config, Effect } from "effect"
import type { Tools } from "./command.ts"

export const installHint =
  "install it: `apt install bubblewrap` (Debian, Ubuntu), `dnf install bubblewrap` (Fedora), `pacman -S bubblewrap` (Arch)"

export type Discovery =
  | { readonly _tag: "Found"; readonly tools: Tools }
  | { readonly _tag: "Missing"; readonly detail: string; readonly install: string }

const missing = (detail: string, install: string): Discovery => ({ _tag: "Missing", detail, install })

export const findTools: Effect.Effect<Discovery> = Effect.gen(function* () {
  const path = yield* Config.String("PATH").pipe(Config.withDefault("/usr/local/bin:/usr/bin:/bin"))
  const configured = yield* Config.String("BWRAP_PATH").pipe(Config.withDefault(""))
  return yield* Effect.sync((): Discovery => {
    const search = path.split(delimiter)
    if (process.platform !== "linux") {
      return missing(
        `the sandbox needs Linux, this is ${process.platform}`,
        "run on Linux or in a Linux virtual machine"
      )
    }
    const bwrap = configured === "" ? findOnPath("bwrap", search) : executable(configured)
    if (bwrap === undefined) {
      return configured === ""
        ? missing("bubblewrap (bwrap) is not on PATH", installHint)
        : missing(`BWRAP_PATH is ${configured}, which is not an executable file`, "correct or unset BWRAP_PATH")
    }
    const prlimit = findOnPath("prlimit", search)
    if (prlimit === undefined) return missing("prlimit is not on PATH", "install util-linux")
    const isRoot = process.getuid?.() === 0
    const tools: Tools = {
      bwrap,
      prlimit,
      setpriv: isRoot ? (findOnPath("setpriv", search) ?? null) : null,
      systemArgs: systemArgs(),
      existingProcesses: 1024 + countThreads()
    }
    return { _tag: "Found", tools }
  })
}).pipe(Effect.catch((error) => Effect.succeed(missing(`settings cannot be read (${error.message})`, "correct them"))))

const executable = (file: string): string | undefined => {
  try {
    accessSync(file, constants.X_OK)
    return lstatSync(file).isDirectory() ? undefined : file
  } catch {
    return undefined
  }
}

const findOnPath = (name: string, search: ReadonlyArray<string>): string | undefined =>
  search
    .filter((directory) => directory.startsWith("/"))
    .map((directory) => executable(join(directory, name)))
    .find((file) => file !== undefined)

/** /usr and, beside it, /bin, /lib, …: symbolic links into /usr on most systems, real directories on a few. */
const systemArgs = (): ReadonlyArray<string> => {
  const args = ["--ro-bind", "/usr", "/usr"]
  for (const name of ["/bin", "/sbin", "/lib", "/lib64", "/lib32"]) {
    try {
      const stat = lstatSync(name)
      if (stat.isSymbolicLink()) args.push("--symlink", readlinkSync(name), name)
      else if (stat.isDirectory()) args.push("--ro-bind", name, name)
    } catch {
      // Not on this system.
    }
  }
  // The loader's cache and the targets of links such as /usr/bin/awk: no secrets in either.
  for (const name of ["/etc/ld.so.cache", "/etc/alternatives"]) args.push("--ro-bind-try", name, name)
  return args
}

/** Threads of this user, for the process limit of an ordinary user (see README, limits). */
const countThreads = (): number => {
  const uid = process.getuid?.()
  let count = 0
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue
    try {
      if (lstatSync(`/proc/${entry}`).uid === uid) count += readdirSync(`/proc/${entry}/task`).length
    } catch {
      // It ended meanwhile.
    }
  }
  return count
}
