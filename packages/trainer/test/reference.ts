/**
 * A Qwen2 decoder with its gradients in double precision, sharing no code with the engine: scalars on a tape, each node
 * with the derivatives towards the nodes it was made of. Slow and short; any loss can be built on top of it.
 */
export interface Num {
  readonly value: number
  grad: number
  readonly from: ReadonlyArray<Num>
  /** d value / d from[i] */
  readonly slope: ReadonlyArray<number>
}

export class Graph {
  private readonly nodes: Array<Num> = []

  node(value: number, from: ReadonlyArray<Num>, slope: ReadonlyArray<number>): Num {
    const made: Num = { value, grad: 0, from, slope }
    this.nodes.push(made)
    return made
  }
  leaf = (value: number): Num => this.node(value, [], [])
  leaves = (values: ArrayLike<number>): Array<Num> => Array.from(values, this.leaf)
  /** Σ weight_i · x_i + shift */
  linear = (xs: ReadonlyArray<Num>, weights: ReadonlyArray<number>, shift = 0): Num =>
    this.node(
      xs.reduce((sum, x, i) => sum + x.value * weights[i]!, shift),
      xs,
      weights
    )
  sum = (...xs: ReadonlyArray<Num>): Num =>
    this.linear(
      xs,
      xs.map(() => 1)
    )
  scale = (x: Num, by: number, shift = 0): Num => this.linear([x], [by], shift)
  mul = (x: Num, y: Num): Num => this.node(x.value * y.value, [x, y], [y.value, x.value])
  dot = (xs: ReadonlyArray<Num>, ys: ReadonlyArray<Num>): Num =>
    this.node(
      xs.reduce((sum, x, i) => sum + x.value * ys[i]!.value, 0),
      [...xs, ...ys],
      [...ys.map((y) => y.value), ...xs.map((x) => x.value)]
    )
  map = (x: Num, f: (x: number) => number, slope: (x: number) => number): Num =>
    this.node(f(x.value), [x], [slope(x.value)])
  exp = (x: Num): Num => this.map(x, Math.exp, Math.exp)
  log = (x: Num): Num => this.map(x, Math.log, (v) => 1 / v)
  max = (x: Num, y: Num): Num => (x.value >= y.value ? x : y)
  clamp = (x: Num, low: number, high: number): Num =>
    x.value < low ? this.leaf(low) : x.value > high ? this.leaf(high) : x
  /** log softmax of a row. */
  logSoftmax(xs: ReadonlyArray<Num>): Array<Num> {
    const top = Math.max(...xs.map((x) => x.value))
    const powers = xs.map((x) => Math.exp(x.value - top))
    const total = powers.reduce((a, b) => a + b, 0)
    const normaliser = this.node(
      top + Math.log(total),
      xs,
      powers.map((p) => p / total)
    )
    return xs.map((x) => this.linear([x, normaliser], [1, -1]))
  }
  /** Gradients of `loss` in every node's `grad`. */
  backward(loss: Num): void {
    for (const one of this.nodes) one.grad = 0
    loss.grad = 1
    for (const one of this.nodes.toReversed()) {
      if (one.grad === 0) continue
      for (const [i, source] of one.from.entries()) source.grad += one.grad * one.slope[i]!
    }
  }
}

export interface Shape {
  readonly hiddenSize: number
  readonly numLayers: number
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly rmsNormEps: number
  readonly ropeTheta: number
}

/** Flat tensors by Hugging Face name, matrices [out, in] row by row. */
export type Tensors = ReadonlyMap<string, ReadonlyArray<Num>>
/** An adapter: pairs by `layers.{i}.{module}`. */
export interface Adapter {
  readonly rank: number
  readonly scale: number
  readonly pairs: ReadonlyMap<string, { readonly a: ReadonlyArray<Num>; readonly b: ReadonlyArray<Num> }>
}

const tensorOf = (tensors: Tensors, name: string): ReadonlyArray<Num> => {
  const tensor = tensors.get(name)
  if (tensor === undefined) throw new Error(`no tensor ${name}`)
  return tensor
}

