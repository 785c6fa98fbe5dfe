//! Mistakes that real kernels have had, to be planted one at a time in the C++ kernels: a suite
//! that misses one is not worth its time. `build.rs` compiles a file for each; the option
//! `planted=NAME` of the mock drivers takes it. Not part of a normal build.

#[path = "faults/hopper.rs"]
mod hopper;
#[path = "faults/units.rs"]
mod units;

/// One mistake: a change of one kernel file.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// File under `shaders/gpu`, without extension.
    pub file: &'static str,
    /// What the file says, or a header that it includes; once in all of it.
    pub find: &'static str,
    /// What it says with the mistake.
    pub replace: &'static str,
    /// Group of cases that must notice.
    pub group: &'static str,
    /// What the failing case must say.
    pub says: &'static str,
    /// The mock devices that have the mistake, one after another.
    pub archs: &'static [&'static str],
}

/// A device of each width of waves, and of each vendor.
const BOTH: &[&str] = &["sm_90a", "gfx942"];
/// What no other device has.
const HOPPER: &[&str] = &["sm_90a"];

/// Threads of a wave of this architecture.
pub fn wave(arch: &str) -> u32 {
    if arch.starts_with("gfx9") { 64 } else { 32 }
}

impl Fault {
    /// The same, for these devices alone.
    const fn on(self, archs: &'static [&'static str]) -> Fault {
        Fault { archs, ..self }
    }

    /// The widths of waves that it is compiled for.
    pub fn waves(&self) -> impl Iterator<Item = u32> {
        let wanted = |width: &u32| self.archs.iter().any(|arch| wave(arch) == *width);
        [32, 64].into_iter().filter(wanted)
    }

    /// The file's text, headers and all, with the fault in it.
    ///
    /// # Errors
    /// The text to be changed is not there, or more than once.
    pub fn plant(&self, text: &str) -> Result<String, String> {
        match text.matches(self.find).count() {
            1 => Ok(text.replacen(self.find, self.replace, 1)),
            count => Err(format!(
                "the fault {} cannot be planted: {}.cu with its headers must say {:?} once, and \
                 does so {count} times",
                self.name, self.file, self.find
            )),
        }
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
        archs: BOTH,
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().chain(units::FAULTS).chain(hopper::FAULTS)
}

