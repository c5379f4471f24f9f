/**
 * Llama and its kin (Touvron et al. 2023): no bias anywhere. DeepSeek-Coder scales positions linearly by 4 (base 100,000),
 * CodeLlama has base 1,000,000 and a vocabulary of 32,016 with its infilling tokens, Llama 3.1 and later blend frequencies.
 */
import { type Architecture, isNull, isOff } from "../internal/hf-config.ts"

export const llama: Architecture = {
  modelType: "llama",
  className: "LlamaForCausalLM",
  defaults: {
    numKeyValueHeads: null,
    headDim: null,
    maxPositionEmbeddings: 2048,
    rmsNormEps: 1e-6,
    ropeTheta: 10_000,
    tieWordEmbeddings: false,
    attentionBias: false,
    bosTokenId: 1,
    eosTokenIds: [2]
  },
  qkNorm: false,
  // With `attention_bias` o has a bias as well. A window is no option of this family: a converted file would lose it.
  demands: { attention_bias: isOff, sliding_window: isNull, use_qk_norm: isOff },
  attentionTensors: () => [],
  encode: (config) => ({
    attention_bias: false,
    ...(config.headDim * config.numHeads === config.hiddenSize ? {} : { head_dim: config.headDim }),
    mlp_bias: false,
    pretraining_tp: 1
  })
}
