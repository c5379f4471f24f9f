// register.wgsl with b held as kernels/weight/_f16.wgsl says.
//@include matmul/_register.wgsl
//@include matmul/_register_f32.wgsl
//@include weight/_f16.wgsl
