/**
 * The work of one dispatch, from its parameters alone: floating-point operations and the bytes that must cross the
 * device's memory. What a profile divides by time.
 *
 * Conventions. A multiply-add counts 2, any other arithmetic operation 1, a transcendental function 1. Bytes are
 * compulsory traffic: each element a kernel needs is counted once, however often a variant loads it, so a kernel's
 * bandwidth cannot exceed the device's and its distance from it is what caching and tiling lose. How many keys a query attends to
 * stands in buffers, not in parameters; the caller gives their mean. Kernels without a formula (the scan
 * over returns, whose length stands in a buffer too) count each bound buffer once and are marked `estimated`.
 */
import { type KernelName, kernelSpec } from "./Kernel.ts"
import { int4Block, type Storage, wordsOf } from "./Matrix.ts"
import type { Dispatch } from "./Tape.ts"

export interface Cost {
  readonly flops: number
  readonly bytes: number
  /** True when a formula was missing and only the bound buffers were counted. */
  readonly estimated: boolean
}

export interface CostHints {
  /** Mean number of keys that a query attends to; default 1, the least there can be. */
  readonly keysPerQuery?: number
}

type Values = Readonly<Record<string, number>>

/** Scalars of a dispatch by name, its constants among them (the file's where not specialised). */
const valuesOf = (dispatch: Dispatch): Values => {
  const spec = kernelSpec(dispatch.kernel)
  const floats = new Float32Array(dispatch.immediates.buffer)
  const params = Object.entries(spec.params).map(([name, type], i): [string, number] => [
    name,
    (type === "f32" ? floats[i] : dispatch.immediates[i]) ?? 0
  ])
  return { ...spec.constants, ...dispatch.constants, ...Object.fromEntries(params) }
}

const storages: ReadonlyArray<Storage> = ["f16_tiles", "f16", "int8", "int4"]
/** How a kernel reads its weight: the suffix of its name. */
const storageOf = (kernel: string): Storage => storages.find((s) => kernel.endsWith(`_${s}`)) ?? "f32"

/** Bytes of a weight's rows with its scales. */
const weightBytes = (storage: Storage, rows: number, cols: number, stride: number): number => {
  if (storage === "f32") return 4 * rows * cols
  const { data } = wordsOf(storage, rows, Math.max(stride, cols))
  const scales = storage === "int8" ? rows : storage === "int4" ? rows * Math.ceil(stride / int4Block) : 0
  return 4 * (data + scales)
}

/** Bits of `flags` in the matmul kernels. */
const [biasFlag, residualFlag, accumulateFlag, partialFlag] = [1, 2, 4, 8]
const has = (flags: number, bit: number): number => (Math.floor(flags / bit) % 2 === 1 ? 1 : 0)

/** What stands around a product: operands into 16-bit floats with a scale a row, and the sum over splits. */
const matmulPasses = (kernel: string, v: Values): Omit<Cost, "estimated"> => {
  const { flags = 0, k = 0, k2 = 0, m = 0, n = 0, PARTS = 1, rows = 0, splits = 0, stride = 0 } = v
  if (kernel === "matmul_split_finish") {
    const epilogue = has(flags, biasFlag) * n + has(flags, residualFlag) * m * n + has(flags, accumulateFlag) * m * n
    return { flops: splits * m * n, bytes: 4 * (splits * m * n + m * n + epilogue) }
  }
  const count = kernel === "matmul_pack" ? rows : m
  return { flops: 2 * count * (k + k2), bytes: count * (4 * (k + k2) + 2 * PARTS * stride + 4) }
}

