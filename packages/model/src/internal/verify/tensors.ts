/** What the consumers of an adapter make of its tensors: names, shapes, dtypes and, read one by one, numbers. */
import { Effect } from "effect"
import { type LinearModule, linearModules, linearShapes, type ModelConfig } from "../../Config.ts"
import { quote } from "../../ModelError.ts"
import type { SafetensorsFile, TensorInfo } from "../../Safetensors.ts"
import { isFloat, makeScratch, toDoubles } from "../cast.ts"
import { parseSlot, type Slot, slotName } from "../peft-names.ts"
import { type Consumer, type Finding, finding, several } from "./finding.ts"
import type { Expected } from "./settings.ts"

/** Names that are no half of a pair: what they are and who minds. The first that matches counts. */
const strangers: ReadonlyArray<{
  readonly code: string
  readonly matches: (name: string) => boolean
  readonly who: ReadonlyArray<Consumer>
  readonly what: string
}> = [
  {
    code: "dora-tensor",
    matches: (name) => name.includes("lora_magnitude_vector"),
    who: ["vllm", "llama.cpp", "srcode"],
    what: "belongs to DoRA, which vLLM refuses"
  },
  {
    code: "adapter-name",
    matches: (name) => /\.lora_[AB]\.[^.]+\.weight$/.test(name),
    who: ["peft", "vllm", "srcode"],
    what: "still carries the adapter's name before .weight; PEFT finds no place for it and leaves the module at its start, vLLM refuses it; save with save_pretrained or rename"
  },
  {
    code: "prefix",
    matches: (name) => parseSlot(`base_model.model.model.${name.slice(name.indexOf("layers."))}`) !== undefined,
    who: ["peft", "srcode"],
    what: "lacks or repeats a part of the prefix base_model.model.model.layers; PEFT finds no place for it and leaves the module at its start"
  },
  {
    code: "embedding-tensor",
    matches: (name) => /lora_embedding_[AB]$/.test(name),
    who: ["llama.cpp", "srcode"],
    what: "adapts the embedding, which srcode and most servers do not"
  },
  {
    code: "bias-tensor",
    matches: (name) => name.endsWith(".bias"),
    who: ["vllm", "srcode"],
    what: "is a bias, which vLLM refuses or drops"
  },
  {
    code: "unknown-module",
    matches: (name) => /\.lora_[AB]\.weight$/.test(name),
    who: ["vllm", "srcode"],
    what: `belongs to no linear module of these models (${linearModules.join(", ")}); vLLM refuses what the model does not have`
  },
  {
    code: "whole-tensor",
    matches: () => true,
    who: ["vllm", "llama.cpp", "srcode"],
    what: "is no half of an adapter's pair; vLLM refuses the file (unsupported LoRA weight); keep heads in a file of their own"
  }
]

