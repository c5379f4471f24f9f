// An operand as matmul/pack_columns.wgsl leaves it: 16-bit floats and a power of two for each row, which is a column of the product.
@group(0) @binding(1) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> scales: array<vec4<f32>>;

fn b_fetch(row: u32, octet: u32) -> vec4<u32> { return b[row * (p.b_stride / 8u) + octet]; }
fn b_halves(raw: vec4<u32>) -> vec4<u32> { return raw; }
fn b_column_scale(quad: u32) -> vec4<f32> { return scales[quad]; }
