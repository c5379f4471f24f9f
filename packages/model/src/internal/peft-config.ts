/**
 * `adapter_config.json` of a LoRA adapter: reading with every option that would change the arithmetic checked, and
 * writing the fields that all PEFT versions know, keys sorted, indent 2, no newline at the end (as PEFT writes it).
 */
import { Effect } from "effect"
import { type LinearModule, linearModules } from "../Config.ts"
import { ModelError, quote } from "../ModelError.ts"
import { isRecord } from "./files.ts"

export interface LoraSettings {
  readonly rank: number
  readonly alpha: number
  readonly useRslora: boolean
  /** Empty: take the modules from the tensors ("all-linear"). */
  readonly targetModules: ReadonlyArray<LinearModule>
  readonly baseModel: string | null
}

const operation = "read adapter"

const empty = (value: unknown): boolean =>
  value === null ||
  value === false ||
  (Array.isArray(value) ? value.length === 0 : isRecord(value) && Object.keys(value).length === 0)

/** Initialisations that leave the base weights as they are. Others (pissa, olora, corda, loftq) change them. */
const plainInit = (value: unknown): boolean =>
  typeof value === "boolean" || value === null || value === "gaussian" || value === "orthogonal" || value === "eva"

/** Options that change the arithmetic, each with the test that says when it is harmless. */
export const demands: Readonly<Record<string, (value: unknown) => boolean>> = {
  bias: (v) => v === "none" || v === null,
  use_dora: empty,
  use_qalora: empty,
  lora_bias: empty,
  fan_in_fan_out: empty,
  rank_pattern: empty,
  alpha_pattern: empty,
  modules_to_save: empty,
  layers_to_transform: empty,
  layers_pattern: empty,
  layer_replication: empty,
  exclude_modules: empty,
  target_parameters: empty,
  trainable_token_indices: empty,
  alora_invocation_tokens: empty,
  arrow_config: empty,
  init_lora_weights: plainInit
}

export const decodeLoraSettings = Effect.fnUntraced(function* (file: string, raw: { readonly [key: string]: unknown }) {
  const malformed = (what: string) =>
    ModelError.malformed({ operation, file, message: `${file}: ${what}; write the adapter again` })
  const unsupported = (option: string, hint: string) =>
    ModelError.unsupported({
      operation,
      file,
      option,
      message: Object.hasOwn(raw, option)
        ? `${file}: ${option} = ${quote(JSON.stringify(raw[option]) ?? "undefined")} is not supported; ${hint}`
        : `${file}: ${option} is missing; ${hint}`
    })
  if (raw.peft_type !== "LORA") return yield* unsupported("peft_type", "only LORA adapters can be loaded")
  for (const [option, harmless] of Object.entries(demands)) {
    if (Object.hasOwn(raw, option) && !harmless(raw[option])) {
      return yield* unsupported(option, "train or export the adapter as plain LoRA with one rank and alpha")
    }
  }
  const { r, lora_alpha: alpha, use_rslora: rslora, target_modules: targets, base_model_name_or_path: base } = raw
  if (typeof r !== "number" || !Number.isInteger(r) || r < 1 || r > 65_536) {
    return yield* malformed(`r = ${quote(String(r))} is not a rank of 1 to 65536`)
  }
  if (typeof alpha !== "number" || !Number.isFinite(alpha)) return yield* malformed(`lora_alpha is not a number`)
  if (rslora != null && typeof rslora !== "boolean") return yield* malformed("use_rslora is not true or false")
  const targetModules: Array<LinearModule> = []
  if (targets !== "all-linear") {
    if (!Array.isArray(targets) || targets.length === 0) {
      return yield* unsupported("target_modules", "it must list modules such as q_proj, or say all-linear")
    }
    for (const target of targets) {
      const module = linearModules.find(
        (name) => target === name || (typeof target === "string" && target.endsWith(`.${name}`))
      )
      if (module === undefined) {
        return yield* unsupported(
          "target_modules",
          `${quote(String(target))} is not one of ${linearModules.join(", ")}`
        )
      }
      if (!targetModules.includes(module)) targetModules.push(module)
    }
  }
  const settings: LoraSettings = {
    rank: r,
    alpha,
    useRslora: rslora === true,
    targetModules,
    baseModel: typeof base === "string" ? base : null
  }
  return settings
})

export const encodeLoraSettings = (settings: LoraSettings): string => {
  const fields: Readonly<Record<string, unknown>> = {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: settings.baseModel,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: settings.alpha,
    lora_dropout: 0,
    modules_to_save: null,
    peft_type: "LORA",
    r: settings.rank,
    rank_pattern: {},
    revision: null,
    target_modules: [...settings.targetModules].sort(),
    task_type: "CAUSAL_LM",
    use_dora: false,
    use_rslora: settings.useRslora
  }
  return JSON.stringify(fields, null, 2)
}
