/** What must not compile. `tsc` fails when one of the marked lines does; nothing here runs on a device. */
import { assert, describe, it } from "@effect/vitest"
import type { Bindings, Constants, Params, Tape, Tensor } from "../src/index.ts"

declare const tape: Tape
declare const f: Tensor<"f32">
declare const u: Tensor<"u32">

const neverRun = (): void => {
  tape.dispatch("rms_norm_forward", { x: f, w: f, y: f, rstd: f }, { rows: 1, dim: 1, eps: 1 }, [1], { WG: 8 })
  // @ts-expect-error the binding rstd is missing
  tape.dispatch("rms_norm_forward", { x: f, w: f, y: f }, { rows: 1, dim: 1, eps: 1 }, [1])
  // @ts-expect-error x holds f32, not u32
  tape.dispatch("rms_norm_forward", { x: u, w: f, y: f, rstd: f }, { rows: 1, dim: 1, eps: 1 }, [1])
  // @ts-expect-error ids are u32
  tape.dispatch("embedding_forward", { table: f, id: f, out: f }, { rows: 1, dim: 1, span: 1 }, [1])
  // @ts-expect-error there is no binding z
  tape.dispatch("swiglu_forward", { gu: f, y: f, z: f }, { rows: 1, dim: 1, span: 1 }, [1])
  // @ts-expect-error the parameter eps is missing
  tape.dispatch("rms_norm_forward", { x: f, w: f, y: f, rstd: f }, { rows: 1, dim: 1 }, [1])
  // @ts-expect-error the parameter is called dim
  tape.dispatch("swiglu_forward", { gu: f, y: f }, { rows: 1, width: 1, span: 1 }, [1])
  // @ts-expect-error there is no such kernel
  tape.dispatch("swiglu_sideways", { gu: f, y: f }, { rows: 1, dim: 1, span: 1 }, [1])
  // @ts-expect-error there is no such constant
  tape.dispatch("swiglu_forward", { gu: f, y: f }, { rows: 1, dim: 1, span: 1 }, [1], { LANES: 8 })
}

describe("typed dispatch", () => {
  it("derives bindings, parameters and constants from the manifest", () => {
    const bindings: ReadonlyArray<keyof Bindings<"attention_forward">> = [
      "q",
      "k",
      "v",
      "kv_start",
      "kv_end",
      "o",
      "stat"
    ]
    const params: Params<"gae_forward"> = { sequences: 1, gamma: 1, lambda: 0.95 }
    const constants: Constants<"ppo_loss_forward_backward"> = { KIND: 3 }
    assert.lengthOf(bindings, 7)
    assert.deepStrictEqual(Object.keys({ ...params, ...constants }), ["sequences", "gamma", "lambda", "KIND"])
    assert.isFunction(neverRun)
  })
})
