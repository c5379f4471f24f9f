/** PEFT folders out of PEFT folders. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { exportPeft, readAdapter, writeAdapter, writeSafetensors } from "../src/index.ts"
import { writeBaseAndAdapter } from "./reference/exported.ts"
import { failsWith, platform, temporaryFolder } from "./support.ts"

describe("export peft", () => {
  it.effect("a folder of PEFT's comes out with the same tensors to the byte and the modules listed", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const root = yield* temporaryFolder
      const { base, adapter, config, pairs, out } = yield* writeBaseAndAdapter(root, { modules: ["q_proj", "v_proj"] })
      yield* writeAdapter(
        adapter,
        config,
        { rank: 3, alpha: 5, targetModules: ["q_proj", "v_proj"], tensors: pairs },
        "BF16"
      )
      const theirs = {
        peft_type: "LORA",
        task_type: "CAUSAL_LM",
        r: 3,
        lora_alpha: 5,
        target_modules: "all-linear",
        base_model_name_or_path: null,
        lora_dropout: 0.1,
        use_rslora: true,
        megatron_config: null
      }
      yield* fs.writeFileString(`${adapter}/adapter_config.json`, JSON.stringify(theirs))
      yield* fs.writeFileString(`${adapter}/value_head.safetensors`, "not for serving")
      yield* exportPeft({ model: base, adapter, out })
      const weights = "adapter_model.safetensors"
      assert.sameMembers(yield* fs.readDirectory(out), [weights, "adapter_config.json"])
      assert.deepStrictEqual(yield* fs.readFile(`${out}/${weights}`), yield* fs.readFile(`${adapter}/${weights}`))
      const written = JSON.parse(yield* fs.readFileString(`${out}/adapter_config.json`))
      assert.deepInclude(written, {
        target_modules: ["q_proj", "v_proj"],
        base_model_name_or_path: base,
        use_rslora: true,
        lora_alpha: 5,
        r: 3,
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: true,
        modules_to_save: null,
        task_type: "CAUSAL_LM"
      })
      const options = { model: base, adapter, plainAlpha: true, baseName: "org/name", dtype: "F32" } as const
      yield* exportPeft({ ...options, out, overwrite: true })
      const [before, after] = [yield* readAdapter(adapter, config), yield* readAdapter(out, config)]
      assert.deepStrictEqual(after.tensors, before.tensors)
      assert.deepInclude(after, { useRslora: false, baseModel: "org/name", rank: 3 })
      assert.closeTo(after.scale, before.scale, 1e-15)
      yield* failsWith(exportPeft({ ...options, out }), "Invalid")
      yield* failsWith(exportPeft({ ...options, out: adapter, overwrite: true }), "Invalid")
      yield* failsWith(exportPeft({ ...options, adapter: base, out: `${root}/x` }), "Missing")
      const nan = new Map(pairs).set("layers.0.q_proj", {
        a: pairs.get("layers.0.q_proj")!.a.map(() => Number.NaN),
        b: pairs.get("layers.0.q_proj")!.b
      })
      const list = [...nan].flatMap(([key, { a, b }]) => {
        const [, layer, module] = key.split(".")
        const name = `base_model.model.model.layers.${layer}.self_attn.${module}`
        return [
          { name: `${name}.lora_A.weight`, shape: [3, a.length / 3], data: a },
          { name: `${name}.lora_B.weight`, shape: [b.length / 3, 3], data: b }
        ]
      })
      yield* writeSafetensors(`${adapter}/${weights}`, list, { allowNonFinite: true })
      yield* failsWith(exportPeft({ model: base, adapter, out: `${root}/x` }), "NotFinite")
      assert.sameMembers(yield* fs.readDirectory(root), ["base", "adapter", "out"])
    }).pipe(Effect.provide(platform))
  )
})
