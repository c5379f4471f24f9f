/**
 * Trains a byte-level BPE vocabulary and writes it as a Hugging Face tokenizer folder.
 *
 * The text is first cut into pieces that no token crosses. The cut is made for code: a newline and the indentation
 * behind it are one piece, so a whole line break can become one token, and a prompt that ends in ` {` tokenises the
 * same with or without the body that follows. Only ASCII whitespace counts as such, because the engines that execute
 * `tokenizer.json` do not agree about the rest.
 *
 * Deterministic: the result depends on how often each piece occurs, not on the order of texts; among equally frequent
 * pairs the one with the smaller ids wins. Ids: 256 bytes (sorted by character), merges in order, special tokens last.
 */
import { Effect, type FileSystem } from "effect"
import { byteToChar, sortedAlphabet } from "./internal/byte-alphabet.ts"
import { makeDirectory, writeTextAtomic } from "./internal/files.ts"
import { type Candidate, popCandidate, pushCandidate } from "./internal/pair-heap.ts"
import { ModelError } from "./ModelError.ts"

/**
 * Line break with indentation | word with its space | number with its space | signs with their space | blanks before
 * another blank | any single blank. Every character falls in exactly one branch.
 */
export const splitPattern =
  "\\r?\\n[ \\t]*| ?[\\p{L}\\p{M}_]+| ?\\p{N}+| ?[^ \\t\\n\\r\\x0b\\x0c\\p{L}\\p{M}\\p{N}_]+|" +
  "[ \\t]+(?![^ \\t\\n\\r\\x0b\\x0c])|[ \\t\\n\\r\\x0b\\x0c]"

export interface BpeModel {
  /** Token strings in the byte alphabet, index = id; special tokens last, as plain text. */
  readonly tokens: ReadonlyArray<string>
  /** Pairs in order of rank, as token strings. */
  readonly merges: ReadonlyArray<readonly [string, string]>
  readonly specialTokens: ReadonlyArray<string>
}

export interface BpeOptions {
  /** Total number of ids: 256 bytes + merges + special tokens. */
  readonly vocabSize: number
  /** The first one ends a text (`eos_token`). Default `["<|endoftext|>"]`. */
  readonly specialTokens?: ReadonlyArray<string>
  /** Longer tokens are not made. Default 16. */
  readonly maxTokenBytes?: number
  /** Pairs seen less often are not merged. Default 2. */
  readonly minFrequency?: number
}

const operation = "train tokenizer"
const pairBase = 2 ** 24
const endOfText = "<|endoftext|>"

interface Word {
  ids: ReadonlyArray<number>
  readonly count: number
}

/** Learns merges until the vocabulary is full. Fails when the texts do not hold enough different pairs. */
export const trainBpe = Effect.fn("BpeTrainer.train")(function* (texts: Iterable<string>, options: BpeOptions) {
  const specialTokens = options.specialTokens ?? [endOfText]
  const wanted = options.vocabSize - 256 - specialTokens.length
  if (!Number.isInteger(options.vocabSize) || wanted < 0 || options.vocabSize > 1_000_000) {
    return yield* ModelError.invalid({
      operation,
      message: `a vocabulary of ${options.vocabSize} cannot hold 256 bytes and ${specialTokens.length} special tokens; ask for 257 to 1000000`
    })
  }
  if (
    specialTokens.length === 0 ||
    new Set(specialTokens).size !== specialTokens.length ||
    specialTokens.includes("")
  ) {
    return yield* ModelError.invalid({
      operation,
      message: "give at least one special token, all different and not empty"
    })
  }
  const maxBytes = options.maxTokenBytes ?? 16
  const minFrequency = options.minFrequency ?? 2
  const words = countWords(texts, specialTokens)
  const tokens = [...sortedAlphabet]
  const idOf = new Map(tokens.map((token, id) => [token, id]))
  const merges: Array<readonly [string, string]> = []
  const counts = new Map<number, number>()
  const places = new Map<number, Set<number>>()
  for (const [index, word] of words.entries()) {
    for (const pair of pairsOf(word.ids)) {
      counts.set(pair, (counts.get(pair) ?? 0) + word.count)
      addPlace(places, pair, index)
    }
  }
  const heap: Array<Candidate> = []
  for (const [pair, count] of counts) pushCandidate(heap, { pair, count })

  while (tokens.length < 256 + wanted) {
    const best = popCandidate(heap)
    if (best !== undefined && counts.get(best.pair) !== best.count) continue
    if (best === undefined || best.count < minFrequency) {
      return yield* ModelError.invalid({
        operation,
        message: `the texts give only ${tokens.length - 256} of the ${wanted} tokens wanted; give more text or ask for a vocabulary of ${tokens.length + specialTokens.length}`
      })
    }
    const left = Math.floor(best.pair / pairBase)
    const right = best.pair % pairBase
    const merged = `${tokens[left]}${tokens[right]}`
    if (merged.length > maxBytes) continue
    merges.push([tokens[left]!, tokens[right]!])
    // two different pairs can spell the same token: the second is only another way to it
    const id = idOf.get(merged) ?? tokens.push(merged) - 1
    idOf.set(merged, id)
    const changed = new Set<number>()
    for (const index of places.get(best.pair) ?? []) {
      const word = words[index]!
      const next = mergePair(word.ids, left, right, id)
      for (const pair of pairsOf(word.ids)) {
        counts.set(pair, (counts.get(pair) ?? 0) - word.count)
        changed.add(pair)
      }
      for (const pair of pairsOf(next)) {
        counts.set(pair, (counts.get(pair) ?? 0) + word.count)
        addPlace(places, pair, index)
        changed.add(pair)
      }
      word.ids = next
    }
    places.delete(best.pair)
    for (const pair of changed) {
      const count = counts.get(pair) ?? 0
      if (count > 0) pushCandidate(heap, { pair, count })
      else counts.delete(pair)
    }
  }
  const model: BpeModel = { tokens: [...tokens, ...specialTokens], merges, specialTokens }
  return model
})

