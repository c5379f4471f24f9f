/** Interim: incremental decoding as agreed, until @srcode/model exports it. */
import { TextDecoder } from "node:util"
import type { Tokenizer } from "@srcode/model"

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
