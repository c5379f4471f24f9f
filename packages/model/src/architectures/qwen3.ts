/**
 * Qwen3, dense (Yang et al. 2025): no bias, an RMS norm over every query and key head before the rotation, and heads of
 * 128 whatever the hidden size.
 */
import { type Architecture, isOff } from "../internal/hf-config.ts"

export const qwen3: Architecture = {
  modelType: "qwen3",
  className: "Qwen3ForCausalLM",
  defaults: {
    numKeyValueHeads: 32,
    headDim: 128,
    maxPositionEmbeddings: 32_768,
    rmsNormEps: 1e-6,
    ropeTheta: 10_000,
    tieWordEmbeddings: false,
    attentionBias: false,
    bosTokenId: null,
    eosTokenIds: []
  },
  qkNorm: true,
  // With `attention_bias` o has a bias as well. `sliding_window` alone is harmless, as in Qwen2.
  demands: { attention_bias: isOff, sliding_window: () => true, use_qk_norm: (v) => v === true || v === null },
  attentionTensors: (config, at) => [
    [`${at}.q_norm.weight`, [config.headDim]],
    [`${at}.k_norm.weight`, [config.headDim]]
  ],
  encode: (config) => ({
    attention_bias: false,
    head_dim: config.headDim,
    use_sliding_window: false
  })
}
