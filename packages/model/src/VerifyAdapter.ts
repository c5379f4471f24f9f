/**
 * What would happen to an adapter folder elsewhere: what PEFT (and transformers through it), vLLM, llama.cpp and srcode
 * would refuse, and, worse, what they would pass over without a word and so serve another model than the one trained.
 *
 * Nothing here loads the adapter to use it, so a folder may be as broken as it likes: each fault is a finding, and the
 * check goes on with the rest. What the consumers do was read in their sources; the rules stand in internal/verify/.
 */
import { Effect, FileSystem } from "effect"
import { loadConfig, type ModelConfig } from "./Config.ts"
import { ioError, readJsonObject } from "./internal/files.ts"
import { adapterConfigName, adapterWeightsName } from "./internal/peft-names.ts"
import { type Finding, finding } from "./internal/verify/finding.ts"
import { type Expected, settingsFindings } from "./internal/verify/settings.ts"
import { tensorFindings, valueFindings } from "./internal/verify/tensors.ts"
import { type ModelError, quote } from "./ModelError.ts"
import { loraScale } from "./Peft.ts"
import { openSafetensors, type TensorInfo } from "./Safetensors.ts"

export type { Consumer, Finding, Severity } from "./internal/verify/finding.ts"

export interface AdapterReport {
  readonly directory: string
  readonly rank: number | null
  readonly alpha: number | null
  /** What B A is multiplied with. */
  readonly scale: number | null
  readonly baseModel: string | null
  readonly tensors: number
  readonly parameters: number
  readonly dtypes: ReadonlyArray<string>
  /** Errors first, then warnings, then notes. */
  readonly findings: ReadonlyArray<Finding>
}

/** Whether a consumer refuses the adapter or serves another model. */
export const isRefused = (report: AdapterReport): boolean =>
  report.findings.some(({ severity }) => severity === "error")

export interface VerifyAdapterOptions {
  /** The base model's folder: layers and shapes are checked against its `config.json`. */
  readonly model?: string
  /** What the base is called, such as `ORG/NAME`, to be held against `base_model_name_or_path`. */
  readonly modelName?: string
}

const operation = "verify adapter"

/** Fails only when there is no folder to look at or the base model cannot be read; all else is in the report. */
export const verifyAdapter = Effect.fn("VerifyAdapter.verify")(function* (
  directory: string,
  options: VerifyAdapterOptions = {}
): Effect.fn.Return<AdapterReport, ModelError, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const entries = yield* fs.readDirectory(directory).pipe(Effect.mapError(ioError(operation, directory)))
  const config = options.model === undefined ? null : yield* loadConfig(options.model)
  const findings: Array<Finding> = [...(yield* folderFindings(directory, entries))]
  const settings = entries.includes(adapterConfigName) ? yield* readSettings(directory) : null
  const expected = settings?.expected ?? unknown
  findings.push(...(settings?.findings ?? []))
  const weights = entries.includes(adapterWeightsName) ? yield* readWeights(directory, expected, config) : null
  findings.push(...(weights?.findings ?? []))
  findings.push(...(yield* baseFindings(expected.baseModel, options)))
  const tensors = weights?.tensors ?? []
  const { rank, alpha, useRslora, baseModel } = expected
  const order = ["error", "warning", "note"]
  return {
    directory,
    rank,
    alpha,
    scale: rank === null || alpha === null ? null : loraScale(rank, alpha, useRslora),
    baseModel,
    tensors: tensors.length,
    parameters: tensors.reduce((sum, { elements }) => sum + elements, 0),
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype))].sort(),
    findings: findings.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity))
  }
})

const unknown: Expected = { rank: null, alpha: null, useRslora: false, targetModules: null, baseModel: null }