const matmul = (kernel: string, v: Values): Omit<Cost, "estimated"> => {
  if (/_(pack|pack_columns|split_finish)$/.test(kernel)) return matmulPasses(kernel, v)
  const { flags = 0, GATED = 0, k = 0, k2 = 0, m = 0, n = 0, NORM = 0 } = v
  const mode = kernel.includes("_tn_") ? 2 : kernel.includes("_nn_") ? 1 : (v.mode ?? v.MODE ?? 0)
  const [rows, cols] = mode === 0 ? [n, k] : [k, n]
  const packed = /^matmul_(half|matrix|direct)/.test(kernel)
  const a = packed ? m * (2 * (v.PARTS ?? 1) * (v.a_stride ?? k) + 4) : 4 * m * (k + k2)
  const b = kernel.endsWith("_packed")
    ? n * (2 * (v.b_stride ?? k) + 4)
    : weightBytes(mode === 2 ? "f32" : storageOf(kernel), rows, cols, v.b_stride ?? cols)
  const out = (m * n) / (1 + GATED)
  const epilogue = has(flags, biasFlag) * n + has(flags, residualFlag) * out + has(flags, accumulateFlag) * out
  const splits = has(flags, partialFlag)
    ? Math.ceil(((v.panels ?? 1) + Math.ceil(k2 / (v.DEPTH ?? 16))) / Math.max(1, v.span ?? 1))
    : 1
  // What the row's norm and the gate would cost in passes of their own.
  const fused = NORM * 4 * m * k + GATED * 5 * out
  return { flops: 2 * m * n * (k + k2) + fused, bytes: a + b + 4 * (k2 * n + splits * out + epilogue + NORM * k) }
}

const headDimOf = (v: Values): number => {
  if (v.head_dim !== undefined) return v.head_dim
  if (v.quads !== undefined) return 4 * v.quads
  if (v.QUADS !== undefined) return 4 * v.QUADS
  if (v.DK !== undefined) return 16 * v.DK
  if (v.FULL !== undefined) return 4 * (v.FULL * (v.SG ?? 0) + (v.REST ?? 0))
  return (v.PARTS ?? 0) * (v.SG ?? 0)
}

/** Products of a query with a key, multiply-adds a head dimension: each kernel's own share. */
const attention = (kernel: string, v: Values, keys: number): Omit<Cost, "estimated"> => {
  const { heads = 0, kv_heads = 0, rows = 0 } = v
  const D = headDimOf(v)
  if (kernel === "attention_backward_delta") {
    const lines = v.count ?? 0
    return { flops: 2 * lines * D, bytes: 4 * (2 * lines * D + lines) }
  }
  const [query, keyValue, stat] = [rows * heads * D, rows * kv_heads * D, 2 * rows * heads]
  const pairs = rows * heads * keys
  // Each span's part once; how many there are stands with the keys.
  if (kernel === "attention_forward_paged_merge") {
    const spans = Math.ceil(keys / (v.SPAN ?? 1))
    return { flops: 3 * spans * query, bytes: 4 * (spans * (query + 4 * rows * heads) + query + rows) }
  }
  // S = qKᵀ and PV; paged, every row reads its own keys (a prompt's rows share theirs, which the parameters do not tell).
  if (kernel.includes("paged")) {
    return { flops: 4 * pairs * D, bytes: 4 * (2 * query + 2 * rows * keys * kv_heads * D + 2 * rows) }
  }
  // Recomputed S, dP, and dV and dK of it.
  if (kernel.includes("key_value")) {
    return { flops: 8 * pairs * D, bytes: 4 * (2 * query + 4 * keyValue + stat + rows) }
  }
  // Recomputed S, dP, dQ; the row sums of dO ∘ O, which tiled kernels read as they find them.
  if (kernel.includes("backward")) {
    if (/_(flash|matrix)/.test(kernel)) {
      return { flops: 6 * pairs * D, bytes: 4 * (3 * query + 2 * keyValue + stat + rows) }
    }
    return { flops: 6 * pairs * D + 2 * query, bytes: 4 * (4 * query + 2 * keyValue + 2 * stat + rows) }
  }
  return { flops: 4 * pairs * D, bytes: 4 * (2 * query + 2 * keyValue + stat + 2 * rows) }
}

