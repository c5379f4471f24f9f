/**
 * The ids that a tokenizer puts before and after a text when special tokens are wanted. They come from the
 * post-processor, except for the Llama classes, where transformers replaces it by what `add_bos_token` (default true) and
 * `add_eos_token` (default false) in `tokenizer_config.json` say.
 */
import { Effect } from "effect"
import { quote } from "../ModelError.ts"
import { tokenText } from "./added-tokens.ts"
import { isRecord } from "./files.ts"
import { componentsOf, type Unsupported } from "./tokenizer-pipeline.ts"

export interface Affixes {
  readonly prefixIds: ReadonlyArray<number>
  readonly suffixIds: ReadonlyArray<number>
}

type Json = { readonly [key: string]: unknown }

const llamaClass = /^(Code)?LlamaTokenizer(Fast)?$/

export const readAffixes = Effect.fnUntraced(function* (
  postProcessor: unknown,
  config: Json,
  idOf: (token: string) => number | undefined,
  unsupported: Unsupported
) {
  const idsOf = Effect.fnUntraced(function* (token: unknown) {
    const id = typeof token === "string" ? idOf(token) : undefined
    return id === undefined
      ? yield* unsupported("post_processor", `post-processor with the unknown token ${quote(String(token))}`)
      : id
  })
  const prefixIds: Array<number> = []
  const suffixIds: Array<number> = []

  if (typeof config.tokenizer_class === "string" && llamaClass.test(config.tokenizer_class)) {
    const bos = tokenText(config.bos_token)
    const eos = tokenText(config.eos_token)
    if (config.add_bos_token !== false && bos !== null) prefixIds.push(yield* idsOf(bos))
    if (config.add_eos_token === true && eos !== null) suffixIds.push(yield* idsOf(eos))
    const affixes: Affixes = { prefixIds, suffixIds }
    return affixes
  }

  for (const part of componentsOf(postProcessor, "processors")) {
    if (part.type === "ByteLevel") continue
    if (part.type !== "TemplateProcessing" || !Array.isArray(part.single)) {
      return yield* unsupported("post_processor", `post-processor ${String(part.type)}`)
    }
    const before: Array<number> = []
    const after: Array<number> = []
    let side = before
    for (const item of part.single) {
      if (isRecord(item) && isRecord(item.Sequence) && item.Sequence.id === "A" && side === before) {
        side = after
      } else if (isRecord(item) && isRecord(item.SpecialToken)) {
        const name = item.SpecialToken.id
        const known = isRecord(part.special_tokens) ? part.special_tokens[String(name)] : undefined
        const ids = isRecord(known) && Array.isArray(known.ids) ? known.ids : [yield* idsOf(name)]
        for (const id of ids) {
          if (typeof id !== "number") return yield* unsupported("post_processor", "post-processor without token ids")
          side.push(id)
        }
      } else {
        return yield* unsupported("post_processor", "post-processor with a template other than one text")
      }
    }
    if (side === before) return yield* unsupported("post_processor", "post-processor that leaves the text out")
    prefixIds.unshift(...before)
    suffixIds.push(...after)
  }
  const affixes: Affixes = { prefixIds, suffixIds }
  return affixes
})
