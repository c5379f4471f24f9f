/**
 * The Hugging Face hub as this program uses it: which commit a revision is, its files, and ranges of one file. Wraps
 * @huggingface/hub, which is loaded on first use; whatever it throws becomes one line that says what to do.
 *
 * HF_ENDPOINT (default https://huggingface.co) and HF_TOKEN come from Config. Files are read as plain ranges, each
 * retried on its own, so that a lost connection costs at most one of them.
 */
import type { ListFileEntry } from "@huggingface/hub"
import { UserError } from "@srcode/domain"
import { Config, Context, Effect, Option, Redacted, Schedule } from "effect"

export interface RemoteFile {
  /** Path in the repository, checked to stay inside. */
  readonly path: string
  readonly bytes: number
  /** Names the content: SHA-256 of large files, git's SHA-1 of others. */
  readonly etag: string
  readonly checksum: "sha256" | "git"
}

export interface Hub {
  readonly endpoint: string
  /** The commit that a branch, tag or commit is. */
  commitOf(revision: string): Effect.Effect<string, UserError>
  /** The files of a commit; of the top folder only, unless `recursive`. */
  files(commit: string, recursive: boolean): Effect.Effect<ReadonlyArray<RemoteFile>, UserError>
  /** Bytes `[from, to)` of a file. */
  read(commit: string, file: RemoteFile, from: number, to: number): Effect.Effect<Uint8Array, UserError>
}

const setting = (name: string) =>
  Config.option(Config.Redacted(name)).pipe(
    Effect.mapError(() => new UserError({ message: `${name} is not a text; unset it` })),
    Effect.map((value) => (Option.isSome(value) ? Redacted.value(value.value).trim() : "")),
    Effect.map((value) => (value === "" ? undefined : value))
  )

/** How a request that may succeed later is repeated: five more times within some 10 seconds. */
export const Retries = Context.Reference<Schedule.Schedule<unknown>>("@srcode/cli/HubRetries", {
  defaultValue: () => Schedule.exponential("300 millis").pipe(Schedule.jittered, Schedule.upTo({ times: 5 }))
})

/** Opens the hub for one repository (`ORG/NAME`). */
export const connect = Effect.fn("Hub.connect")(function* (repository: string) {
  const endpoint = ((yield* setting("HF_ENDPOINT")) ?? "https://huggingface.co").replace(/\/+$/, "")
  if (!/^https?:\/\/[^\s/]+/.test(endpoint) || !URL.canParse(endpoint)) {
    return yield* new UserError({ message: `HF_ENDPOINT is ${endpoint}, not an http(s) address` })
  }
  const accessToken = yield* setting("HF_TOKEN")
  if (accessToken !== undefined && !accessToken.startsWith("hf_")) {
    return yield* new UserError({ message: "HF_TOKEN does not start with hf_; copy it again, or unset it" })
  }
  const schedule = yield* Retries
  const library = yield* Effect.promise(() => import("@huggingface/hub"))

  /** Calls the library; `what` is told when it fails. Interruption aborts the request. */
  const call = <A>(what: string, use: (fetching: typeof fetch) => Promise<A>): Effect.Effect<A, UserError> =>
    Effect.tryPromise({
      try: (signal) => use((input, init) => fetch(input, { ...init, signal }).then(rangeKept(init))),
      catch: (cause) => describeFailure({ cause, endpoint, repository, what, token: accessToken !== undefined })
    }).pipe(
      Effect.retry({ schedule, while: (failure) => failure.transient }),
      Effect.mapError(({ message }) => new UserError({ message }))
    )
  const shared = { hubUrl: endpoint, ...(accessToken === undefined ? {} : { accessToken }) }

  const hub: Hub = {
    endpoint,
    commitOf: Effect.fn("Hub.commitOf")(function* (revision: string) {
      const what = `${repository} at ${revision}`
      const { sha } = yield* call(what, (fetching) =>
        library.modelInfo({ ...shared, name: repository, revision, additionalFields: ["sha"], fetch: fetching })
      )
      if (typeof sha === "string" && /^[0-9a-f]{40}$/.test(sha)) return sha
      return yield* new UserError({ message: `${endpoint} names no commit for ${what}; is it a Hugging Face hub?` })
    }),
    files: Effect.fn("Hub.files")(function* (commit: string, recursive: boolean) {
      const entries = yield* call(`the files of ${repository}`, async (fetching) => {
        const all: Array<ListFileEntry> = []
        const pages = library.listFiles({ ...shared, repo: repository, revision: commit, recursive, fetch: fetching })
        for await (const entry of pages) all.push(entry)
        return all
      })
      const files: Array<RemoteFile> = []
      for (const entry of entries) {
        if (entry.type !== "file") continue
        const file: RemoteFile = {
          path: entry.path,
          bytes: entry.lfs?.size ?? entry.size,
          etag: entry.lfs?.oid ?? entry.oid ?? "",
          checksum: entry.lfs === undefined ? "git" : "sha256"
        }
        const digits = file.checksum === "git" ? /^[0-9a-f]{40}$/ : /^[0-9a-f]{64}$/
        if (!staysInside(file.path) || !digits.test(file.etag) || !Number.isSafeInteger(file.bytes) || file.bytes < 0) {
          return yield* new UserError({
            message: `${endpoint} lists ${JSON.stringify(entry.path)} of ${repository} with a path, size or checksum that cannot be; nothing was written`
          })
        }
        files.push(file)
      }
      return files
    }),
    read: (commit, file, from, to) =>
      call(`${file.path} of ${repository}`, async (fetching) => {
        const path = file.path.split("/").map(encodeURIComponent).join("/")
        const url = `${endpoint}/${repository}/resolve/${commit}/${path}`
        // Size and address are known from the listing. Plain ranges of this address can be asked for again at any time.
        const blob = await library.downloadFile({
          ...shared,
          repo: repository,
          path: file.path,
          revision: commit,
          downloadInfo: { size: file.bytes, etag: file.etag, url },
          xet: false,
          fetch: fetching
        })
        const bytes = new Uint8Array(await (blob ?? new Blob([])).slice(from, to).arrayBuffer())
        return bytes.length === to - from ? bytes : Promise.reject(new Short(bytes.length, to - from))
      })
  }
  return hub
})

