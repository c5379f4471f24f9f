/**
 * What a stage was made from, as hashes of file contents: a stage runs again when any of these changes. Paths do not
 * count, so a folder that was moved is still the same model.
 */
import { hashFile, hashJson } from "@srcode/store"
import { Effect, FileSystem } from "effect"

const modelFile = /^(config\.json|tokenizer\.json|tokenizer_config\.json|model.*\.safetensors(\.index\.json)?)$/
const adapterFile = /^(adapter_config\.json|adapter_model\.safetensors)$/

const hashFolder = Effect.fnUntraced(function* (directory: string, belongs: RegExp) {
  const fs = yield* FileSystem.FileSystem
  // The folder was read before: what cannot be listed now has its own error on reading.
  const names = yield* fs.readDirectory(directory).pipe(Effect.orElseSucceed((): ReadonlyArray<string> => []))
  const files: Record<string, string> = {}
  for (const name of names) if (belongs.test(name)) files[name] = yield* hashFile(`${directory}/${name}`)
  return hashJson(files)
})

/** Configuration, every weight file (all shards and their index), and the tokenizer where there is one. */
export const hashModel = (directory: string) => hashFolder(directory, modelFile)

/** Settings and weights of a PEFT folder. */
export const hashAdapter = (directory: string) => hashFolder(directory, adapterFile)