const rope = (kernel: string, v: Values): Omit<Cost, "estimated"> => {
  const { head_dim = 0, heads = 0, kv_heads = 0, rows = 0 } = v
  const [turned, all] = [rows * (heads + kv_heads) * head_dim, rows * (heads + 2 * kv_heads) * head_dim]
  const normed = kernel.includes("qk_norm")
  const backward = kernel.includes("backward")
  return {
    // Two multiply-adds and two products for a pair; a norm adds what rms_norm does.
    flops: 3 * turned + (normed ? (backward ? 10 : 4) * turned : 0),
    bytes: 4 * (2 * all + (normed && backward ? all : 0) + rows * head_dim + 2 * rows)
  }
}

/** Kernels whose work is so many operations and elements of four bytes. Undefined: only buffers tell. */
const elementwise: Readonly<
  Record<string, (v: Values) => { readonly flops: number; readonly elements: number } | undefined>
> = {
  adamw: ({ n = 0 }) => ({ flops: 15 * n, elements: 7 * n + 3 }),
  column_sum: ({ block = 0, cols = 0, rows = 0 }) => ({
    flops: rows * cols,
    elements: rows * cols + Math.ceil(rows / Math.max(1, block)) * cols
  }),
  gae: () => undefined,
  grad_norm_partial: ({ block = 1, n = 0 }) => ({ flops: 2 * n, elements: n + 2 * Math.ceil(n / block) }),
  grad_norm_finish: ({ blocks = 0 }) => ({ flops: blocks, elements: 2 * blocks + 3 }),
  log_softmax_backward: ({ WITH_REF = 0, cols = 0, rows = 0 }) => ({
    flops: (5 + 6 * WITH_REF) * rows * cols,
    elements: (2 + WITH_REF) * rows * cols + 8 * rows
  }),
  log_softmax_finish: ({ rows = 0 }) => ({ flops: 6 * rows, elements: 9 * rows }),
  log_softmax_forward: ({ WITH_REF = 0, cols = 0, rows = 0 }) => ({
    flops: (6 + 4 * WITH_REF) * rows * cols,
    elements: (1 + WITH_REF) * rows * cols + 11 * rows
  }),
  lora_mask: ({ groups = 0, rank = 0, rows = 0 }) => ({ flops: 0, elements: rows * rank * Math.max(0, groups - 1) }),
  lora_merge: ({ cols = 0, rows = 0, width = 0 }) => ({
    flops: 2 * rows * cols * (width + 1),
    elements: rows * cols + width * (rows + cols)
  }),
  pairwise_loss: ({ pairs = 0 }) => ({ flops: 8 * pairs, elements: 6 * pairs }),
  ppo_loss: ({ n = 0 }) => ({ flops: 40 * n, elements: 21 * n }),
  rms_norm_backward_weight: ({ block = 1, dim = 0, rows = 0 }) => ({
    flops: 3 * rows * dim,
    elements: 2 * rows * dim + rows + Math.ceil(rows / block) * dim
  }),
  rms_norm_backward: ({ accumulate = 0, dim = 0, rows = 0 }) => ({
    flops: (8 + accumulate) * rows * dim,
    elements: (3 + accumulate) * rows * dim + dim + rows
  }),
  rms_norm: ({ dim = 0, rows = 0 }) => ({ flops: 4 * rows * dim, elements: 2 * rows * dim + dim + rows }),
  sample: ({ rows = 0, vocab = 0 }) => ({ flops: 6 * rows * vocab, elements: 2 * rows * vocab + 12 * rows }),
  swiglu_backward: ({ dim = 0, rows = 0 }) => ({ flops: 11 * rows * dim, elements: 5 * rows * dim }),
  swiglu: ({ dim = 0, rows = 0 }) => ({ flops: 5 * rows * dim, elements: 3 * rows * dim }),
  value_head_backward_weight: ({ dim = 0, rows = 0 }) => ({
    flops: 2 * rows * (dim + 1),
    elements: rows * (dim + 1) + 2 * (dim + 1)
  }),
  value_head_backward: ({ accumulate = 0, dim = 0, rows = 0 }) => ({
    flops: (1 + accumulate) * rows * dim,
    elements: (1 + accumulate) * rows * dim + rows + dim
  }),
  value_head: ({ dim = 0, rows = 0 }) => ({ flops: 2 * rows * dim, elements: rows * dim + dim + 1 + rows }),
  whiten: ({ n = 0 }) => ({ flops: 5 * n, elements: 3 * n }),
  probe_copy: ({ n = 0 }) => ({ flops: 0, elements: 2 * n }),
  probe_fma: ({ WG = 0, groups = 0, rounds = 0 }) => ({ flops: 64 * WG * groups * rounds, elements: WG * groups }),
  probe_matrix: ({ SUBGROUPS = 0, groups = 0, rounds = 0 }) => ({
    flops: 8 * 8192 * SUBGROUPS * groups * rounds,
    elements: 768 + 2048 * SUBGROUPS * groups
  })
}

