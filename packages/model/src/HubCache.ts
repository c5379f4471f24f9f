/**
 * The local Hugging Face cache, as the hub's own tools lay it out, so that one download serves all of them:
 *
 *   <cache>/models--ORG--NAME/refs/<revision>          a text: the commit that a branch or tag stood at
 *                            /snapshots/<commit>/...   the files of that commit, as links into blobs
 *                            /blobs/<etag>             contents, by SHA-256 (large files) or git's SHA-1
 *
 * This file only names places. Names come from outside and end up in paths, hence the narrow alphabets.
 */
import { Config, Effect, Option, Path } from "effect"
import { ModelError, quote } from "./ModelError.ts"

/** `ORG/NAME` or `ORG/NAME@revision`; the revision is a branch, a tag, a commit or its beginning. */
export interface HubId {
  /** `ORG/NAME` */
  readonly repository: string
  readonly revision: string | null
}

const namePattern = /^[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?$/
const revisionPattern = /^[\w][\w.+-]*(?:\/[\w][\w.+-]*)*$/

const isName = (text: string): boolean =>
  namePattern.test(text) && !text.includes("..") && !text.includes("--") && !text.endsWith(".git")

const isRevision = (text: string): boolean =>
  text.length <= 200 && revisionPattern.test(text) && !text.includes("..") && !text.endsWith(".lock")

/** Reads an id; `undefined` when the text is none (a path, a bare name, ...). Upward steps and odd letters are never ids. */
export const parseHubId = (text: string): HubId | undefined => {
  const cut = text.indexOf("@")
  const repository = cut < 0 ? text : text.slice(0, cut)
  const revision = cut < 0 ? null : text.slice(cut + 1)
  const names = repository.split("/")
  if (names.length !== 2 || !names.every(isName)) return undefined
  return revision === null || isRevision(revision) ? { repository, revision } : undefined
}

/** `parseHubId`, where nothing but an id will do. */
export const requireHubId = (operation: string, text: string): Effect.Effect<HubId, ModelError> => {
  const id = parseHubId(text)
  return id !== undefined
    ? Effect.succeed(id)
    : Effect.fail(
        ModelError.invalid({
          operation,
          message: `${operation}: ${quote(text)} is not a repository on the hub; give ORG/NAME or ORG/NAME@REVISION (letters, digits, - _ .)`
        })
      )
}

/** Commits are git's SHA-1, in full. */
export const isCommit = (text: string): boolean => /^[0-9a-f]{40}$/.test(text)

const variable = (name: string) =>
  Config.option(Config.String(name)).pipe(
    Effect.map((value) => (Option.isSome(value) && value.value.trim() !== "" ? value.value.trim() : undefined)),
    Effect.mapError(() =>
      ModelError.invalid({ operation: "find the cache", message: `the setting ${name} is not a text; unset it` })
    )
  )

/**
 * Where the cache is: HF_HUB_CACHE (or its older name HUGGINGFACE_HUB_CACHE), else HF_HOME/hub, else
 * XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. Empty settings count as absent.
 */
export const hubCacheDirectory = Effect.gen(function* () {
  const path = yield* Path.Path
  const home = (yield* variable("HOME")) ?? (yield* variable("USERPROFILE"))
  const expand = (directory: string) =>
    home !== undefined && /^~(?=[\\/]|$)/.test(directory) ? path.join(home, directory.slice(1)) : directory
  const direct = (yield* variable("HF_HUB_CACHE")) ?? (yield* variable("HUGGINGFACE_HUB_CACHE"))
  if (direct !== undefined) return expand(direct)
  const hfHome = yield* variable("HF_HOME")
  if (hfHome !== undefined) return path.join(expand(hfHome), "hub")
  const xdg = yield* variable("XDG_CACHE_HOME")
  if (xdg !== undefined) return path.join(expand(xdg), "huggingface", "hub")
  if (home !== undefined) return path.join(home, ".cache", "huggingface", "hub")
  return yield* ModelError.invalid({
    operation: "find the cache",
    message: "neither HF_HUB_CACHE, HF_HOME nor HOME is set; set HF_HUB_CACHE to a folder for models"
  })
})

/** The folder of a model repository inside the cache. */
export const repositoryFolder = (repository: string): string => `models--${repository.replace("/", "--")}`
