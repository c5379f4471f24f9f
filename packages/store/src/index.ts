/** What a run keeps on disk: atomic files, JSONL by Schema, resumable batches, hashes, metrics, and the run directory over them. */
export * from "./Appender.ts"
export * from "./Batch.ts"
export * from "./Files.ts"
export * from "./Hash.ts"
export * from "./JsonLines.ts"
export * from "./Metrics.ts"
export * from "./RunStore.ts"
export * from "./StoreError.ts"
