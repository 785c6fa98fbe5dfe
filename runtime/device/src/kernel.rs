//! Kernels as rows of a table, and the choice among them.
//!
//! [`OpKind`] is the list of operations a device must be able to do, each with its operands
//! and its formula: whoever writes a kernel implements exactly that sentence. Rows are tried
//! in order and the first that fits wins; the refused ones keep their reasons.

use crate::{DType, DeviceInfo, Features, Params, flags};

/// What [`OpKind::Argmax`] gives where all values are NaN.
pub const NO_ARGMAX: u32 = u32::MAX;

/// Operations of a program.
///
/// Operand lists name the operands of a dispatch in order. Operand 0 is always `inputs`
/// (see [`crate::Inputs`]). Activations are `f32`. `W` is a weight of [`Problem::weight`];
/// an FP8 weight is followed by its scales `S` (`f32`, `[ceil(rows/128), ceil(k/128)]`,
/// always the whole tensor), other weights have no `S`; which block format a weight is in also
/// stands in `Params::flags` ([`crate::flags::format_bits`]). Row `r` of an activation `x` starts
/// at `x_offset + r * x_stride`. Only real rows are written. Sums are kept in `f32` or
/// better; ties go to the lower index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpKind {
    /// `inputs, W [row_count, n] (S), y`: `y[t] = W[ids[t] - row_first]` for tokens whose
    /// id lies in this shard; other rows are left alone.
    Embed,
    /// `inputs, x, W [n], y`: `y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * W`.
    Norm,
    /// `inputs, x, W [row_count, k] (S), (residual), y`: for each `i < row_count`,
    /// `y[r][row_first + i] = dot(x[r], W[i])`, plus `residual[r][row_first + i]` (addressed
    /// by `b_offset`, `b_stride`) under `flags::RESIDUAL`. Scales are indexed by
    /// `row_first + i`.
    Linear,
    /// `inputs, x, N [k], W [row_count, k] (S), y`: `Linear` of a `Norm`, `y[r][row_first + i]
    /// = dot(x[r] / sqrt(mean(x[r]^2) + eps) * N, W[i])`. `N` is `bf16` under
    /// `flags::NORM_BF16`, else `f32`. Scales are indexed by `row_first + i`.
    NormLinear,
    /// `inputs, x, W (S), V (S), y`: `y[r][row_first + i] = silu(dot(x[r], W[i])) *
    /// dot(x[r], V[i])`; `W` gate, `V` up, both `[row_count, k]`.
    GateUp,
    /// `inputs, x, W [heads * head_rows, latent] (S), y`: a slice of `W` for each head `a`,
    /// `P = W[a * head_rows + head_first ..]`. Plain: `y[r][a][i] = dot(x[r][a], P[i])`,
    /// `i < n`, `k = latent`. `flags::TRANSPOSED`: `y[r][a][c] = sum_i x[r][a][i] * P[i][c]`,
    /// `c < n = latent`, `i < k`.
    HeadLinear,
    /// `inputs, W [rows * head_rows, k] (S), y`: stored weights as numbers, a head a row:
    /// `y[r][i][..k] = W[r * head_rows + i]`, `i < head_rows`. `flags::TRANSPOSED`:
    /// `y[r][c][i] = W[r * head_rows + i][c]`, `c < k`. The vectors `y[r][..]` of a head lie
    /// `y_head_stride` apart.
    UnpackHeads,
    /// `inputs, x, table, y`: rotates pairs `(2j, 2j+1)` of the `rope` values of each head
    /// by the angle of position `p = positions[r]`; `table[p * rope + 2j] = cos`,
    /// `table[p * rope + 2j + 1] = sin`. `y[2j] = x[2j] cos - x[2j+1] sin`,
    /// `y[2j+1] = x[2j+1] cos + x[2j] sin`. Paper: DeepSeek-V3 report, eq. 3 and 8.
    Rope,
    /// `inputs, x, cache`: writes the `n` values of row `r` to the cache row of
    /// `(sequences[r], positions[r])` (see [`crate::PAGE`]); a cache row has `n` values.
    CacheAppend,
    /// `inputs, x, W [latent], table, cache`: a `Norm`, a `Rope` of one head and a
    /// `CacheAppend`: writes to the cache row of `(sequences[r], positions[r])`, which has `n =
    /// latent + rope` values, `x[r][i] / sqrt(mean(x[r][..latent]^2) + eps) * W[i]` for `i <
    /// latent`, then the pairs of `x[r][latent ..]` rotated by the position as in `Rope`.
    LatentAppend,
    /// `inputs, q, cache, y`: absorbed attention. `q[r][a]` has `latent + rope` values,
    /// the cache row `latent + rope`; over positions `s <= positions[r]` of the sequence,
    /// `p = softmax(scale * dot(q[r][a], cache[s]))`, `y[r][a] = sum_s p[s] *
    /// cache[s][..latent]`. Never holds all scores of a row.
    AttendLatent,
    /// `inputs, q, cache, mix, sums`: `AttendLatent` in `n` parts of the positions, for
    /// [`OpKind::AttendMerge`] to put together. Row `r` has `K = positions[r] + 1` positions,
    /// its parts are `L = k * ceil(K / (n * k))` long: part `j` is `j L <= s < min((j + 1) L,
    /// K)`. With `score(s) = scale * dot(q[r][a], cache[s])` and `m` the largest score of the
    /// part, for each part `j` of `row_first .. row_first + row_count`: `mix[r][a][j] = sum_s
    /// exp(score(s) - m) * cache[s][..latent]`, at `y_offset + r * y_stride + a *
    /// y_head_stride + j * latent`; `sums[r][a][j] = (m, sum_s exp(score(s) - m))`, at
    /// `b_offset + r * b_stride + 2 * (a * n + j)`. A part without positions is left alone.
    AttendPart,
    /// `inputs, mix, sums, y`: `y[r][a] = sum_j e_j mix[r][a][j] / sum_j e_j z_j`, with
    /// `sums[r][a][j] = (m_j, z_j)` and `e_j = exp(m_j - max_i m_i)`, over the parts of
    /// [`OpKind::AttendPart`] that have positions; `n`, `k` and `latent` as there. `mix` is
    /// addressed by `x_offset`, `x_stride`, `x_head_stride`, `sums` by `b_offset`,
    /// `b_stride`.
    AttendMerge,
    /// `inputs, q, cache, W [heads * (nope + value), latent] (S), y`: the same attention
    /// with keys and values expanded: for head `a`, `K = W[a * (nope + value) ..][..nope]`,
    /// `V` the next `value` rows; score `= scale * (dot(q[r][a][..nope], K c[s]) +
    /// dot(q[r][a][nope..], k_rope[s]))`, `y[r][a] = sum_s p[s] * (V c[s])`.
    AttendExpanded,
    /// `inputs, logits [rows, experts], (W bias [experts]), idx (u32), weight`: chooses
    /// `top_k` experts a token in descending order of selection score. Paper: section 2.1.2.
    /// Scores `s = sigmoid(logits)` (or softmax). Selection `b = s + bias`. If `groups > 1`:
    /// a group's score is the sum of its two largest `b` (its largest `b` under
    /// `GROUP_MAX`), the `kept_groups` best groups stay, members of others are out of the
    /// choice. `weight = s[idx]`, divided by (their sum + 1e-20) under `NORMALISE`, times
    /// `scale`. Outputs are dense `[rows, top_k]`.
    Route,
    /// `inputs, idx, offsets (u32 [experts + 1]), order (u32), place (u32)`: a stable
    /// counting sort of the `rows * top_k` choices by expert. `offsets` is exclusive;
    /// `order[p]` is the choice `r * top_k + j` in sorted place `p`; `place` its inverse.
    ExpertOffsets,
    /// `inputs, x, order, y`: `y[p] = x[order[p] / top_k]`, `n` values, for all real `p`
    /// (`rows` counts choices).
    Permute,
    /// `inputs, x, offsets, W table [expert_count][n, k] (S table), y`: for each expert `e`
    /// of the table, rows `offsets[e] .. offsets[e + 1]`: `y[p][i] = dot(x[p], W[e][i])`.
    GroupedLinear,
    /// `inputs, x, offsets, W table (S table), V table (S table), y`: as `GroupedLinear`
    /// with `y[p][i] = silu(dot(x[p], W[e][i])) * dot(x[p], V[e][i])`.
    GroupedGateUp,
    /// `inputs, x, idx, W table [expert_count][n, k] (S table), y`: row `p = r * top_k + j`
    /// uses expert `idx[p]`: `y[p][i] = dot(x[p or r], W[idx[p]][i])`; rows whose expert is
    /// not in the table are left alone. `ROW_PER_TOKEN`: reads `x[r]`, else `x[p]`.
    ExpertLinear,
    /// `inputs, x, idx, W table (S table), V table (S table), y`: as `ExpertLinear` with
    /// `silu(gate) * up`.
    ExpertGateUp,
    /// `inputs, x, weight, place, base, y`: `y[r] = base[r] + sum_j weight[r][j] *
    /// x[place[r * top_k + j]]`, summed in the order of `j`; without `PLACED` the row is
    /// `r * top_k + j` itself and `place` is not read (any buffer may be bound). `base` is
    /// addressed by `b_offset`, `b_stride`.
    Combine,
    /// `inputs, a, b, y`: `y[r] = silu(a[r]) * b[r]`, `n` values.
    SwiGlu,
    /// `inputs, a, b, y`: `y[r] = a[r] + b[r]`, `n` values.
    Add,
    /// `inputs, x, y`: `y[r][a] = x[r][a]`, `n` values for each of `heads` heads: moves a
    /// slice to its place in a concatenation.
    Copy,
    /// `inputs, x, y`: `y[i] = x[logit_rows[i]]`, `n` values.
    Gather,
    /// `inputs, x, y (u32)`: index of the largest of `n` values of each row; a NaN is never
    /// the largest. [`NO_ARGMAX`] for a row of nothing else.
    Argmax,
    /// `inputs, x, y`: quantises each group of 128 values of a row to E4M3 with scale
    /// `max(amax, 1e-4) / 448` (the power of two above it under `UE8M0`) and writes the
    /// values it stands for, or under `CODED` the codes and scales themselves, as products on
    /// FP8 units take them. Paper: section 3.3.2.
    ActQuant,
    /// `inputs, x, W [n], y`: an `ActQuant` of a `Norm` with the weight `W`.
    NormQuant,
}

