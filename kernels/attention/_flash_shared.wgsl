// Part of the tiled scalar kernels: tile sizes and workgroup memory.
//
// A tile is LINES lines by KEYS keys. A line is a pair (row, head) of one kv head's group, rows first, so that grouped heads share what is loaded. Lane
// (tx, ty) of TX x TY scores lines 4 ty … 4 ty + 3 against keys tx, tx + TX, … and adds up quads tx, tx + TX, … of the same lines' outputs.
const LINES = 4u * TY;
const KEYS = TX * PER;
const WG = TX * TY;
const STRIDE = CHUNK + 1u; // odd in quads: neighbouring lines fall into different banks
const ROW = KEYS + 1u;

var<workgroup> left: array<vec4<f32>, LINES * STRIDE>;
var<workgroup> right: array<vec4<f32>, KEYS * STRIDE>;
var<workgroup> score: array<f32, LINES * ROW>;
var<workgroup> line_at: array<u32, LINES>; // where the line's head begins, in quads
var<workgroup> line_row: array<u32, LINES>; // p.rows for lines past the end
