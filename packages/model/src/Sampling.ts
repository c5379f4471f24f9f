/** What a request for tokens may ask: parameters of the draw, checked, and as the words that the kernel reads. */

import { sampleSettings } from "@srcode/gpu"

export interface SamplingParams {
  /** 0 is greedy. */
  readonly temperature: number
  /** Mass of the nucleus, in (0, 1]; 1 is off. */
  readonly topP: number
  /** Most likely tokens that stay in; 0 is off. */
  readonly topK: number
  /** Least probability of a token as a part of the most likely one's, in [0, 1]; 0 is off. */
  readonly minP: number
  /** Most tokens of a response, the end token included. */
  readonly maxTokens: number
  readonly seed: number
}

/** Greedy, all filters off. */
export const samplingDefaults: Omit<SamplingParams, "maxTokens"> = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0
}

/** Why these parameters cannot be sampled with, if so. */
export const unusableSampling = (s: SamplingParams): string | undefined => {
  if (!Number.isInteger(s.maxTokens) || s.maxTokens < 1)
    return `maxTokens is ${s.maxTokens}; it must be an integer of at least 1`
  if (!Number.isFinite(s.temperature) || s.temperature < 0)
    return `temperature is ${s.temperature}; it must be 0 (greedy) or more`
  if (!(s.topP > 0 && s.topP <= 1)) return `topP is ${s.topP}; it must lie in (0, 1]`
  if (!Number.isInteger(s.topK) || s.topK < 0 || s.topK > 0xffffffff)
    return `topK is ${s.topK}; it must be 0 (off) or a positive integer`
  if (!(s.minP >= 0 && s.minP <= 1)) return `minP is ${s.minP}; it must lie in [0, 1]`
  if (!Number.isSafeInteger(s.seed)) return `seed is ${s.seed}; it must be an integer`
  return undefined
}

/** Temperatures nearer to 0 than this would overflow; they are greedy for every practical purpose. */
const coldest = 1e-6

/** The settings of rows as the kernel reads them, `sampleSettings` words a row. */
export const settingsOf = (
  rows: ReadonlyArray<{ readonly sampling: SamplingParams; readonly stream: number }>
): Uint32Array<ArrayBuffer> => {
  const words = new Uint32Array(rows.length * sampleSettings)
  const floats = new Float32Array(words.buffer)
  rows.forEach(({ sampling, stream }, i) => {
    const at = i * sampleSettings
    floats[at] = sampling.temperature < coldest ? 0 : sampling.temperature
    floats[at + 1] = sampling.topP
    floats[at + 2] = sampling.minP
    words[at + 3] = sampling.topK
    words[at + 4] = sampling.seed >>> 0
    words[at + 5] = stream >>> 0
  })
  return words
}
