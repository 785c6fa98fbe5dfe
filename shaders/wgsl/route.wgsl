// Chooses top_k experts a token. DeepSeek-V3 report, section 2.1.2, equations 13 to 16.
// Every group and every expert finds its own rank by counting those before it in the order
// (score descending, index ascending), so no order of execution can change the choice.
// Grid: x over rows, one workgroup each.

#import params
@group(0) @binding(auto) var<storage, read_write> logits: array<f32>;
#ifdef BIAS
#import weight as bias
#endif
@group(0) @binding(auto) var<storage, read_write> idx: array<u32>;
@group(0) @binding(auto) var<storage, read_write> weight: array<f32>;

#import reduce
#import activate

// Experts, groups and experts a token.
override EXPERTS: u32 = 256u;
override GROUPS: u32 = 8u;
override TOP_K: u32 = 8u;

const LOWEST: f32 = -3.4e38;

var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> selection: array<f32, EXPERTS>;
var<workgroup> group_scores: array<f32, GROUPS>;
var<workgroup> chosen: array<f32, TOP_K>;

// The order of experts must be total, or a choice would stay unwritten: a NaN counts as the
// worst score. Tested on bits, as drivers may compare NaN as they like.
fn ranked(score: f32) -> f32 {
    return select(score, LOWEST, (bitcast<u32>(score) & 0x7fffffffu) > 0x7f800000u);
}

fn score_experts(x_at: u32, local: u32) {
    var shift = 0.0;
    var total = 1.0;
    if (p.flags & SOFTMAX) != 0u {
        var largest = LOWEST;
        for (var e = local; e < EXPERTS; e += WG) {
            largest = max(largest, logits[x_at + e]);
        }
        shift = group_max(largest, local);
        var sum = 0.0;
        for (var e = local; e < EXPERTS; e += WG) {
            sum += exp(logits[x_at + e] - shift);
        }
        total = group_sum(sum, local);
    }
    for (var e = local; e < EXPERTS; e += WG) {
        let z = logits[x_at + e];
        let score = select(sigmoid(z), exp(z - shift) / total, (p.flags & SOFTMAX) != 0u);
        scores[e] = score;
#ifdef BIAS
        selection[e] = ranked(score + bias_code(e));
#else
        selection[e] = ranked(score);
#endif
    }
    workgroupBarrier();
}

// Takes the members of all groups but the best kept_groups out of the choice.
fn mask_groups(local: u32) {
    let size = EXPERTS / GROUPS;
    for (var g = local; g < GROUPS; g += WG) {
        var best = LOWEST;
        var second = LOWEST;
        for (var e = g * size; e < (g + 1u) * size; e += 1u) {
            let b = selection[e];
            second = max(second, min(best, b));
            best = max(best, b);
        }
        group_scores[g] = select(best + second, best, (p.flags & GROUP_MAX) != 0u);
    }
    workgroupBarrier();
    for (var e = local; e < EXPERTS; e += WG) {
        let g = e / size;
        var rank = 0u;
        for (var other = 0u; other < GROUPS; other += 1u) {
            let ahead = group_scores[other] > group_scores[g];
            let tied_lower = group_scores[other] == group_scores[g] && other < g;
            rank += u32(ahead || tied_lower);
        }
        if rank >= p.kept_groups {
            selection[e] = LOWEST;
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r = group.x;
    if r >= real_rows() {
        return;
    }
    score_experts(p.x_offset + r * p.x_stride, local);
    if GROUPS > 1u {
        mask_groups(local);
    }
    for (var e = local; e < EXPERTS; e += WG) {
        let own = selection[e];
        var rank = 0u;
        for (var other = 0u; other < EXPERTS; other += 1u) {
            let b = selection[other];
            rank += u32(b > own || (b == own && other < e));
        }
        if rank < TOP_K {
            idx[r * TOP_K + rank] = e;
            chosen[rank] = scores[e];
        }
    }
    workgroupBarrier();
    var sum = 1.0;
    if (p.flags & NORMALISE) != 0u {
        sum = 1.0e-20;
        for (var j = 0u; j < TOP_K; j += 1u) {
            sum += chosen[j];
        }
    }
    for (var j = local; j < TOP_K; j += WG) {
        weight[r * TOP_K + j] = chosen[j] / sum * p.scale;
    }
}
