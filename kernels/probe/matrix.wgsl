// C ← A B + C over 2 x 4 independent 16 x 16 tiles a subgroup, f16 in and f32 out, no memory in the loop: what the device's
// matrix units can do at most. 8 · 2 · 16³ operations a subgroup and round. `tiles` holds 6 tiles of 256 halves (2 of A, 4 of B).
enable f16;
enable subgroups;
enable subgroup_size_control;
enable chromium_experimental_subgroup_matrix;
requires immediate_address_space;

const LANES = 32u; //@const subgroup size
const SUBGROUPS = 4u; //@const of a workgroup

struct Params {
  rounds: u32,
  groups: u32, // workgroups; out holds 8 tiles of each subgroup
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> tiles: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(128, 1, 1) @subgroup_size(32)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(subgroup_id) sg: u32) {
  var left: array<subgroup_matrix_left<f16, 16, 16>, 2>;
  var right: array<subgroup_matrix_right<f16, 16, 16>, 4>;
  var sum: array<array<subgroup_matrix_result<f32, 16, 16>, 4>, 2>;
  //@for i 0 2
  left[$i] = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tiles, $i * 128u, 8u);
  //@end
  //@for j 0 4
  right[$j] = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tiles, 256u + $j * 128u, 8u);
  //@end
  for (var r = 0u; r < p.rounds; r++) {
    //@for i 0 2
    //@for j 0 4
    sum[$i][$j] = subgroupMatrixMultiplyAccumulate(left[$i], right[$j], sum[$i][$j]);
    //@end
    //@end
  }
  if (wg.x < p.groups) {
    let first = (wg.x * SUBGROUPS + sg) * 8u * 256u;
    //@for i 0 2
    //@for j 0 4
    subgroupMatrixStore<row_major>(&out, first + ($i * 4u + $j) * 256u, sum[$i][$j], 16u);
    //@end
    //@end
  }
}