impl OpKind {
    /// Every operation, in declaration order, with its printed name.
    pub const ALL: &'static [(OpKind, &'static str)] = &[
        (OpKind::Embed, "embed"),
        (OpKind::Norm, "norm"),
        (OpKind::Linear, "linear"),
        (OpKind::NormLinear, "norm_linear"),
        (OpKind::GateUp, "gate_up"),
        (OpKind::HeadLinear, "head_linear"),
        (OpKind::UnpackHeads, "unpack_heads"),
        (OpKind::Rope, "rope"),
        (OpKind::CacheAppend, "cache_append"),
        (OpKind::LatentAppend, "latent_append"),
        (OpKind::AttendLatent, "attend_latent"),
        (OpKind::AttendPart, "attend_part"),
        (OpKind::AttendMerge, "attend_merge"),
        (OpKind::AttendExpanded, "attend_expanded"),
        (OpKind::Route, "route"),
        (OpKind::ExpertOffsets, "expert_offsets"),
        (OpKind::Permute, "permute"),
        (OpKind::GroupedLinear, "grouped_linear"),
        (OpKind::GroupedGateUp, "grouped_gate_up"),
        (OpKind::ExpertLinear, "expert_linear"),
        (OpKind::ExpertGateUp, "expert_gate_up"),
        (OpKind::Combine, "combine"),
        (OpKind::SwiGlu, "swiglu"),
        (OpKind::Add, "add"),
        (OpKind::Copy, "copy"),
        (OpKind::Gather, "gather"),
        (OpKind::Argmax, "argmax"),
        (OpKind::ActQuant, "act_quant"),
        (OpKind::NormQuant, "norm_quant"),
    ];

    /// Whether other operations do the same: lowering takes this one where a device has a
    /// kernel row for it, and does without elsewhere.
    pub fn is_optional(self) -> bool {
        use OpKind::*;
        matches!(
            self,
            NormLinear | UnpackHeads | LatentAppend | AttendPart | AttendMerge | NormQuant
        )
    }

    /// The printed name.
    pub fn name(self) -> &'static str {
        OpKind::ALL
            .iter()
            .find(|(op, _)| *op == self)
            .map_or("?", |(_, name)| name)
    }
}