/** Final states and logits [T][·] of one sequence; the output matrix is the embedding. */
export const decode = (
  graph: Graph,
  shape: Shape,
  tensors: Tensors,
  adapter: Adapter | null,
  ids: ReadonlyArray<number>
) => {
  const { hiddenSize: C, numHeads: H, numKeyValueHeads: G, headDim: D } = shape
  const get = (name: string) => tensorOf(tensors, name)
  const matmul = (w: ReadonlyArray<Num>, x: ReadonlyArray<Num>): Array<Num> =>
    Array.from({ length: w.length / x.length }, (_, row) => graph.dot(w.slice(row * x.length, (row + 1) * x.length), x))
  const project = (layer: number, block: string, module: string, x: ReadonlyArray<Num>): Array<Num> => {
    const name = `model.layers.${layer}.${block}.${module}`
    const bias = tensors.get(`${name}.bias`)
    const pair = adapter?.pairs.get(`layers.${layer}.${module}`)
    const extra = pair && adapter ? matmul(pair.b, matmul(pair.a, x)) : undefined
    return matmul(get(`${name}.weight`), x).map((y, i) => {
      const parts = [y, ...(bias ? [bias[i]!] : []), ...(extra ? [extra[i]!] : [])]
      return graph.linear(
        parts,
        parts.map((_, part) => (extra && part === parts.length - 1 ? (adapter?.scale ?? 1) : 1))
      )
    })
  }
  const norm = (x: ReadonlyArray<Num>, name: string): Array<Num> => {
    const weight = get(name)
    const inverse = graph.map(
      graph.scale(graph.dot(x, x), 1 / x.length, shape.rmsNormEps),
      (v) => v ** -0.5,
      (v) => -0.5 * v ** -1.5
    )
    return x.map((v, i) => graph.mul(graph.mul(v, inverse), weight[i]!))
  }
  const rotate = (head: ReadonlyArray<Num>, t: number): Array<Num> =>
    head.map((_, d) => {
      const pair = d % (D / 2)
      const angle = t * shape.ropeTheta ** ((-2 * pair) / D)
      const [x, y] = [head[pair]!, head[pair + D / 2]!]
      return d < D / 2
        ? graph.linear([x, y], [Math.cos(angle), -Math.sin(angle)])
        : graph.linear([y, x], [Math.cos(angle), Math.sin(angle)])
    })
  const heads = (x: ReadonlyArray<Num>): Array<Array<Num>> =>
    Array.from({ length: x.length / D }, (_, h) => x.slice(h * D, (h + 1) * D))
  const add = (x: ReadonlyArray<Num>, y: ReadonlyArray<Num>) => x.map((v, i) => graph.sum(v, y[i]!))

  const embed = get("model.embed_tokens.weight")
  let rows = ids.map((id) => embed.slice(id * C, (id + 1) * C))
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const normed = rows.map((x) => norm(x, `model.layers.${layer}.input_layernorm.weight`))
    const part = (module: string) => normed.map((x) => heads(project(layer, "self_attn", module, x)))
    const q = part("q_proj").map((row, t) => row.map((head) => rotate(head, t)))
    const k = part("k_proj").map((row, t) => row.map((head) => rotate(head, t)))
    const v = part("v_proj")
    rows = rows.map((x, t) => {
      const attended: Array<Num> = []
      for (let h = 0; h < H; h++) {
        const g = Math.floor((h * G) / H)
        const scores = Array.from({ length: t + 1 }, (_, s) => graph.scale(graph.dot(q[t]![h]!, k[s]![g]!), D ** -0.5))
        const weights = graph.logSoftmax(scores).map(graph.exp)
        for (let d = 0; d < D; d++)
          attended.push(
            graph.dot(
              weights,
              weights.map((_, s) => v[s]![g]![d]!)
            )
          )
      }
      const middle = add(x, project(layer, "self_attn", "o_proj", attended))
      const y = norm(middle, `model.layers.${layer}.post_attention_layernorm.weight`)
      const up = project(layer, "mlp", "up_proj", y)
      const inner = project(layer, "mlp", "gate_proj", y).map((gate, i) => {
        const sigmoid = graph.map(
          gate,
          (z) => 1 / (1 + Math.exp(-z)),
          (z) => Math.exp(-z) / (1 + Math.exp(-z)) ** 2
        )
        return graph.mul(graph.mul(gate, sigmoid), up[i]!)
      })
      return add(middle, project(layer, "mlp", "down_proj", inner))
    })
  }
  const states = rows.map((x) => norm(x, "model.norm.weight"))
  return { states, logits: states.map((x) => matmul(embed, x)) }
}
