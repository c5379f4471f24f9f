/**
 * A hub on a local port that speaks the parts of the Hugging Face API that a download needs: revisions, paged listings,
 * and files by range, large ones by way of a redirect to another address. Repositories are given as contents; whatever
 * can go wrong is switched on from outside.
 */
import { createHash, randomBytes } from "node:crypto"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export interface Repository {
  /** Commit → path → content. */
  readonly commits: Readonly<Record<string, Readonly<Record<string, Uint8Array | string>>>>
  readonly refs: Readonly<Record<string, string>>
  /** Only who sends this token sees it. */
  readonly token?: string
}

export interface FakeHub {
  readonly url: string
  /** `METHOD path` of each request, with its range where it had one. */
  readonly requests: Array<string>
  /** Bytes of bodies of large files that were sent. */
  sent: number
  readonly repositories: Map<string, Repository>
  /** Asked first; `true` means that it has answered. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean
  close(): Promise<void>
}

export const commitA = createHash("sha1").update("a").digest("hex")
export const commitB = createHash("sha1").update("b").digest("hex")

/** Content that does not compress or repeat. */
export const noise = (bytes: number): Buffer => randomBytes(bytes)

/** Large contents are hashed once, however often they are asked for. */
const remembered = (hash: (content: Uint8Array | string) => string) => {
  const known = new WeakMap<Uint8Array, string>()
  return (content: Uint8Array | string): string => {
    if (typeof content === "string") return hash(content)
    const value = known.get(content) ?? hash(content)
    known.set(content, value)
    return value
  }
}

export const sha256 = remembered((content) => createHash("sha256").update(content).digest("hex"))
export const gitSha = remembered((content) => {
  const bytes = Buffer.from(content)
  return createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")
})

const isLarge = (path: string) => /\.(safetensors|bin|gguf|model)$/.test(path)

const asBuffer = (content: Uint8Array | string): Buffer =>
  typeof content === "string" ? Buffer.from(content) : Buffer.from(content.buffer, content.byteOffset, content.length)

const json = (response: ServerResponse, status: number, value: unknown, headers: Record<string, string> = {}) => {
  response.writeHead(status, { "content-type": "application/json; charset=utf-8", ...headers })
  response.end(JSON.stringify(value))
}

/** Sends a whole content or the range that was asked for. */
const sendBytes = (
  hub: FakeHub,
  request: IncomingMessage,
  response: ServerResponse,
  content: Buffer,
  headers: Record<string, string>
) => {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "")
  if (range === null) {
    response.writeHead(200, { ...headers, "content-length": content.length, "accept-ranges": "bytes" })
    hub.sent += content.length
    response.end(content)
    return
  }
  const from = Number(range[1])
  const to = Math.min(content.length - 1, range[2] === "" ? content.length - 1 : Number(range[2]))
  if (from > to) {
    response.writeHead(416, { "content-range": `bytes */${content.length}` })
    response.end()
    return
  }
  const body = content.subarray(from, to + 1)
  response.writeHead(206, {
    ...headers,
    "content-length": body.length,
    "content-range": `bytes ${from}-${to}/${content.length}`
  })
  if (body.length > 1) hub.sent += body.length
  response.end(body)
}

