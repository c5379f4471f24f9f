/**
 * Launches of attention, forward and backward. The ladder of variants stands in kernels/attention/README.md; the first that
 * the device and the shape allow is taken, or the one that the caller names (to verify or to time it).
 */
import type { AdapterInfo } from "../Gpu.ts"
import { subgroupTile } from "../MatmulVariant.ts"
import { grid1d, maxGroups, type Tape } from "../Tape.ts"
import { type Backward, type Forward, flashBackward, flashFits, flashForward } from "./flash.ts"
import { matrixBackward, matrixFits, matrixForward } from "./flashMatrix.ts"
import { type Paged, pagedFlash, pageSize } from "./flashPaged.ts"
import { fits, groupSize, type HeadShape } from "./layer.ts"

/** Heads up to this size stay in one invocation's registers. */
const narrowHead = 64

/**
 * "invocation": one invocation a head; "packed": neighbouring rows share the loads of their keys by broadcast; "workgroup": a
 * workgroup a head; "flash": scalar tiles; "matrix": tiles on matrix units, in 16-bit floats with 32-bit sums.
 */
export type AttentionVariant = "invocation" | "packed" | "workgroup" | "flash" | "matrix"

/** The variants of packed self-attention that this device has for such a shape, the preferred one first. */
export const attentionVariants = (info: AdapterInfo, x: HeadShape): ReadonlyArray<AttentionVariant> => {
  const SG = subgroupTile(info)
  const quick = SG > 0 && x.headDim % SG === 0 && Math.ceil((x.rows * x.heads) / x.kvHeads / SG) <= maxGroups
  const flash = [
    ...(matrixFits(info, x) ? (["matrix"] as const) : []),
    ...(flashFits(info, x) ? (["flash"] as const) : [])
  ]
  if (!info.software) return [...flash, "workgroup", "invocation"]
  const narrow = ["invocation", "workgroup", ...flash] as const
  if (x.headDim > narrowHead) return ["workgroup", ...flash]
  return quick ? ["packed", ...narrow] : narrow
}

