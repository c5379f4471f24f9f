/**
 * The chat-completions wire format, as far as it is relied on. Unusual: servers differ in where thinking goes
 * (`reasoning_content`, `reasoning`, `<think>` inside the content, or only its closing tag), some put the constrained
 * answer into the thinking field, and usage fields have two spellings.
 */
import { Schema } from "effect"

const text = Schema.optionalKey(Schema.NullOr(Schema.String))
const count = Schema.optionalKey(Schema.NullOr(Schema.Finite))

export const Completion = Schema.Struct({
  model: text,
  system_fingerprint: text,
  choices: Schema.NonEmptyArray(
    Schema.Struct({
      finish_reason: text,
      message: Schema.Struct({ content: text, reasoning_content: text, reasoning: text })
    })
  ),
  usage: Schema.optionalKey(
    Schema.NullOr(
      Schema.Struct({
        prompt_tokens: count,
        completion_tokens: count,
        prompt_cache_hit_tokens: count,
        prompt_tokens_details: Schema.optionalKey(Schema.NullOr(Schema.Struct({ cached_tokens: count }))),
        completion_tokens_details: Schema.optionalKey(Schema.NullOr(Schema.Struct({ reasoning_tokens: count })))
      })
    )
  )
})
export type Completion = typeof Completion.Type

export interface Message {
  readonly role: "system" | "user" | "assistant"
  readonly content: string
}

export interface Answer {
  /** What was said after thinking; "" when nothing was. */
  readonly content: string
  readonly reasoning: string
  /** The answer was cut at the token limit. */
  readonly cut: boolean
}

/** Separates thinking from the answer. */
export const readAnswer = (completion: Completion): Answer => {
  const [choice] = completion.choices
  const { content, reasoning, reasoning_content } = choice.message
  const whole = content ?? ""
  const end = whole.lastIndexOf("</think>")
  const open = whole.indexOf("<think>")
  const inline = end >= 0 ? whole.slice(open >= 0 ? open + 7 : 0, end) : open >= 0 ? whole.slice(open + 7) : ""
  const said = end >= 0 ? whole.slice(end + 8) : open >= 0 ? whole.slice(0, open) : whole
  return {
    content: said.trim(),
    reasoning: (reasoning_content ?? reasoning ?? inline).trim(),
    cut: choice.finish_reason === "length"
  }
}

/** The JSON value in a text: the text itself, a fenced block, or from the first brace or bracket to the last. */
export const jsonIn = (answer: string): string | undefined => {
  const fenced = [...answer.matchAll(/```(?:json)?\s*\n([\s\S]*?)\n?```/gi)].map((m) => m[1] ?? "").at(-1)
  for (const candidate of [answer, fenced ?? "", answer.slice(answer.search(/[[{]/), lastClose(answer) + 1)])
    if (/^\s*[[{]/.test(candidate)) {
      const trimmed = candidate.trim()
      if (/[\]}]$/.test(trimmed)) return trimmed
    }
  return undefined
}

const lastClose = (answer: string): number => Math.max(answer.lastIndexOf("}"), answer.lastIndexOf("]"))

/** The longest fenced block and the text around it; undefined when there is no closed block. */
export const codeIn = (answer: string): { readonly code: string; readonly around: string } | undefined => {
  const blocks = [...answer.matchAll(/```[\w+-]*[ \t]*\r?\n([\s\S]*?)\r?\n?```/g)]
  const best = blocks.reduce<RegExpMatchArray | undefined>(
    (kept, block) => ((block[1]?.length ?? 0) > (kept?.[1]?.length ?? 0) ? block : kept),
    undefined
  )
  if (best?.[1] === undefined || best[1].trim() === "") return undefined
  return { code: best[1], around: answer.replace(best[0], " ").replace(/\s+/g, " ").trim() }
}
