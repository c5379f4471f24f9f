/** Interim: the engine's and the detokenizer's types as agreed, until @srcode/model exports them. */
import type { Lora, ModelError, Tokenizer } from "@srcode/model"
import type { Effect, Stream } from "effect"

export interface SamplingParams {
  readonly temperature: number
  readonly topP: number
  readonly topK: number
  readonly minP: number
  readonly maxTokens: number
  readonly seed: number
}
export interface SequenceRequest {
  readonly ids: ReadonlyArray<number>
  readonly stream: number
  readonly lora: Lora | null
  readonly sampling: SamplingParams
  readonly stopIds?: ReadonlyArray<number>
}
export interface TokenChunk {
  readonly ids: ReadonlyArray<number>
  readonly logProbs: ReadonlyArray<number>
  readonly finish: null | "stop" | "length"
}
export interface EngineStats {
  readonly running: number
  readonly waiting: number
  readonly pagesUsed: number
  readonly pagesTotal: number
  readonly tokensGenerated: number
  readonly prefixTokensReused: number
}
export interface Engine {
  readonly limits: { readonly maxSequences: number; readonly maxTokens: number }
  readonly sample: (request: SequenceRequest) => Stream.Stream<TokenChunk, ModelError>
  readonly stats: Effect.Effect<EngineStats>
}

export interface Detokenizer {
  readonly push: (ids: ReadonlyArray<number>) => {
    readonly text: string
    readonly stopped: null | { readonly tokens: number }
  }
  readonly finish: () => string
}
export const makeDetokenizer = (
  tokenizer: Tokenizer,
  options: { readonly stop: ReadonlyArray<string> }
): Detokenizer => {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
  let held = ""
  let count = 0
  let over = false
  const cut = (): boolean => {
    const at = options.stop.map((s) => held.indexOf(s)).filter((i) => i >= 0)
    if (at.length === 0) return false
    held = held.slice(0, Math.min(...at))
    return true
  }
  return {
    push: (ids) => {
      for (const id of ids) {
        count++
        if (tokenizer.specialIds.has(id)) continue
        held += decoder.decode(tokenizer.tokenBytes(id), { stream: true })
        if (cut()) {
          const text = held
          held = ""
          over = true
          return { text, stopped: { tokens: count } }
        }
      }
      let keep = 0
      for (const s of options.stop)
        for (let k = Math.min(s.length - 1, held.length); k > keep; k--) if (held.endsWith(s.slice(0, k))) keep = k
      const text = held.slice(0, held.length - keep)
      held = held.slice(held.length - keep)
      return { text, stopped: null }
    },
    finish: () => {
      if (over) return ""
      held += decoder.decode()
      const text = held
      held = ""
      return text
    }
  }
}
