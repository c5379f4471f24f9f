/**
 * Who runs next: the waiting line, the running sequences with their slots and pages, and what each pass over the model
 * computes. Plain data without a device, so that its rules can be tested alone.
 *
 * Admission is in order of arrival and reserves pages for the prompt and all tokens that may come, so a running
 * sequence never waits for memory and none is ever thrown out; what does not fit yet waits. Prompts are taken in chunks under
 * a budget of rows, in order of arrival, so running sequences go on decoding beside a long prompt.
 */

import { pageSize } from "@srcode/gpu"
import type { Lora } from "./Lora.ts"
import { makePagePool, type PagePool, pagesFor } from "./PagePool.ts"

/** Decode steps between two looks at the tokens. */
export const burstSteps = 8

export interface Job {
  readonly prompt: ReadonlyArray<number>
  /** Most tokens to sample. */
  readonly maxTokens: number
  /** The adapter, by identity: sequences of one pass share it, and so do sequences that share pages. */
  readonly lora: Lora | null
}

export interface Sequence<J extends Job> {
  readonly job: J
  readonly state: "waiting" | "prefill" | "decode" | "done"
  /** Row of the page table while running, -1 otherwise. */
  readonly slot: number
  readonly pages: ReadonlyArray<number>
  /** Sampled so far. */
  readonly tokens: ReadonlyArray<number>
  /** Prompt tokens that were found written. */
  readonly reused: number
}

/** Rows of one pass over prompts: parallel arrays, packed sequence after sequence. */
export interface PrefillPass<J extends Job> {
  readonly lora: Lora | null
  readonly ids: ReadonlyArray<number>
  readonly position: ReadonlyArray<number>
  readonly kvRow: ReadonlyArray<number>
  readonly slot: ReadonlyArray<number>
  /** Sequences whose prompt ends in this pass, and the row it ends in. */
  readonly complete: ReadonlyArray<{ readonly sequence: Sequence<J>; readonly row: number }>
}

export interface Scheduler<J extends Job> {
  readonly pool: PagePool
  readonly waiting: () => number
  readonly running: () => number
  /** Running sequences whose prompt is not finished. */
  readonly prefilling: () => number
  add(job: J): Sequence<J>
  /** Lets waiting sequences in while slots and pages last. */
  admit(): ReadonlyArray<Sequence<J>>
  /** The next rows of unfinished prompts, at most `budget`, one pass an adapter; the passes must be run in this order. */
  prefill(budget: number): ReadonlyArray<PrefillPass<J>>
  /** Sequences that decode, by adapter. */
  decoding(): ReadonlyArray<{ readonly lora: Lora | null; readonly sequences: ReadonlyArray<Sequence<J>> }>
  /** Takes sampled tokens; the first ends the prefill. */
  push(sequence: Sequence<J>, tokens: ReadonlyArray<number>): void
  /** Ends a sequence in whatever state; gives back its slot and pages. Ending twice does nothing. */
  end(sequence: Sequence<J>): void
  /** Forgets the contents of all pages, also of those that running sequences write. */
  forget(): void
}

interface Mutable<J extends Job> extends Sequence<J> {
  state: Sequence<J>["state"]
  slot: number
  pages: ReadonlyArray<number>
  readonly tokens: Array<number>
  reused: number
  /** Prompt rows placed by this sequence itself. */
  own: number
  /** Next prompt position that is not known to be written. */
  at: number
  /** The contents it writes are not to be shared any more. */
  stale: boolean
}

/** Positions a job writes at most: the last sampled token is never fed. */
export const positionsOf = (job: Job): number => job.prompt.length + job.maxTokens - 1

/**
 * Positions and cache rows of a sequence for `steps` decode steps. Steps beyond its last token write to page 0, which is
 * nobody's.
 */
export const decodeRows = <J extends Job>(
  sequence: Sequence<J>,
  steps: number
): { readonly position: ReadonlyArray<number>; readonly kvRow: ReadonlyArray<number> } => {
  const first = sequence.job.prompt.length + sequence.tokens.length - 1
  const last = positionsOf(sequence.job) - 1
  const at = Array.from({ length: steps }, (_, s) => first + s)
  return {
    position: at.map((t) => Math.min(t, last)),
    kvRow: at.map((t) => (t > last ? 0 : (sequence.pages[Math.floor(t / pageSize)] ?? 0) * pageSize + (t % pageSize)))
  }
}

