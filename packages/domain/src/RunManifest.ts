/** `run.json`: what a run was made of, enough to repeat it and to refuse a resume under other conditions. */
import { Schema } from "effect"

export const RunManifest = Schema.Struct({
  name: Schema.String,
  /** The decoded configuration, as JSON. */
  config: Schema.Json,
  seed: Schema.Int,
  versions: Schema.Record(Schema.String, Schema.String),
  device: Schema.Struct({ name: Schema.String, backend: Schema.String, software: Schema.Boolean }),
  gitCommit: Schema.NullOr(Schema.String),
  /** SHA-256 (hex) of each input by its role. */
  inputs: Schema.Record(Schema.String, Schema.String),
  startedAt: Schema.String
})
export type RunManifest = typeof RunManifest.Type
