/** What the probes leave behind, in double precision. */

/** out[lane] of fma.wgsl: 32 sequences x ← a x + b started at lane / 1000 + 0, 0.1 … 0.7 (four of each), summed. */
export const fmaProbe = (lane: number, rounds: number, a: number, b: number): number => {
  let sum = 0
  for (let v = 0; v < 8; v++) {
    let x = lane * 0.001 + v / 10
    for (let r = 0; r < rounds; r++) x = a * x + b
    sum += 4 * x
  }
  return sum
}

/** One 16 x 16 tile of matrix.wgsl: rounds · A B, row-major. */
export const matrixProbe = (left: ArrayLike<number>, right: ArrayLike<number>, rounds: number): Float64Array =>
  Float64Array.from({ length: 256 }, (_, at) => {
    const [i, j] = [Math.floor(at / 16), at % 16]
    let sum = 0
    for (let k = 0; k < 16; k++) sum += left[i * 16 + k]! * right[k * 16 + j]!
    return rounds * sum
  })
