/**
 * Runs matrix-unit kernels on any device: a step between the kernels' texts and the compiler that puts plain WGSL in the
 * place of the 16 x 16 x 16 subgroup matrices, so everything around them (staging, masks, scales, order) is computed for real.
 *
 * Of each matrix a lane holds what it needs: one row of a left operand, eight columns of a right one, eight elements of a
 * result. A right one is the place of its halves among the lane's last few: arrays of that size passed by value take compilers seconds.
 * Subgroups are 32 consecutive invocations. Arrays that matrices lie in are of vec4<u32> (eight halves, four floats), or of f16 and f32.
 */
import { Effect, Layer } from "effect"
import { type AdapterInfo, Gpu } from "../src/index.ts"
import { makeDevice } from "../src/internal/device.ts"

const types: ReadonlyArray<readonly [RegExp, string]> = [
  [/subgroup_matrix_left<f16, 16, 16>/g, "array<f32, 16>"],
  [/subgroup_matrix_right<f16, 16, 16>/g, "u32"],
  [/subgroup_matrix_result<f32, 16, 16>/g, "array<f32, 8>"]
]

/** As many right operands as a text holds at once, and some. */
const placesOf = (text: string): number => 64 * Math.max(4, 2 + text.split(/: subgroup_matrix_right</).length)

const commonOf = (places: number): string => `
var<private> emu_lane: u32;
var<private> emu_zero: u32; // zero, which compilers cannot know: unrolled, these loops take them minutes
var<private> emu_right: array<u32, ${places}>; // 64 pairs of each matrix, down the columns
var<private> emu_next: u32;
fn emu_place() -> u32 {
  let place = emu_next;
  emu_next = (place + 64u) % ${places}u;
  return place;
}
fn emu_mma(a: array<f32, 16>, b: u32, c: array<f32, 8>) -> array<f32, 8> {
  var left = a; var sum = c;
  for (var n = 0u; n < 8u + emu_zero; n++) {
    for (var k = 0u; k < 8u + emu_zero; k++) {
      let right = unpack2x16float(emu_right[b + n * 8u + k]);
      sum[n] = fma(left[2u * k + 1u], right.y, fma(left[2u * k], right.x, sum[n]));
    }
  }
  return sum;
}
fn emu_scale(c: array<f32, 8>, s: f32) -> array<f32, 8> {
  var sum = c;
  for (var n = 0u; n < 8u + emu_zero; n++) { sum[n] *= s; }
  return sum;
}
`

/** Numbers of an element, and how one is read: i counts halves. */
const halvesOf = (name: string, text: string): readonly [number, string] =>
  text.includes(`${name}: array<f16`)
    ? [1, `f32(${name}[i])`]
    : [8, `unpack2x16float(${name}[i / 8u][(i % 8u) / 2u])[i % 2u]`]

const loadsOf = (name: string, per: number, half: string): string => `
fn emu_half_${name}(i: u32) -> f32 { return ${half}; }
fn emu_left_row_major_${name}(at: u32, stride: u32) -> array<f32, 16> {
  var out: array<f32, 16>;
  for (var k = 0u; k < 16u + emu_zero; k++) { out[k] = emu_half_${name}((at + (emu_lane / 2u) * stride) * ${per}u + k); }
  return out;
}
fn emu_right_row_major_${name}(at: u32, stride: u32) -> u32 {
  let to = emu_place();
  for (var e = 0u; e < 64u + emu_zero; e++) {
    let i = (at + 2u * (e % 8u) * stride) * ${per}u + (emu_lane % 2u) * 8u + e / 8u;
    emu_right[to + e] = pack2x16float(vec2(emu_half_${name}(i), emu_half_${name}(i + stride * ${per}u)));
  }
  return to;
}
fn emu_right_col_major_${name}(at: u32, stride: u32) -> u32 {
  let to = emu_place();
  for (var e = 0u; e < 64u + emu_zero; e++) {
    let i = (at + ((emu_lane % 2u) * 8u + e / 8u) * stride) * ${per}u + 2u * (e % 8u);
    emu_right[to + e] = pack2x16float(vec2(emu_half_${name}(i), emu_half_${name}(i + 1u)));
  }
  return to;
}
`

const storesOf = (name: string, text: string): string =>
  text.includes(`${name}: array<f32`)
    ? `
fn emu_store_row_major_${name}(at: u32, m: array<f32, 8>, stride: u32) {
  var x = m;
  for (var n = 0u; n < 8u; n++) { ${name}[at + (emu_lane / 2u) * stride + (emu_lane % 2u) * 8u + n] = x[n]; }
}
`
    : `
fn emu_store_row_major_${name}(at: u32, m: array<f32, 8>, stride: u32) {
  var x = m;
  let to = at + (emu_lane / 2u) * stride + (emu_lane % 2u) * 2u;
  ${name}[to] = bitcast<vec4<u32>>(vec4<f32>(x[0], x[1], x[2], x[3]));
  ${name}[to + 1u] = bitcast<vec4<u32>>(vec4<f32>(x[4], x[5], x[6], x[7]));
}
`

/** The text with matrices emulated; a text without them is left alone. */
export const emulate = (text: string): string => {
  if (!text.includes("subgroup_matrix_")) return text
  const size = /struct Params \{\s*(\w+): u32/.exec(text)?.[1] ?? "missing"
  const arrays = (calls: RegExp) => [...new Set([...text.matchAll(calls)].map((m) => m[1]!))]
  const loads = arrays(/subgroupMatrixLoad<[^&]*\(&(\w+),/g).map((name) => loadsOf(name, ...halvesOf(name, text)))
  const stores = arrays(/subgroupMatrixStore<[^&]*\(&(\w+),/g).map((name) => storesOf(name, text))
  let out = text
    .replace(/^enable (subgroups|subgroup_size_control|chromium_experimental_subgroup_matrix);$/gm, "")
    .replace(/subgroupMatrixLoad<subgroup_matrix_(left|right)<f16, 16, 16>, (\w+)>\(&(\w+),/g, "emu_$1_$2_$3(")
    .replace(/subgroupMatrixStore<(\w+)>\(&(\w+),/g, "emu_store_$1_$2(")
    .replaceAll("subgroupMatrixMultiplyAccumulate(", "emu_mma(")
    .replaceAll("subgroupMatrixScalarMultiply(", "emu_scale(")
    .replace(" @subgroup_size(32)", "")
    .replace(/,\s*@builtin\(subgroup_id\) subgroup: u32/, "")
    .replace(
      /(fn main\([^{]*\{)/,
      `$1\n  emu_lane = li % 32u;\n  emu_zero = p.${size} >> 31u;\n  let subgroup = li / 32u;`
    )
  for (const [type, plain] of types) out = out.replace(type, plain)
  return [out, commonOf(placesOf(text)), ...loads, ...stores].join("")
}

/** The device with emulated matrix units, and what it then says of itself. */
export const EmulatedLayer = Layer.effect(
  Gpu,
  Effect.map(makeDevice({ device: "auto" }, { rewrite: emulate }), (gpu) =>
    Gpu.of({ ...gpu, info: withMatrixUnits(gpu.info) })
  )
)

export const withMatrixUnits = (info: AdapterInfo): AdapterInfo => ({
  ...info,
  software: false,
  features: [...new Set([...info.features, "subgroup-size-control", "chromium-experimental-subgroup-matrix"])],
  subgroupSize: [32, 32],
  subgroupMatrixConfigs: [{ componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 }]
})