/** An embedding reads one table row (in the table's storage) an id and writes it in f32; backward reads the other way. */
const embedding = (kernel: string, v: Values, bound: number): Omit<Cost, "estimated"> => {
  const { accumulate = 0, dim = 0, rows = 0 } = v
  if (kernel.includes("backward")) {
    // Rows of dy are as many as there are ids, which only the bound buffer tells.
    return { flops: bound * dim, bytes: 4 * (bound * dim + (1 + accumulate) * rows * dim + rows + 1 + bound) }
  }
  return { flops: 0, bytes: weightBytes(storageOf(kernel), rows, dim, v.b_stride ?? dim) + 4 * rows * (dim + 1) }
}

const boundBytes = (dispatch: Dispatch): number => {
  const access = Object.values(kernelSpec(dispatch.kernel).bindings)
  return dispatch.tensors.reduce((sum, [binding, tensor]) => {
    const written = access.some((b) => b.binding === binding && b.access === "read_write")
    return sum + 4 * tensor.length * (written ? 2 : 1)
  }, 0)
}

const boundLength = (dispatch: Dispatch, kernel: KernelName, name: string): number => {
  const binding = kernelSpec(kernel).bindings[name]?.binding
  return dispatch.tensors.find(([at]) => at === binding)?.[1].length ?? 0
}

const formula = (dispatch: Dispatch, hints: CostHints): Omit<Cost, "estimated"> | undefined => {
  const { kernel } = dispatch
  const v = valuesOf(dispatch)
  if (kernel.startsWith("matmul_")) return matmul(kernel, v)
  if (kernel.startsWith("attention_")) return attention(kernel, v, hints.keysPerQuery ?? 1)
  if (kernel.startsWith("rope_")) return rope(kernel, v)
  if (kernel.startsWith("embedding_")) {
    return embedding(kernel, v, Math.min(boundLength(dispatch, kernel, "order"), v.rows ?? 0))
  }
  // The longest name that fits: rms_norm_backward_weight before rms_norm_backward before rms_norm.
  const name = Object.keys(elementwise)
    .filter((key) => kernel.startsWith(key))
    .sort((a, b) => b.length - a.length)[0]
  const work = name === undefined ? undefined : elementwise[name]?.(v)
  return work && { flops: work.flops, bytes: 4 * work.elements }
}

/** Floating-point operations and compulsory bytes of one dispatch. */
export const costOf = (dispatch: Dispatch, hints: CostHints = {}): Cost => {
  const known = formula(dispatch, hints)
  return known === undefined
    ? { flops: 0, bytes: boundBytes(dispatch), estimated: true }
    : { ...known, estimated: false }
}

/** The shape of a matrix product, `m x n x k`, which its name does not tell; empty for other kernels. */
export const shapeOf = (dispatch: Dispatch): string => {
  if (!dispatch.kernel.startsWith("matmul_")) return ""
  const { k = 0, k2 = 0, m = 0, n = 0, rows = 0 } = valuesOf(dispatch)
  if (dispatch.kernel.startsWith("matmul_pack")) return `${rows + m} x ${k}${k2 > 0 ? `+${k2}` : ""}`
  if (dispatch.kernel === "matmul_split_finish") return `${m} x ${n}`
  return `${m} x ${n} x ${k}${k2 > 0 ? `+${k2}` : ""}`
}
