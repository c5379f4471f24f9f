/** What one decode step leaves behind, as plain data: the oracle of `advance`. */
export interface DecodeState {
  readonly token: Array<number>
  readonly position: Array<number>
  readonly kvRow: Array<number>
  readonly kvEnd: Array<number>
  /** [slots, capacity] */
  readonly history: Array<number>
  readonly historyLogProb: Array<number>
}

/**
 * Writes each row's token and log-probability at `step` of its slot and moves the row on by one; a row whose previous
 * token was `endToken` repeats it with log-probability 0 and stands still. Changes `state`.
 */
export const advance = (
  state: DecodeState,
  slot: ReadonlyArray<number>,
  logProb: ReadonlyArray<number>,
  capacity: number,
  step: number,
  endToken: number
): void => {
  if (step >= capacity) return
  slot.forEach((s, row) => {
    const at = s * capacity + step
    if (step > 0 && state.history[at - 1] === endToken) {
      state.token[row] = endToken
      state.history[at] = endToken
      state.historyLogProb[at] = 0
      return
    }
    state.history[at] = state.token[row]!
    state.historyLogProb[at] = logProb[row]!
    for (const counter of [state.position, state.kvRow, state.kvEnd]) counter[row] = counter[row]! + 1
  })
}
