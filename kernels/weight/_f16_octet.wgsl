// A weight matrix of 16-bit floats, eight input features at a time as they are stored. b_stride is a multiple of 8.
@group(0) @binding(1) var<storage, read> b: array<vec4<u32>>;

fn b_fetch(row: u32, octet: u32) -> vec4<u32> { return b[row * (p.b_stride / 8u) + octet]; }
fn b_halves(raw: vec4<u32>) -> vec4<u32> { return raw; }
fn b_column_scale(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
