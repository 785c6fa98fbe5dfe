// Entries of an expert table: one range of memory, entries at a constant stride. Needs the
// weight imported under the same name, `w` or `v` (gate or up).

#import tables

// First element of entry `e`.
fn $_entry(e: u32) -> u32 {
#ifdef BLOCKS
    // Entries need not be whole blocks apart.
    $_base = e * p.table_strides[TABLE_$];
    return 0u;
#else
    return e * (p.table_strides[TABLE_$ * TABLES_EACH] / CODE_BYTES);
#endif
}

// First scale of row `i` of entry `e`.
fn $_entry_scales(e: u32, i: u32) -> u32 {
#ifdef FP8
    return e * (p.table_strides[TABLE_$ * TABLES_EACH + 1u] >> 2u) + $_scale_start(i, p.k);
#else
    return 0u;
#endif
}
