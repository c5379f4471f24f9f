/**
 * Which pages of the key-value cache belong to whom: a block allocator with reference counts, on the host, without a device.
 *
 * A page holds `pageSize` consecutive positions of one sequence. Full pages of a prompt are known by content: the chain of
 * all tokens up to their end, and a `root` that stands for what else decides the keys (the adapter). Sequences that begin
 * alike hold the same pages. `filled` says how many rows of a page are written, so whoever needs an unwritten row first
 * writes it for all. Pages that nobody holds stay known, and the least recently used of them is given away when no free
 * one is left.
 *
 * The chain is a string of the tokens, not a hash: equal keys are equal contents. Page 0 belongs to nobody: rows that
 * are computed for nothing write there.
 */

import { pageSize } from "@srcode/gpu"

export interface PagePool {
  /** Pages that can be held. */
  readonly total: number
  /** Pages that some sequence holds. */
  readonly used: () => number
  /** Pages that nobody holds but whose content is known. */
  readonly retained: () => number
  /**
   * `count` pages for a sequence that begins with `tokens`, those with known content shared; undefined, with nothing
   * changed, where not enough are free. A page with the last token is never shared: its state must be computed.
   */
  acquire(root: number, tokens: ReadonlyArray<number>, count: number): ReadonlyArray<number> | undefined
  /** Gives back what one `acquire` gave. */
  release(pages: ReadonlyArray<number>): void
  /** Rows of a page that are written. */
  filled(page: number): number
  /** Says that `rows` rows of a page are written. */
  fill(page: number, rows: number): void
  /** Makes full pages of a held sequence known, all of whose `tokens` are written. */
  register(root: number, tokens: ReadonlyArray<number>, pages: ReadonlyArray<number>): void
  /** Forgets all contents: nothing written so far is shared again. */
  forget(): void
}

/** Pages that `positions` positions take. */
export const pagesFor = (positions: number): number => Math.ceil(positions / pageSize)

export const makePagePool = (total: number): PagePool => {
  const references = new Uint32Array(total + 1)
  const rows = new Uint8Array(total + 1)
  /** The page's place in the chain, for as long as its content is known. */
  const known: Array<{ readonly key: string; readonly node: number } | undefined> = new Array(total + 1)
  const byKey = new Map<string, number>()
  const retained = new Set<number>()
  // Taken from the end: low pages first.
  const free = Array.from({ length: total }, (_, i) => total - i)
  let nodes = 0

  const keyOf = (parent: string | number, tokens: ReadonlyArray<number>, page: number): string =>
    `${parent}:${tokens.slice(page * pageSize, (page + 1) * pageSize).join()}`

  const know = (page: number, key: string): number => {
    known[page] = { key, node: nodes }
    byKey.set(key, page)
    return nodes++
  }

  const unknow = (page: number): void => {
    const entry = known[page]
    if (entry !== undefined && byKey.get(entry.key) === page) byKey.delete(entry.key)
    known[page] = undefined
  }

  const take = (): number => {
    const page = free.pop()
    if (page !== undefined) return page
    const [oldest = 0] = retained
    retained.delete(oldest)
    unknow(oldest)
    return oldest
  }

  return {
    total,
    used: () => total - free.length - retained.size,
    retained: () => retained.size,
    filled: (page) => rows[page] ?? 0,
    fill: (page, count) => {
      rows[page] = count
    },
    acquire: (root, tokens, count) => {
      const shareable = Math.min(count, Math.floor((tokens.length - 1) / pageSize))
      const pages: Array<number> = []
      let parent: string | number = `root ${root}`
      for (let i = 0; i < shareable; i++) {
        const page = byKey.get(keyOf(parent, tokens, i))
        const entry = page === undefined ? undefined : known[page]
        if (page === undefined || entry === undefined) break
        pages.push(page)
        parent = entry.node
      }
      const shared = pages.length
      const kept = pages.filter((page) => retained.has(page)).length
      if (free.length + retained.size - kept < count - shared) return undefined
      for (const page of pages) {
        retained.delete(page)
        references[page] = (references[page] ?? 0) + 1
      }
      for (let i = shared; i < count; i++) {
        const page = take()
        references[page] = 1
        rows[page] = 0
        if (i < shareable) parent = know(page, keyOf(parent, tokens, i))
        pages.push(page)
      }
      return pages
    },
    release: (pages) => {
      // The ends of chains go first, so that they are also given away first.
      for (const page of pages.toReversed()) {
        const left = (references[page] ?? 0) - 1
        references[page] = left
        if (left > 0) continue
        if (known[page] !== undefined && rows[page] === pageSize) retained.add(page)
        else {
          unknow(page)
          free.push(page)
        }
      }
    },
    register: (root, tokens, pages) => {
      let parent: string | number = `root ${root}`
      for (const [i, page] of pages.entries()) {
        if ((i + 1) * pageSize > tokens.length) return
        const key = keyOf(parent, tokens, i)
        const other = byKey.get(key)
        if (other === undefined && known[page] !== undefined) return
        rows[page] = pageSize
        parent = other === undefined ? know(page, key) : (known[other]?.node ?? -1)
      }
    },
    forget: () => {
      byKey.clear()
      known.fill(undefined)
      for (const page of retained) free.push(page)
      retained.clear()
    }
  }
}
