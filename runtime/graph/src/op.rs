//! The closed list of operations a model's graph is made of.
//!
//! Letters: `T` tokens, `A` heads, `H` hidden, `dn`/`dr` head values without/with rotation,
//! `dv` value width, `dc` latent width, `E` experts, `k` experts a token. Matrices are
//! `[out, in]` as in the files. Section numbers are those of the DeepSeek-V3 report
//! (arXiv 2412.19437).

use hadal_device::DType;

/// How a router chooses (section 2.1.2; V2's rules for its siblings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteRule {
    /// Routed experts `E`.
    pub experts: u32,
    /// Experts a token `k`.
    pub top_k: u32,
    /// Groups of experts; 1 switches the group limit off.
    pub groups: u32,
    /// Groups that stay in the choice.
    pub kept_groups: u32,
    /// Softmax over all experts instead of a sigmoid for each.
    pub softmax: bool,
    /// A group's score is its best member (V2), not the sum of its two best (V3).
    pub group_max: bool,
    /// Divide the chosen weights by their sum.
    pub normalise: bool,
    /// Factor on the chosen weights.
    pub scale: f32,
}

/// One operation. Inputs are listed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `()` -> `u32[T]`: the token ids of this step.
    Tokens,
    /// `()` -> `f32[T, width]`: rows handed in from outside (the hidden states that the
    /// next-token module reads).
    Hidden {
        /// Values a row.
        width: u32,
    },
    /// `()` -> a weight as it lies in the file: `[out, in]` or `[n]`.
    Weight {
        /// Tensor name.
        name: String,
        /// Format in the file.
        dtype: DType,
        /// Dimensions.
        shape: Vec<u32>,
    },
    /// `()` -> `[experts, out, in]`: one matrix for each routed expert.
    ExpertWeights {
        /// Tensor name with `{}` for the expert's index.
        name: String,
        /// Format in the file, the same for all.
        dtype: DType,
        /// `E, out, in`.
        shape: [u32; 3],
    },
    /// `()` -> `f32[P, rope]`: cosine and sine of each position and pair, interleaved, after
    /// YaRN (section 4.3).
    RopeTable {
        /// `dr`.
        rope: u32,
    },
    /// `(ids u32[T], table [V, H])` -> `f32[T, H]`: rows of the table.
    Embed,
    /// `(x [.., n], w [n])` -> `[.., n]`: `x / sqrt(mean(x^2) + eps) * w`.
    Norm {
        /// Added under the root.
        eps: f32,
    },
    /// `(x [rows, in], w [out, in])` -> `[rows, out]`: `x w^T`.
    Linear,
    /// `(x [rows, in], w [out, in], residual [rows, out])` -> `[rows, out]`:
    /// `residual + x w^T`. Made by the fuse pass.
    LinearAdd,
    /// `(x [rows, in], gate [m, in], up [m, in])` -> `[rows, m]`:
    /// `silu(x gate^T) * (x up^T)`. Made by the fuse pass.
    GateUp,
    /// `(x [T, A, in], w [A * head_rows, dc])` -> `[T, A, out]`: each head's own slice
    /// `P = w[a * head_rows + head_first ..][..count]`. Plain: `x P^T` with `in = dc`,
    /// `out = count`; transposed: `x P` with `in = count`, `out = dc`. The absorbed
    /// projections of section 2.1.1.
    HeadLinear {
        /// Multiply by `P` instead of its transpose.
        transposed: bool,
        /// Rows of `w` a head.
        head_rows: u32,
        /// First row used.
        head_first: u32,
        /// Rows used.
        count: u32,
    },
    /// `(a, b)` -> the same shape: `a + b`.
    Add,
    /// `(gate, up)` -> the same shape: `silu(gate) * up`.
    SwiGlu,
    /// `(x [.., n])` -> `[.., count]`: a piece of the last axis.
    Slice {
        /// First value.
        first: u32,
        /// Values.
        count: u32,
    },
    /// `(x [T, A * n])` -> `[T, A, n]`.
    Heads {
        /// `A`.
        heads: u32,
    },
    /// `(x [T, A, n])` -> `[T, A * n]`.
    Flat,
    /// `(a [.., n], b [.., m])` -> `[.., n + m]`.
    Concat,
    /// `(x [T, dr] or [T, A, dr], table [P, dr])` -> the same shape: interleaved rotation by
    /// each token's position.
    Rope,
    /// `(key [T, n])` -> `[K, n]`: the layer's cache with this step's rows in place.
    CacheAppend {
        /// Layer whose cache it is.
        layer: u32,
    },
    /// `(q [T, A, dn + dr], cache [K, dc + dr], kv_b [A * (dn + dv), dc])` or `(q, cache,
    /// k_b [A * dc, dn], v_b [A * dv, dc])` -> `[T, A, dv]`: causal attention with keys and
    /// values expanded from the latents (section 2.1.1). `k_b` has each head's part transposed.
    AttendExpanded {
        /// Softmax scale.
        scale: f32,
        /// `dn`.
        nope: u32,
        /// `dv`.
        value: u32,
    },
    /// `(q [T, A, dc + dr], cache [K, dc + dr])` -> `[T, A, dc]`: the same attention on the
    /// latents themselves.
    AttendLatent {
        /// Softmax scale.
        scale: f32,
        /// `dc`.
        latent: u32,
    },
    /// `(logits [T, E])` or `(logits [T, E], bias [E])` -> `route[T, k]` (section 2.1.2).
    Route(RouteRule),
    /// `(x [T, H], route [T, k], gate [E, m, H], up [E, m, H], down [E, H, m], base [T, H])`
    /// -> `[T, H]`: `base + sum over chosen e of weight_e * down_e(silu(gate_e x) * up_e x)`.
    Experts {
        /// Quantise the inputs of all three products (W8A8, section 3.3).
        quantise: Option<ActScale>,
    },
    /// `(x [T, n])` -> `[R, n]`: the rows whose logits are wanted.
    Gather,
    /// `(logits [R, V])` -> `u32[R]`: greedy choice; ties to the lower index.
    Argmax,
    /// `(x [.., n])` -> the same shape: each 128 values rounded to what FP8 with a scale of
    /// their own can hold (section 3.3.2).
    ActQuant(ActScale),
}

/// Which scales quantised activations take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActScale {
    /// `max(amax, 1e-4) / 448`.
    F32,
    /// The power of two at or above that (V3.1's `ue8m0`).
    Ue8m0,
}
