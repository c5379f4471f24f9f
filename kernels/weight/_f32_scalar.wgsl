// A weight matrix of 32-bit floats, one number at a time, any stride.
@group(0) @binding(1) var<storage, read> b: array<f32>;

fn b_at(row: u32, col: u32) -> f32 { return b[row * p.b_stride + col]; }
