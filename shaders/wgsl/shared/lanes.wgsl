// The layout of kernels that give each output to some lanes of a workgroup, and the sum over
// those lanes. The lanes are LANES neighbours, which add up in workgroup memory; with
// SUBGROUPS those of a subgroup, whatever its size. Kernels import `lane_arguments` among the
// arguments of main and `lane_layout` in its body.

// Invocations of a workgroup.
override WG: u32 = 64u;
// Activation rows a lane works on: 1, 2 or 4.
override ROWS: u32 = 4u;

#ifdef SUBGROUPS
// Outputs of a workgroup, which its subgroups do in turn.
override OUTPUTS: u32 = 4u;

fn outputs_a_group() -> u32 {
    return OUTPUTS;
}

// The sum of `value` over the lanes of an output. Called by all invocations.
fn sum_lanes(value: vec4<f32>, local: u32, lane: u32) -> vec4<f32> {
    if ROWS == 1u {
        return vec4<f32>(subgroupAdd(value.x), 0.0, 0.0, 0.0);
    }
    return subgroupAdd(value);
}
#else
// Lanes that share a dot product: a power of two, a divisor of WG.
override LANES: u32 = 16u;

fn outputs_a_group() -> u32 {
    return WG / LANES;
}

var<workgroup> lane_sums: array<vec4<f32>, WG>;

// The sum of `value` over the lanes of an output, for lane 0 of them. Called by all
// invocations of the workgroup.
fn sum_lanes(value: vec4<f32>, local: u32, lane: u32) -> vec4<f32> {
    if LANES == 1u {
        return value;
    }
    lane_sums[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if lane < step {
            lane_sums[local] += lane_sums[local + step];
        }
        workgroupBarrier();
    }
    let sum = lane_sums[local];
    // The caller may call again at once.
    workgroupBarrier();
    return sum;
}
#endif