/** How often each piece occurs, as byte-token ids. Special tokens in the texts are cut out, as in encoding. */
const countWords = (texts: Iterable<string>, specialTokens: ReadonlyArray<string>): ReadonlyArray<Word> => {
  const split = new RegExp(splitPattern, "gu")
  const special = new RegExp(specialTokens.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|"), "gu")
  const pieces = new Map<string, number>()
  for (const text of texts) {
    for (const part of text.toWellFormed().split(special)) {
      for (const piece of part.match(split) ?? []) pieces.set(piece, (pieces.get(piece) ?? 0) + 1)
    }
  }
  const utf8 = new TextEncoder()
  const byteId = byteToChar.map((char) => sortedAlphabet.indexOf(char))
  return [...pieces].map(([piece, count]) => ({ count, ids: Array.from(utf8.encode(piece), (byte) => byteId[byte]!) }))
}

const pairsOf = (ids: ReadonlyArray<number>): ReadonlyArray<number> => {
  const pairs: Array<number> = []
  for (let i = 1; i < ids.length; i++) pairs.push(ids[i - 1]! * pairBase + ids[i]!)
  return pairs
}

const mergePair = (ids: ReadonlyArray<number>, left: number, right: number, id: number): ReadonlyArray<number> => {
  const merged: Array<number> = []
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      merged.push(id)
      i++
    } else {
      merged.push(ids[i]!)
    }
  }
  return merged
}

const addPlace = (places: Map<number, Set<number>>, pair: number, index: number): void => {
  const set = places.get(pair)
  if (set === undefined) places.set(pair, new Set([index]))
  else set.add(index)
}

/**
 * Rendering for a base model: turns are plain text in order, an assistant turn ends with the end-of-text token, a
 * system turn is a comment line. So a single user turn is exactly the prompt that the model was trained to continue.
 */
export const baseChatTemplate =
  "{%- for message in messages -%}" +
  "{%- if message['role'] == 'system' -%}{{- '// ' + message['content'] + '\n' -}}" +
  "{%- elif message['role'] == 'assistant' -%}{{- message['content'] + eos_token -}}" +
  "{%- else -%}{{- message['content'] -}}{%- endif -%}" +
  "{%- endfor -%}"

/** The contents of `tokenizer.json`. */
export const encodeTokenizer = (model: BpeModel): { readonly [key: string]: unknown } => {
  const plain = model.tokens.length - model.specialTokens.length
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: model.specialTokens.map((content, index) => ({
      id: plain + index,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true
    })),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: splitPattern }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }
      ]
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(model.tokens.slice(0, plain).map((token, id) => [token, id])),
      merges: model.merges.map(([left, right]) => `${left} ${right}`)
    }
  }
}

export interface TokenizerConfigOptions {
  /** Default 32768. */
  readonly modelMaxLength?: number
  /** Default `baseChatTemplate`. */
  readonly chatTemplate?: string
}

/** Writes `tokenizer.json` and `tokenizer_config.json` into the folder, each atomically. */
export const writeTokenizer = Effect.fn("BpeTrainer.write")(function* (
  directory: string,
  model: BpeModel,
  options: TokenizerConfigOptions = {}
): Effect.fn.Return<void, ModelError, FileSystem.FileSystem> {
  const during = "write tokenizer"
  const eos = model.specialTokens[0] ?? endOfText
  yield* makeDirectory(during, directory)
  yield* writeTextAtomic(during, `${directory}/tokenizer.json`, `${JSON.stringify(encodeTokenizer(model), null, 1)}\n`)
  const config = {
    add_bos_token: false,
    add_prefix_space: false,
    bos_token: null,
    chat_template: options.chatTemplate ?? baseChatTemplate,
    clean_up_tokenization_spaces: false,
    eos_token: eos,
    model_max_length: options.modelMaxLength ?? 32_768,
    pad_token: eos,
    tokenizer_class: "PreTrainedTokenizerFast",
    unk_token: null
  }
  yield* writeTextAtomic(during, `${directory}/tokenizer_config.json`, `${JSON.stringify(config, null, 2)}\n`)
})
