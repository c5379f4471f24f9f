/** What the consumers of an adapter make of its `adapter_config.json`. Pure: the parsed object in, findings out. */
import { type LinearModule, linearModules } from "../../Config.ts"
import { demands } from "../peft-config.ts"
import { type Consumer, type Finding, finding, type Severity, show } from "./finding.ts"

/** What the tensors are to be held against; null where the settings do not say. */
export interface Expected {
  readonly rank: number | null
  readonly alpha: number | null
  readonly useRslora: boolean
  /** Null: whatever the tensors cover. */
  readonly targetModules: ReadonlyArray<LinearModule> | null
  readonly baseModel: string | null
}

/** What `--max-lora-rank` of vLLM may be. */
const vllmRanks = [1, 8, 16, 32, 64, 128, 256, 320, 512]
const vllmDefaultRank = 16

const taskTypes = new Set(["CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])

/** Written by some version of PEFT beside the options that are looked at. */
const inert = new Set(
  (
    "alora_invocation_tokens arrow_config auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config " +
    "inference_mode lora_alpha lora_dropout loftq_config lora_ga_config megatron_config megatron_core peft_type peft_version " +
    "qalora_group_size r revision runtime_config target_modules task_type use_bdlora use_rslora velora_config"
  ).split(" ")
)

/** Who minds an option, and what to say of it. Options that only srcode minds need no entry. */
const options: Readonly<Record<string, { readonly who: ReadonlyArray<Consumer>; readonly what: string }>> = {
  use_dora: { who: ["vllm", "llama.cpp", "srcode"], what: "vLLM refuses DoRA; train without it, or merge with PEFT" },
  modules_to_save: {
    who: ["vllm", "srcode"],
    what: "vLLM refuses adapters with whole modules inside; keep heads in a file of their own, or merge with PEFT"
  },
  bias: { who: ["vllm", "srcode"], what: "vLLM refuses or drops trained biases; train with bias none" },
  lora_bias: { who: ["vllm", "srcode"], what: "vLLM refuses biases of adapters; train without them" },
  rank_pattern: {
    who: ["vllm", "srcode"],
    what: "vLLM does not read it and scales every module by the same alpha / r; train with one rank"
  },
  alpha_pattern: {
    who: ["vllm", "srcode"],
    what: "vLLM does not read it and scales every module by the same alpha / r; train with one alpha"
  },
  init_lora_weights: {
    who: ["vllm", "srcode"],
    what: "this initialisation changes the base weights, vLLM takes them as they are; convert the adapter to plain LoRA when saving"
  },
  layer_replication: { who: ["vllm", "srcode"], what: "vLLM does not repeat layers; merge with PEFT" },
  alora_invocation_tokens: { who: ["vllm", "srcode"], what: "vLLM applies the adapter to every token" },
  trainable_token_indices: { who: ["vllm", "srcode"], what: "vLLM refuses trained token embeddings; merge with PEFT" },
  target_parameters: { who: ["vllm", "srcode"], what: "only linear layers can be served; merge with PEFT" },
  use_qalora: { who: ["vllm", "srcode"], what: "vLLM does not know it and would apply the adapter as plain LoRA" }
}

export const settingsFindings = (raw: {
  readonly [key: string]: unknown
}): { readonly expected: Expected; readonly findings: ReadonlyArray<Finding> } => {
  const findings: Array<Finding> = []
  const add = (severity: Severity, code: string, who: ReadonlyArray<Consumer>, option: string, what: string) => {
    const value = Object.hasOwn(raw, option) ? `${option} = ${show(raw[option])}` : `${option} is absent`
    findings.push(finding(severity, code, who, option, `${value}: ${what}`))
  }
  if (raw.peft_type !== "LORA") {
    const who: ReadonlyArray<Consumer> = raw.peft_type == null ? ["peft", "vllm", "srcode"] : ["vllm", "srcode"]
    add("error", "not-lora", who, "peft_type", "only LORA is served as an adapter")
  }
  taskFinding(raw.task_type, add)
  const rank = rankOf(raw.r, add)
  const useRslora = raw.use_rslora === true
  if (raw.use_rslora != null && typeof raw.use_rslora !== "boolean") {
    add("error", "rslora-type", ["peft", "vllm", "srcode"], "use_rslora", "it must be true or false")
  }
  if (useRslora) {
    add(
      "warning",
      "rslora",
      ["llama.cpp"],
      "use_rslora",
      "PEFT and vLLM scale by alpha / sqrt(r), llama.cpp by alpha / r whatever it says; for llama.cpp write it with export peft --plain-alpha"
    )
  }
  const alpha = alphaOf(raw.lora_alpha, rank, useRslora, add)
  const targetModules = targetsOf(raw.target_modules, add)
  if (raw.fan_in_fan_out === true) {
    add(
      "error",
      "fan-in-fan-out",
      ["srcode"],
      "fan_in_fan_out",
      "it is for transposed layers (GPT-2); PEFT sets it back to false"
    )
  }
  for (const [option, harmless] of Object.entries(demands)) {
    if (option === "fan_in_fan_out" || !Object.hasOwn(raw, option) || harmless(raw[option])) continue
    const known = options[option]
    add("error", "option", known?.who ?? ["srcode"], option, known?.what ?? "srcode does not do this")
  }
  const unknown = Object.keys(raw).filter((key) => !inert.has(key) && !Object.hasOwn(demands, key))
  if (unknown.length > 0) {
    findings.push(
      finding(
        "warning",
        "unknown-option",
        ["peft"],
        unknown[0] ?? "",
        `unknown options ${unknown.slice(0, 5).map(show).join(", ")}: older versions of PEFT refuse what they do not know`
      )
    )
  }
  const base = raw.base_model_name_or_path
  const baseModel = typeof base === "string" && base !== "" ? base : null
  if (baseModel === null) {
    add(
      "warning",
      "no-base-name",
      ["peft", "llama.cpp"],
      "base_model_name_or_path",
      "programs that load base and adapter in one go cannot find the base; write it with export peft --base-name ORG/NAME"
    )
  } else if (/^([/~]|\.{1,2}\/|[a-z]:\\)/i.test(baseModel)) {
    add(
      "note",
      "local-base-name",
      ["peft", "llama.cpp"],
      "base_model_name_or_path",
      "a path means nothing on other machines; before publishing, write it with export peft --base-name ORG/NAME"
    )
  }
  return { expected: { rank, alpha, useRslora, targetModules, baseModel }, findings }
}

type Add = (severity: Severity, code: string, who: ReadonlyArray<Consumer>, option: string, what: string) => void

const taskFinding = (value: unknown, add: Add): void => {
  if (value === "CAUSAL_LM") return
  if (value == null)
    add("warning", "no-task", ["peft"], "task_type", "PEFT builds a bare model without generate; set CAUSAL_LM")
  else if (typeof value === "string" && taskTypes.has(value)) {
    add(
      "warning",
      "other-task",
      ["peft", "vllm"],
      "task_type",
      "PEFT builds another model than a language model from it"
    )
  } else add("error", "unknown-task", ["peft"], "task_type", "PEFT knows no such task; set CAUSAL_LM")
}

const rankOf = (value: unknown, add: Add): number | null => {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1) {
    add("error", "rank", ["peft", "vllm", "srcode"], "r", "the rank must be a whole number from 1 on")
    return null
  }
  const flag = vllmRanks.find((allowed) => allowed >= value)
  if (flag === undefined) {
    add(
      "error",
      "rank-too-large",
      ["vllm"],
      "r",
      `vLLM serves ranks up to ${vllmRanks.at(-1)}; merge it, or train with a lower rank`
    )
  } else if (value > vllmDefaultRank) {
    add(
      "note",
      "rank-flag",
      ["vllm"],
      "r",
      `vLLM takes ranks up to ${vllmDefaultRank} unless started with --max-lora-rank ${flag}`
    )
  }
  return value
}

const alphaOf = (value: unknown, rank: number | null, useRslora: boolean, add: Add): number | null => {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    add(
      "error",
      "alpha",
      ["peft", "vllm", "srcode"],
      "lora_alpha",
      "it must be a number (PEFT would take 8, vLLM refuses)"
    )
    return null
  }
  const scale = rank === null ? 1 : value / (useRslora ? Math.sqrt(rank) : rank)
  if (value === 0)
    add("warning", "alpha-zero", ["peft", "vllm"], "lora_alpha", "the adapter is multiplied by 0 and does nothing")
  else if (value < 0) add("warning", "alpha-negative", ["peft", "vllm"], "lora_alpha", "the adapter is subtracted")
  else if (scale > 32 || scale < 1 / 64) {
    add(
      "warning",
      "scale",
      ["peft", "vllm"],
      "lora_alpha",
      `with r = ${rank} the scale is ${scale}, far from the usual 1 to 2; check that both belong together`
    )
  }
  return value
}

