/**
 * What every package's tests share: where the JSON results go (the root test script adds them up) and generous
 * time limits, since GPU tests may run on a software driver with two cores.
 */
import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts", "*/*.test.ts"],
    exclude: ["**/node_modules/**"],
    reporters: ["default", "json"],
    outputFile: { json: ".vitest/results.json" },
    testTimeout: 120_000,
    hookTimeout: 120_000,
    fileParallelism: false,
    passWithNoTests: true
  }
})
