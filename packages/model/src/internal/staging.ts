/**
 * A folder that appears whole or not at all. It is filled beside its place as `<name>.srcode-partial`, flushed, and moved
 * in by one rename; a folder that stood there is moved aside first, put back when that fails, and removed at the end. A
 * kill leaves the old folder, none, or the new one, never a mixture; what it leaves beside is removed by the next attempt.
 */
import { Effect, FileSystem, Option } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import { ioError, makeDirectory, syncDirectory } from "./files.ts"

export interface StageOptions {
  readonly operation: string
  readonly out: string
  /** Replace a folder that is not empty, provided that it holds `marker`. */
  readonly overwrite: boolean
  readonly marker: string
  /** Folders that are read: none may be the target or lie in it. */
  readonly sources: ReadonlyArray<string>
}

/** Checks the target before any work, fills the staging folder, and moves it into place. Gives back what `fill` gave. */
export const stageDirectory = Effect.fnUntraced(function* <A, R>(
  options: StageOptions,
  fill: (staging: string) => Effect.Effect<A, ModelError, R>
) {
  const { operation } = options
  const fs = yield* FileSystem.FileSystem
  const failed = Effect.mapError(ioError(operation, options.out))
  const { target, taken } = yield* prepareTarget(options)
  const staging = `${target}.srcode-partial`
  const replaced = `${target}.srcode-replaced`
  const swap = Effect.gen(function* () {
    yield* fs.remove(replaced, { recursive: true, force: true }).pipe(failed)
    if (!taken) return yield* fs.rename(staging, target).pipe(failed)
    yield* fs.rename(target, replaced).pipe(failed)
    yield* fs.rename(staging, target).pipe(
      failed,
      Effect.onError(() => Effect.ignore(fs.rename(replaced, target)))
    )
  })
  const work = Effect.gen(function* () {
    yield* fs.remove(staging, { recursive: true, force: true }).pipe(failed)
    yield* makeDirectory(operation, staging)
    const result = yield* fill(staging)
    yield* syncDirectory(staging)
    yield* Effect.uninterruptible(swap)
    return result
  }).pipe(Effect.onError(() => Effect.ignore(fs.remove(staging, { recursive: true, force: true }))))
  const result = yield* work
  yield* syncDirectory(target.slice(0, target.lastIndexOf("/")) || "/")
  yield* Effect.ignore(fs.remove(replaced, { recursive: true, force: true }))
  return result
})

/** The absolute path of the target, and whether a folder stands there that is to be replaced. */
const prepareTarget = Effect.fnUntraced(function* ({ operation, out, overwrite, marker, sources }: StageOptions) {
  const fs = yield* FileSystem.FileSystem
  const failed = Effect.mapError(ioError(operation, out))
  const refuse = (why: string) => ModelError.invalid({ operation, file: out, message: `${operation}: ${out} ${why}` })
  const path = out.replace(/\/+$/, "") || (out === "" ? "" : "/")
  if (path === "" || path === "/") return yield* refuse(`(${quote(out)}) is not a folder to write; name a new one`)
  const info = yield* fs.stat(path).pipe(
    Effect.map(Option.some),
    Effect.catchIf(
      (error) => error.reason._tag === "NotFound",
      () => Effect.succeed(Option.none())
    ),
    failed
  )
  if (Option.isNone(info)) {
    const cut = path.lastIndexOf("/")
    const parent = cut < 0 ? "." : path.slice(0, cut) || "/"
    yield* makeDirectory(operation, parent)
    const real = yield* fs.realPath(parent).pipe(failed)
    return { target: `${real === "/" ? "" : real}/${path.slice(cut + 1)}`, taken: false }
  }
  if (info.value.type !== "Directory") return yield* refuse("is a file; name a folder")
  const target = yield* fs.realPath(path).pipe(failed)
  const beside = yield* fs.stat(`${target}/..`).pipe(failed)
  if (target === "/" || beside.dev !== info.value.dev) {
    return yield* refuse("is the root of a file system and cannot be put in place in one step; name a folder inside it")
  }
  for (const source of sources) {
    const real = yield* fs.realPath(source).pipe(Effect.mapError(ioError(operation, source)))
    if (`${real}/`.startsWith(`${target}/`))
      return yield* refuse(`is or holds ${source}, which is read; name another folder`)
  }
  const entries = yield* fs.readDirectory(target).pipe(failed)
  if (entries.length > 0 && !overwrite) return yield* refuse("is not empty; name a new folder or give --overwrite")
  if (entries.length > 0 && !entries.includes(marker)) {
    return yield* refuse(`holds no ${marker}, so it is not what --overwrite replaces; name another folder`)
  }
  return { target, taken: true }
})
