// What the kernels for matrix units ask of the compiler.
enable f16;
enable subgroups;
enable subgroup_size_control;
enable chromium_experimental_subgroup_matrix;
requires immediate_address_space;