/** Which files are there, and which others look as if they were meant. */
const folderFindings = Effect.fnUntraced(function* (directory: string, entries: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const everyone = ["peft", "vllm", "llama.cpp", "srcode"] as const
  const findings: Array<Finding> = []
  const nested: Array<string> = []
  for (const entry of entries) {
    const inside = yield* Effect.orElseSucceed(fs.exists(`${directory}/${entry}/${adapterConfigName}`), () => false)
    if (inside) nested.push(entry)
  }
  const instead =
    nested[0] === undefined
      ? ""
      : `; PEFT saves an adapter of another name in a folder of its own: check ${directory}/${nested[0]}`
  for (const name of [adapterConfigName, adapterWeightsName]) {
    if (entries.includes(name)) continue
    const pickle = entries.find((entry) => /^adapter_model\.(bin|pt)$/.test(entry))
    const other = entries.find((entry) => entry.endsWith(".safetensors"))
    if (name === adapterWeightsName && pickle !== undefined) {
      findings.push(
        finding(
          "error",
          "pickle",
          ["llama.cpp", "srcode"],
          pickle,
          `${pickle} is a Python pickle: PEFT and vLLM load it, srcode does not, and it cannot be checked here; save it with safe_serialization`
        )
      )
      continue
    }
    const meant =
      name === adapterWeightsName && other !== undefined
        ? `; ${quote(other)} is not a name that readers look for`
        : instead
    findings.push(finding("error", "file-missing", everyone, name, `${name} is not in the folder${meant}`))
  }
  const leftover = entries.find((entry) => entry === ".adapter.tmp" || entry.endsWith(".tmp"))
  if (leftover !== undefined) {
    findings.push(
      finding(
        "note",
        "leftover",
        [],
        leftover,
        `${quote(leftover)} was left by a write that was cut off; it can be removed`
      )
    )
  }
  return findings
})

/** A failure to read is a finding like others. */
const asFinding = (code: string, subject: string) => (error: ModelError) =>
  Effect.succeed([finding("error", code, ["peft", "vllm", "llama.cpp", "srcode"], subject, error.message)])

const readSettings = Effect.fnUntraced(function* (directory: string) {
  return yield* readJsonObject(operation, `${directory}/${adapterConfigName}`).pipe(
    Effect.map(settingsFindings),
    Effect.catchTag("ModelError", (error) =>
      Effect.map(asFinding("settings-unreadable", adapterConfigName)(error), (findings) => ({
        expected: unknown,
        findings
      }))
    )
  )
})

const readWeights = Effect.fnUntraced(function* (directory: string, expected: Expected, config: ModelConfig | null) {
  const read = Effect.gen(function* () {
    const file = yield* openSafetensors(`${directory}/${adapterWeightsName}`)
    const values = yield* valueFindings(file)
    return {
      tensors: [...file.tensors.values()],
      findings: [...tensorFindings(file.tensors, expected, config), ...values]
    }
  })
  const none: ReadonlyArray<TensorInfo> = []
  return yield* Effect.scoped(read).pipe(
    Effect.catchTag("ModelError", (error) =>
      Effect.map(asFinding("weights-unreadable", adapterWeightsName)(error), (findings) => ({
        tensors: none,
        findings
      }))
    )
  )
})

/** Whether the adapter names the base that it is checked against. */
const baseFindings = Effect.fnUntraced(function* (
  baseModel: string | null,
  { model, modelName }: VerifyAdapterOptions
) {
  if (baseModel === null || model === undefined) return []
  const fs = yield* FileSystem.FileSystem
  const real = (path: string) => Effect.orElseSucceed(fs.realPath(path), () => path)
  const folder = yield* real(model)
  if ((yield* real(baseModel)) === folder) return []
  const cached = /models--([^/]+)--([^/]+)\/snapshots\//.exec(`${folder}/`)
  const names = [modelName, cached === null ? undefined : `${cached[1]}/${cached[2]}`].map(
    (name) => name?.split("@")[0]
  )
  if (names.includes(baseModel)) return []
  // a folder called like the repository is as likely its download as not
  const sameEnd = baseModel.split("/").at(-1)?.toLowerCase() === folder.split("/").at(-1)?.toLowerCase()
  const message = `base_model_name_or_path = ${quote(baseModel)}, checked against ${quote(modelName ?? model)}: make sure that they are the same model`
  return [
    finding(sameEnd ? "note" : "warning", "other-base", ["peft", "llama.cpp"], "base_model_name_or_path", message)
  ]
})
