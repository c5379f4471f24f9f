// Operands of the gradient of queries where it makes delta itself, in quads.
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> o: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> d_o: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> kv_start: array<u32>;
@group(0) @binding(6) var<storage, read_write> stat: array<f32>; // [rows, heads, 2]: lse in, delta out
@group(0) @binding(7) var<storage, read_write> dq: array<vec4<f32>>;
