/**
 * The typed launches of all kernels, bound to what one device can do. The only place that chooses variants and grids.
 */
import type { AdapterInfo } from "./Gpu.ts"
import type { MatmulChoice } from "./MatmulVariant.ts"
import { makeAttention } from "./ops/attention.ts"
import { makeLayerOps } from "./ops/layer.ts"
import { makeLora } from "./ops/lora.ts"
import { makeMatmul } from "./ops/matmul.ts"
import { probes } from "./ops/probe.ts"
import { makeTrainOps } from "./ops/train.ts"
import { makeVocabularyOps } from "./ops/vocabulary.ts"

/** `choice` of matmul rungs: by default what a calibration left in `info`. */
export const makeOps = (info: AdapterInfo, choice: MatmulChoice | undefined = info.matmul) => {
  const matmul = makeMatmul(info, choice)
  return {
    ...matmul,
    ...makeLora(info, matmul.matmulNN),
    ...makeAttention(info),
    ...makeLayerOps(info),
    ...makeVocabularyOps(info),
    ...makeTrainOps(info),
    ...probes
  }
}

export type Ops = ReturnType<typeof makeOps>

export { type AttentionVariant, attentionVariants, makeAttention } from "./ops/attention.ts"
export { pagedPartials, pageSize } from "./ops/flashPaged.ts"
export type { HeadShape } from "./ops/layer.ts"
export type { Fused, FusedArgs, MatmulArgs } from "./ops/matmul.ts"
export { probeElements } from "./ops/probe.ts"
export { normBlock, type PolicyLossKind, type PpoLossParams } from "./ops/train.ts"
export { sampleSettings } from "./ops/vocabulary.ts"
