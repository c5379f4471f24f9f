    // Keys first … last - 1 in blocks of KEYS, counted from `first`: the order of a line's sums follows from its own sequence alone.
    // `limit` is this lane's line's own end (0 for a line of another sequence); m, l are its state of the running softmax: four lanes share a
    // line, each with a quarter of l. `base` is for key_row.
    for (var b = first; b < last; b += KEYS) {
      let count = min(KEYS, last - b);
//@for i 0 4
//@for c 0 PER
      var s$i_$c = 0.0;
//@end
//@end
      for (var part = 0u; part < p.quads; part += CHUNK) {
        let depth = min(CHUNK, p.quads - part); // not a constant: compilers of software drivers take seconds for unrolled tiles
        for (var e = li; e < LINES * CHUNK; e += WG) {
          let d = part + e % CHUNK;
          var x = vec4<f32>();
          if (d < p.quads) { x = q[line_at[e / CHUNK] + d] * p.scale; }
          left[(e / CHUNK) * STRIDE + e % CHUNK] = x;
        }
        for (var e = li; e < KEYS * CHUNK; e += WG) {
          let d = part + e % CHUNK;
          var x = vec4<f32>();
          if (d < p.quads && e / CHUNK < count) { x = k[(key_row(base, b + e / CHUNK) * p.kv_heads + group) * p.quads + d]; }
          right[(e / CHUNK) * STRIDE + e % CHUNK] = x;
        }
        workgroupBarrier();
        for (var d = 0u; d < depth; d++) {
//@for i 0 4
          let a$i = left[(4u * ty + $iu) * STRIDE + d];
//@end
//@for c 0 PER
          let b$c = right[(tx + $cu * TX) * STRIDE + d];
//@for i 0 4
          s$i_$c += dot(a$i, b$c);
//@end
//@end
        }
        workgroupBarrier();
      }
//@for i 0 4
//@for c 0 PER
      score[(4u * ty + $iu) * ROW + tx + $cu * TX] = s$i_$c;
//@end
//@end
      workgroupBarrier();
      // The lane's quarter of its line: its largest score, then weights and their sum.
      var top = -3.0e38;
      if (li < 4u * LINES) {
        for (var t = quarter; t < count; t += 4u) {
          if (b + t < limit) { top = max(top, score[line * ROW + t]); }
        }
        tops[li] = top;
      }
      workgroupBarrier();
      if (li < 4u * LINES) {
        let next = max(m, max(max(tops[4u * line], tops[4u * line + 1u]), max(tops[4u * line + 2u], tops[4u * line + 3u])));
        let kept = exp(m - next);
        var sum = 0.0;
        for (var t = quarter; t < count; t += 4u) {
          var w = 0.0;
          if (b + t < limit) { w = exp(score[line * ROW + t] - next); }
          score[line * ROW + t] = w;
          sum += w;
        }
        l = fma(l, kept, sum);
        m = next;
        if (quarter == 0u) { keep[line] = kept; }
      }
      workgroupBarrier();
//@for i 0 4
      let k$i = keep[4u * ty + $iu];
//@for c 0 OWN
      own$i_$c *= k$i;
//@end
//@end
      for (var t = 0u; t < count; t++) {
        let vj = (key_row(base, b + t) * p.kv_heads + group) * p.quads + tx;
//@for i 0 4
        let w$i = score[(4u * ty + $iu) * ROW + t];
//@end
//@for c 0 OWN
        if (tx + $cu * TX < p.quads) {
          let x = v[vj + $cu * TX];
//@for i 0 4
          own$i_$c = fma(x, vec4<f32>(w$i), own$i_$c);
//@end
        }
//@end
      }
    }
