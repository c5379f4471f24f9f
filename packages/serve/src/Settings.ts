/**
 * How the server listens and what it bounds. Loopback by default; an address that other machines reach needs an API
 * key, unless the caller says that it means to go without.
 */
import { UserError } from "@srcode/domain"
import { type Duration, Effect, Redacted } from "effect"

export interface ServeSettings {
  readonly host: string
  /** 0 takes a free port. */
  readonly port: number
  /** Asked for as `Authorization: Bearer KEY`; null asks for none. */
  readonly apiKey: Redacted.Redacted | null
  /** Listen on an address that is not loopback without a key. */
  readonly allowPublic: boolean
  /** Sequences that may wait beyond those that run. */
  readonly queue: number
  /** Bytes of a request's body. */
  readonly maxBodyBytes: number
  /** How long running answers may go on once the server is asked to stop. */
  readonly grace: Duration.Duration
  /** How long a client may take to send a request, headers and body. */
  readonly requestTimeout: Duration.Duration
}

/** Names and addresses that only this machine reaches; brackets around IPv6 as in URLs. */
export const isLoopback = (host: string): boolean => {
  const name = host.toLowerCase().replace(/^\[(.*)\]$/, "$1")
  return name === "localhost" || name === "::1" || /^127(\.\d{1,3}){3}$/.test(name)
}

/** Refuses settings that would open the model to a network by accident. */
export const checkSettings = Effect.fn("checkSettings")(function* (settings: ServeSettings) {
  const { apiKey, host } = settings
  if (apiKey !== null && !/^[\x21-\x7e]+$/.test(Redacted.value(apiKey)))
    return yield* new UserError({
      message: "the API key must be printable ASCII without spaces and not empty; it travels in a header"
    })
  if (apiKey === null && !settings.allowPublic && !isLoopback(host))
    return yield* new UserError({
      message: `the address ${host} can be reached from other machines and there is no API key`,
      hint: "set SRCODE_API_KEY, or pass --allow-public to serve anyone"
    })
})
