// A weight matrix of 32-bit floats, four input features at a time. b_stride must be a multiple of 4.
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

fn b_row(row: u32) -> u32 { return row * (p.b_stride / 4u); }
fn b_quad(base: u32, quad: u32) -> vec4<f32> { return b[base + quad]; }
fn b_scale(row: u32) -> f32 { return 1.0; }
