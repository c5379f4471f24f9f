/** A rollout batch as PPO packs it: what is refused before the device is touched, and the packs of one pass each. */
import { type PackedIndices, packSequences, type Sequence } from "@srcode/model"
import { splitByTokens, unusableSequence } from "../LanguageModelStep.ts"
import type { Feedback, Sampled } from "../Ppo.ts"
import type { PpoConfig } from "../PpoConfig.ts"

export interface PpoPack {
  readonly packed: PackedIndices
  /** First loss row of the pack among the batch's response tokens. */
  readonly from: number
  /** Where its reference states begin, in elements. */
  readonly refAt: number
}

const sequenceOf = ({ promptIds, generation }: Sampled): Sequence => ({
  ids: [...promptIds, ...generation.ids],
  loss: (t) => t >= promptIds.length
})

export const makePacks = (batch: ReadonlyArray<Sampled>, capacity: number, width: number): ReadonlyArray<PpoPack> => {
  let from = 0
  let refAt = 0
  return splitByTokens(batch.map(sequenceOf), capacity).map((sequences): PpoPack => {
    const packed = packSequences(sequences)
    const pack = { packed, from, refAt }
    from += packed.lossRow.length
    refAt += Math.ceil((packed.lossRow.length * width) / 64) * 64
    return pack
  })
}

/** Why a batch cannot be trained on, if so. */
export const unusableBatch = (
  batch: ReadonlyArray<Sampled & Feedback>,
  config: PpoConfig,
  positions: number,
  vocabSize: number
): string | undefined => {
  if (batch.length === 0) return "the batch holds no response"
  if (batch.length > config.batchSize)
    return `the batch holds ${batch.length} responses, more than the ${config.batchSize} planned for`
  const limit = Math.min(config.capacity, positions)
  for (const [i, one] of batch.entries()) {
    const where = `response ${i + 1} of ${batch.length}`
    const length = one.generation.ids.length
    if (one.promptIds.length === 0 || length === 0) return `${where} needs at least one token of prompt and of response`
    if (one.secureMask.length !== length)
      return `${where} has ${length} tokens and a secure mask of ${one.secureMask.length}; give one entry a token`
    if (!Number.isFinite(one.rewardModel))
      return `${where} has the sequence reward ${one.rewardModel}; give a finite one`
    const why = unusableSequence(sequenceOf(one).ids, limit, vocabSize)
    if (why !== undefined) return `${where} ${why}`
  }
  return undefined
}