/** Names, shapes and dtypes against the settings and, where it is known, the base model. Reads headers only. */
export const tensorFindings = (
  tensors: ReadonlyMap<string, TensorInfo>,
  expected: Expected,
  config: ModelConfig | null
): ReadonlyArray<Finding> => {
  const slots: Array<{ readonly slot: Slot; readonly info: TensorInfo }> = []
  const odd = new Map<string, Array<string>>()
  for (const [name, info] of tensors) {
    const slot = parseSlot(name)
    const stranger = slot === undefined ? strangers.find(({ matches }) => matches(name)) : undefined
    if (slot !== undefined) slots.push({ slot, info })
    if (stranger !== undefined) append(odd, stranger.code, name)
  }
  const findings: Array<Finding> = []
  const add = (code: string, who: ReadonlyArray<Consumer>, names: ReadonlyArray<string>, what: string): void => {
    if (names.length === 0) return
    findings.push(finding("error", code, who, names[0] ?? "", `${several([...names].sort())}: ${what}`))
  }
  for (const { code, who, what } of strangers) add(code, who, odd.get(code) ?? [], what)
  if (tensors.size === 0) {
    findings.push(
      finding(
        "error",
        "empty",
        ["peft", "vllm", "srcode"],
        "tensors",
        "the file holds no tensors: base and adapter are the base"
      )
    )
  }
  const covered = linearModules.filter((module) => slots.some(({ slot }) => slot.module === module))
  const targets = expected.targetModules ?? covered
  const numLayers = config?.numLayers ?? slots.reduce((most, { slot }) => Math.max(most, slot.layer + 1), 0)
  add(
    "beyond-layers",
    ["peft", "vllm", "srcode"],
    slots.filter(({ slot }) => slot.layer >= numLayers).map(({ slot }) => slot.name),
    `the base model has ${numLayers} layers; PEFT and vLLM would leave this out; the adapter is another model's`
  )
  add(
    "not-listed",
    ["peft", "srcode"],
    slots.filter(({ slot }) => !targets.includes(slot.module)).map(({ slot }) => slot.name),
    "target_modules does not list the module; PEFT passes over it, vLLM applies it"
  )
  add(
    "missing",
    ["peft", "vllm", "srcode"],
    missing(
      slots.map(({ slot }) => slot),
      targets,
      numLayers
    ),
    "missing: PEFT leaves the module as if untrained, vLLM fails on half a pair; write the adapter again"
  )
  findings.push(...shapeFindings(slots, expected.rank, config), ...dtypeFindings([...tensors.values()]))
  return findings
}

const append = (groups: Map<string, Array<string>>, key: string, name: string): void => {
  const group = groups.get(key)
  if (group === undefined) groups.set(key, [name])
  else group.push(name)
}

const missing = (
  slots: ReadonlyArray<Slot>,
  targets: ReadonlyArray<LinearModule>,
  numLayers: number
): ReadonlyArray<string> => {
  const there = new Set(slots.map(({ name }) => name))
  const names: Array<string> = []
  // a layer number out of all bounds would ask for as many names
  for (let layer = 0; layer < Math.min(numLayers, 4096); layer++) {
    for (const module of targets) {
      for (const half of ["A", "B"] as const) {
        const name = slotName(layer, module, half)
        if (!there.has(name)) names.push(name)
      }
    }
  }
  return names
}

const shapeFindings = (
  slots: ReadonlyArray<{ readonly slot: Slot; readonly info: TensorInfo }>,
  rank: number | null,
  config: ModelConfig | null
): ReadonlyArray<Finding> => {
  const findings: Array<Finding> = []
  const shapes = config === null ? null : linearShapes(config)
  const seen = new Map<string, number>()
  /** By reason: the first shape, and all names. */
  const wrong = new Map<string, { readonly shape: string; readonly names: Array<string> }>()
  for (const { slot, info } of slots) {
    const [first, second] = info.shape
    const [r, size] = slot.half === "A" ? [first, second] : [second, first]
    const other = `${slot.module}.${slot.half}`
    if (size !== undefined && !seen.has(other)) seen.set(other, size)
    const needed = shapes === null ? seen.get(other) : shapes[slot.module][slot.half === "A" ? 1 : 0]
    const good = slot.half === "A" ? [rank ?? r, needed] : [needed, rank ?? r]
    if (info.shape.length === 2 && first === good[0] && second === good[1]) continue
    const swapped = info.shape.length === 2 && first === good[1] && second === good[0]
    const rankOnly = info.shape.length === 2 && size === needed
    const why = swapped
      ? "stored transposed; A is [r, in] and B is [out, r]"
      : rankOnly
        ? `r = ${rank} in the settings; PEFT refuses the size, vLLM scales by the wrong r`
        : shapes === null
          ? "the layers do not agree; write the adapter again"
          : "the adapter is another model's, or damaged"
    const shape = `[${info.shape.join(", ")}] where [${good.join(", ")}] is expected`
    const group = wrong.get(why)
    if (group === undefined) wrong.set(why, { shape, names: [slot.name] })
    else group.names.push(slot.name)
  }
  for (const [why, { names, shape }] of wrong) {
    const message = `${several(names)}: shape ${shape}: ${why}`
    findings.push(finding("error", "shape", ["peft", "vllm", "srcode"], names[0] ?? "", message))
  }
  return findings
}

