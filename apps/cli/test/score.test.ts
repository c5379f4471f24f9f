/** `srcode score` as a process: numbers against double precision, and every way its input can be wrong. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { loadTokenizer } from "@srcode/model"
import { Effect } from "effect"
import {
  compute,
  isUserError,
  micro,
  normals,
  readLines,
  speaking,
  succeeds,
  type Tensors,
  writeLines,
  writeLora,
  writeModel
} from "./internal/checkpoints.ts"
import { inFolder, run, sharedFolder } from "./internal/process.ts"
import { scores } from "./internal/qwen2.ts"

let tensors: { readonly micro: Tensors; readonly speaking: Tensors }

const at = sharedFolder(async (at) => {
  tensors = { micro: await writeModel(at("micro"), micro, 1), speaking: await writeModel(at("speaking"), speaking, 2) }
})

/** Largest relative error over a line, scaled by the line's norm. */
const near = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>) => {
  assert.lengthOf(actual, expected.length)
  const size = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0))
  const error = Math.sqrt(expected.reduce((sum, x, i) => sum + (x - (actual[i] ?? Number.NaN)) ** 2, 0))
  assert.isAtMost(error / size, 1e-4)
}

const draw = (seed: number, length: number) => {
  const normal = normals(seed)
  return Array.from({ length }, () => Math.floor(Math.abs(normal() * 1e6)) % micro.vocabSize)
}

describe.concurrent("numbers", () => {
  it("lines of ids equal double precision, without a tokenizer in the folder; more lines than are scored at once", () =>
    inFolder(async (folder) => {
      assert.isFalse(fs.existsSync(at("micro/tokenizer.json")))
      const rows = [
        ...Array.from({ length: 70 }, (_, i) => draw(10 + i, 2 + (i % 9))),
        draw(3, micro.maxPositionEmbeddings)
      ]
      const input = writeLines(
        nodePath.join(folder, "ids.jsonl"),
        rows.map((ids) => ({ ids }))
      )
      const out = nodePath.join(folder, "new/deep/out.jsonl")
      const ended = succeeds(await compute(["score", "--model", at("micro"), "--input", input, "--out", out]))
      assert.include(ended.stdout, "71 lines scored")
      const lines = readLines(out)
      assert.lengthOf(lines, rows.length)
      for (const [i, ids] of rows.entries()) {
        const expected = scores(micro, tensors.micro, null, ids)
        near(lines[i].logprobs, expected.logProbs)
        near(lines[i].entropy, expected.entropy)
      }
    }))

  it("an adapter is applied, some modules only and with a scale of its own", () =>
    inFolder(async (folder) => {
      const modules = ["q_proj", "v_proj", "down_proj"] as const
      const adapter = nodePath.join(folder, "adapter")
      const pairs = await writeLora(adapter, micro, { rank: 3, alpha: 5, seed: 7, modules })
      const rows = [draw(1, 9), draw(2, 17)]
      const input = writeLines(
        nodePath.join(folder, "ids.jsonl"),
        rows.map((ids) => ({ ids }))
      )
      const out = nodePath.join(folder, "out.jsonl")
      succeeds(await compute(["score", "--model", at("micro"), "--adapter", adapter, "--input", input, "--out", out]))
      for (const [i, ids] of rows.entries()) {
        const expected = scores(micro, tensors.micro, { rank: 3, scale: 5 / 3, pairs }, ids)
        near(readLines(out)[i].logprobs, expected.logProbs)
        near(readLines(out)[i].entropy, expected.entropy)
        const without = scores(micro, tensors.micro, null, ids)
        assert.isAbove(Math.abs((without.logProbs[0] ?? 0) - (expected.logProbs[0] ?? 0)), 1e-3)
      }
    }))

  it("lines of text score the completion's tokens; lines of ids may stand between them", () =>
    inFolder(async (folder) => {
      const tokenizer = await Effect.runPromise(loadTokenizer(at("speaking")).pipe(Effect.provide(NodeServices.layer)))
      const texts = [
        { prompt: "int add(int a, int b) {", completion: "\n  return a + b; // é 😀\n}" },
        { prompt: "", completion: "int main" },
        { prompt: "return", completion: "" }
      ]
      const input = writeLines(nodePath.join(folder, "in.jsonl"), [texts[0], { ids: [5, 7, 279] }, texts[1]])
      const out = nodePath.join(folder, "out.jsonl")
      const command = ["score", "--model", at("speaking"), "--input", input, "--out", out]
      succeeds(await compute(command))
      const expected = (ids: ReadonlyArray<number>, first: number) => {
        const all = scores(speaking, tensors.speaking, null, ids)
        return [all.logProbs.slice(first - 1), all.entropy.slice(first - 1)] as const
      }
      const cases = [
        expected(
          [...tokenizer.encode(texts[0]?.prompt ?? ""), ...tokenizer.encode(texts[0]?.completion ?? "")],
          tokenizer.encode(texts[0]?.prompt ?? "").length
        ),
        expected([5, 7, 279], 1),
        // nothing precedes the first token of a completion without prompt: it has no probability to give
        expected(tokenizer.encode("int main"), 1)
      ]
      for (const [i, [logProbs, entropy]] of cases.entries()) {
        near(readLines(out)[i].logprobs, logProbs)
        near(readLines(out)[i].entropy, entropy)
      }
    }))
})

