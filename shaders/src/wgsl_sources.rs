//! The WGSL files of this crate as text. A test compares the lists with the folders.

macro_rules! files {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../wgsl/", $folder, $name, ".wgsl"))),)*]
    };
}

/// Kernels: name of the file without extension, text.
pub const KERNELS: &[(&str, &str)] = files!("":
    "act_quant" "argmax" "attend" "attend_block" "attend_merge" "attend_tile" "cache_append"
    "combine" "copy" "embed" "expert_linear" "expert_offsets" "grouped_linear" "head_linear"
    "head_linear_transposed" "latent_append" "linear" "linear_block" "linear_tile" "norm"
    "norm_linear" "pairwise" "permute" "rope" "route"
);

/// Snippets for `#import`.
pub const SHARED: &[(&str, &str)] = files!("shared/":
    "activate" "block" "block_bits" "block_codes" "block_grids" "block_patterns"
    "block_scales" "blocks" "decode"
    "dots" "formats" "lane_arguments" "lane_layout" "lanes"
    "outer" "params" "parts" "reduce" "scores" "table" "tables" "weight" "x"
);
