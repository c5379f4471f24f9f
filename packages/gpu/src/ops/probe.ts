/** Launches of the probes (kernels/probe): what the device can do at most. */
import { grid1d, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import { fits } from "./layer.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

const lanes = 256
const quadsEach = 4
/** Subgroups of a workgroup, and elements of the eight tiles that each leaves. */
const subgroups = 4
const subgroupTiles = 8 * 256

/** Elements that `out` of a probe of `groups` workgroups must hold. */
export const probeElements = { fma: lanes, matrix: subgroups * subgroupTiles } as const

export const probes = {
  /** to[i] = from[i] for n elements, a multiple of 4. */
  probeCopy(tape: Tape, x: { from: F; to: F; n: number }): void {
    tape.require(x.n % 4 === 0, "probe_copy", `${x.n} elements are not a multiple of 4`)
    fits(tape, "probe_copy", [
      ["from", x.from, x.n],
      ["to", x.to, x.n]
    ])
    const grid = grid1d(x.n / 4, lanes * quadsEach)
    tape.dispatch("probe_copy", { source: x.from, copy: x.to }, { n: x.n }, grid, { WG: lanes, EACH: quadsEach })
  },
  /** x ← a x + b, `rounds` times, by `groups` (at most 65535) workgroups of 256 lanes with 32 numbers each. */
  probeFma(tape: Tape, x: { out: F; rounds: number; groups: number; a: number; b: number }): void {
    fits(tape, "probe_fma", [["out", x.out, x.groups * probeElements.fma]])
    const params = { rounds: x.rounds, groups: x.groups, a: x.a, b: x.b }
    tape.dispatch("probe_fma", { out: x.out }, params, [x.groups], { WG: lanes })
  },
  /** C ← A B + C, `rounds` times, by `groups` workgroups of 4 subgroups with 8 tiles each; `tiles` holds 6 x 256 halves. */
  probeMatrix(tape: Tape, x: { tiles: U; out: F; rounds: number; groups: number }): void {
    fits(tape, "probe_matrix", [
      ["tiles", x.tiles, 6 * 128],
      ["out", x.out, x.groups * probeElements.matrix]
    ])
    tape.dispatch("probe_matrix", { tiles: x.tiles, out: x.out }, { rounds: x.rounds, groups: x.groups }, [x.groups])
  }
}