const dtypeFindings = (infos: ReadonlyArray<TensorInfo>): ReadonlyArray<Finding> => {
  const findings: Array<Finding> = []
  const strange = infos.filter(({ dtype }) => !isFloat(dtype))
  const first = strange[0]
  if (first !== undefined) {
    findings.push(
      finding(
        "error",
        "dtype",
        ["peft", "vllm", "srcode"],
        first.name,
        `${several(strange.map(({ name }) => name))}: stored as ${first.dtype}; adapters are F32, F16 or BF16`
      )
    )
  }
  const dtypes = [...new Set(infos.map(({ dtype }) => dtype))].sort()
  if (dtypes.includes("F64")) {
    findings.push(
      finding(
        "warning",
        "dtype-f64",
        ["vllm", "llama.cpp"],
        "dtype",
        "stored as F64, which readers round; write it with export peft --dtype f32"
      )
    )
  } else if (dtypes.length > 1 && first === undefined) {
    findings.push(
      finding(
        "note",
        "dtype-mixed",
        ["llama.cpp"],
        "dtype",
        `stored as ${dtypes.join(" and ")}; readers widen them alike`
      )
    )
  }
  return findings
}

/** Looks at every number, tensor by tensor: NaN, infinities, and pairs whose product is nothing. */
export const valueFindings = Effect.fnUntraced(function* (file: SafetensorsFile) {
  const bad: Array<string> = []
  const zeros = new Map<string, boolean>()
  for (const info of file.tensors.values()) {
    if (!isFloat(info.dtype)) continue
    const state = yield* scan(file, info)
    if (!state.finite) bad.push(info.name)
    const slot = parseSlot(info.name)
    if (slot === undefined) continue
    const pair = `${slot.layer}.${slot.module}`
    zeros.set(pair, (zeros.get(pair) ?? false) || state.zero)
  }
  const findings: Array<Finding> = []
  if (bad.length > 0) {
    findings.push(
      finding(
        "error",
        "not-finite",
        ["peft", "vllm", "srcode"],
        bad[0] ?? "",
        `${several(bad)}: holds NaN or infinities; PEFT and vLLM load it and answer nonsense; go back to an earlier checkpoint`
      )
    )
  }
  const idle = [...zeros].filter(([, zero]) => zero).map(([pair]) => pair)
  if (idle.length > 0 && idle.length === zeros.size) {
    findings.push(
      finding(
        "warning",
        "does-nothing",
        ["peft", "vllm"],
        "lora_B",
        "A or B of every pair is zero: the adapter does nothing; it was saved before it was trained"
      )
    )
  } else if (idle.length > 0) {
    findings.push(
      finding(
        "note",
        "idle-pairs",
        ["peft", "vllm"],
        idle[0] ?? "",
        `${idle.length} of ${zeros.size} pairs do nothing (A or B is zero), such as ${quote(idle[0] ?? "")}`
      )
    )
  }
  return findings
})

const pieceElements = 2 ** 18

const scan = Effect.fnUntraced(function* (file: SafetensorsFile, info: TensorInfo) {
  const { dtype, elements, name } = info
  let zero = true
  if (!isFloat(dtype)) return { finite: true, zero: false }
  const scratch = makeScratch(Math.min(pieceElements, elements))
  for (let at = 0; at < elements; at += pieceElements) {
    const values = toDoubles(dtype, yield* file.readRaw(name, at, Math.min(pieceElements, elements - at)), scratch)
    for (const value of values) {
      if (!Number.isFinite(value)) return { finite: false, zero: false }
      if (value !== 0) zero = false
    }
  }
  return { finite: true, zero }
})