/// One operation to be done: what a kernel row is chosen for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// The operation.
    pub op: OpKind,
    /// Format of the weight operand; `F32` where there is none.
    pub weight: DType,
    /// Sizes and strides.
    pub params: Params,
}

/// How a chosen kernel is launched.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Launch {
    /// Workgroups along each axis; each at least 1 and at most `Limits::max_grid`.
    pub groups: [u32; 3],
    /// Pipeline constants (`override`s of WGSL, specialization constants of SPIR-V) by name.
    pub constants: Vec<(&'static str, u32)>,
}

/// What a kernel is made of. A backend understands one of these (or several).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// A WGSL file of the shaders crate, and its preprocessor definitions.
    Wgsl {
        /// Name of the file without extension.
        file: &'static str,
        /// Definitions, each `NAME` or `NAME=value`.
        defines: &'static [&'static str],
    },
    /// A SPIR-V module of the shaders crate.
    Spirv {
        /// Name of the binary without extension.
        file: &'static str,
    },
    /// A kernel of a C++ file of the shaders crate, for CUDA and ROCm.
    Gpu {
        /// Name of the file without extension.
        file: &'static str,
        /// Name of the kernel in it.
        entry: &'static str,
        /// Its operands in order, a letter each: `r` a range that is read, `w` one that is
        /// written, `t` a table. For the copies of boxes of compute capability 9.0, `m` and `M`
        /// are a weight in a range and weights in a table: the kernel takes tensor maps of them
        /// instead of addresses. `x` is a range of coded rows, of which it takes the address
        /// and then a map.
        operands: &'static str,
    },
    /// A product of codes by a vendor's library, where the backend has measured that it is
    /// faster than this kernel of the same form as [`Body::Gpu`]; else by the kernel, which is
    /// launched as the row says.
    Native {
        /// As there.
        file: &'static str,
        /// As there.
        entry: &'static str,
        /// As there: inputs, codes, weight, its scales, a residual if the kernel adds one, and
        /// what is written.
        operands: &'static str,
    },
    /// A Rust function that the host backend knows by this name.
    Host(&'static str),
}

