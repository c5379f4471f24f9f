// merge_f16.wgsl for 16-bit floats in tiles (kernels/weight/_f16_tiles_at.wgsl).
//@include lora/_merge.wgsl

fn word_at(row: u32, word: u32) -> u32 {
  return ((row / 16u) * (p.stride / 16u) + word / 8u) * 128u + (row % 16u) * 8u + word % 8u;
}
