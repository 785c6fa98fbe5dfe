//! The parameter block of a kernel: one layout for every operation and every language.
//!
//! 32 words, in this order, in Rust, WGSL (`shaders/wgsl/shared/params.wgsl`) and C++.
//! They are fixed when a program is prepared; what changes from step to step lies in the
//! `inputs` buffer ([`Inputs`]). A test compares the offsets of all languages.

/// `count_word` of a kernel whose `rows` are all real.
pub const COUNT_ALL: u32 = u32::MAX;

/// Bits of [`Params::flags`].
pub mod flags {
    /// `linear`: add the operand `residual`.
    pub const RESIDUAL: u32 = 1;
    /// `head_linear`: multiply by the transposed slice.
    pub const TRANSPOSED: u32 = 2;
    /// `expert_linear`, `expert_gate_up`: the input has one row a token, not one a choice.
    pub const ROW_PER_TOKEN: u32 = 4;
    /// `combine`: rows are sorted by expert and found through `place`.
    pub const PLACED: u32 = 8;
    /// `route`: scores are a softmax over all experts, not sigmoids.
    pub const SOFTMAX: u32 = 16;
    /// `route`: a bias takes part in the choice (and never in the weights).
    pub const BIAS: u32 = 32;
    /// `route`: a group's score is its largest member, not the sum of its two largest.
    pub const GROUP_MAX: u32 = 64;
    /// `route`: divide the weights by their sum.
    pub const NORMALISE: u32 = 128;
    /// `act_quant`: scales are powers of two.
    pub const UE8M0: u32 = 256;
    /// `norm_linear`: the weights of the norm are BF16, not F32.
    pub const NORM_BF16: u32 = 512;
    /// Operations of experts: the entries of a table do not lie in one range at a constant
    /// stride, so the kernel must take addresses.
    pub const SCATTERED: u32 = 1024;
    /// `act_quant`: rows of `y` become E4M3 codes and scales; `linear`, `gate_up`,
    /// `grouped_linear`, `grouped_gate_up`: rows of `x` are such. See [`super::coded_words`].
    pub const CODED: u32 = 2048;
    /// Products: activations may be rounded. With weights in a block format to integers of 8
    /// bits with a scale for each 256 or fewer; with BF16 weights to BF16; with E4M3 weights to
    /// integers of 12 bits with a scale for each 128 or fewer, and the weights, before their
    /// scale, to sixteenths. `attend_expanded`: all four products like the last, with scales for
    /// the weights, too; `attend_latent`, `attend_part`: queries, cache and
    /// probabilities to BF16. A kernel need not.
    pub const ROUGH: u32 = 4096;

    /// The bits above say which block format the weight has: [`format_of`].
    pub const FORMAT_SHIFT: u32 = 24;

    /// The bits of a weight's format: its place in `DType::BLOCKS` and one, or 0.
    pub const fn format_bits(weight: crate::DType) -> u32 {
        let mut place = 0;
        while place < crate::DType::BLOCKS.len() {
            if crate::DType::BLOCKS[place] as u32 == weight as u32 {
                return (place as u32 + 1) << FORMAT_SHIFT;
            }
            place += 1;
        }
        0
    }

    /// The block format that `flags` name.
    pub fn format_of(flags: u32) -> Option<crate::DType> {
        let place = (flags >> FORMAT_SHIFT).checked_sub(1)?;
        crate::DType::BLOCKS.get(place as usize).copied()
    }
}

/// Words of a row of `n` values as codes: `n` E4M3 codes, a byte each, filled up to a multiple
/// of sixteen bytes, and then a scale (`f32`) for each 128 values. A value is its code times
/// its scale. Strides and offsets count words as ever, and are multiples of four.
pub const fn coded_words(n: u32) -> u32 {
    coded_scales(n) + n.div_ceil(128)
}

/// The word of a coded row of `n` values at which its scales begin.
pub const fn coded_scales(n: u32) -> u32 {
    4 * n.div_ceil(16)
}

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// Parameters of one dispatch. Offsets and strides count elements, not bytes.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Default)]
        pub struct Params { $($(#[$doc])* pub $name: $type,)* }

        impl Params {
            /// Field names in layout order; each field is one 32-bit word.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The block as words.
            pub fn words(&self) -> [u32; 32] {
                [$(Word::word(self.$name),)*]
            }
        }
    };
}

trait Word {
    fn word(self) -> u32;
}
impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}
impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

