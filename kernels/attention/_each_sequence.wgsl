  // Opens the loop over the sequences that the tile's rows are of; `run = until;` closes it.
  var run = first_pair / shared_by;
  while (run <= last_row) {
    // Rows run … until - 1 are of one sequence; the last of them sees the most.
    let first = kv_start[run];
    var until = run + 1u;
    while (until <= last_row && kv_start[until] == first) { until += 1u; }
