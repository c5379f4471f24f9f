/** An OpenAI-compatible HTTP server over the engine: chat, completions, models, health and metrics. */
export * from "./Admission.ts"
export * from "./ApiError.ts"
export * from "./Choices.ts"
export * from "./Requests.ts"
export * from "./ServeMetrics.ts"
export * from "./Server.ts"
export * from "./Settings.ts"
export * from "./TextModel.ts"
