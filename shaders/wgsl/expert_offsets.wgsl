// A stable counting sort of the real choices by expert: offsets, order and place.
// A workgroup an expert: its invocations own neighbouring ranges of the choices, count in
// theirs what comes before the expert and what is its own, and after a prefix sum each
// writes its own ones, so that the order is that of the choices without any atomics. A
// choice that names no expert gets no place. Grid: x over experts.
//
// Ladder: one workgroup for all experts read every choice 2 EXPERTS / WG times in one
// invocation (4096 tokens of 8 choices, 256 experts, 64 invocations: 262144 reads in a row);
// this reads 2 / WG of the choices (256 invocations: 256).

#import params
@group(0) @binding(auto) var<storage, read_write> idx: array<u32>;
@group(0) @binding(auto) var<storage, read_write> offsets: array<u32>;
@group(0) @binding(auto) var<storage, read_write> order: array<u32>;
@group(0) @binding(auto) var<storage, read_write> place: array<u32>;

override WG: u32 = 256u;

// Of each invocation's range: choices of experts before this one, and of this one.
var<workgroup> counts: array<vec2<u32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let e = group.x;
    let choices = real_rows() * p.top_k;
    let share = (choices + WG - 1u) / WG;
    let first = min(local * share, choices);
    let end = min(first + share, choices);
    var count = vec2<u32>(0u);
    for (var c = first; c < end; c += 1u) {
        let chosen = idx[c];
        count += vec2<u32>(u32(chosen < e), u32(chosen == e));
    }
    counts[local] = count;
    workgroupBarrier();
    var before = vec2<u32>(0u);
    var all = vec2<u32>(0u);
    for (var i = 0u; i < WG; i += 1u) {
        before += select(vec2<u32>(0u), counts[i], i < local);
        all += counts[i];
    }
    if local == 0u {
        offsets[e] = all.x;
        if e + 1u == p.experts {
            offsets[e + 1u] = all.x + all.y;
        }
    }
    var next = all.x + before.y;
    for (var c = first; c < end; c += 1u) {
        if idx[c] == e {
            order[next] = c;
            place[c] = next;
            next += 1u;
        }
    }
}