export const makeScheduler = <J extends Job>(options: {
  readonly slots: number
  readonly pages: number
  /** Whether pages of a response are shared as a prompt's are, default yes: where decoding writes the bits that a prompt's pass would. */
  readonly shareResponses?: boolean
}): Scheduler<J> => {
  const pool = makePagePool(options.pages)
  const freeSlots = Array.from({ length: options.slots }, (_, i) => options.slots - 1 - i)
  const waiting = new Set<Mutable<J>>()
  const running = new Set<Mutable<J>>()
  /** The mutable side of the sequences handed out. */
  const inner = new WeakMap<Sequence<J>, Mutable<J>>()
  const roots = new WeakMap<object, number>()
  let lastRoot = 0
  const rootOf = (lora: Lora | null): number => {
    if (lora === null) return 0
    const root = roots.get(lora) ?? ++lastRoot
    roots.set(lora, root)
    return root
  }

  const add: Scheduler<J>["add"] = (job) => {
    const sequence: Mutable<J> = {
      job,
      state: "waiting",
      slot: -1,
      pages: [],
      tokens: [],
      reused: 0,
      own: 0,
      at: 0,
      stale: false
    }
    inner.set(sequence, sequence)
    waiting.add(sequence)
    return sequence
  }

  const admit: Scheduler<J>["admit"] = () => {
    const admitted: Array<Sequence<J>> = []
    for (const sequence of waiting) {
      if (freeSlots.length === 0) break
      const { job } = sequence
      const pages = pool.acquire(rootOf(job.lora), job.prompt, pagesFor(positionsOf(job)))
      if (pages === undefined) break
      waiting.delete(sequence)
      running.add(sequence)
      sequence.state = "prefill"
      sequence.slot = freeSlots.pop() ?? 0
      sequence.pages = pages
      admitted.push(sequence)
    }
    return admitted
  }

  const prefill: Scheduler<J>["prefill"] = (budget) => {
    const passes = new Map<
      Lora | null,
      {
        lora: Lora | null
        ids: Array<number>
        position: Array<number>
        kvRow: Array<number>
        slot: Array<number>
        complete: Array<{ sequence: Sequence<J>; row: number }>
      }
    >()
    let left = budget
    for (const sequence of running) {
      if (left === 0) break
      if (sequence.state !== "prefill" || sequence.at === sequence.job.prompt.length) continue
      const { lora, prompt } = sequence.job
      const pass = passes.get(lora) ?? { lora, ids: [], position: [], kvRow: [], slot: [], complete: [] }
      passes.set(lora, pass)
      while (sequence.at < prompt.length) {
        const index = Math.floor(sequence.at / pageSize)
        const page = sequence.pages[index] ?? 0
        const written = pool.filled(page)
        const first = index * pageSize
        const last = Math.min(first + pageSize, prompt.length)
        const to = Math.min(last, first + written + left)
        for (let t = first + written; t < to; t++) {
          pass.ids.push(prompt[t] ?? 0)
          pass.position.push(t)
          pass.kvRow.push(page * pageSize + t - first)
          pass.slot.push(sequence.slot)
          sequence.own++
          left--
        }
        pool.fill(page, to - first)
        sequence.at = to
        if (to < last) break
      }
      if (sequence.at === prompt.length) {
        sequence.reused = prompt.length - sequence.own
        pass.complete.push({ sequence, row: pass.ids.length - 1 })
      }
    }
    return [...passes.values()].filter((pass) => pass.ids.length > 0)
  }

  const decoding: Scheduler<J>["decoding"] = () => {
    const groups = new Map<Lora | null, Array<Sequence<J>>>()
    for (const sequence of running) {
      if (sequence.state !== "decode") continue
      const { lora } = sequence.job
      const members = groups.get(lora)
      if (members === undefined) groups.set(lora, [sequence])
      else members.push(sequence)
    }
    return [...groups].map(([lora, sequences]) => ({ lora, sequences }))
  }

  const push: Scheduler<J>["push"] = (handle, tokens) => {
    const sequence = inner.get(handle)
    if (sequence === undefined || sequence.state === "done") return
    sequence.tokens.push(...tokens)
    sequence.state = "decode"
  }

  const end: Scheduler<J>["end"] = (handle) => {
    const sequence = inner.get(handle)
    if (sequence === undefined || sequence.state === "done") return
    waiting.delete(sequence)
    if (running.delete(sequence)) {
      freeSlots.push(sequence.slot)
      // The last token sampled has not been fed; all before it are written.
      if (sequence.state === "decode" && !sequence.stale) {
        const response = (options.shareResponses ?? true) ? sequence.tokens.slice(0, -1) : []
        const written = [...sequence.job.prompt, ...response]
        pool.register(rootOf(sequence.job.lora), written, sequence.pages)
      }
      pool.release(sequence.pages)
    }
    sequence.state = "done"
    sequence.slot = -1
    sequence.pages = []
  }

  return {
    pool,
    waiting: () => waiting.size,
    running: () => running.size,
    prefilling: () => [...running].filter((sequence) => sequence.state === "prefill").length,
    add,
    admit,
    prefill,
    decoding,
    push,
    end,
    forget: () => {
      pool.forget()
      for (const sequence of running) sequence.stale = true
    }
  }
}
