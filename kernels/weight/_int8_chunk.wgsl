// A weight matrix of signed bytes (see _int8.wgsl), 16 bytes of a row at a time.
const QUADS = 4u; //@const numbers of a chunk / 4
@group(0) @binding(1) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> scales: array<f32>; // [rows]

fn b_chunk(row: u32, chunk: u32) -> vec4<u32> { return b[row * (p.b_stride / 16u) + chunk]; }
fn b_block(row: u32, chunk: u32) -> u32 { return 0u; }
fn b_part(chunk: vec4<u32>, block: u32, quad: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(chunk[quad])); }
fn b_scale(row: u32) -> f32 { return scales[row]; }
