/** The model: Hugging Face files in and out, the transformer, adapters and sampling. */
export * from "./BpeTrainer.ts"
export * from "./Config.ts"
export * from "./ModelError.ts"
export * from "./Safetensors.ts"
export * from "./SafetensorsWriter.ts"
export * from "./Tokenizer.ts"
