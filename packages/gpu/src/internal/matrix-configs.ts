/** What the adapter says of its matrix units. */
import type { SubgroupMatrixConfig } from "../Gpu.ts"

/** The shapes of the matrix units; their fields have to be read one by one, for they do not enumerate. */
export const matrixConfigs = (info: GPUAdapterInfo): ReadonlyArray<SubgroupMatrixConfig> => {
  const configs: unknown = Reflect.get(info, "subgroupMatrixConfigs")
  if (typeof configs !== "object" || configs === null) return []
  return Array.from(configs as Iterable<SubgroupMatrixConfig>, (c) => ({
    componentType: String(c.componentType),
    resultComponentType: String(c.resultComponentType),
    M: Number(c.M),
    N: Number(c.N),
    K: Number(c.K)
  }))
}
