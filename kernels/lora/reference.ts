/**
 * The mask of a grouped adapter gradient: projections that share one fused weight (q, k, v or gate, up) see only their own
 * `rank` columns of db [rows, groups · rank]. Group g owns the rows below ends[g]; everything outside the diagonal blocks is 0.
 */
export const blockDiagonal = (db: ArrayLike<number>, rank: number, ends: ReadonlyArray<number>): Float64Array => {
  const width = ends.length * rank
  return Float64Array.from(db, (value, i) => {
    const group = ends.findIndex((end) => Math.floor(i / width) < end)
    return Math.floor((i % width) / rank) === group ? value : 0
  })
}
