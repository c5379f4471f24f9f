/** Configurations by name, for models of random weights: the published values of real models, and tiny ones that keep their oddities. */
import type { ModelConfig } from "../src/Config.ts"

const qwen25: ModelConfig = {
  modelType: "qwen2",
  hiddenSize: 896,
  intermediateSize: 4864,
  numLayers: 24,
  numHeads: 14,
  numKeyValueHeads: 2,
  headDim: 64,
  vocabSize: 151_936,
  maxPositionEmbeddings: 32_768,
  rmsNormEps: 1e-6,
  ropeTheta: 1e6,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: true,
  qkNorm: false,
  eosTokenIds: [151_643],
  bosTokenId: 151_643
}

const deepseek: ModelConfig = {
  modelType: "llama",
  hiddenSize: 4096,
  intermediateSize: 11_008,
  numLayers: 32,
  numHeads: 32,
  numKeyValueHeads: 32,
  headDim: 128,
  vocabSize: 32_256,
  maxPositionEmbeddings: 16_384,
  rmsNormEps: 1e-6,
  ropeTheta: 100_000,
  ropeScaling: { kind: "linear", factor: 4 },
  tieWordEmbeddings: false,
  attentionBias: false,
  qkNorm: false,
  eosTokenIds: [32_014],
  bosTokenId: 32_013
}

const qwen3: ModelConfig = {
  ...qwen25,
  modelType: "qwen3",
  hiddenSize: 4096,
  intermediateSize: 12_288,
  numLayers: 36,
  numHeads: 32,
  numKeyValueHeads: 8,
  headDim: 128,
  maxPositionEmbeddings: 40_960,
  tieWordEmbeddings: false,
  attentionBias: false,
  qkNorm: true,
  eosTokenIds: [151_645, 151_643]
}

const tiny: ModelConfig = {
  ...qwen25,
  hiddenSize: 64,
  intermediateSize: 160,
  numLayers: 2,
  numHeads: 4,
  numKeyValueHeads: 2,
  headDim: 16,
  vocabSize: 512,
  maxPositionEmbeddings: 1024,
  ropeTheta: 10_000,
  eosTokenIds: [511],
  bosTokenId: null
}

export const modelPresets: Readonly<Record<string, ModelConfig>> = {
  "qwen2.5-coder-0.5b": qwen25,
  "qwen2.5-coder-1.5b": {
    ...qwen25,
    hiddenSize: 1536,
    intermediateSize: 8960,
    numLayers: 28,
    numHeads: 12,
    headDim: 128
  },
  "qwen2.5-coder-7b": {
    ...qwen25,
    hiddenSize: 3584,
    intermediateSize: 18_944,
    numLayers: 28,
    numHeads: 28,
    numKeyValueHeads: 4,
    headDim: 128,
    vocabSize: 152_064,
    tieWordEmbeddings: false
  },
  "deepseek-coder-6.7b": deepseek,
  "codellama-7b": {
    ...deepseek,
    vocabSize: 32_016,
    rmsNormEps: 1e-5,
    ropeTheta: 1e6,
    ropeScaling: null,
    eosTokenIds: [2],
    bosTokenId: 1
  },
  "qwen3-8b": qwen3,
  "tiny-qwen2": tiny,
  "tiny-llama": {
    ...tiny,
    modelType: "llama",
    ropeTheta: 100_000,
    ropeScaling: { kind: "linear", factor: 4 },
    tieWordEmbeddings: false,
    attentionBias: false
  },
  "tiny-llama3": {
    ...tiny,
    modelType: "llama",
    ropeTheta: 500_000,
    ropeScaling: { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 },
    attentionBias: false
  },
  "tiny-qwen3": { ...tiny, modelType: "qwen3", headDim: 32, attentionBias: false, qkNorm: true }
}
