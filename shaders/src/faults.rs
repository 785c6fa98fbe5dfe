//! Mistakes that real kernels have had, to be planted one at a time in a test build: a suite
//! that misses one is not worth its time. Not part of a normal build.

use std::borrow::Cow;

/// One mistake: a change of one kernel file.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// File under `wgsl`, without extension.
    pub file: &'static str,
    /// What the file says.
    pub find: &'static str,
    /// What it says with the mistake.
    pub replace: &'static str,
    /// Group of cases that must notice.
    pub group: &'static str,
    /// What the failing case must say.
    pub says: &'static str,
}

/// The text of `file` with the fault in it, if it belongs there.
pub(crate) fn plant<'t>(fault: Option<&Fault>, file: &str, text: &'t str) -> Cow<'t, str> {
    match fault {
        Some(fault) if fault.file == file => Cow::Owned(text.replace(fault.find, fault.replace)),
        _ => Cow::Borrowed(text),
    }
}

const fn fault(
    name: &'static str,
    file: &'static str,
    find: &'static str,
    replace: &'static str,
    group: &'static str,
    says: &'static str,
) -> Fault {
    Fault {
        name,
        file,
        find,
        replace,
        group,
        says,
    }
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    fault(
        "bias_left_out_of_the_choice",
        "route",
        "ranked(score + bias_code(e))",
        "ranked(score)",
        "op.route",
        "chosen experts",
    ),
    fault(
        "bias_left_in_the_weights",
        "route",
        "selection[e] = ranked(score + bias_code(e));",
        "selection[e] = ranked(score + bias_code(e)); scores[e] = score + bias_code(e);",
        "op.route",
        "weights",
    ),
    fault(
        "one_group_too_many_kept",
        "route",
        "rank >= p.kept_groups",
        "rank > p.kept_groups",
        "op.route",
        "chosen experts",
    ),
    fault(
        "softmax_for_sigmoid",
        "route",
        "(p.flags & SOFTMAX) != 0u",
        "true",
        "op.route",
        "weights",
    ),
    fault(
        "scaling_factor_forgotten",
        "route",
        "chosen[j] / sum * p.scale",
        "chosen[j] / sum",
        "op.route",
        "weights",
    ),
    fault(
        "scale_axes_swapped",
        "shared/weight",
        "$_scales[start + (column >> 7u)]",
        "$_scales[(column >> 7u) * ((p.n + 127u) >> 7u) + start / ((p.k + 127u) >> 7u)]",
        "op.linear",
        "rows",
    ),
    fault(
        "ragged_edge_block_ignored",
        "shared/weight",
        "((width + 127u) >> 7u)",
        "(width >> 7u)",
        "op.linear",
        "rows",
    ),
    fault(
        "subnormal_codes_flushed",
        "shared/decode",
        "    // A byte of seven ones carries into its top bit.",
        "    values = select(values, vec4<f32>(0.0), abs(values) < vec4<f32>(0.015625));",
        "op.linear",
        ".codes",
    ),
    fault(
        "nan_code_decoded_as_480",
        "shared/decode",
        "if nan != 0u {",
        "if false {",
        "op.linear",
        ".codes",
    ),
    fault(
        "barrier_removed",
        "shared/lanes",
        "            lane_sums[local] += lane_sums[local + step];
        }
        workgroupBarrier();",
        "            lane_sums[local] += lane_sums[local + step];
        }",
        "op.linear",
        "rows",
    ),
    fault(
        "barrier_between_subgroups_removed",
        "shared/reduce",
        "        reduce_cells[subgroup] = share;
    }
    workgroupBarrier();",
        "        reduce_cells[subgroup] = share;
    }",
        "op.norm",
        "rows",
    ),
    fault(
        "workgroup_taken_for_subgroup",
        "shared/lane_layout",
        "let lanes = subgroupAdd(1u);",
        "let lanes = WG;",
        "op.linear",
        "subgroups",
    ),
    fault(
        "one_row_too_few",
        "combine",
        "r >= real_rows()",
        "r + 1u >= real_rows()",
        "op.combine",
        "not written",
    ),
    fault(
        "rows_that_do_not_exist_written",
        "combine",
        "r >= real_rows()",
        "r >= p.rows",
        "op.combine",
        "must stay as it was",
    ),
    fault(
        "written_past_the_end_of_a_row",
        "norm",
        "for (var i = local; i < p.n; i += WG) {
        y[",
        "for (var i = local; i <= p.n; i += WG) {
        y[",
        "op.norm",
        "must stay as it was",
    ),
    fault(
        "halves_rotated_instead_of_pairs",
        "rope",
        "    let even = x[x_at];
    let odd = x[x_at + 1u];",
        "    let even = x[x_at - j];
    let odd = x[x_at - j + p.rope / 2u];",
        "op.rope",
        "rotated",
    ),
    fault(
        "cache_off_by_one",
        "shared/params",
        "page * PAGE + position % PAGE",
        "page * PAGE + (position + 1u) % PAGE",
        "op.cache_append",
        "cache rows",
    ),
];
