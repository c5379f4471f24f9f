/** Which exit code and which line an error becomes. */

import { assert, describe, it } from "@effect/vitest"
import { UserError } from "@srcode/domain"
import { GpuError, OutOfMemory, ShaderInvalid } from "@srcode/gpu"
import { StoreError } from "@srcode/store"
import { Cause, Effect, PlatformError, Stdio } from "effect"
import { describeCause, describeError, oneLine, runToExitCode } from "../src/errors.ts"

const stdio = Stdio.layerTest({})

describe("describeError", () => {
  it("a typed error is the caller's, with its hint", () => {
    const error = new UserError({ message: "no model in /m", hint: "give --model a folder" })
    assert.deepStrictEqual(describeError(error), {
      code: 1,
      lines: ["srcode: no model in /m; give --model a folder"]
    })
    const store = new StoreError({ reason: "Missing", message: "a is missing", file: "a", line: null })
    assert.strictEqual(describeError(store).code, 1)
  })

  it("tells a device that is too small from a kernel of ours that is broken", () => {
    const small = new GpuError({
      reason: new OutOfMemory({ label: "kv cache", bytes: 9, live: 1, limit: 5, limitName: "the budget" })
    })
    assert.strictEqual(describeError(small).code, 1)
    assert.include(describeError(small).lines[0] ?? "", "kv cache")
    const broken = describeError(new GpuError({ reason: new ShaderInvalid({ kernel: "matmul", detail: "line 3" }) }))
    assert.strictEqual(broken.code, 2)
    assert.include(broken.lines.join("\n"), "report it")
  })

  it("a file that the system refused is named with what the system said", () => {
    const reason = { _tag: "BadResource", module: "FileSystem", method: "writeFile", pathOrDescriptor: "a/b" } as const
    const error = PlatformError.systemError({ ...reason, cause: new Error("EISDIR: illegal operation") })
    assert.deepStrictEqual(describeError(error), {
      code: 1,
      lines: ["srcode: a/b: EISDIR: illegal operation; check the path, the permissions and the free space"]
    })
  })

  it("what is no typed error is a fault of ours", () => {
    assert.strictEqual(describeError(new Error("oops")).code, 2)
    assert.strictEqual(describeError("oops").code, 2)
  })
})

describe("describeCause", () => {
  it("a defect is 2, an interruption 130, and a defect outweighs a failure", () => {
    assert.strictEqual(describeCause(Cause.die(new TypeError("x is undefined"))).code, 2)
    assert.strictEqual(describeCause(Cause.interrupt(1)).code, 130)
    const failure = Cause.fail(new UserError({ message: "bad file" }))
    assert.strictEqual(describeCause(failure).code, 1)
    assert.strictEqual(describeCause(Cause.combine(failure, Cause.interrupt(1))).code, 1)
    assert.strictEqual(describeCause(Cause.combine(failure, Cause.die("broken"))).code, 2)
  })

  it("always has one line per message, whatever the text holds", () => {
    for (const text of ["a\nb\r\nc", "\u001b[2J\u0000\u009b", "x".repeat(5000), ""]) {
      const { lines } = describeCause(Cause.die(new Error(text)))
      assert.lengthOf(lines, 2)
      for (const line of lines) {
        assert.isAtMost(line.length, 1100)
        // biome-ignore lint/suspicious/noControlCharactersInRegex: that there are none is the point
        assert.notMatch(line, /[\u0000-\u001f\u007f\u009b]/)
      }
    }
    assert.strictEqual(oneLine("  a \n\t b  "), "a b")
  })
})

describe("runToExitCode", () => {
  const codeOf = (program: Effect.Effect<void, unknown>) => runToExitCode(program).pipe(Effect.provide(stdio))

  it.effect("is 0 only for success", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* codeOf(Effect.void), 0)
      assert.strictEqual(yield* codeOf(Effect.fail(new UserError({ message: "no" }))), 1)
      assert.strictEqual(yield* codeOf(Effect.die(new Error("broken"))), 2)
      assert.strictEqual(yield* codeOf(Effect.interrupt), 130)
    })
  )
})
