/** Column sums in double precision: out[c] = previous[c] + scale · Σ_r x[r, c]. */
export const columnSum = (
  x: ArrayLike<number>,
  rows: number,
  cols: number,
  scale = 1,
  previous?: ArrayLike<number>
): Float64Array => {
  const out = new Float64Array(cols)
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) out[c] = out[c]! + x[r * cols + c]!
  return out.map((sum, c) => sum * scale + (previous?.[c] ?? 0))
}
