/** Row selection and its adjoint in double precision. */

/** out[i, :] = table[id[i], :], out [rows, dim]. */
export const gather = (table: ArrayLike<number>, id: ArrayLike<number>, rows: number, dim: number): Float64Array =>
  Float64Array.from({ length: rows * dim }, (_, i) => table[id[Math.floor(i / dim)]! * dim + (i % dim)]!)

/** dtable [tableRows, dim] = previous + Σ over i with id[i] = v of dy[i, :]. */
export const scatter = (
  dy: ArrayLike<number>,
  id: ArrayLike<number>,
  tableRows: number,
  dim: number,
  previous?: ArrayLike<number>
): Float64Array => {
  const out = new Float64Array(tableRows * dim)
  for (let i = 0; i < out.length; i++) out[i] = previous?.[i] ?? 0
  for (let i = 0; i < id.length; i++) {
    for (let c = 0; c < dim; c++) out[id[i]! * dim + c] = out[id[i]! * dim + c]! + dy[i * dim + c]!
  }
  return out
}

/** Occurrences sorted by id, as the kernel wants them: those of id v are order[start[v] … start[v + 1]). */
export const occurrences = (
  id: ReadonlyArray<number>,
  tableRows: number
): { readonly start: Uint32Array<ArrayBuffer>; readonly order: Uint32Array<ArrayBuffer> } => {
  const start = new Uint32Array(tableRows + 1)
  for (const v of id) start[v + 1] = start[v + 1]! + 1
  for (let v = 0; v < tableRows; v++) start[v + 1] = start[v + 1]! + start[v]!
  const next = start.slice()
  const order = new Uint32Array(id.length)
  id.forEach((v, i) => {
    order[next[v]!] = i
    next[v] = next[v]! + 1
  })
  return { start, order }
}
