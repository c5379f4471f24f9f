      // The role's product of the subgroup's 16 with the staged block, into its half of the scores.
//@for t 0 KT
      {
        var s = subgroup_matrix_result<f32, 16, 16>();
//@for d 0 DK
        s = subgroupMatrixMultiplyAccumulate(x$d, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, (role * BLOCK + $tu * 16u) * ROW + $du * 2u, ROW), s);
//@end
        subgroupMatrixStore<row_major>(&scores, (role * OWNED + strip * 16u) * ROW_F + $tu * 4u, s, ROW_F);
      }
//@end
      workgroupBarrier();