describe.concurrent("input that is wrong gets one line, and the output keeps what it held", () => {
  const refused = (
    name: string,
    input: string,
    texts: ReadonlyArray<string>,
    options: { readonly model?: () => string; readonly flags?: ReadonlyArray<string> } = {}
  ) =>
    it(name, () =>
      inFolder(async (folder) => {
        fs.writeFileSync(nodePath.join(folder, "in.jsonl"), input)
        fs.writeFileSync(nodePath.join(folder, "out.jsonl"), "as it was\n")
        const model = options.model?.() ?? at("micro")
        const flags = ["--model", model, "--input", "in.jsonl", "--out", "out.jsonl", ...(options.flags ?? [])]
        isUserError(await compute(["score", ...flags], { cwd: folder }), ...texts)
        assert.deepStrictEqual(fs.readdirSync(folder).sort(), ["in.jsonl", "out.jsonl"])
        assert.strictEqual(fs.readFileSync(nodePath.join(folder, "out.jsonl"), "utf8"), "as it was\n")
      })
    )

  const good = '{"ids":[1,2,3]}\n'
  refused("a line that is not JSON", `${good}\n{"ids":[1,2\n`, ["in.jsonl:3", "not JSON"])
  refused("a line of neither kind", `${good}{"tokens":[1,2]}\n`, ["in.jsonl:2", "ids"])
  refused("ids that are no integers", '{"ids":[1,2.5]}\n', ["in.jsonl:1"])
  refused("an id past the vocabulary", `${good}{"ids":[1,23]}\n`, ["in.jsonl:2", "token id 23", "vocabulary of 23"])
  refused("a negative id", '{"ids":[1,-1]}\n', ["in.jsonl:1", "token id -1"])
  refused("a single token", `${good}{"ids":[1]}\n`, ["in.jsonl:2", "two tokens"])
  refused("more tokens than positions", `{"ids":[${new Array(65).fill(1)}]}\n`, ["in.jsonl:1", "65", "64"])
  refused("an empty file", "", ["in.jsonl", "no rows"])
  refused("text for a model without a tokenizer", `${good}{"prompt":"a","completion":"b"}\n`, ["tokenizer.json"])
  refused("no such model", good, ["nowhere"], { model: () => at("nowhere") })
  refused("no such adapter", good, ["nowhere", "nowhere"], { flags: ["--adapter", at("nowhere")] })

  /** A copy of the model folder with something done to it. */
  const broken = (name: string, change: (folder: string) => void) => () => {
    fs.cpSync(at("micro"), at(name), { recursive: true })
    change(at(name))
    return at(name)
  }
  const weights = (folder: string) => nodePath.join(folder, "model.safetensors")
  const reheader = (
    folder: string,
    change: (header: Record<string, { dtype: string; shape: Array<number>; data_offsets: Array<number> }>) => void
  ) => {
    const bytes = fs.readFileSync(weights(folder))
    const length = Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString())
    change(header)
    const text = Buffer.from(JSON.stringify(header))
    const size = Buffer.alloc(8)
    size.writeBigUInt64LE(BigInt(text.length))
    fs.writeFileSync(weights(folder), Buffer.concat([size, text, bytes.subarray(8 + length)]))
  }
  refused("truncated weights", good, ["model.safetensors"], {
    model: broken("truncated", (f) => fs.truncateSync(weights(f), fs.statSync(weights(f)).size - 100))
  })
  refused("weights whose header lies about sizes", good, ["model.safetensors", "model.norm.weight"], {
    model: broken("lying", (f) =>
      reheader(f, (header) => {
        header["model.norm.weight"]!.shape = [1000]
      })
    )
  })
  refused("weights that overlap", good, ["model.safetensors"], {
    model: broken("overlapping", (f) =>
      reheader(f, (header) => {
        const last = header["model.norm.weight"]!
        last.data_offsets = header["model.layers.0.input_layernorm.weight"]!.data_offsets
      })
    )
  })
  refused("weights of a kind that is not read", good, ["model.safetensors", "I32"], {
    model: broken("integers", (f) =>
      reheader(f, (header) => {
        header["model.norm.weight"]!.dtype = "I32"
      })
    )
  })
  refused("a tensor of another shape than config.json says", good, ["config.json"], {
    model: broken("reshaped", (f) => {
      const file = nodePath.join(f, "config.json")
      fs.writeFileSync(file, fs.readFileSync(file, "utf8").replace('"vocab_size": 23', '"vocab_size": 24'))
    })
  })
  refused("another architecture", good, ["config.json", "llama"], {
    model: broken("llama", (f) => {
      const file = nodePath.join(f, "config.json")
      fs.writeFileSync(file, fs.readFileSync(file, "utf8").replaceAll("qwen2", "llama"))
    })
  })

  it("an output that cannot be written", () =>
    inFolder(async (folder) => {
      fs.writeFileSync(nodePath.join(folder, "in.jsonl"), good)
      const command = ["score", "--model", at("micro"), "--input", "in.jsonl", "--out"]
      isUserError(await run([...command, "in.jsonl/out.jsonl"], { cwd: folder }), "in.jsonl/out.jsonl")
      isUserError(await compute([...command, "."], { cwd: folder }), "cannot write")
      assert.deepStrictEqual(fs.readdirSync(folder), ["in.jsonl"])
    }))

  it("too little memory", () =>
    inFolder(async (folder) => {
      fs.writeFileSync(nodePath.join(folder, "in.jsonl"), good)
      const command = ["score", "--model", at("micro"), "--input", "in.jsonl", "--out", "out.jsonl"]
      const options = { cwd: folder, env: { SRCODE_GPU_MEMORY: "10000" } }
      isUserError(await run(command, options), "not enough device memory", "10000", "SRCODE_GPU_MEMORY")
      assert.deepStrictEqual(fs.readdirSync(folder), ["in.jsonl"])
      isUserError(await run(command, { cwd: folder, env: { SRCODE_GPU_MEMORY: "much" } }), "SRCODE_GPU_MEMORY")
    }))
})
