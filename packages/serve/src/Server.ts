/**
 * The server: routes, refusals and the listening socket.
 *
 *   POST /v1/chat/completions   POST /v1/completions
 *   GET  /v1/models             GET  /v1/models/{id}
 *   GET  /health                GET  /metrics
 *
 * A request runs in a fiber of its own; a client that goes away interrupts it, which ends its sequences and frees their
 * cache. When the scope closes the server takes no more connections and requests, waits for running answers up to the
 * grace period, then cuts them.
 */
import { createServer } from "node:http"
import { createServer as createProbe } from "node:net"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { UserError } from "@srcode/domain"
import { Cause, Duration, Effect, type Scope } from "effect"
import { HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { makeAdmission } from "./Admission.ts"
import { type ApiError, badRequest, internalError, methodNotAllowed, notFound } from "./ApiError.ts"
import { checkText, openChoices, type Serving } from "./Choices.ts"
import { chatShape, completionShape } from "./internal/answers.ts"
import { makeHostCheck, makeKeyCheck, readJson } from "./internal/guard.ts"
import { respond } from "./internal/respond.ts"
import { parseChat, parseCompletion } from "./Requests.ts"
import { makeServeMetrics } from "./ServeMetrics.ts"
import { checkSettings, type ServeSettings } from "./Settings.ts"
import { TextModel } from "./TextModel.ts"

type Response = HttpServerResponse.HttpServerResponse
type Handler = (request: HttpServerRequest.HttpServerRequest) => Effect.Effect<Response, ApiError, Scope.Scope>

const errorResponse = (error: ApiError): Response =>
  HttpServerResponse.jsonUnsafe(error.body, { status: error.status, headers: error.headers })

const requireModel = (serving: Serving, id: string): Effect.Effect<void, ApiError> => {
  const names = serving.model.models.map((model) => model.id)
  return names.includes(id)
    ? Effect.void
    : Effect.fail(
        notFound(`there is no model ${JSON.stringify(id.slice(0, 200))} here; there is ${names.join(", ")}`, {
          param: "model",
          code: "model_not_found"
        })
      )
}

const chat = Effect.fn("POST /v1/chat/completions")(function* (serving: Serving, input: unknown) {
  const { wanted, messages, variables } = yield* parseChat(input)
  yield* requireModel(serving, wanted.model)
  yield* checkText(
    serving.model,
    messages.map(({ content }) => content),
    "messages"
  )
  const ids = yield* Effect.mapError(serving.model.encodeChat(messages, { variables }), (error) =>
    badRequest(error.message, { param: "messages" })
  )
  const choices = yield* openChoices(serving, wanted, [ids], "messages")
  return yield* respond(wanted, chatShape({ logprobs: wanted.logprobs }), choices)
})

const completions = Effect.fn("POST /v1/completions")(function* (serving: Serving, input: unknown) {
  const { wanted, prompts, echo, topLogprobs } = yield* parseCompletion(input)
  yield* requireModel(serving, wanted.model)
  const { model } = serving
  const ids = yield* Effect.forEach(
    prompts,
    Effect.fnUntraced(function* (prompt) {
      if (typeof prompt !== "string") return prompt
      yield* checkText(model, [prompt], "prompt")
      // tokenising does not pause: others go first between two prompts
      yield* Effect.yieldNow
      return model.encode(prompt)
    })
  )
  const choices = yield* openChoices(serving, wanted, ids, "prompt")
  const texts = prompts.map((prompt) => (typeof prompt === "string" ? prompt : model.decode(prompt)))
  const shape = completionShape({
    logprobs: wanted.logprobs,
    topLogprobs,
    echo: (index) => (echo ? (texts[Math.floor(index / wanted.n)] ?? "") : "")
  })
  return yield* respond(wanted, shape, choices)
})

const makeHandlers = (serving: Serving, settings: ServeSettings, startedAt: number) => {
  const checkKey = makeKeyCheck(settings.apiKey)
  const post =
    (answer: (serving: Serving, input: unknown) => Effect.Effect<Response, ApiError, Scope.Scope>): Handler =>
    (request) =>
      checkKey(request).pipe(
        Effect.andThen(readJson(request, settings.maxBodyBytes)),
        Effect.flatMap((input) => answer(serving, input))
      )
  const card = (model: TextModel["Service"]["models"][number]) => ({
    id: model.id,
    object: "model",
    created: startedAt,
    owned_by: "srcode",
    parent: model.parent,
    max_model_len: serving.model.limits.maxTokens
  })
  const models: Handler = (request) =>
    Effect.as(
      checkKey(request),
      HttpServerResponse.jsonUnsafe({ object: "list", data: serving.model.models.map(card) })
    )
  const modelOf =
    (id: string): Handler =>
    (request) =>
      Effect.gen(function* () {
        yield* checkKey(request)
        yield* requireModel(serving, id)
        const found = serving.model.models.filter((model) => model.id === id)
        return HttpServerResponse.jsonUnsafe(found.map(card)[0])
      })
  const health: Handler = () =>
    Effect.gen(function* () {
      const closed = yield* serving.admission.closed
      const status = { status: closed ? "stopping" : "ok", sequences: yield* serving.admission.taken }
      return HttpServerResponse.jsonUnsafe(status, { status: closed ? 503 : 200 })
    })
  const metrics: Handler = (request) =>
    Effect.gen(function* () {
      yield* checkKey(request)
      const now = { taken: yield* serving.admission.taken, engine: yield* serving.model.stats }
      return HttpServerResponse.text(yield* serving.metrics.text(now), {
        contentType: "text/plain; version=0.0.4; charset=utf-8"
      })
    })
  const routes: ReadonlyMap<string, { readonly method: "GET" | "POST"; readonly handler: Handler }> = new Map([
    ["/v1/chat/completions", { method: "POST", handler: post(chat) }],
    ["/v1/completions", { method: "POST", handler: post(completions) }],
    ["/v1/models", { method: "GET", handler: models }],
    ["/health", { method: "GET", handler: health }],
    ["/metrics", { method: "GET", handler: metrics }]
  ])
  return (path: string) => {
    const known = routes.get(path)
    if (known !== undefined) return { path, ...known }
    const id = /^\/v1\/models\/(.+)$/.exec(path)?.[1]
    return id === undefined
      ? undefined
      : { path: "/v1/models/{id}", method: "GET" as const, handler: modelOf(decodePath(id)) }
  }
}

/** A broken escape stays as it is, and names no model. */
const decodePath = (text: string): string =>
  text.replace(/(?:%[0-9a-f]{2})+/gi, (escaped) =>
    new TextDecoder().decode(Uint8Array.from(escaped.slice(1).split("%"), (code) => Number.parseInt(code, 16)))
  )

/** One request from its arrival to its answer. Never fails: errors are answers, faults of ours are logged too. */
const makeApp = (serving: Serving, settings: ServeSettings, startedAt: number) => {
  const handlers = makeHandlers(serving, settings, startedAt)
  const checkHost = makeHostCheck(settings)
  return Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const path = request.url.replace(/[?#].*$/s, "")
    const route = handlers(path)
    const answer = Effect.gen(function* () {
      yield* checkHost(request)
      if (route === undefined)
        return yield* notFound(`there is nothing at ${JSON.stringify(path.slice(0, 200))}`, { code: "unknown_url" })
      if (request.method !== route.method && !(request.method === "HEAD" && route.method === "GET"))
        return yield* methodNotAllowed(`${route.path} takes ${route.method} requests`, {
          headers: { allow: route.method }
        })
      return yield* route.handler(request)
    })
    // Handlers run uninterruptible unless they say otherwise; a client that goes away must end this one.
    const response = yield* Effect.interruptible(answer).pipe(
      Effect.catchTag("ApiError", (error) => Effect.succeed(errorResponse(error))),
      Effect.catchCause((cause) =>
        Cause.hasInterruptsOnly(cause)
          ? Effect.failCause(cause)
          : Effect.as(
              Effect.logError("a request failed", cause),
              errorResponse(internalError("internal error; see the server's log"))
            )
      )
    )
    const stopping = yield* serving.admission.closed
    yield* serving.metrics.answered(route?.path ?? "other", response.status)
    return stopping ? HttpServerResponse.setHeader(response, "connection", "close") : response
  })
}

const listenProblem = (settings: ServeSettings, cause: unknown): UserError => {
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : ""
  const where = `${settings.host}:${settings.port}`
  const message =
    code === "EADDRINUSE"
      ? `cannot listen on ${where}: the port is in use`
      : code === "EACCES"
        ? `cannot listen on ${where}: permission denied`
        : code === "EADDRNOTAVAIL" || code === "ENOTFOUND"
          ? `cannot listen on ${where}: this machine has no such address`
          : `cannot listen on ${where}: ${code === "" ? String(cause) : code}`
  return new UserError({ message, hint: "choose another with --host and --port" })
}

/** Fails as `serve` would if the address cannot be listened on; asked before a model is loaded, which takes a while. */
export const checkAddress = (settings: ServeSettings): Effect.Effect<void, UserError> =>
  Effect.callback<void, UserError>((resume) => {
    const probe = createProbe()
    probe.once("error", (cause) => resume(Effect.fail(listenProblem(settings, cause))))
    probe.listen({ host: settings.host, port: settings.port }, () => probe.close(() => resume(Effect.void)))
    return Effect.sync(() => probe.close())
  })

export interface RunningServer {
  /** `http://127.0.0.1:8000` */
  readonly url: string
  readonly port: number
}

/** Listens until the scope closes; see the head of this file for how it stops. */
export const serve = Effect.fn("serve")(function* (
  settings: ServeSettings
): Effect.fn.Return<RunningServer, UserError, TextModel | Scope.Scope> {
  yield* checkSettings(settings)
  const model = yield* TextModel
  const admission = makeAdmission({ running: model.limits.maxSequences, queue: settings.queue })
  const serving: Serving = { model, admission, metrics: makeServeMetrics() }
  const timeout = Duration.toMillis(settings.requestTimeout)
  const node = createServer({
    requestTimeout: timeout,
    headersTimeout: Math.min(timeout, 10_000),
    connectionsCheckingInterval: Math.min(timeout, 1000),
    keepAliveTimeout: 15_000
  })
  const server = yield* NodeHttpServer.make(() => node, {
    host: settings.host,
    port: settings.port,
    gracefulShutdownTimeout: settings.grace
  }).pipe(Effect.mapError((error) => listenProblem(settings, error.cause)))
  // A connection that was busy when the server stopped listening would stay open for its client's next request.
  let stopping = false
  node.on("request", (_, response) => {
    response.once("close", () => {
      if (stopping) setImmediate(() => node.closeIdleConnections())
    })
  })
  // Finalizers run last to first: refuse, wait for answers (the server's own), cut what is left, close.
  yield* Effect.addFinalizer(() => Effect.sync(() => node.closeAllConnections()))
  const startedAt = Math.floor((yield* Effect.clockWith((clock) => clock.currentTimeMillis)) / 1000)
  yield* server.serve(makeApp(serving, settings, startedAt))
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      stopping = true
      return admission.close
    })
  )
  const address = node.address()
  const port = typeof address === "object" && address !== null ? address.port : settings.port
  return { url: HttpServer.formatAddress(server.address), port }
})