const targetsOf = (value: unknown, add: Add): ReadonlyArray<LinearModule> | null => {
  const option = "target_modules"
  if (value === "all-linear") {
    add(
      "warning",
      "targets-not-expanded",
      ["vllm", "llama.cpp"],
      option,
      "what it covers depends on the reader; write the list with export peft"
    )
    return null
  }
  if (typeof value === "string") {
    add(
      "error",
      "targets-pattern",
      ["srcode"],
      option,
      "a pattern is matched differently by each reader; list the modules"
    )
    return null
  }
  if (!Array.isArray(value) || value.length === 0) {
    add(
      "error",
      "no-targets",
      ["peft", "vllm", "srcode"],
      option,
      "vLLM refuses this and PEFT adapts its default modules only; list the modules"
    )
    return null
  }
  const found: Array<LinearModule> = []
  for (const target of value) {
    const module = linearModules.find(
      (name) => target === name || (typeof target === "string" && target.endsWith(`.${name}`))
    )
    if (module !== undefined) {
      if (!found.includes(module)) found.push(module)
    } else if (target === "lm_head" || target === "embed_tokens") {
      add(
        "error",
        "target-embedding",
        ["srcode", "llama.cpp"],
        option,
        `an adapter on ${target} fails on models with tied embeddings; leave it out`
      )
    } else {
      add(
        "error",
        "target-unknown",
        ["peft", "vllm", "srcode"],
        option,
        `${show(target)} is no linear module of these models (${linearModules.join(", ")})`
      )
    }
  }
  return linearModules.filter((module) => found.includes(module))
}
