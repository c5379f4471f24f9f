    // Turns the gradient of pair c back, times the norm's weight, and leaves it in dqkv.
    let cosine = table[turn + 2u * c];
    let sine = table[turn + 2u * c + 1u];
    var d0 = 0.0;
    var d1 = 0.0;
    if (query) {
      d0 = dq[src + c];
      d1 = dq[src + half + c];
    } else {
      d0 = dk[src + c];
      d1 = dk[src + half + c];
    }
    let x0 = qkv[at + c];
    let x1 = qkv[at + half + c];
    let g0 = norm[w + c] * (d0 * cosine + d1 * sine);
    let g1 = norm[w + half + c] * (d1 * cosine - d0 * sine);
    square = fma(x1, x1, fma(x0, x0, square));
    dot = fma(g1, x1, fma(g0, x0, dot));
    dqkv[at + c] = g0;
    dqkv[at + half + c] = g1;