const answer = (hub: FakeHub, request: IncomingMessage, response: ServerResponse): void => {
  const url = new URL(request.url ?? "/", hub.url)
  const path = decodeURIComponent(url.pathname)
  const range = request.headers.range === undefined ? "" : ` ${request.headers.range}`
  hub.requests.push(`${request.method} ${path}${range}`)
  if (hub.intercept(request, response)) return
  const stored = /^\/cdn\/([0-9a-f]{64})$/.exec(path)
  if (stored !== null) {
    // The address is signed elsewhere; a token has no business here.
    if (request.headers.authorization !== undefined) return json(response, 400, { error: "token sent to the store" })
    for (const { commits } of hub.repositories.values()) {
      for (const content of Object.values(commits).flatMap((files) => Object.values(files))) {
        if (sha256(content) === stored[1]) return sendBytes(hub, request, response, asBuffer(content), {})
      }
    }
    return json(response, 404, { error: "gone" })
  }
  const id = /^(?:\/api\/models)?\/([\w.-]+\/[\w.-]+)\/(revision|tree|resolve)\/(.*)$/.exec(path)
  const repository = hub.repositories.get(id?.[1] ?? "")
  const authorized = repository?.token === undefined || request.headers.authorization === `Bearer ${repository.token}`
  if (id === null || repository === undefined || !authorized) {
    return request.headers.authorization === undefined
      ? json(response, 401, { error: "Invalid username or password." })
      : json(response, 404, { error: "Repository not found" }, { "x-error-code": "RepoNotFound" })
  }
  const [, name = "", verb, rest = ""] = id
  if (verb === "revision") {
    const sha = rest in repository.commits ? rest : repository.refs[rest]
    return sha === undefined
      ? json(response, 404, { error: `Invalid rev id: ${rest}` }, { "x-error-code": "RevisionNotFound" })
      : json(response, 200, {
          _id: "1",
          id: name,
          sha,
          private: false,
          gated: false,
          downloads: 0,
          likes: 0,
          lastModified: "2026-01-01T00:00:00.000Z"
        })
  }
  const [commit = "", ...parts] = rest.split("/")
  const files = repository.commits[commit]
  if (files === undefined) return json(response, 404, { error: `Invalid rev id: ${commit}` })
  if (verb === "tree") return list(hub, response, url, files)
  const content = files[parts.join("/")]
  if (content === undefined)
    return json(response, 404, { error: "Entry not found" }, { "x-error-code": "EntryNotFound" })
  const headers = { "x-repo-commit": commit }
  if (!isLarge(parts.join("/"))) {
    return sendBytes(hub, request, response, asBuffer(content), { ...headers, etag: `"${gitSha(content)}"` })
  }
  const linked = { "x-linked-size": String(Buffer.byteLength(content)), "x-linked-etag": `"${sha256(content)}"` }
  response.writeHead(302, {
    ...headers,
    ...linked,
    location: `${hub.url.replace("127.0.0.1", "localhost")}/cdn/${sha256(content)}`
  })
  response.end()
}

/** Three entries a page. */
const list = (
  hub: FakeHub,
  response: ServerResponse,
  url: URL,
  files: Readonly<Record<string, Uint8Array | string>>
) => {
  const recursive = url.searchParams.get("recursive") === "true"
  const folders = new Set(Object.keys(files).flatMap((path) => (path.includes("/") ? [path.split("/")[0] ?? ""] : [])))
  const entries = [
    ...[...folders].map((path) => ({ type: "directory", oid: gitSha(path), size: 0, path })),
    ...Object.entries(files)
      .filter(([path]) => recursive || !path.includes("/"))
      .map(([path, content]) => ({
        type: "file",
        oid: gitSha(isLarge(path) ? `pointer to ${path}` : content),
        size: Buffer.byteLength(content),
        path,
        ...(isLarge(path) ? { lfs: { oid: sha256(content), size: Buffer.byteLength(content), pointerSize: 130 } } : {})
      }))
  ]
  const from = Number(url.searchParams.get("cursor") ?? 0)
  const next = new URL(url)
  next.searchParams.set("cursor", String(from + 3))
  json(
    response,
    200,
    entries.slice(from, from + 3),
    from + 3 < entries.length ? { link: `<${hub.url}${next.pathname}${next.search}>; rel="next"` } : {}
  )
}

export const startHub = async (repositories: Readonly<Record<string, Repository>>): Promise<FakeHub> => {
  const server = createServer((request, response) => answer(hub, request, response))
  await new Promise<void>((resolve) => server.listen(0, resolve))
  const hub: FakeHub = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: [],
    sent: 0,
    repositories: new Map(Object.entries(repositories)),
    intercept: () => false,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
  }
  return hub
}
