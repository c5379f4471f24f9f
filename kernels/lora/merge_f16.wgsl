// w += scale * b a, in place, for a weight matrix held in 16 bits (kernels/weight/_f16.wgsl): sums in f32, one rounding to the nearest.
// w [rows, stride], b [rows, width] from row `first` on, a [width, cols]. A workgroup takes `span` words of one row.
//@include lora/_merge.wgsl

fn word_at(row: u32, word: u32) -> u32 { return row * (p.stride / 2u) + word; }
