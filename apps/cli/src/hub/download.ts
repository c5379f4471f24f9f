/**
 * One file into the cache's blobs. Bytes go to `<blob>.incomplete` in order, so that what is there is always a beginning
 * of the file: the next attempt continues behind it. A file gets its name only when its checksum is right.
 *
 * Two downloads of the same file at once write the same bytes to the same places and do not disturb each other.
 */
import { createHash } from "node:crypto"
import { UserError } from "@srcode/domain"
import { Effect, FileSystem, type PlatformError, Stream } from "effect"
import type { Hub, RemoteFile } from "./client.ts"

const mebibyte = 1024 * 1024
/** Asked for at a time: little enough to lose little when a connection breaks off, large enough to need few requests. */
const pieceBytes = (fileBytes: number): number =>
  Math.ceil(Math.min(64 * mebibyte, Math.max(16 * mebibyte, fileBytes / 128)))
/** Pieces asked for at the same time; their bytes are in memory. */
const ahead = 3

export const diskError = (what: string) => (error: PlatformError.PlatformError) => {
  const cause = error.reason.cause
  const code = typeof cause === "object" && cause !== null && "code" in cause ? ` (${String(cause.code)})` : ""
  const hint = code.includes("ENOSPC") || code.includes("EDQUOT") ? "free some space" : "check the folder's permissions"
  return new UserError({ message: `cannot write ${what}${code}; ${hint} and run the same command again to continue` })
}

/** Bytes of an interrupted download of this blob; 0 when there are none. */
export const partialBytes = Effect.fnUntraced(function* (blob: string) {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.stat(`${blob}.incomplete`).pipe(
    Effect.map((stat) => (stat.type === "File" ? Number(stat.size) : 0)),
    Effect.orElseSucceed(() => 0)
  )
})

/** Brings a file to `blob`. `onBytes` hears of bytes as they are safe, those of an earlier attempt included. */
export const downloadBlob = Effect.fn("Hub.download")(function* (
  hub: Hub,
  commit: string,
  file: RemoteFile,
  blob: string,
  onBytes: (total: number) => Effect.Effect<void>
) {
  const fs = yield* FileSystem.FileSystem
  const incomplete = `${blob}.incomplete`
  if ((yield* partialBytes(blob)) > file.bytes) yield* Effect.ignore(fs.remove(incomplete, { force: true }))

  const attempt = Effect.fnUntraced(function* () {
    const had = yield* partialBytes(blob)
    const piece = pieceBytes(file.bytes)
    const hash = createHash(file.checksum === "sha256" ? "sha256" : "sha1")
    if (file.checksum === "git") hash.update(`blob ${file.bytes}\0`)
    yield* Effect.scoped(
      Effect.gen(function* () {
        const failed = Effect.mapError(diskError(incomplete))
        // Never emptied on opening: another process may be at it, may make it at this moment, or have just finished it.
        const handle = yield* fs.open(incomplete, { flag: "r+" }).pipe(
          Effect.catchTag("PlatformError", (error) =>
            error.reason._tag === "NotFound" ? fs.open(incomplete, { flag: "wx+" }) : Effect.fail(error)
          ),
          Effect.retry({ times: 3, while: (error) => error.reason._tag === "AlreadyExists" }),
          failed
        )
        const buffer = new Uint8Array(Math.min(piece, Math.max(had, 1)))
        for (let at = 0; at < had; ) {
          const got = yield* handle
            .read(buffer.subarray(0, Math.min(buffer.length, had - at)), { position: BigInt(at) })
            .pipe(failed)
          if (got === 0) break
          hash.update(buffer.subarray(0, got))
          at += got
        }
        yield* onBytes(had)
        yield* handle.seek(BigInt(had), "start").pipe(failed)
        const starts = Array.from({ length: Math.ceil((file.bytes - had) / piece) }, (_, i) => had + i * piece)
        let done = had
        yield* Stream.fromIterable(starts).pipe(
          // A piece that fails waits for its turn: those before it are still coming, and are kept.
          Stream.mapEffect((from) => Effect.result(hub.read(commit, file, from, Math.min(from + piece, file.bytes))), {
            concurrency: ahead
          }),
          Stream.runForEach(
            Effect.fnUntraced(function* (result) {
              const bytes = yield* Effect.fromResult(result)
              yield* handle.writeAll(bytes).pipe(failed)
              hash.update(bytes)
              done += bytes.length
              yield* onBytes(done)
            })
          )
        )
        yield* handle.sync.pipe(failed)
      })
    )
    return { had, whole: hash.digest("hex") === file.etag }
  })

  let { had, whole } = yield* attempt()
  if (!whole) {
    yield* Effect.ignore(fs.remove(incomplete, { force: true }))
    // The earlier attempt's bytes may be at fault (a power cut, another program); fresh ones cannot be.
    if (had > 0) ({ whole } = yield* attempt())
    if (!whole) {
      yield* Effect.ignore(fs.remove(incomplete, { force: true }))
      return yield* new UserError({
        message: `${file.path} came with another checksum than ${hub.endpoint} names for it; try again, a proxy on the way may alter files`
      })
    }
  }
  yield* fs.rename(incomplete, blob).pipe(
    // Another process may have finished the same file.
    Effect.catchTag("PlatformError", (error) =>
      Effect.flatMap(
        Effect.orElseSucceed(fs.exists(blob), () => false),
        (there) => (there ? Effect.void : Effect.fail(error))
      )
    ),
    Effect.mapError(diskError(blob))
  )
})
