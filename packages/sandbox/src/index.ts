/**
 * Running untrusted code.
 *
 * - `Sandbox`: the service; `Sandbox.layer` (bubblewrap), `Sandbox.layerTest(answer)`
 * - `SandboxJob`, `SandboxResult`, `SandboxLimits`, `defaultLimits`
 * - `SandboxError` with its reasons `SandboxUnavailable`, `InvalidJob`, `NotStarted`
 */
export { Sandbox } from "./Sandbox.ts"
export { InvalidJob, NotStarted, SandboxError, SandboxUnavailable } from "./SandboxError.ts"
export { defaultLimits, type SandboxJob, type SandboxLimits, type SandboxResult } from "./SandboxJob.ts"
