// In the body of main, kernels laid out by `lanes`: which lane of how many this invocation is,
// which output of those that the workgroup does at once, and how many those are.

#ifdef SUBGROUPS
    // Counted, not looked up: a subgroup need not be full.
    let lane = subgroupExclusiveAdd(1u);
    let lanes = subgroupAdd(1u);
    let own = subgroup;
    let at_once = subgroups;
#else
    let lane = local % LANES;
    let lanes = LANES;
    let own = local / LANES;
    let at_once = WG / LANES;
#endif
