/**
 * What to run and what came of it.
 *
 * Inside, a job sees: `/usr` of the host (read-only), its own files under `/job` (read-only), a private writable `/tmp`
 * which is also its working directory, its own `/proc` and a minimal `/dev`. No network, no host file, no host process.
 */

export interface SandboxLimits {
  /** Wall clock for the whole job, in milliseconds; then every process in it is killed. */
  readonly wallMs: number
  /** Processor time of each process, in seconds (SIGXCPU, one second later SIGKILL). */
  readonly cpuSeconds: number
  /** Largest file each process may write, in bytes (SIGXFSZ). */
  readonly fileBytes: number
  /** How much of stdout and of stderr is kept, in bytes each; the rest is read and thrown away. */
  readonly outputBytes: number
  /** Address space of each process in bytes. Must be `null` for AddressSanitizer, which reserves terabytes. */
  readonly memoryBytes: number | null
  /** Size of the writable `/tmp`, in bytes. It counts as memory of the host. */
  readonly tmpBytes: number
  /** Processes and threads alive at once. */
  readonly processes: number
}

export const defaultLimits: SandboxLimits = {
  wallMs: 10_000,
  cpuSeconds: 10,
  fileBytes: 64 * 1024 * 1024,
  outputBytes: 64 * 1024,
  memoryBytes: 2 * 1024 ** 3,
  tmpBytes: 128 * 1024 * 1024,
  processes: 64
}

export interface SandboxJob {
  /** By name below `/job`. Names are the caller's own, fixed ones (never text from a model): `[A-Za-z0-9_.-]` and `/`. */
  readonly files: Readonly<Record<string, string | Uint8Array>>
  /** Command and arguments as seen inside; several steps go into a script: `["/bin/sh", "/job/run.sh"]`. */
  readonly argv: ReadonlyArray<string>
  /** Standard input; closed at once when absent. */
  readonly stdin?: string | Uint8Array
  /** Added to the fixed PATH, HOME, TMPDIR and LANG; nothing of the host's environment is passed on. */
  readonly env?: Readonly<Record<string, string>>
  readonly limits?: Partial<SandboxLimits>
}

export interface SandboxResult {
  /** In shell encoding (128 + n after death by signal n); null when the job was killed from outside. */
  readonly exitCode: number | null
  /** The signal which ended the command: from an exit code above 128, or SIGKILL when killed from outside. */
  readonly signal: string | null
  readonly timedOut: boolean
  readonly stdout: string
  readonly stderr: string
  /** True when stdout or stderr was longer than `outputBytes`. */
  readonly truncated: boolean
  /** Real time from start to end, in milliseconds. */
  readonly wallMs: number
}
