// register.wgsl with b held as kernels/weight/_f16_tiles_at.wgsl says.
//@include matmul/_register.wgsl
//@include matmul/_register_f32.wgsl
//@include weight/_f16_tiles.wgsl
