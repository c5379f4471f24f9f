/** Which files of a repository a model needs here: weights in safetensors, settings, tokenizer, template, licence. */
import type { RemoteFile } from "./client.ts"

const wanted = [
  /\.safetensors$/,
  /\.json$/,
  /\.txt$/,
  /\.jinja$/,
  /^tokenizer\.model$/,
  /^(licen[cs]e|notice|readme|use_policy)[^.]*(\.md)?$/i
]
/** Indexes of other formats, and weights that some repositories store a second time under the original names. */
const unwanted = [/\.(bin|pt|pth|h5|msgpack)\.index\.json$/, /^consolidated.*\.safetensors$/]

/** `*` stands for any letters, `/` included, `?` for one; everything else for itself. */
const glob = (pattern: string): RegExp =>
  new RegExp(
    `^${pattern
      .replace(/[.+^${}()|[\]\\]/g, "\\$&")
      .replaceAll("*", ".*")
      .replaceAll("?", ".")}$`
  )

/** With patterns: the files that match one of them. Without: files of the top folder by their kind. */
export const selectFiles = (
  files: ReadonlyArray<RemoteFile>,
  include: ReadonlyArray<string>
): ReadonlyArray<RemoteFile> => {
  if (include.length > 0) {
    const patterns = include.map(glob)
    return files.filter(({ path }) => patterns.some((pattern) => pattern.test(path)))
  }
  const matches = (patterns: ReadonlyArray<RegExp>, path: string) => patterns.some((pattern) => pattern.test(path))
  return files.filter(({ path }) => !path.includes("/") && matches(wanted, path) && !matches(unwanted, path))
}

/** Small files first, so that an early end leaves few gaps; what makes a folder a model at all comes last. */
export const inOrder = (files: ReadonlyArray<RemoteFile>): ReadonlyArray<RemoteFile> => {
  const isSeal = (file: RemoteFile) => /(^|\/)(adapter_)?config\.json$/.test(file.path)
  return files.toSorted(
    (a, b) => Number(isSeal(a)) - Number(isSeal(b)) || a.bytes - b.bytes || (a.path < b.path ? -1 : 1)
  )
}