/** `forced` names the variant of packed self-attention; a shape it does not take fails the submit. */
export const makeAttention = (info: AdapterInfo, forced?: AttentionVariant) => {
  const WG = groupSize(info)
  const SG = subgroupTile(info)
  const grid = (count: number) => grid1d(count, WG)
  const scalars = (s: HeadShape) => ({
    rows: s.rows,
    heads: s.heads,
    kv_heads: s.kvHeads,
    scale: 1 / Math.sqrt(s.headDim)
  })
  const quads = (tape: Tape, s: HeadShape): number => {
    tape.require(
      s.headDim % 4 === 0 && s.heads % s.kvHeads === 0,
      "attention",
      `head_dim ${s.headDim} must be a multiple of 4 and ${s.heads} heads of ${s.kvHeads} kv heads`
    )
    tape.require(s.headDim <= 256, "attention", `head_dim ${s.headDim} is larger than 256`)
    return Math.floor(s.headDim / 4)
  }
  const narrow = (s: HeadShape): boolean => info.software && s.headDim <= narrowHead
  const choose = (tape: Tape, s: HeadShape): AttentionVariant => {
    const known = attentionVariants(info, s)
    if (forced === undefined) return known[0] ?? "workgroup"
    const what = `the variant ${forced} is not for head_dim ${s.headDim} on this device; it has ${known.join(", ")}`
    tape.require(known.includes(forced), "attention", what)
    return forced
  }
  /** Workgroups and constants of the packed variant for `lanes` lanes a kv head, or undefined where it cannot be used. */
  const packed = (s: HeadShape, lanes: number) =>
    narrow(s) && SG > 0 && s.headDim % SG === 0 && Math.ceil(lanes / SG) <= 65535
      ? ([[Math.ceil(lanes / SG), s.kvHeads], { SG, PARTS: s.headDim / SG }] as const)
      : undefined

  return {
    /**
     * Attention of each row over its key range [kvStart, kvEnd); stat [rows, heads, 2] is kept for backward. `packed` says
     * that neither bound decreases from row to row, as in packed sequences; a decoding cache is not packed.
     */
    attention(tape: Tape, x: Forward & { packed?: boolean }): void {
      const QUADS = quads(tape, x)
      const count = x.rows * x.heads
      fits(tape, "attention", [
        ["q", x.q, count * x.headDim],
        ["kvStart", x.kvStart, x.rows],
        ["kvEnd", x.kvEnd, x.rows],
        ["o", x.o, count * x.headDim],
        ["stat", x.stat, 2 * count]
      ])
      const bindings = { q: x.q, k: x.k, v: x.v, kv_start: x.kvStart, kv_end: x.kvEnd, o: x.o, stat: x.stat }
      const variant = x.packed === true ? choose(tape, x) : narrow(x) ? "invocation" : "workgroup"
      const shared = variant === "packed" ? packed(x, count / x.kvHeads) : undefined
      if (shared) tape.dispatch("attention_forward_packed", bindings, scalars(x), ...shared)
      else if (variant === "matrix") matrixForward(info, tape, x)
      else if (variant === "flash") flashForward(info, tape, x)
      else if (variant === "workgroup")
        tape.dispatch("attention_forward_workgroup", bindings, { ...scalars(x), quads: QUADS }, grid1d(count, 1))
      else tape.dispatch("attention_forward", bindings, scalars(x), grid(count), { WG, QUADS })
    },
    /**
     * Causal attention of each row to its own sequence in a paged cache: row r sees positions 0 … position[r] of the sequence in
     * slot[r], whose pages of `pageSize` rows pageTable [slots, maxPages] names in order. Rows of one slot stand together with ascending positions.
     * `partial` (see pagedPartials) lets few rows with long contexts fill the device; a row's bits are the same with and without it.
     */
    attentionPaged(tape: Tape, x: Paged): void {
      const QUADS = quads(tape, x)
      const count = x.rows * x.heads
      fits(tape, "attention_paged", [
        ["q", x.q, count * x.headDim],
        ["slot", x.slot, x.rows],
        ["position", x.position, x.rows],
        ["o", x.o, count * x.headDim]
      ])
      const tiled = forced === undefined ? !info.software : forced === "flash" || forced === "matrix"
      if (tiled && flashFits(info, x)) return pagedFlash(info, tape, x)
      const bindings = {
        q: x.q,
        k: x.k,
        v: x.v,
        page_table: x.pageTable,
        slot: x.slot,
        position: x.position,
        o: x.o
      }
      const params = { ...scalars(x), max_pages: x.maxPages }
      const PAGE = pageSize
      const sharedBy = x.heads / x.kvHeads
      const lanes = sharedBy >= SG ? SG : Math.floor(SG / sharedBy) * sharedBy
      const groups = Math.ceil((x.rows * sharedBy) / lanes)
      if (narrow(x) && SG > 0 && groups <= maxGroups) {
        const [FULL, REST] = [Math.floor(QUADS / SG), QUADS % SG]
        tape.dispatch("attention_forward_paged", bindings, { ...params, lanes }, [groups, x.kvHeads], {
          SG,
          FULL,
          REST,
          PAGE
        })
      } else {
        const wide = { ...params, quads: QUADS }
        tape.dispatch("attention_forward_paged_workgroup", bindings, wide, grid1d(count, 1), { PAGE })
      }
    },
    /** Gradients of packed causal self-attention; stat as forward left it. qEnd[j] is the end of row j's sequence. */
    attentionBackward(tape: Tape, x: Backward): void {
      const QUADS = quads(tape, x)
      const [queries, keys] = [x.rows * x.heads, x.rows * x.kvHeads]
      fits(tape, "attention_backward", [
        ["q", x.q, queries * x.headDim],
        ["k", x.k, keys * x.headDim],
        ["v", x.v, keys * x.headDim],
        ["o", x.o, queries * x.headDim],
        ["dO", x.dO, queries * x.headDim],
        ["stat", x.stat, 2 * queries],
        ["kvStart", x.kvStart, x.rows],
        ["qEnd", x.qEnd, x.rows],
        ["dq", x.dq, queries * x.headDim],
        ["dk", x.dk, keys * x.headDim],
        ["dv", x.dv, keys * x.headDim]
      ])
      const query = { q: x.q, k: x.k, v: x.v, o: x.o, d_o: x.dO, stat: x.stat, kv_start: x.kvStart, dq: x.dq }
      const keyValue = { q: x.q, k: x.k, v: x.v, d_o: x.dO, stat: x.stat, q_end: x.qEnd, dk: x.dk, dv: x.dv }
      const wide = { ...scalars(x), quads: QUADS }
      const variant = choose(tape, x)
      if (variant === "matrix") return matrixBackward(info, tape, x)
      if (variant === "flash") return flashBackward(info, tape, x)
      const [byQuery, byKey] = [packed(x, queries / x.kvHeads), packed(x, x.rows)]
      if (variant === "packed" && byQuery && byKey) {
        tape.dispatch("attention_backward_query_packed", query, scalars(x), ...byQuery)
        tape.dispatch("attention_backward_key_value_packed", keyValue, scalars(x), ...byKey)
      } else if (variant !== "workgroup") {
        tape.dispatch("attention_backward_query", query, scalars(x), grid(queries), { WG, QUADS })
        tape.dispatch("attention_backward_key_value", keyValue, scalars(x), grid(keys), { WG, QUADS })
      } else {
        tape.dispatch("attention_backward_query_workgroup", query, wide, grid1d(queries, 1))
        tape.dispatch("attention_backward_key_value_workgroup", keyValue, wide, grid1d(keys, 1))
      }
    }
  }
}
