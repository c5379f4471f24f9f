/**
 * What the API answers when it does not answer with tokens: the status and OpenAI's error object, so that clients of
 * that API raise the errors they know. Messages are one line and say what to change; `param` names the field.
 */
import { Schema } from "effect"

export const ApiErrorType = Schema.Literals([
  "invalid_request_error",
  "authentication_error",
  "permission_error",
  "not_found_error",
  "rate_limit_error",
  "server_error"
])
export type ApiErrorType = typeof ApiErrorType.Type

export class ApiError extends Schema.TaggedError<ApiError>()("ApiError", {
  status: Schema.Int,
  type: ApiErrorType,
  code: Schema.NullOr(Schema.String),
  param: Schema.NullOr(Schema.String),
  message: Schema.String,
  /** Further response headers, such as Retry-After. */
  headers: Schema.Record(Schema.String, Schema.String)
}) {
  /** The JSON body of the answer, and of an error event inside a stream that has begun. */
  get body() {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } }
  }
}

interface Details {
  readonly code?: string
  readonly param?: string
  readonly headers?: Readonly<Record<string, string>>
}

const make =
  (status: number, type: ApiErrorType) =>
  (message: string, details: Details = {}): ApiError =>
    new ApiError({
      status,
      type,
      message,
      code: details.code ?? null,
      param: details.param ?? null,
      headers: details.headers ?? {}
    })

/** 400: the request cannot be served as it stands. */
export const badRequest = make(400, "invalid_request_error")
export const unauthorized = make(401, "authentication_error")
export const forbidden = make(403, "permission_error")
export const notFound = make(404, "not_found_error")
export const methodNotAllowed = make(405, "invalid_request_error")
export const tooLarge = make(413, "invalid_request_error")
export const unsupportedMediaType = make(415, "invalid_request_error")
export const tooManyRequests = make(429, "rate_limit_error")
export const internalError = make(500, "server_error")
export const unavailable = make(503, "server_error")