/// A kernel of the table.
#[derive(Clone, Copy)]
pub struct KernelRow {
    /// The operation it does.
    pub op: OpKind,
    /// Its name, unique in the table: shown by `explain`, traces and errors.
    pub name: &'static str,
    /// Features it cannot do without.
    pub needs: Features,
    /// Features of devices on which it works but another row, or another operation, is the
    /// faster one: there it is passed over.
    pub avoids: Features,
    /// Whether it makes or reads rows of codes (`flags::CODED`).
    pub takes_codes: bool,
    /// `None` if it can do the problem, else what it cannot do.
    pub fits: fn(&Problem) -> Option<&'static str>,
    /// How to launch it for a problem that fits.
    pub launch: fn(&Problem, &DeviceInfo) -> Launch,
    /// What it is made of.
    pub body: Body,
}

impl KernelRow {
    /// Whether entries of its tables may lie anywhere: WGSL has no addresses.
    pub fn takes_scattered(&self) -> bool {
        !matches!(self.body, Body::Wgsl { .. })
    }
}

/// Why a row was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Name of the row.
    pub row: &'static str,
    /// What it lacked.
    pub why: String,
}

/// The row taken for a problem, and the rows that were tried before it.
pub struct Choice<'t> {
    /// The row to run.
    pub row: &'t KernelRow,
    /// Rows for the same operation that stand above it and did not fit.
    pub rejected: Vec<Rejection>,
}

/// The first row of `table` that does `problem` on the device, or every row's reason.
pub fn select<'t>(
    table: &'t [KernelRow],
    info: &DeviceInfo,
    problem: &Problem,
) -> Result<Choice<'t>, Vec<Rejection>> {
    let mut rejected = Vec::new();
    for row in table.iter().filter(|row| row.op == problem.op) {
        match lack(row, row.avoids, info, problem) {
            None => return Ok(Choice { row, rejected }),
            Some(why) => rejected.push(Rejection { row: row.name, why }),
        }
    }
    Err(rejected)
}

/// Every row of `table` that does `problem` on the device, also where another is faster.
pub fn able<'t>(
    table: &'t [KernelRow],
    info: &DeviceInfo,
    problem: &Problem,
) -> impl Iterator<Item = &'t KernelRow> {
    let rows = table.iter().filter(|row| row.op == problem.op);
    rows.filter(|row| lack(row, Features::NONE, info, problem).is_none())
}

/// Why `row` cannot do `problem` on the device, or is not wanted there for a feature of `avoids`.
fn lack(row: &KernelRow, avoids: Features, info: &DeviceInfo, problem: &Problem) -> Option<String> {
    let is = |flag| problem.params.flags & flag != 0;
    let missing = row.needs.without(info.features);
    if missing != Features::NONE {
        Some(format!("needs {missing:?}"))
    } else if avoids.meets(info.features) {
        Some(format!("is slow on {avoids:?}"))
    } else if is(flags::SCATTERED) && !row.takes_scattered() {
        Some("takes tables in one range at a constant stride".to_string())
    } else if is(flags::CODED) && !row.takes_codes {
        Some("takes activations as numbers, not as codes".to_string())
    } else {
        (row.fits)(problem).map(str::to_string)
    }
}
