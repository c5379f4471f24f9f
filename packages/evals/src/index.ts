/** Measuring: rates with intervals, the benchmark over the embedded corpus, the results table and the HTML report. */
export * from "./Metrics.ts"
export * from "./Report.ts"
export * from "./ResultsTable.ts"
export * from "./TinyBench.ts"
