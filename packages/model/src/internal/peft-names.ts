/**
 * File and tensor names of a PEFT adapter. The module path below `base_model.model.` is the base model's own; Qwen2,
 * Llama and Qwen3 name their linear modules alike. In memory PEFT keeps an adapter name before `.weight`; files do not.
 */
import { type LinearModule, linearModules, moduleBlock } from "../Config.ts"

export const adapterConfigName = "adapter_config.json"
export const adapterWeightsName = "adapter_model.safetensors"

const namePattern =
  /^base_model\.model\.model\.layers\.(0|[1-9]\d{0,5})\.(self_attn|mlp)\.([a-z]+_proj)\.lora_([AB])\.weight$/

/** One half of a pair. */
export interface Slot {
  readonly layer: number
  readonly module: LinearModule
  readonly half: "A" | "B"
  readonly name: string
}

export const slotName = (layer: number, module: LinearModule, half: "A" | "B"): string =>
  `base_model.model.model.layers.${layer}.${moduleBlock(module)}.${module}.lora_${half}.weight`

export const parseSlot = (name: string): Slot | undefined => {
  const match = namePattern.exec(name)
  if (match === null) return undefined
  const module = linearModules.find((candidate) => candidate === match[3])
  const half = match[4] === "A" ? "A" : "B"
  if (module === undefined || moduleBlock(module) !== match[2]) return undefined
  return { layer: Number(match[1]), module, half, name }
}
