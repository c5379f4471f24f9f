/**
 * Pages and turns without a device: a cache of plain records stands in for keys and values, and every row that is
 * "computed" looks whether the cache holds exactly what it must see.
 */
import { assert, describe, it } from "@effect/vitest"
import { pageSize } from "@srcode/gpu"
import type { Lora } from "../src/Lora.ts"
import { makePagePool, pagesFor } from "../src/PagePool.ts"
import { decodeRows, type Job, makeScheduler, positionsOf, type Scheduler, type Sequence } from "../src/Scheduler.ts"
import { below, seeded } from "./support.ts"

const tokens = (length: number, first = 0): ReadonlyArray<number> => Array.from({ length }, (_, i) => first + i)

describe("PagePool", () => {
  it("gives distinct pages, never page 0, and refuses without a change what does not fit", () => {
    const pool = makePagePool(5)
    const a = pool.acquire(0, tokens(3), 3)!
    assert.deepStrictEqual([...a].sort(), [1, 2, 3])
    assert.isUndefined(pool.acquire(0, tokens(3), 3))
    assert.strictEqual(pool.used(), 3)
    const b = pool.acquire(0, tokens(3), 2)!
    assert.strictEqual(new Set([...a, ...b]).size, 5)
    pool.release(a)
    pool.release(b)
    assert.strictEqual(pool.used(), 0)
  })

  it("equal beginnings share full pages, up to the page of the last token, under one root only", () => {
    const pool = makePagePool(20)
    const prompt = tokens(2 * pageSize + 5)
    const a = pool.acquire(0, prompt, 4)!
    const b = pool.acquire(0, prompt, 4)!
    assert.deepStrictEqual(b.slice(0, 2), a.slice(0, 2))
    assert.isEmpty(b.slice(2).filter((page) => a.includes(page)))
    assert.strictEqual(pool.used(), 6)
    const other = pool.acquire(1, prompt, 2)!
    assert.isEmpty(other.filter((page) => a.includes(page)))
    // The second page is equal, but what stands before it is not.
    const later = pool.acquire(0, [999, ...prompt.slice(1)], 3)!
    assert.isEmpty(later.filter((page) => a.includes(page)))
    // A prompt that ends with a page needs the state of its last token, so that page is its own.
    const exact = pool.acquire(0, prompt.slice(0, 2 * pageSize), 2)!
    assert.strictEqual(exact[0], a[0])
    assert.notStrictEqual(exact[1], a[1])
    for (const pages of [a, b, other, later, exact]) pool.release(pages)
    assert.strictEqual(pool.used(), 0)
  })

  it("keeps written pages for later, gives the longest unused away first, and forgets on demand", () => {
    const pool = makePagePool(4)
    const hold = (first: number) => {
      const pages = pool.acquire(0, tokens(pageSize + 1, first), 2)!
      pool.fill(pages[0]!, pageSize)
      pool.release(pages)
      return pages[0]
    }
    const [a, b] = [hold(100), hold(200)]
    assert.strictEqual(pool.retained(), 2)
    assert.strictEqual(pool.used(), 0)
    assert.strictEqual(hold(100), a)
    // Three fresh pages: two free ones and the one used longest ago.
    const big = pool.acquire(0, tokens(3), 3)!
    assert.include(big, b)
    pool.release(big)
    assert.strictEqual(hold(100), a)
    pool.forget()
    assert.strictEqual(pool.retained(), 0)
    const again = pool.acquire(0, tokens(pageSize + 1, 100), 2)!
    assert.strictEqual(pool.filled(again[0]!), 0)
  })

  it("an unwritten page is not kept; a response's full pages are known once it has ended", () => {
    const pool = makePagePool(8)
    pool.release(pool.acquire(0, tokens(3 * pageSize), 4)!)
    assert.strictEqual(pool.retained(), 0)
    const all = tokens(3 * pageSize)
    const a = pool.acquire(0, all.slice(0, 5), 3)!
    pool.register(0, all, a)
    pool.release(a)
    assert.strictEqual(pool.retained(), 3)
    const b = pool.acquire(0, [...all, 7], 4)!
    assert.deepStrictEqual(b.slice(0, 3), a)
    assert.isTrue(b.slice(0, 3).every((page) => pool.filled(page) === pageSize))
  })
})

interface Cell {
  readonly token: number
  readonly position: number
  readonly lora: Lora | null
  readonly version: number
}

