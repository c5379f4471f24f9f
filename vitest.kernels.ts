/**
 * For workspaces whose tests run many kernels a few times each: Mesa's software driver then spends its time compiling, a third of
 * it in LLVM's optimiser. Without it a cold run is minutes shorter, and what kernels compute is the same. Elsewhere (trainer, pipeline, commands, the
 * whole flow) the driver works as it does for users. Compiled code of the two kinds is cached apart.
 */
import { mergeConfig } from "vitest/config"
import base from "./vitest.base.ts"

export default mergeConfig(base, { test: { env: { GALLIVM_PERF: "nopt" } } })