params! {
    /// Rows the program was prepared for (the bucket), an upper bound of the real ones.
    rows: u32,
    /// Word of `inputs` with the real count, or [`COUNT_ALL`]. Real rows are
    /// `min(rows, inputs[count_word] * count_scale)`; kernels leave other rows alone.
    count_word: u32,
    /// Rows for each counted thing: 1, or `top_k` where a row is a token's choice.
    count_scale: u32,
    /// Outputs a row (all shards together).
    n: u32,
    /// Inputs a row: the length of a dot product.
    k: u32,
    /// Where row 0 of `x` begins.
    x_offset: u32,
    /// From one row of `x` to the next.
    x_stride: u32,
    /// From one head of `x` to the next within a row.
    x_head_stride: u32,
    /// Where row 0 of `y` begins.
    y_offset: u32,
    /// From one row of `y` to the next.
    y_stride: u32,
    /// From one head of `y` to the next within a row.
    y_head_stride: u32,
    /// Where row 0 of the second activation operand (`residual`, `b`, `up`, `base`) begins.
    b_offset: u32,
    /// From one row of the second activation operand to the next.
    b_stride: u32,
    /// Attention heads.
    heads: u32,
    /// Query and key values a head without rotation.
    nope: u32,
    /// Rotated values a head.
    rope: u32,
    /// Value width a head.
    value: u32,
    /// Width of the cached latent.
    latent: u32,
    /// `head_linear`: weight rows a head.
    head_rows: u32,
    /// `head_linear`: first row used within a head's rows.
    head_first: u32,
    /// Routed experts.
    experts: u32,
    /// Expert groups.
    groups: u32,
    /// Groups kept by the router.
    kept_groups: u32,
    /// Experts a token.
    top_k: u32,
    /// First expert of the bound table.
    expert_first: u32,
    /// Experts in the bound table.
    expert_count: u32,
    /// First weight row of the bound shard.
    row_first: u32,
    /// Weight rows in the bound shard.
    row_count: u32,
    /// Bits of [`flags`].
    flags: u32,
    /// Norm epsilon.
    eps: f32,
    /// Softmax scale of attention, or the router's scaling factor.
    scale: f32,
    /// Page-table entries a sequence.
    page_stride: u32,
}

/// Layout of the `inputs` buffer: everything that changes from step to step, as `u32` words.
///
/// For a program prepared for `bucket` tokens: eight header words, then `bucket` words each
/// of token ids, positions, sequence indices and gathered rows, then the page table
/// (`page_stride` entries for each sequence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Tokens the program was prepared for.
    pub bucket: u32,
}

impl Inputs {
    /// Word: real tokens in this step.
    pub const TOKENS: u32 = 0;
    /// Word: real rows of logits in this step.
    pub const LOGIT_ROWS: u32 = 1;
    /// Word: the bucket, so that kernels find the lists below.
    pub const BUCKET: u32 = 2;
    /// Words before the lists.
    pub const HEADER: u32 = 8;

    /// First word of the token ids.
    pub const fn ids(self) -> u32 {
        Inputs::HEADER
    }
    /// First word of the positions (0-based in their sequence).
    pub const fn positions(self) -> u32 {
        Inputs::HEADER + self.bucket
    }
    /// First word of the sequence indices (rows of the page table).
    pub const fn sequences(self) -> u32 {
        Inputs::HEADER + 2 * self.bucket
    }
    /// First word of the rows whose logits are wanted.
    pub const fn logit_rows(self) -> u32 {
        Inputs::HEADER + 3 * self.bucket
    }
    /// First word of the page table: page `p` of sequence `s` is at
    /// `pages() + s * page_stride + p`.
    pub const fn pages(self) -> u32 {
        Inputs::HEADER + 4 * self.bucket
    }
    /// Bytes of the buffer for `sequences` sequences of at most `page_stride` pages.
    pub const fn bytes(self, sequences: u32, page_stride: u32) -> u64 {
        4 * (self.pages() as u64 + sequences as u64 * page_stride as u64)
    }
}

/// Tokens in a page of the latent cache: position `p` of sequence `s` lives in cache row
/// `pages[s][p / PAGE] * PAGE + p % PAGE`.
pub const PAGE: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_thirty_two_words_in_declaration_order() {
        assert_eq!(size_of::<Params>(), 128);
        assert_eq!(Params::FIELDS.len(), 32);
        let params = Params {
            rows: 7,
            page_stride: 9,
            eps: 1.0,
            ..Params::default()
        };
        let words = params.words();
        assert_eq!((words[0], words[31]), (7, 9));
        let eps = Params::FIELDS.iter().position(|f| *f == "eps").unwrap();
        assert_eq!(words[eps], 1.0f32.to_bits());
    }
}
