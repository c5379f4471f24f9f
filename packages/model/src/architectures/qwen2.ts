/**
 * Qwen2, Qwen2.5 and Qwen2.5-Coder (Hui et al. 2024): a bias on q, k and v; the head tied up to 3B, its own above.
 *
 * transformers always adds the bias; `attention_bias: false` is this project's spelling for small models without one.
 */
import { type Architecture, isOff } from "../internal/hf-config.ts"

export const qwen2: Architecture = {
  modelType: "qwen2",
  className: "Qwen2ForCausalLM",
  defaults: {
    numKeyValueHeads: 32,
    headDim: null,
    maxPositionEmbeddings: 32_768,
    rmsNormEps: 1e-6,
    ropeTheta: 10_000,
    tieWordEmbeddings: false,
    attentionBias: true,
    bosTokenId: null,
    eosTokenIds: []
  },
  qkNorm: false,
  // `sliding_window` alone is harmless: every such file carries it, `use_sliding_window` turns it on.
  demands: { sliding_window: () => true, use_qk_norm: isOff },
  attentionTensors: (config, at) =>
    config.attentionBias
      ? [
          [`${at}.q_proj.bias`, [config.numHeads * config.headDim]],
          [`${at}.k_proj.bias`, [config.numKeyValueHeads * config.headDim]],
          [`${at}.v_proj.bias`, [config.numKeyValueHeads * config.headDim]]
        ]
      : [],
  encode: (config) => ({
    ...(config.attentionBias ? {} : { attention_bias: false }),
    ...(config.headDim * config.numHeads === config.hiddenSize ? {} : { head_dim: config.headDim }),
    use_sliding_window: false
  })
}
