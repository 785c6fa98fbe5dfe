// Dot products of up to four activation rows with one weight row, shared out among `lanes`
// lanes (see `lanes`). Needs the weight imported under the same name, and `x`.
//
// BLOCKS: a group of sixteen weights with its scale at a time. WIDE: sixteen bytes of weights
// at a time. PACKED: four weights at a time, `p.k` is a
// multiple of 4. Otherwise one at a time.

// One lane's share: `x_at` are the starts of the rows in `x`, `w_at` is the first element of
// the weight row, `s_at` its first scale. Only the first ROWS results mean something.
#ifdef BLOCKS
fn $_dots(x_at: vec4<u32>, w_at: u32, s_at: u32, lane: u32, lanes: u32) -> vec4<f32> {
    var sums = vec4<f32>(0.0);
    for (var i = lane * 16u; i < p.k; i += lanes * 16u) {
        let at = $_block(w_at + i);
        let group = (w_at + i) % BLOCK_VALUES >> 4u;
        let scale = $_scales(at, group);
        var part = vec4<f32>(0.0);
        // What minima are multiplied with.
        var total = vec4<f32>(0.0);
        for (var four = 0u; four < 4u; four += 1u) {
            let w = $_quad(at, (group << 2u) + four);
            let starts = x_at + vec4<u32>(i + 4u * four);
            let x_0 = x_four(starts.x);
            part.x += dot(w, x_0);
            total.x += dot(vec4<f32>(1.0), x_0);
            if ROWS > 1u {
                let x_1 = x_four(starts.y);
                part.y += dot(w, x_1);
                total.y += dot(vec4<f32>(1.0), x_1);
            }
            if ROWS > 2u {
                let x_2 = x_four(starts.z);
                let x_3 = x_four(starts.w);
                part.z += dot(w, x_2);
                total.z += dot(vec4<f32>(1.0), x_2);
                part.w += dot(w, x_3);
                total.w += dot(vec4<f32>(1.0), x_3);
            }
        }
        sums += part * scale.x - total * scale.y;
    }
    return sums;
}
#else
#ifdef WIDE
fn $_dots(x_at: vec4<u32>, w_at: u32, s_at: u32, lane: u32, lanes: u32) -> vec4<f32> {
    var sums = vec4<f32>(0.0);
    let w_quad = w_at / CODES;
    let x_quad = x_at >> vec4<u32>(2u);
    for (var i = lane; i < p.k / CODES; i += lanes) {
        let words = $_quads[w_quad + i];
        let at = x_quad + vec4<u32>(i * (CODES / 4u));
        var part = vec4<f32>(0.0);
        for (var four = 0u; four < CODES / 4u; four += 1u) {
            let w = codes_of(words, four);
            part.x += dot(w, x[at.x + four]);
            if ROWS > 1u {
                part.y += dot(w, x[at.y + four]);
            }
            if ROWS > 2u {
                part.z += dot(w, x[at.z + four]);
                part.w += dot(w, x[at.w + four]);
            }
        }
        // A block of 128 is a multiple of what was read.
        sums += part * $_scale(s_at, i * CODES);
    }
    return sums;
}
#else
fn $_dots(x_at: vec4<u32>, w_at: u32, s_at: u32, lane: u32, lanes: u32) -> vec4<f32> {
    var sums = vec4<f32>(0.0);
#ifdef PACKED
    for (var i = lane * 4u; i < p.k; i += lanes * 4u) {
        let w = $_codes(w_at + i) * $_scale(s_at, i);
        sums.x += dot(w, x_four(x_at.x + i));
        if ROWS > 1u {
            sums.y += dot(w, x_four(x_at.y + i));
        }
        if ROWS > 2u {
            sums.z += dot(w, x_four(x_at.z + i));
            sums.w += dot(w, x_four(x_at.w + i));
        }
    }
#else
    for (var i = lane; i < p.k; i += lanes) {
        let w = $_code(w_at + i) * $_scale(s_at, i);
        sums += w * vec4<f32>(x[x_at.x + i], x[x_at.y + i], x[x_at.z + i], x[x_at.w + i]);
    }
#endif
    return sums;
}
#endif
#endif