/** A body of another length than was asked for: the connection broke off, or ranges are not understood. */
class Short extends Error {
  constructor(got: number, wanted: number) {
    super(`${got} of ${wanted} bytes came`)
  }
}

/** A server that answers a range with the whole file must not have its bytes taken for the range. */
const rangeKept =
  (init: RequestInit | undefined) =>
  (response: Response): Response | Promise<never> => {
    const range = new Headers(init?.headers).get("range")
    if (range === null || response.status !== 200) return response
    void response.body?.cancel()
    return Promise.reject(new Short(0, 0))
  }

const staysInside = (path: string): boolean =>
  path.length <= 1000 &&
  // biome-ignore lint/suspicious/noControlCharactersInRegex: such names are what is looked for
  !/[\\:\u0000-\u001f]/.test(path) &&
  path.split("/").every((part) => part !== "" && part !== "." && part !== "..")

interface Failure {
  readonly message: string
  /** Worth another try. */
  readonly transient: boolean
}

const describeFailure = (details: {
  readonly cause: unknown
  readonly endpoint: string
  readonly repository: string
  readonly what: string
  readonly token: boolean
}): Failure => {
  const { cause, endpoint, repository, what, token } = details
  const final = (message: string): Failure => ({ message, transient: false })
  const status = statusOf(cause)
  const said =
    cause instanceof Error ? (cause.message.split("\n")[0] ?? "").replace(/\.? URL: .*/, "").slice(0, 160) : ""
  if (status === 401) {
    return final(
      token
        ? `${endpoint} does not accept HF_TOKEN for ${what} (401); make a token that may read it, or unset HF_TOKEN`
        : `${endpoint} does not show ${what} (401): it does not exist, or it is private or gated; check the spelling, or set HF_TOKEN`
    )
  }
  if (status === 403) {
    return final(
      `${endpoint} refuses ${what} (403: ${said}); accept its terms at ${endpoint}/${repository} and set HF_TOKEN`
    )
  }
  if (status === 404) return final(`${endpoint} has no ${what} (404: ${said}); check the spelling`)
  if (status === 429)
    return { message: `${endpoint} asks to slow down (429); try again in some minutes`, transient: true }
  if (status !== undefined) {
    const message = `${endpoint} answered ${status} for ${what} (${said}); try again later`
    return { message, transient: status >= 500 || status === 408 }
  }
  if (cause instanceof Short) {
    return cause.message.startsWith("0 of 0")
      ? final(`${endpoint} does not serve parts of files, which ${what} needs; use another HF_ENDPOINT`)
      : { message: `${what}: ${cause.message}; run the same command again to continue`, transient: true }
  }
  if (cause instanceof SyntaxError)
    return final(`${endpoint} answered ${what} with something else than JSON; is it a Hugging Face hub?`)
  const code = networkCode(cause)
  if (code !== undefined) {
    return {
      message: `cannot reach ${endpoint} for ${what} (${code}); check the network and run the same command again to continue, or copy the model's folder here and give its path`,
      transient: code !== "ENOTFOUND"
    }
  }
  return final(`${what}: ${said}`)
}

/** The status of an error of the library's, told by its fields since the class is loaded late. */
const statusOf = (cause: unknown): number | undefined =>
  typeof cause === "object" && cause !== null && "statusCode" in cause && typeof cause.statusCode === "number"
    ? cause.statusCode
    : undefined

/** The system's word for what went wrong with a connection; `undefined` for other errors. */
const networkCode = (cause: unknown): string | undefined => {
  let at: unknown = cause
  let network = false
  for (let depth = 0; depth < 5 && at instanceof Error; depth++) {
    if ("code" in at && typeof at.code === "string" && at.code !== "") return at.code
    if (at instanceof TypeError && /fetch failed|terminated/.test(at.message)) network = true
    at = at instanceof AggregateError ? at.errors[0] : at.cause
  }
  return network ? "the connection broke off" : undefined
}
