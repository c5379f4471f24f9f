/** AdamW (Loshchilov & Hutter 2019) in double precision, in place on w, m and v; `step` counts from 1. */
export interface AdamwOptions {
  readonly lr: number
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  readonly weightDecay: number
}

export const adamw = (
  state: { readonly w: Float64Array; readonly m: Float64Array; readonly v: Float64Array },
  g: ArrayLike<number>,
  step: number,
  o: AdamwOptions,
  gradScale = 1
): void => {
  for (let i = 0; i < state.w.length; i++) {
    const grad = g[i]! * gradScale
    state.m[i] = o.beta1 * state.m[i]! + (1 - o.beta1) * grad
    state.v[i] = o.beta2 * state.v[i]! + (1 - o.beta2) * grad * grad
    const first = state.m[i]! / (1 - o.beta1 ** step)
    const second = state.v[i]! / (1 - o.beta2 ** step)
    state.w[i] = state.w[i]! * (1 - o.lr * o.weightDecay) - (o.lr * first) / (Math.sqrt(second) + o.eps)
  }
}
