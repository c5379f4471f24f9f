    // Line states where all lanes see them: the largest score in keep, quarters of the sum in tops.
    if (li < 4u * LINES) {
      tops[li] = l;
      if (quarter == 0u) { keep[line] = m; }
    }
    workgroupBarrier();
