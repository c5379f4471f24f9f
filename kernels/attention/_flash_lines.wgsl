  // Where the lines of the tile stand and which rows they are of.
  let last_row = last_pair / shared_by;
  if (li < LINES) {
    let pair = min(first_pair + li, last_pair);
    line_at[li] = ((pair / shared_by) * p.heads + group * shared_by + pair % shared_by) * p.quads;
    line_row[li] = select(p.rows, pair / shared_by, first_pair + li <= last_pair);
  }
  workgroupBarrier();
