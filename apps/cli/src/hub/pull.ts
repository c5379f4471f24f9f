/**
 * A model from the hub into the local cache, in the layout of the hub's own tools (HubCache.ts of @srcode/model), so that
 * they find it too. A file's link in the snapshot is made when its blob is whole; config.json and the branch's name come last, so
 * that a download that was broken off is never taken for a model.
 */
import { statfs } from "node:fs/promises"
import { UserError } from "@srcode/domain"
import { type HubId, hubCacheDirectory, repositoryFolder } from "@srcode/model"
import { writeFileAtomic } from "@srcode/store"
import { Effect, FileSystem, Path } from "effect"
import { connect, type RemoteFile } from "./client.ts"
import { diskError, downloadBlob, partialBytes } from "./download.ts"
import { inOrder, selectFiles } from "./select.ts"

export interface PullProgress {
  readonly doneBytes: number
  readonly totalBytes: number
  readonly file: string
}

export interface Pulled {
  /** The snapshot: a model folder. */
  readonly directory: string
  readonly commit: string
  readonly files: number
  /** Of all files, and of those that had to be fetched. */
  readonly bytes: number
  readonly fetchedBytes: number
}

/** Left free on the disk after a download. */
const reserve = 64 * 1024 * 1024

/** Fetches what is not there yet. Running it again continues, or finds nothing to do. */
export const pull = Effect.fn("Hub.pull")(function* (
  id: HubId,
  include: ReadonlyArray<string>,
  onProgress: (progress: PullProgress) => Effect.Effect<void>
) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const root = path.join(yield* hubCacheDirectory, repositoryFolder(id.repository))
  const hub = yield* connect(id.repository)
  const revision = id.revision ?? "main"
  const commit = yield* hub.commitOf(revision)
  const listed = yield* hub.files(commit, include.length > 0)
  const files = inOrder(selectFiles(listed, include))
  yield* requireWeights(id, include, listed, files)

  const blobs = path.join(root, "blobs")
  const snapshot = path.join(root, "snapshots", commit)
  const sizeOf = (file: string) =>
    fs.stat(file).pipe(
      Effect.map((stat) => (stat.type === "File" ? Number(stat.size) : -1)),
      Effect.orElseSucceed(() => -1)
    )
  const blobOf = (file: RemoteFile) => path.join(blobs, file.etag)
  const absent: Array<RemoteFile> = []
  const partial = new Map<string, number>()
  for (const file of files) {
    if ((yield* sizeOf(blobOf(file))) === file.bytes || absent.some(({ etag }) => etag === file.etag)) continue
    absent.push(file)
    partial.set(file.etag, yield* partialBytes(blobOf(file)))
  }
  yield* fs.makeDirectory(blobs, { recursive: true }).pipe(Effect.mapError(diskError(blobs)))
  const missing = absent.reduce((sum, file) => sum + Math.max(0, file.bytes - (partial.get(file.etag) ?? 0)), 0)
  yield* requireSpace(blobs, missing)

  const totalBytes = absent.reduce((sum, file) => sum + file.bytes, 0)
  let before = 0
  for (const file of files) {
    if (absent.includes(file)) {
      const report = (done: number) => onProgress({ doneBytes: before + done, totalBytes, file: file.path })
      yield* downloadBlob(hub, commit, file, blobOf(file), report)
      before += file.bytes
    }
    yield* link(snapshot, file.path, blobOf(file))
  }
  if (!commit.startsWith(revision)) {
    const ref = path.join(root, "refs", revision)
    yield* fs.makeDirectory(path.dirname(ref), { recursive: true }).pipe(Effect.mapError(diskError(ref)))
    yield* writeFileAtomic(ref, commit)
  }
  const pulled: Pulled = {
    directory: snapshot,
    commit,
    files: files.length,
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    fetchedBytes: missing
  }
  return pulled
})

/** Fails before anything is fetched when the repository holds nothing that can be loaded. */
const requireWeights = Effect.fnUntraced(function* (
  id: HubId,
  include: ReadonlyArray<string>,
  listed: ReadonlyArray<RemoteFile>,
  files: ReadonlyArray<RemoteFile>
) {
  if (files.length === 0) {
    const patterns = include.map((pattern) => JSON.stringify(pattern)).join(", ")
    return yield* new UserError({
      message:
        include.length > 0
          ? `no file of ${id.repository} matches ${patterns}`
          : `${id.repository} has no files of a model`
    })
  }
  if (include.length > 0 || files.some(({ path }) => path.endsWith(".safetensors"))) return
  const other = listed.find(({ path }) => /\.(bin|pt|pth|ckpt|gguf|h5|msgpack|onnx)$/.test(path))
  const has = other === undefined ? "no weights" : `weights only as ${other.path}`
  return yield* new UserError({
    message: `${id.repository} has ${has}, and only safetensors are loaded; look for a revision or a repository with model.safetensors, or convert it with safetensors`
  })
})

const requireSpace = Effect.fnUntraced(function* (directory: string, bytes: number) {
  const free = yield* Effect.tryPromise(() => statfs(directory)).pipe(
    Effect.map(({ bavail, bsize }) => bavail * bsize),
    // Some file systems do not tell; writing will.
    Effect.orElseSucceed(() => Number.POSITIVE_INFINITY)
  )
  if (bytes === 0 || bytes + reserve <= free) return
  const gigabytes = (n: number) => `${(n / 1e9).toFixed(2)} GB`
  return yield* new UserError({
    message: `${gigabytes(bytes)} are to be fetched and the disk of ${directory} has ${gigabytes(free)} free; free some, or set HF_HUB_CACHE to a folder on another disk`
  })
})

/** A relative link from the snapshot to the blob; a copy where the system has no links. */
const link = Effect.fnUntraced(function* (snapshot: string, name: string, blob: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const at = path.join(snapshot, name)
  const target = path.relative(path.dirname(at), blob)
  const isRight = Effect.map(
    Effect.orElseSucceed(fs.readLink(at), () => ""),
    (present) => present === target
  )
  if (yield* isRight) return
  const copied = `${at}.copy`
  yield* fs.makeDirectory(path.dirname(at), { recursive: true }).pipe(
    Effect.andThen(fs.remove(at, { force: true })),
    Effect.andThen(fs.symlink(target, at)),
    Effect.catchTag("PlatformError", (error) =>
      error.reason._tag === "AlreadyExists"
        ? Effect.flatMap(isRight, (right) => (right ? Effect.void : Effect.fail(error)))
        : Effect.andThen(fs.copyFile(blob, copied), fs.rename(copied, at))
    ),
    Effect.mapError(diskError(at))
  )
})
