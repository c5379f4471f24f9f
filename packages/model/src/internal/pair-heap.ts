/**
 * The candidates of a BPE training step: a binary heap of (count, pair) with the largest count first and, among equal
 * counts, the smaller pair, so that the order of texts never decides. Entries are not updated in place: a pair whose
 * count changed is pushed again, and the reader drops entries whose count is no longer true.
 */
export interface Candidate {
  readonly count: number
  /** left token id · 2²⁴ + right token id */
  readonly pair: number
}

const before = (a: Candidate, b: Candidate): boolean => a.count > b.count || (a.count === b.count && a.pair < b.pair)

export const pushCandidate = (heap: Array<Candidate>, candidate: Candidate): void => {
  let at = heap.length
  heap.push(candidate)
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (!before(candidate, heap[parent]!)) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = candidate
}

export const popCandidate = (heap: Array<Candidate>): Candidate | undefined => {
  const top = heap[0]
  const last = heap.pop()
  if (top === undefined || last === undefined || heap.length === 0) return top
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
    if (!before(heap[child]!, last)) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
  return top
}
