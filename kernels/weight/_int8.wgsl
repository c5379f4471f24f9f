// A weight matrix of signed bytes, four to a word, with one scale a row (absolute maximum / 127). b_stride is a multiple of 16.
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(7) var<storage, read> scales: array<f32>; // [rows]

fn b_row(row: u32) -> u32 { return row * (p.b_stride / 4u); }
fn b_quad(base: u32, quad: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(b[base + quad])); }
fn b_scale(row: u32) -> f32 { return scales[row]; }
