// Sum and maximum over a workgroup of WG invocations (a power of two), known to all of them
// afterwards. Called by all invocations. They meet in workgroup memory. SUBGROUPS: the sum
// alone, within subgroups first; the kernel says which one of how many it is in.

override WG: u32 = 64u;

var<workgroup> reduce_cells: array<f32, WG>;

#ifdef SUBGROUPS
fn group_sum(value: f32, subgroup: u32, subgroups: u32) -> f32 {
    let share = subgroupAdd(value);
    // The first invocation that there is of the subgroup.
    if subgroupExclusiveAdd(1u) == 0u {
        reduce_cells[subgroup] = share;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < subgroups; i += 1u) {
        sum += reduce_cells[i];
    }
    workgroupBarrier();
    return sum;
}
#else
fn group_sum(value: f32, local: u32) -> f32 {
    reduce_cells[local] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
        if local < step {
            reduce_cells[local] += reduce_cells[local + step];
        }
        workgroupBarrier();
    }
    let sum = reduce_cells[0];
    workgroupBarrier();
    return sum;
}

fn group_max(value: f32, local: u32) -> f32 {
    reduce_cells[local] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
        if local < step {
            reduce_cells[local] = max(reduce_cells[local], reduce_cells[local + step]);
        }
        workgroupBarrier();
    }
    let largest = reduce_cells[0];
    workgroupBarrier();
    return largest;
}
#endif
