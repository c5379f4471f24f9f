// register.wgsl with b held as kernels/weight/_int8.wgsl says.
//@include matmul/_register.wgsl
//@include matmul/_register_f32.wgsl
//@include weight/_int8.wgsl