/** Runs a scheduler against a cache of records; every row checks what it sees. */
const makeWorld = (options: { readonly slots: number; readonly pages: number }) => {
  const scheduler: Scheduler<Job> = makeScheduler(options)
  const cells = new Map<number, Cell>()
  const bornAt = new Map<Sequence<Job>, number>()
  const all = new Set<Sequence<Job>>()
  let version = 0
  const at = (s: Sequence<Job>, t: number) => s.pages[Math.floor(t / pageSize)]! * pageSize + (t % pageSize)
  const write = (s: Sequence<Job>, token: number, position: number, kvRow: number) => {
    if (kvRow === 0) return
    assert.isAtLeast(kvRow, pageSize, "page 0 belongs to nobody")
    assert.strictEqual(kvRow, at(s, position))
    cells.set(kvRow, { token, position, lora: s.job.lora, version })
  }
  const sees = (s: Sequence<Job>, position: number) => {
    const text = [...s.job.prompt, ...s.tokens]
    for (let t = 0; t <= position; t++) {
      const cell = cells.get(at(s, t))
      // Nothing from before the weights changed, unless the sequence itself is that old. (Assertions are too slow here.)
      const right =
        cell?.token === text[t] && cell?.position === t && cell.lora === s.job.lora && cell.version >= bornAt.get(s)!
      if (!right) assert.fail(`position ${t} of ${text.join()} sees ${JSON.stringify(cell)}`)
    }
  }
  /** The next token is a function of the text, so it shows that nothing leaks. */
  const next = (s: Sequence<Job>) => [...s.job.prompt, ...s.tokens].reduce((h, v) => (h * 31 + v) % 9973, 7)
  const turn = (budget: number, steps: number) => {
    for (const s of scheduler.admit()) {
      bornAt.set(s, version)
      all.add(s)
    }
    let rows = 0
    for (const pass of scheduler.prefill(budget)) {
      rows += pass.ids.length
      const owner = new Map([...all].map((s) => [s.slot, s]))
      pass.ids.forEach((id, i) => {
        write(owner.get(pass.slot[i]!)!, id, pass.position[i]!, pass.kvRow[i]!)
      })
      pass.ids.forEach((_, i) => {
        assert.strictEqual(owner.get(pass.slot[i]!)!.job.lora, pass.lora)
        sees(owner.get(pass.slot[i]!)!, pass.position[i]!)
      })
      for (const { row, sequence } of pass.complete) {
        assert.strictEqual(pass.position[row], sequence.job.prompt.length - 1)
        scheduler.push(sequence, [next(sequence)])
        if (sequence.job.maxTokens === 1) scheduler.end(sequence)
      }
    }
    assert.isAtMost(rows, budget)
    for (const { lora, sequences } of scheduler.decoding()) {
      const plans = sequences.map((s) => decodeRows(s, steps))
      for (let step = 0; step < steps; step++) {
        sequences.forEach((s, i) => {
          if (s.state === "done") return
          assert.strictEqual(s.job.lora, lora)
          write(s, s.tokens.at(-1)!, plans[i]!.position[step]!, plans[i]!.kvRow[step]!)
          assert.notStrictEqual(plans[i]!.kvRow[step], 0)
          sees(s, plans[i]!.position[step]!)
          scheduler.push(s, [next(s)])
          if (s.tokens.length === s.job.maxTokens) scheduler.end(s)
        })
      }
    }
    return rows
  }
  return {
    scheduler,
    turn,
    changeWeights: () => {
      version++
      scheduler.forget()
    }
  }
}

const job = (prompt: ReadonlyArray<number>, maxTokens: number, lora: Lora | null = null): Job => ({
  prompt,
  maxTokens,
  lora
})

