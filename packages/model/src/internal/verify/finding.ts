/** What was found in an adapter folder, and by whom it would be felt. */
import { quote } from "../../ModelError.ts"

/** PEFT stands for transformers too, which loads adapters through it. */
export type Consumer = "peft" | "vllm" | "llama.cpp" | "srcode"

/**
 * error: PEFT, vLLM or srcode refuses the adapter, or serves another model than the one trained without a word.
 * warning: something is odd, or another program would go wrong. note: worth knowing.
 */
export type Severity = "error" | "warning" | "note"

export interface Finding {
  readonly severity: Severity
  /** Stable, for scripts. */
  readonly code: string
  readonly consumers: ReadonlyArray<Consumer>
  /** The option, tensor or file in question. */
  readonly subject: string
  /** One line: what is so, who does what about it, and what helps. */
  readonly message: string
}

export const finding = (
  severity: Severity,
  code: string,
  consumers: ReadonlyArray<Consumer>,
  subject: string,
  message: string
): Finding => ({ severity, code, consumers, subject, message })

/** A value from a file, short enough for a line. */
export const show = (value: unknown): string => {
  const text = JSON.stringify(value) ?? "undefined"
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

/** "tensor X" or "12 tensors, such as X". */
export const several = (names: ReadonlyArray<string>): string =>
  names.length === 1 ? `tensor ${quote(names[0] ?? "")}` : `${names.length} tensors, such as ${quote(names[0] ?? "")}`
