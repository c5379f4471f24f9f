/**
 * Static analysis behind one port, in three states: alerts, clean, not analysed.
 *
 * - `Analyzer`: the port; `Analyzer.layerPanel`, `layerPanelWith(options)`, `layerCodeQl`, `layerTest(answer)`
 * - `CodeQl`: the CodeQL command line; `CodeQl.layer`, `codeQlLicenceNotice`
 * - `AnalyzerError` with its reasons `AnalyzerUnavailable`, `AnalyzerFailed`
 * - `Sarif`, `decodeSarif`, `resolveResults`: the used part of SARIF 2.1.0
 */
export { Analyzer, type AnalyzerDescription } from "./Analyzer.ts"
export { AnalyzerError, AnalyzerFailed, AnalyzerUnavailable } from "./AnalyzerError.ts"
export { CodeQl, type CodeQlStatus, codeQlLicenceNotice } from "./CodeQl.ts"
export type { CodeQlLanguage, CodeQlProfile } from "./internal/codeql/cli.ts"
export type { PanelOptions } from "./internal/panel/panel.ts"
export { decodeSarif, type ResolvedResult, resolveResults, Sarif } from "./Sarif.ts"
