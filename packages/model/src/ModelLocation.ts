/**
 * What a model argument means: a folder, or `ORG/NAME[@revision]` in the local Hugging Face cache. Nothing is fetched
 * here; `srcode pull` does that.
 *
 * A folder always wins over an id of the same spelling. A snapshot that lacks files, because a download was broken off or
 * part of it was deleted, is never handed out as a model.
 */
import { Effect, FileSystem, Path } from "effect"
import { type HubId, hubCacheDirectory, isCommit, parseHubId, repositoryFolder } from "./HubCache.ts"
import { exists, ioError, isRecord, readJsonObject, readText } from "./internal/files.ts"
import { ModelError, quote } from "./ModelError.ts"

type Kind = "model" | "adapter"

/** The folder of a model. Fails with one line that says where it was looked for and what to do. */
export const locateModel = (argument: string): Effect.Effect<string, ModelError, FileSystem.FileSystem | Path.Path> =>
  locate("model", argument)

/** `locateModel` for PEFT adapters. */
export const locateAdapter = (argument: string): Effect.Effect<string, ModelError, FileSystem.FileSystem | Path.Path> =>
  locate("adapter", argument)

const locate = Effect.fn("ModelLocation.locate")(function* (kind: Kind, argument: string) {
  const operation = `find ${kind}`
  if (argument === "" || argument.includes("\0")) {
    return yield* ModelError.invalid({ operation, message: `${operation}: give a folder, or ORG/NAME` })
  }
  const fs = yield* FileSystem.FileSystem
  const stat = yield* fs
    .stat(argument)
    .pipe(
      Effect.catchTag("PlatformError", (error) =>
        error.reason._tag === "NotFound" || error.reason._tag === "BadResource"
          ? Effect.succeed(undefined)
          : Effect.fail(ioError(operation, argument)(error))
      )
    )
  if (stat?.type === "Directory") return argument
  if (stat !== undefined) {
    return yield* ModelError.invalid({
      operation,
      file: argument,
      message: `${argument} is a file; give the folder that holds it`
    })
  }
  const id = parseHubId(argument)
  if (id === undefined) {
    return yield* ModelError.missing({
      operation,
      file: argument,
      message: `${quote(argument)} is not a folder (nor an id on the hub, ORG/NAME or ORG/NAME@REVISION); check the path`
    })
  }
  const directory = yield* findSnapshot(operation, id)
  const lacking = yield* kind === "model"
    ? lackingOfModel(operation, directory)
    : lackingOfAdapter(operation, directory)
  if (lacking === undefined) return directory
  return yield* ModelError.missing({
    operation,
    file: `${directory}/${lacking}`,
    message: `${argument} is not complete in the cache: ${directory} has no ${lacking}; run srcode pull ${argument}`
  })
})

/** The snapshot folder of an id. */
const findSnapshot = Effect.fnUntraced(function* (operation: string, id: HubId) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const cache = yield* hubCacheDirectory
  const root = path.join(cache, repositoryFolder(id.repository))
  const named = id.revision === null ? id.repository : `${id.repository}@${id.revision}`
  const missing = (what: string, file: string) =>
    ModelError.missing({ operation, file, message: `${what}; run srcode pull ${named}` })
  if (!(yield* exists(operation, root))) {
    return yield* missing(`${quote(named)} is neither a folder nor a model in the cache at ${cache}`, root)
  }
  const snapshots = path.join(root, "snapshots")
  const commits = (yield* exists(operation, snapshots))
    ? (yield* fs.readDirectory(snapshots).pipe(Effect.mapError(ioError(operation, snapshots)))).filter(isCommit).sort()
    : []
  const revision = id.revision ?? "main"
  const ref = path.join(root, "refs", revision)
  const isRef = yield* fs.stat(ref).pipe(
    Effect.map((stat) => stat.type === "File"),
    Effect.orElseSucceed(() => false)
  )
  if (isRef) {
    const commit = (yield* readText(operation, ref)).trim()
    if (!isCommit(commit)) {
      return yield* ModelError.malformed({
        operation,
        file: ref,
        message: `${ref} does not hold a commit; run srcode pull ${named}`
      })
    }
    if (commits.includes(commit)) return path.join(snapshots, commit)
    return yield* missing(`${ref} names the commit ${commit}, which is not in the cache`, ref)
  }
  const matching = /^[0-9a-f]{7,40}$/.test(revision) ? commits.filter((commit) => commit.startsWith(revision)) : []
  if (matching.length === 1 && matching[0] !== undefined) return path.join(snapshots, matching[0])
  if (matching.length > 1) {
    return yield* ModelError.invalid({
      operation,
      file: snapshots,
      message: `${named} could be ${matching.join(" or ")}; write more of the commit`
    })
  }
  const short = commits.slice(0, 5).map((commit) => commit.slice(0, 12))
  const present = short.length === 0 ? "" : ` (there are commits ${short.join(", ")}: add @COMMIT to use one)`
  return yield* missing(
    `the cache at ${cache} has ${id.repository}, but no revision ${quote(revision)}${present}`,
    root
  )
})

/** The first file that a model in the cache lacks. A folder with weights of other formats is left to the loader to judge. */
const lackingOfModel = Effect.fnUntraced(function* (operation: string, directory: string) {
  const fs = yield* FileSystem.FileSystem
  if (!(yield* exists(operation, `${directory}/config.json`))) return "config.json"
  if (yield* exists(operation, `${directory}/model.safetensors`)) return undefined
  const indexFile = `${directory}/model.safetensors.index.json`
  if (!(yield* exists(operation, indexFile))) {
    const names = yield* fs.readDirectory(directory).pipe(Effect.mapError(ioError(operation, directory)))
    return names.some((name) => /\.(bin|pt|pth|gguf|ckpt)$/.test(name)) ? undefined : "model.safetensors"
  }
  const { weight_map: weightMap } = yield* readJsonObject(operation, indexFile)
  const shards = new Set(isRecord(weightMap) ? Object.values(weightMap) : [])
  for (const shard of shards) {
    // What is not a plain name is the loader's to refuse.
    if (typeof shard !== "string" || /[\\/]/.test(shard)) return undefined
    if (!(yield* exists(operation, `${directory}/${shard}`))) return shard
  }
  return undefined
})

const lackingOfAdapter = Effect.fnUntraced(function* (operation: string, directory: string) {
  for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
    if (!(yield* exists(operation, `${directory}/${name}`))) return name
  }
  return undefined
})
