// forward.wgsl with a table held as kernels/weight/_f16.wgsl says.
//@include embedding/_forward.wgsl
//@include weight/_f16_scalar.wgsl
