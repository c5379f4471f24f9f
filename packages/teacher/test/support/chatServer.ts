/** A chat-completions server on 127.0.0.1 that answers from a script, faults included. */
import { createServer, type IncomingMessage } from "node:http"
import { Effect, Schema } from "effect"

/** What the server does with the n-th request. */
export interface Reply {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as it is. */
  readonly raw?: string
  readonly message?: Readonly<Record<string, string | null>>
  readonly finish?: string
  readonly usage?: unknown
  /** Close the connection without an answer. */
  readonly hangUp?: boolean
  /** Accept the request and never answer. */
  readonly silent?: boolean
}
const Sent = Schema.Struct({
  model: Schema.String,
  messages: Schema.Array(Schema.Struct({ role: Schema.String, content: Schema.String })),
  response_format: Schema.optionalKey(
    Schema.Struct({ type: Schema.String, json_schema: Schema.optionalKey(Schema.Json) })
  ),
  max_tokens: Schema.optionalKey(Schema.Int),
  max_completion_tokens: Schema.optionalKey(Schema.Int),
  temperature: Schema.optionalKey(Schema.Finite)
})

const readBody = (request: IncomingMessage) =>
  new Promise<string>((resolve) => {
    let text = ""
    request.on("data", (chunk) => (text += String(chunk)))
    request.on("end", () => resolve(text))
  })

/** A real server on 127.0.0.1 that answers from a script and keeps what it was sent; its last reply repeats. */
export const scripted = (replies: ReadonlyArray<Reply>) =>
  Effect.acquireRelease(
    Effect.promise(
      () =>
        new Promise<{
          port: number
          sent: Array<typeof Sent.Type>
          auth: Array<string>
          times: Array<number>
          close: () => void
        }>((resolve) => {
          const sent: Array<typeof Sent.Type> = []
          const auth: Array<string> = []
          const times: Array<number> = []
          const server = createServer(async (request, response) => {
            const body = await readBody(request)
            const reply = replies[Math.min(sent.length, replies.length - 1)] ?? {}
            sent.push(Schema.decodeUnknownSync(Schema.fromJsonString(Sent))(body))
            auth.push(request.headers.authorization ?? "")
            times.push(performance.now())
            if (reply.hangUp === true) {
              request.socket.destroy()
              return
            }
            if (reply.silent === true) return
            response.writeHead(reply.status ?? 200, { "content-type": "application/json", ...reply.headers })
            response.end(
              reply.raw ??
                JSON.stringify({
                  id: "x",
                  model: "served-model",
                  system_fingerprint: "fp1",
                  choices: [
                    {
                      index: 0,
                      finish_reason: reply.finish ?? "stop",
                      message: { role: "assistant", ...reply.message }
                    }
                  ],
                  usage: reply.usage ?? null
                })
            )
          })
          server.listen(0, "127.0.0.1", () => {
            const address = server.address()
            resolve({
              port: typeof address === "object" && address !== null ? address.port : 0,
              sent,
              auth,
              times,
              close: () => {
                server.closeAllConnections()
                server.close()
              }
            })
          })
        })
    ),
    (server) => Effect.sync(server.close)
  )
