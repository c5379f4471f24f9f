  // Piece s of the staged operands into the registers of the subgroups whose it is.
  workgroupBarrier();
  if (strip / KT == $su) {
//@for d 0 DK
    x$d = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tile, (role * BLOCK + (strip % KT) * 16u) * ROW + $du * 2u, ROW);
//@end
  }
  workgroupBarrier();
