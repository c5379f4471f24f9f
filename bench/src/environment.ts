/** What a result must carry to mean anything: when, on which device, under which versions. */
import { readFileSync } from "node:fs"
import { cpus, totalmem } from "node:os"
import { type AdapterInfo, Gpu } from "@srcode/gpu"
import { Clock, DateTime, Effect } from "effect"

const version = (name: string): string =>
  JSON.parse(readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), "utf8")).version

export const environment = Effect.gen(function* () {
  const { info } = yield* Gpu
  return {
    measuredAt: DateTime.formatIso(DateTime.makeUnsafe(yield* Clock.currentTimeMillis)),
    device: {
      name: info.name,
      vendor: info.vendor,
      architecture: info.architecture,
      driver: info.driver,
      backend: info.backend,
      software: info.software,
      subgroupSize: info.subgroupSize,
      features: info.features
    },
    host: {
      cpu: cpus()[0]?.model ?? "unknown",
      cores: cpus().length,
      memoryBytes: totalmem(),
      platform: `${process.platform}-${process.arch}`
    },
    versions: { node: process.versions.node, webgpu: version("webgpu"), effect: version("effect") }
  }
})

/** The device's name as a part of a file's name. */
export const deviceSlug = (info: AdapterInfo): string =>
  info.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")