/// Those of kernels that every device runs.
const FAULTS: &[Fault] = &[
    fault(
        "bias_left_out_of_the_choice",
        "route",
        "ranked(bias ? score + B::one(bias, e) : score)",
        "ranked(score)",
        "op.route",
        "chosen experts",
    ),
    fault(
        "bias_left_in_the_weights",
        "route",
        "        scores[e] = score;",
        "        scores[e] = bias ? score + B::one(bias, e) : score;",
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
        "const bool softmax = p.flags & SOFTMAX;",
        "const bool softmax = true;",
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
        "later_of_equal_experts_chosen",
        "route",
        "(b == own && other < e)",
        "(b == own && other > e)",
        "op.route",
        "chosen experts",
    ),
    fault(
        "barrier_before_the_ranks_of_groups_removed",
        "route",
        "best : best + second;
    }
    barrier();",
        "best : best + second;
    }",
        "op.route",
        "chosen experts",
    ),
    fault(
        "one_row_too_few",
        "route",
        "if (r >= real_rows(p, inputs) || i >= p.n) {",
        "if (r + 1 >= real_rows(p, inputs) || i >= p.n) {",
        "op.combine",
        "not written",
    ),
    fault(
        "rows_that_do_not_exist_written",
        "route",
        "if (r >= real_rows(p, inputs) || i >= p.n) {",
        "if (r >= p.rows || i >= p.n) {",
        "op.combine",
        "must stay as it was",
    ),
    fault(
        "barrier_between_waves_removed",
        "values",
        "    barrier();
    float sum = 0.0f;",
        "    float sum = 0.0f;",
        "op.norm",
        "rows",
    ),
    fault(
        "wave_taken_for_block",
        "values",
        "i < THREADS / WAVE; i++) {
        sum += cells[i];",
        "i < 1; i++) {
        sum += cells[i];",
        "op.norm",
        "rows",
    ),
    fault(
        "half_a_wave_summed",
        "values",
        "DEVICE float wave_sum(float value) {
    for (u32 mask = WAVE / 2;",
        "DEVICE float wave_sum(float value) {
    for (u32 mask = WAVE / 4;",
        "op.norm",
        "rows",
    ),
    fault(
        "written_past_the_end_of_a_row",
        "values",
        "i < p.n; i += THREADS) {
        y[",
        "i <= p.n; i += THREADS) {
        y[",
        "op.norm",
        "must stay as it was",
    ),
    fault(
        "halves_rotated_instead_of_pairs",
        "values",
        "even = from[0], odd = from[1];",
        "even = (from - i)[i / 2], odd = (from - i)[i / 2 + p.rope / 2];",
        "op.rope",
        "rotated",
    ),
    fault(
        "cache_off_by_one",
        "values",
        "* PAGE + position % PAGE",
        "* PAGE + (position + 1) % PAGE",
        "op.cache_append",
        "cache rows",
    ),
    fault(
        "scale_axes_swapped",
        "values",
        "s[row / BLOCK * divide_up(width, BLOCK) + column / BLOCK]",
        "s[column / BLOCK * divide_up(width, BLOCK) + row / BLOCK]",
        "op.embed",
        "rows",
    ),
    fault(
        "ragged_edge_block_ignored_by_element",
        "values",
        "s[row / BLOCK * divide_up(width, BLOCK)",
        "s[row / BLOCK * (width / BLOCK)",
        "op.embed",
        "rows",
    ),
    fault(
        "lower_of_equal_logits_lost",
        "values",
        "places[other] < places[t]",
        "places[other] > places[t]",
        "op.argmax",
        "indices",
    ),
    fault(
        "codes_cut_instead_of_rounded",
        "values",
        "round_even(limited * inverse)",
        "(float)(u32)(limited * inverse)",
        "op.act_quant",
        "values",
    ),
    fault(
        "largest_value_of_a_lane_taken_for_the_groups",
        "values",
        "group_scale(p, wave_max(largest))",
        "group_scale(p, largest)",
        "op.norm_quant",
        "codes and scales, or values",
    ),
    fault(
        "ragged_edge_block_ignored",
        "head_linear",
        "s + row / BLOCK * divide_up(k, BLOCK)",
        "s + row / BLOCK * (k / BLOCK)",
        "op.head_linear",
        "rows",
    ),
    fault(
        "subnormal_codes_flushed",
        "head_linear",
        "        // Codes that are not a number are rare: one test for four.",
        "        for (u32 j = 0; j < 4; j++) {
            out[j] = out[j] < 0x1p-14f && out[j] > -0x1p-14f ? 0.0f : out[j];
        }",
        "op.head_linear",
        ".codes",
    ),
    fault(
        "nan_code_decoded_as_480",
        "head_linear",
        "if (((word & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) {",
        "if (false) {",
        "op.head_linear",
        ".codes",
    ),
    fault(
        "single_nan_code_decoded_as_480",
        "head_linear",
        "        if ((code & 0x7f) == 0x7f) {",
        "        if (false) {",
        "op.head_linear",
        ".codes",
    ),
    fault(
        "barrier_before_the_next_row_removed",
        "head_linear",
        "            }
        }
        barrier();
    }
}",
        "            }
        }
    }
}",
        "op.head_linear",
        "rows",
    ),
    fault(
        "barrier_before_the_tile_removed",
        "tile",
        "        barrier();
        multiply(rows, gate, r, o, sum);",
        "        multiply(rows, gate, r, o, sum);",
        "op.linear",
        "rows",
    ),
    fault(
        "residual_forgotten",
        "linear",
        "y[y_row(p, r0 + r) + column] = sum[i][r] + more;",
        "y[y_row(p, r0 + r) + column] = sum[i][r];",
        "op.linear",
        "rows",
    ),
    fault(
        "last_output_left_out",
        "linear",
        "o + i >= p.row_count",
        "o + i + 1 >= p.row_count",
        "op.linear",
        "not written",
    ),
    fault(
        "first_expert_of_the_table_forgotten",
        "experts",
        "idx[row] - p.expert_first",
        "idx[row]",
        "op.expert_linear",
        "rows",
    ),
    fault(
        "own_position_left_out",
        "attend",
        "    const u32 positions = position(inputs, r) + 1;
    if (!PART) {",
        "    const u32 positions = position(inputs, r);
    if (!PART) {",
        "op.attend_latent",
        "mixed latents",
    ),
    fault(
        "earlier_maximum_forgotten",
        "attend",
        "float sum = mean[c] * keep;",
        "float sum = mean[c];",
        "op.attend_latent",
        "mixed latents",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_planted_where_its_text_stands_once() {
        let fault = &FAULTS[0];
        let planted = fault.plant(&format!("a {} b", fault.find));
        assert_eq!(planted.unwrap(), format!("a {} b", fault.replace));
        for count in [0, 2] {
            let why = fault.plant(&fault.find.repeat(count)).unwrap_err();
            let says = why.contains(fault.name) && why.ends_with(&format!("{count} times"));
            assert!(says, "{why}");
        }
    }

    #[test]
    fn no_two_faults_share_a_name() {
        let mut names: Vec<_> = all().map(|fault| fault.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().count());
    }
}
