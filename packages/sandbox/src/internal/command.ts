/**
 * The command line around a job: prlimit → (setpriv →) bwrap → the job. All absolute paths, all arguments as a list.
 *
 * Unusual: job files travel through inherited pipes (`--file FD`) into a tmpfs made read-only afterwards. Nothing of a
 * job ever lies on the host's disk, so there is nothing to clean up even after `kill -9` of this process.
 */
import { constants as osConstants } from "node:os"
import type { SandboxJob, SandboxLimits } from "../SandboxJob.ts"

export interface Tools {
  readonly bwrap: string
  readonly prlimit: string
  /** Present when this process is root and can step down to an unprivileged user. */
  readonly setpriv: string | null
  /** bwrap arguments which show the system's directories: they differ between merged-/usr and split systems. */
  readonly systemArgs: ReadonlyArray<string>
  /** Processes the user already has; RLIMIT_NPROC counts those too unless the job has a user of its own. */
  readonly existingProcesses: number
}

/** First file descriptor of the job's files; 3 carries bwrap's status lines. */
export const statusFd = 3
export const firstFileFd = 4

/** At most this many files in a job: each needs a descriptor while the sandbox is set up. */
export const maxFiles = 256

const fileName = /^[A-Za-z0-9_][A-Za-z0-9_.-]*(\/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$/
const envName = /^[A-Za-z_][A-Za-z0-9_]*$/

/** What is wrong with a job, in one phrase, or undefined. */
export const jobProblem = (job: SandboxJob, limits: SandboxLimits): string | undefined => {
  if (job.argv.length === 0 || job.argv[0] === "") return "argv is empty; name the command to run"
  if (job.argv.some((argument) => argument.includes("\0"))) return "an argument holds a NUL byte"
  const names = Object.keys(job.files)
  if (names.length > maxFiles) return `${names.length} files, at most ${maxFiles} fit in one job; split it`
  const badName = names.find((name) => !fileName.test(name))
  if (badName !== undefined) return `file name ${JSON.stringify(badName)} is not a plain relative name`
  for (const [name, value] of Object.entries(job.env ?? {})) {
    if (!envName.test(name) || value.includes("\0")) return `environment entry ${JSON.stringify(name)} is not valid`
  }
  for (const [name, value] of Object.entries(limits)) {
    if (value !== null && !(Number.isInteger(value) && value > 0)) return `limit ${name} must be a positive integer`
  }
  return undefined
}

/** The full argument vector, `[command, ...arguments]`. `uid` is the unprivileged user to become, if any. */
export const commandLine = (
  tools: Tools,
  job: SandboxJob,
  limits: SandboxLimits,
  uid: number | null
): readonly [string, ...Array<string>] => {
  const names = Object.keys(job.files)
  const processes = uid === null ? tools.existingProcesses + limits.processes : limits.processes
  return [
    tools.prlimit,
    `--cpu=${limits.cpuSeconds}:${limits.cpuSeconds + 1}`,
    `--fsize=${limits.fileBytes}`,
    "--core=0",
    `--nofile=${64 + names.length}`,
    `--nproc=${processes}`,
    ...(limits.memoryBytes === null ? [] : [`--as=${limits.memoryBytes}`]),
    ...(uid === null || tools.setpriv === null
      ? []
      : [tools.setpriv, `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--no-new-privs"]),
    tools.bwrap,
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    ...["--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"],
    "--clearenv",
    ...environment(job.env ?? {}).flatMap(([name, value]) => ["--setenv", name, value]),
    ...tools.systemArgs,
    ...["--proc", "/proc", "--dev", "/dev"],
    ...["--perms", "1777", "--size", String(limits.tmpBytes), "--tmpfs", "/tmp"],
    ...["--perms", "0755", "--tmpfs", "/job"],
    ...names.flatMap((name, index) => ["--perms", "0444", "--file", String(firstFileFd + index), `/job/${name}`]),
    ...["--remount-ro", "/job", "--remount-ro", "/", "--chdir", "/tmp"],
    ...["--json-status-fd", String(statusFd), "--"],
    ...job.argv
  ]
}

const environment = (own: Readonly<Record<string, string>>): ReadonlyArray<readonly [string, string]> =>
  Object.entries({ PATH: "/usr/local/bin:/usr/bin:/bin", HOME: "/tmp", TMPDIR: "/tmp", LANG: "C.UTF-8", ...own })

// Reversed, so that of two names for one number the first wins: SIGABRT, not SIGIOT.
const signalNames = new Map(
  Object.entries(osConstants.signals)
    .reverse()
    .map(([name, number]) => [number, name])
)

/** The signal behind a shell-encoded exit code, null for an ordinary exit. */
export const signalOfExitCode = (code: number): string | null =>
  code > 128 ? (signalNames.get(code - 128) ?? null) : null

/** The `exit-code` member of bwrap's status lines; undefined when the command was never executed (or was killed). */
export const exitCodeOfStatus = (status: string): number | undefined => {
  const match = /"exit-code"\s*:\s*(\d+)/.exec(status)
  return match?.[1] === undefined ? undefined : Number(match[1])
}
