/**
 * onnxruntime as a side: its native build (`onnxruntime-node`, own Dawn) or its WebAssembly build (`onnxruntime-web`) over this
 * process's Dawn. Nodes that would fall back to the CPU fail the session: only work on the device counts.
 *
 * Unusual: its fused attention assumes subgroups of 16 or more lanes for prompts and is wrong on narrower ones (1.30). So a
 * prompt of each length first goes through the fused and the plain graph, and the fused one is used only where they agree.
 */
import { createRequire } from "node:module"
import { Effect } from "effect"
import { chainGraph, type DecoderForm, decoderGraph } from "./graphs.ts"
import { provideNavigator } from "./navigator.ts"
import { argmax, PeerError, type Prompts, type Side, type TinyModel } from "./Peer.ts"

/** What is used of onnxruntime-common. */
interface OrtTensor {
  readonly data: unknown
  dispose(): void
}
interface OrtSession {
  readonly inputNames: ReadonlyArray<string>
  run(feeds: Feeds): Promise<Readonly<Record<string, OrtTensor>>>
  release(): Promise<void>
}
type Feeds = Readonly<Record<string, OrtTensor>>
interface Ort {
  readonly Tensor: new (
    type: "float32" | "int32" | "int64",
    data: Float32Array | Int32Array | BigInt64Array,
    dims: ReadonlyArray<number>
  ) => OrtTensor
  readonly InferenceSession: { create(model: Uint8Array, options: object): Promise<OrtSession> }
  readonly env: {
    readonly wasm: { numThreads?: number }
    readonly versions: Readonly<Partial<Record<"node" | "web", string>>>
  }
}

const floats = (tensor: OrtTensor | undefined): Float32Array =>
  tensor?.data instanceof Float32Array ? tensor.data : new Float32Array(0)

/** Inputs of one step over `length` new tokens a row after `past` cached ones, under all names that a graph may ask for. */
const stepFeeds = (ort: Ort, { shape }: TinyModel, ids: Prompts, past: number): Feeds => {
  const [batch, length] = [ids.length, ids[0]?.length ?? 0]
  const int32 = (values: ReadonlyArray<number>, dims: ReadonlyArray<number>) =>
    new ort.Tensor("int32", Int32Array.from(values), dims)
  const int64 = (values: ReadonlyArray<number>, dims: ReadonlyArray<number>) =>
    new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims)
  const common = {
    ids: int32(ids.flat(), [batch, length]),
    seqlens: int32(
      ids.map(() => past + length - 1),
      [batch]
    ),
    total: int32([past + length], [1]),
    last: int32([length - 1], [1])
  }
  if (past > 0) return common
  const mask = new Float32Array(length * length)
  for (let q = 0; q < length; q++) mask.fill(-1e30, q * length + q + 1, (q + 1) * length)
  const { heads, kvHeads } = shape
  return {
    ...common,
    positions: int64(
      ids.flatMap((row) => row.map((_, t) => t)),
      [batch, length]
    ),
    mask: new ort.Tensor("float32", mask, [length, length]),
    scores_by_head: int64([batch, heads, length, length], [4]),
    scores_by_group: int64([batch, kvHeads, (heads / kvHeads) * length, length], [4])
  }
}

const run = (session: OrtSession, feeds: Feeds) =>
  session.run(Object.fromEntries(Object.entries(feeds).filter(([name]) => session.inputNames.includes(name))))

/** Prompt passes of a model: fused where it computes the same as plain operators do. */
const promptRunner = (fusedSession: OrtSession, plainSession: OrtSession, output: string, notes: Array<string>) => {
  const chosen = new Map<number, OrtSession>()
  return async (feeds: Feeds, length: number) => {
    const known = chosen.get(length)
    if (known !== undefined) return run(known, feeds)
    const plain = await run(plainSession, feeds)
    const expected = floats(plain[output])
    const actual = floats((await run(fusedSession, feeds))[output])
    const worst = expected.reduce((most, x, i) => Math.max(most, Math.abs(x - (actual[i] ?? Number.NaN))), 0)
    chosen.set(length, worst < 1e-3 ? fusedSession : plainSession)
    if (!(worst < 1e-3)) {
      const note = `GroupQueryAttention is off by ${worst.toPrecision(2)} for ${length} tokens; plain operators are timed`
      if (!notes.includes(note)) notes.push(note)
    }
    return plain
  }
}