describe("Scheduler", () => {
  it("samples of one prompt compute it once, also in one pass, and each its own end", () => {
    const { scheduler, turn } = makeWorld({ slots: 8, pages: 40 })
    const all = Array.from({ length: 6 }, () => scheduler.add(job(tokens(3 * pageSize + 4), 5)))
    const rows = turn(1000, 3)
    assert.strictEqual(rows, 3 * pageSize + 6 * 4)
    assert.strictEqual(
      all.reduce((sum, s) => sum + s.reused, 0),
      5 * 3 * pageSize
    )
    while (scheduler.running() > 0) turn(1000, 3)
    assert.strictEqual(scheduler.pool.used(), 0)
  })

  it("a long prompt takes several turns while others decode, and nobody overtakes in the line", () => {
    const { scheduler, turn } = makeWorld({ slots: 3, pages: 30 })
    const short = scheduler.add(job(tokens(4), 40))
    turn(10, 2)
    const long = scheduler.add(job(tokens(95, 50), 2))
    const late = scheduler.add(job(tokens(5, 500), 2))
    for (let i = 0; i < 9; i++) {
      const before = short.tokens.length
      assert.strictEqual(turn(10, 2), 10)
      assert.strictEqual(short.tokens.length, before + 2)
      assert.strictEqual(long.state, "prefill")
      assert.strictEqual(late.tokens.length, 0)
    }
    turn(10, 1)
    assert.strictEqual(long.state, "done")
    assert.strictEqual(late.state, "done")
  })

  it("what does not fit waits; slots and pages both count; the first in line goes first", () => {
    const { scheduler, turn } = makeWorld({ slots: 2, pages: 6 })
    const big = [0, 1].map((i) => scheduler.add(job(tokens(40, 100 * i), 24)))
    assert.deepStrictEqual(
      big.map((s) => pagesFor(positionsOf(s.job))),
      [4, 4]
    )
    const small = scheduler.add(job(tokens(4), 4))
    turn(1000, 1)
    assert.strictEqual(scheduler.running(), 1)
    assert.strictEqual(scheduler.waiting(), 2)
    // There is room for the small one, but it came later.
    assert.strictEqual(small.state, "waiting")
    scheduler.end(big[0]!)
    turn(1000, 1)
    assert.strictEqual(scheduler.running(), 2)
    scheduler.end(big[1]!)
    scheduler.end(big[1]!)
    scheduler.end(small)
    assert.strictEqual(scheduler.pool.used(), 0)
    assert.strictEqual(scheduler.running() + scheduler.waiting(), 0)
  })

  it("whoever leaves in the middle of a shared prompt, the others go on from what is written", () => {
    const { scheduler, turn } = makeWorld({ slots: 4, pages: 40 })
    const [a, b] = [0, 1].map(() => scheduler.add(job(tokens(70), 3)))
    turn(25, 1)
    scheduler.end(a!)
    assert.strictEqual(turn(25, 1), 25)
    assert.strictEqual(turn(25, 1), 20)
    assert.strictEqual(b!.state, "decode")
  })

  it("a response's pages are shared only where that is wanted, a prompt's always", () => {
    for (const shareResponses of [true, false]) {
      const scheduler = makeScheduler({ slots: 1, pages: 12, shareResponses })
      const first = scheduler.add(job(tokens(40), 30))
      scheduler.admit()
      scheduler.prefill(100)
      const response = Array.from({ length: 25 }, (_, i) => 500 + i)
      scheduler.push(first, response)
      scheduler.end(first)
      const next = scheduler.add(job([...tokens(40), ...response], 4))
      scheduler.admit()
      scheduler.prefill(100)
      assert.strictEqual(next.reused, shareResponses ? 64 : 32)
    }
  })

  it("steps beyond the last token write to page 0", () => {
    const scheduler = makeScheduler({ slots: 1, pages: 4 })
    const s = scheduler.add(job(tokens(30), 4))
    scheduler.admit()
    scheduler.prefill(100)
    scheduler.push(s, [5])
    const [, second, third] = s.pages
    assert.deepStrictEqual(decodeRows(s, 5), {
      position: [30, 31, 32, 32, 32],
      kvRow: [second! * pageSize + 14, second! * pageSize + 15, third! * pageSize, 0, 0]
    })
  })

  it("random arrivals, ends, chunks, adapters and changes of weights: every row sees its own text", () => {
    const adapters = [null, {} as Lora, {} as Lora]
    for (let seed = 0; seed < 40; seed++) {
      const random = seeded(seed)
      const { changeWeights, scheduler, turn } = makeWorld({
        slots: 1 + below(random, 6),
        pages: 12 + below(random, 30)
      })
      const live = new Set<Sequence<Job>>()
      /** What has been said, so that a prompt may go on from it. */
      const texts: Array<ReadonlyArray<number>> = []
      for (let round = 0; round < 60; round++) {
        for (let i = below(random, 3); i > 0; i--) {
          // Few beginnings, so that many are equal.
          const start = below(random, 2) === 0 ? texts.at(-1) : undefined
          const prompt = [
            ...(start ?? tokens(below(random, 50), 100 * below(random, 2))),
            ...tokens(1 + below(random, 20), 900)
          ].slice(-below(random, 2) - 90)
          live.add(scheduler.add(job(prompt, 1 + below(random, 30), adapters[below(random, 3)]!)))
        }
        if (below(random, 4) === 0) {
          const some = [...live][below(random, live.size)]
          if (some) scheduler.end(some)
        }
        if (below(random, 25) === 0) changeWeights()
        turn(1 + below(random, 60), 1 + below(random, 8))
        const held = new Set([...live].flatMap((s) => s.pages))
        assert.strictEqual(scheduler.pool.used(), held.size)
        for (const s of live) {
          if (s.state !== "done") continue
          live.delete(s)
          texts.push([...s.job.prompt, ...s.tokens])
        }
        assert.strictEqual(live.size, scheduler.running() + scheduler.waiting())
      }
      for (let i = 0; scheduler.running() + scheduler.waiting() > 0; i++) {
        assert.isBelow(i, 2000, "the line must come to an end")
        turn(64, 8)
      }
      assert.strictEqual(scheduler.pool.used(), 0)
    }
  })
})
