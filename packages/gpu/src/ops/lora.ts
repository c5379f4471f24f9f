/** Launches of low-rank adapters: the mask of a grouped gradient, and merging into the base weight. */
import type { AdapterInfo } from "../Gpu.ts"
import type { Matrix } from "../Matrix.ts"
import { grid1d, type Tape } from "../Tape.ts"
import { type Tensor, window } from "../Tensor.ts"
import { byRows, fits, groupSize } from "./layer.ts"
import type { MatmulArgs } from "./matmul.ts"

type F = Tensor<"f32">

export const makeLora = (info: AdapterInfo, matmulNN: (tape: Tape, x: MatmulArgs) => void) => {
  const WG = groupSize(info)
  const grid = (count: number) => grid1d(count, WG)
  return {
    /** Zeroes the off-diagonal blocks of a grouped adapter gradient db [rows, groups * rank]; `ends` are the groups' last rows. */
    loraMask(tape: Tape, x: { db: F; rows: number; rank: number; ends: ReadonlyArray<number> }): void {
      if (x.ends.length < 2) return
      tape.require(x.ends.length <= 3, "lora_mask", `${x.ends.length} groups; at most 3 share a weight`)
      fits(tape, "lora_mask", [["db", x.db, x.rows * x.ends.length * x.rank]])
      tape.dispatch(
        "lora_mask",
        { db: x.db },
        { rows: x.rows, rank: x.rank, groups: x.ends.length, end0: x.ends[0] ?? x.rows, end1: x.ends[1] ?? x.rows },
        grid(x.rows * x.ends.length * x.rank),
        { WG }
      )
    },
    /** w [rows, cols] += scale · b [rows, width] a [width, cols], in place; 16-bit weights are rounded to the nearest once. */
    addLowRank(tape: Tape, x: { w: Matrix; b: F; a: F; width: number; scale: number }): void {
      const { w, width } = x
      fits(tape, "add_low_rank", [
        ["b", x.b, w.rows * width],
        ["a", x.a, width * w.cols]
      ])
      for (const part of w.parts) {
        if (part.storage === "f32") {
          const b = window(x.b, part.first * width, part.rows * width)
          const [m, n, k] = [part.rows, w.cols, width]
          matmulNN(tape, { a: b, b: x.a, out: part.data, m, n, k, alpha: x.scale, accumulate: true })
        } else if (part.storage === "f16" || part.storage === "f16_tiles") {
          const row = byRows(info, part.rows, Math.ceil(w.cols / 2))
          const { rows, first } = part
          const params = { rows, cols: w.cols, stride: w.stride, first, width, scale: x.scale, span: row.span }
          tape.dispatch(`lora_merge_${part.storage}`, { w: part.data, b: x.b, a: x.a }, params, row.grid, row.constants)
        } else
          tape.require(false, "add_low_rank", `${w.label} is held in ${part.storage}, which nothing can be added to`)
      }
    }
  }
}
