    // The largest score of a block of WG keys, a lane's own in s, and what the sums so far keep under the new one.
    tops[li] = s;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
      if (li < step) { tops[li] = max(tops[li], tops[li + step]); }
      workgroupBarrier();
    }
    let next = max(m, tops[0]);
    let keep = exp(m - next);
    var w = 0.0;