const makeDecoder = (
  ort: Ort,
  model: TinyModel,
  prompt: ReturnType<typeof promptRunner>,
  decode: OrtSession | null
) => {
  const { layers, vocab } = model.shape
  const names = Array.from({ length: layers }, (_, i) => [`${i}.k`, `${i}.v`]).flat()
  const generate = async (prompts: Prompts, count: number) => {
    const tokens: Array<Array<number>> = prompts.map(() => [])
    let cache: ReadonlyArray<OrtTensor> = []
    let next = prompts
    let past = 0
    for (let t = 0; t < count; t++) {
      const length = next[0]?.length ?? 0
      const feeds = stepFeeds(ort, model, next, past)
      const old = names.map((name, i) => [`past.${name}`, cache[i]!] as const)
      const out =
        t === 0 || decode === null
          ? await prompt(feeds, length)
          : await run(decode, { ...feeds, ...Object.fromEntries(old) })
      for (const tensor of cache) tensor.dispose()
      cache = names.map((name) => out[`present.${name}`]!)
      const logits = floats(out.logits)
      const chosen = prompts.map((_, row) => argmax(logits, row * vocab, vocab))
      chosen.forEach((id, row) => void tokens[row]?.push(id))
      next = chosen.map((id) => [id])
      past += length
    }
    for (const tensor of cache) tensor.dispose()
    return tokens
  }
  const hidden = async (prompts: Prompts) =>
    floats((await prompt(stepFeeds(ort, model, prompts, 0), prompts[0]?.length ?? 0)).states)
  return { hidden, generate }
}

export const openOnnxruntime = Effect.fn("bench.openOnnxruntime")(function* (build: "node" | "web") {
  const name = `onnxruntime-${build}`
  const notes: Array<string> = []
  const attempt = <A>(operation: string, work: () => Promise<A>): Effect.Effect<A, PeerError> =>
    Effect.tryPromise({
      try: work,
      catch: (cause) => new PeerError({ side: name, operation, detail: String(cause) })
    })
  const { ort, version, device } = yield* attempt("load", async () => {
    const require = createRequire(new URL("../../peers/package.json", import.meta.url))
    const device =
      build === "web" ? await provideNavigator() : "the Vulkan loader's default adapter, through its own Dawn"
    const module: Ort = require(build === "web" ? "onnxruntime-web/webgpu" : "onnxruntime-node")
    if (build === "web") module.env.wasm.numThreads = 1
    return { ort: module, version: module.env.versions[build] ?? "unknown", device }
  })

  const open = (graph: Uint8Array, outputs: Readonly<Record<string, "cpu" | "gpu-buffer">>) =>
    Effect.acquireRelease(
      attempt("create session", () =>
        ort.InferenceSession.create(graph, {
          executionProviders: [{ name: "webgpu" }],
          preferredOutputLocation: outputs,
          logSeverityLevel: 3,
          // Its own threads would only wait, busily, for the driver's.
          intraOpNumThreads: 1,
          extra: { session: { disable_cpu_ep_fallback: "1" } }
        })
      ),
      (session) => Effect.promise(() => session.release().catch(() => undefined))
    )

  const chain: Side["chain"] = Effect.fnUntraced(function* (work) {
    const session = yield* open(chainGraph(work), { out: "cpu" })
    return attempt("matmul", async () => {
      const out = await session.run({ a: new ort.Tensor("float32", work.a, [work.m, work.k]) })
      return floats(out.out)
    })
  })

  const decoder: Side["decoder"] = Effect.fnUntraced(function* (model, use) {
    const present = Array.from({ length: model.shape.layers }, (_, i) => [`present.${i}.k`, `present.${i}.v`]).flat()
    const output = use === "hidden" ? "states" : "prefill"
    const places =
      use === "hidden"
        ? { states: "cpu" as const }
        : { logits: "cpu" as const, ...Object.fromEntries(present.map((n) => [n, "gpu-buffer" as const])) }
    const session = (form: DecoderForm) => open(decoderGraph(model, form), places)
    const prompt = promptRunner(
      yield* session({ output, attention: "fused" }),
      yield* session({ output, attention: "plain" }),
      use === "hidden" ? "states" : "logits",
      notes
    )
    const decode = use === "generate" ? yield* session({ output: "decode", attention: "fused" }) : null
    const made = makeDecoder(ort, model, prompt, decode)
    return {
      hidden: (prompts) => attempt("forward", () => made.hidden(prompts)),
      generate: (prompts, count) => attempt("generate", () => made.generate(prompts, count))
    }
  })
  const side: Side = { name, version, device, notes, chain, decoder }
  return side
})
