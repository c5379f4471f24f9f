/**
 * Running untrusted code, and looking for tricks in it first.
 *
 * - `Sandbox`: the service; `Sandbox.layer` (bubblewrap), `Sandbox.layerTest(answer)`
 * - `SandboxJob`, `SandboxResult`, `SandboxLimits`, `defaultLimits`
 * - `SandboxError` with its reasons `SandboxUnavailable`, `InvalidJob`, `NotStarted`
 * - `findTampering`, `stripAnalyzerTricks`: constructs which silence analyzers or sanitizers
 */
export { Sandbox } from "./Sandbox.ts"
export { InvalidJob, NotStarted, SandboxError, SandboxUnavailable } from "./SandboxError.ts"
export { defaultLimits, type SandboxJob, type SandboxLimits, type SandboxResult } from "./SandboxJob.ts"
export { findTampering, type Stripped, stripAnalyzerTricks, type Tampering, type TamperingKind } from "./Tampering.ts"
