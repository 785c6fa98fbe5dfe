//! Which format each kind of tensor takes.
//!
//! A recipe has a format for most weights and a higher one for those that errors hurt most:
//! the value half of the latent expansion and, in the first and last eighth of the layers and
//! every third between, the products that lead back to the stream. Attention is a fiftieth of
//! a large model, so recipes below four bits spare it. Vectors and routers stay `f32`.

use hadal_device::DType;

use crate::{QuantizeError, Result};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The embedding.
    Embedding,
    /// The head.
    Output,
    /// A matrix of attention.
    Attention,
    /// The half of the latent expansion that gives values.
    Values,
    /// A dense feed-forward or shared expert, on the way in.
    Dense,
    /// A dense feed-forward or shared expert, on the way back.
    DenseDown,
    /// A table of experts, on the way in.
    Experts,
    /// A table of experts, on the way back.
    ExpertsDown,
    /// Norms, biases, routers: always `f32`.
    Exact,
}

impl Role {
    /// The role of a tensor by its GGUF name.
    pub fn of(name: &str) -> Role {
        let part = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'));
        let part = part.map_or(name, |(_, part)| part);
        match part {
            "token_embd.weight" => Role::Embedding,
            "output.weight" => Role::Output,
            "attn_v_b.weight" => Role::Values,
            "ffn_down.weight" | "ffn_down_shexp.weight" => Role::DenseDown,
            "ffn_gate.weight"
            | "ffn_up.weight"
            | "ffn_gate_shexp.weight"
            | "ffn_up_shexp.weight"
            | "nextn.eh_proj.weight" => Role::Dense,
            "ffn_down_exps.weight" => Role::ExpertsDown,
            "ffn_gate_exps.weight" | "ffn_up_exps.weight" => Role::Experts,
            _ if part.contains("norm") => Role::Exact,
            _ if part.starts_with("attn_") => Role::Attention,
            _ => Role::Exact,
        }
    }

    /// What people read.
    pub fn label(self) -> &'static str {
        match self {
            Role::Embedding => "embedding",
            Role::Output => "head",
            Role::Attention => "attention",
            Role::Values => "attention values",
            Role::Dense => "dense, in",
            Role::DenseDown => "dense, back",
            Role::Experts => "experts, in",
            Role::ExpertsDown => "experts, back",
            Role::Exact => "norms, routers",
        }
    }
}

/// A named choice of formats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Its name, as in file names.
    pub name: &'static str,
    /// Its number in `general.file_type`.
    pub file_type: u32,
    /// Experts, and all that has no other rule.
    pub base: DType,
    /// What errors hurt most.
    pub high: DType,
    /// Attention.
    pub attention: DType,
    /// Embedding.
    pub embedding: DType,
    /// Head.
    pub output: DType,
}

const fn recipe(
    name: &'static str,
    file_type: u32,
    [base, high, attention, embedding, output]: [DType; 5],
) -> Recipe {
    Recipe {
        name,
        file_type,
        base,
        high,
        attention,
        embedding,
        output,
    }
}

/// The same format for everything, embedding and head excepted.
const fn plain(name: &'static str, file_type: u32, format: DType, ends: DType) -> Recipe {
    recipe(name, file_type, [format, format, format, ends, ends])
}

/// Every recipe, the largest files first.
pub const RECIPES: [Recipe; 29] = {
    use DType::*;
    [
        plain("F16", 1, F16, F16),
        plain("BF16", 32, Bf16, Bf16),
        plain("Q8_0", 7, Q8_0, Q8_0),
        plain("Q6_K", 18, Q6K, Q6K),
        plain("Q5_1", 9, Q5_1, Q6K),
        plain("Q5_0", 8, Q5_0, Q6K),
        recipe("Q5_K_M", 17, [Q5K, Q6K, Q5K, Q6K, Q6K]),
        plain("Q5_K_S", 16, Q5K, Q6K),
        plain("Q4_1", 3, Q4_1, Q6K),
        plain("Q4_0", 2, Q4_0, Q6K),
        recipe("Q4_K_M", 15, [Q4K, Q6K, Q4K, Q6K, Q6K]),
        recipe("Q4_K_S", 14, [Q4K, Q5K, Q4K, Q6K, Q6K]),
        recipe("IQ4_NL", 25, [Iq4Nl, Q5K, Iq4Nl, Q6K, Q6K]),
        recipe("IQ4_XS", 30, [Iq4Xs, Q5K, Iq4Xs, Q6K, Q6K]),
        recipe("Q3_K_L", 13, [Q3K, Q5K, Q4K, Q6K, Q6K]),
        recipe("Q3_K_M", 12, [Q3K, Q4K, Q4K, Q6K, Q6K]),
        recipe("Q3_K_S", 11, [Q3K, Q3K, Q4K, Q6K, Q6K]),
        recipe("IQ3_S", 26, [Iq3S, Q4K, Q4K, Q6K, Q6K]),
        recipe("IQ3_M", 27, [Iq3S, Q4K, Q5K, Q6K, Q6K]),
        recipe("IQ3_XXS", 23, [Iq3Xxs, Iq3S, Q4K, Q6K, Q6K]),
        recipe("Q2_K", 10, [Q2K, Q3K, Q4K, Q6K, Q6K]),
        recipe("IQ2_M", 29, [Iq2S, Iq3S, Q4K, Q5K, Q6K]),
        recipe("IQ2_S", 28, [Iq2S, Iq3S, Q4K, Q4K, Q6K]),
        recipe("IQ2_XS", 20, [Iq2Xs, Iq3S, Q4K, Q4K, Q6K]),
        recipe("IQ2_XXS", 19, [Iq2Xxs, Q2K, Q4K, Q4K, Q6K]),
        recipe("IQ1_M", 31, [Iq1M, Iq2Xxs, Q4K, Q4K, Q5K]),
        recipe("IQ1_S", 24, [Iq1S, Iq2Xxs, Q4K, Q4K, Q5K]),
        recipe("TQ2_0", 37, [Tq2_0, Tq2_0, Q4K, Q4K, Q6K]),
        recipe("TQ1_0", 36, [Tq1_0, Tq1_0, Q4K, Q4K, Q6K]),
    ]
};

/// A recipe and what a person wants otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The recipe.
    pub recipe: Recipe,
    /// Format of all tables of experts.
    pub experts: Option<DType>,
    /// Format of all matrices of attention.
    pub attention: Option<DType>,
    /// Formats of tensors whose name fits a pattern of `*` and `?`; the last that fits wins.
    pub tensors: Vec<(String, DType)>,
}

impl Choice {
    /// The recipe of this name, in letters of either case.
    ///
    /// # Errors
    /// There is none.
    pub fn new(recipe: &str) -> Result<Choice> {
        let found = RECIPES
            .iter()
            .find(|it| it.name.eq_ignore_ascii_case(recipe));
        let unknown = || {
            let names: Vec<&str> = RECIPES.iter().map(|it| it.name).collect();
            let names = names.join(", ");
            QuantizeError::Choice(format!("there is no recipe {recipe}; there are {names}"))
        };
        Ok(Choice {
            recipe: *found.ok_or_else(unknown)?,
            experts: None,
            attention: None,
            tensors: Vec::new(),
        })
    }

    /// The format of this name: `q4_k`, `IQ4_XS`, `f16`.
    ///
    /// # Errors
    /// There is none, or no GGUF file has it.
    pub fn format(name: &str) -> Result<DType> {
        let found = DType::from_name(&name.to_ascii_lowercase());
        let writable = |format: &DType| {
            format.is_blocks() || matches!(format, DType::F32 | DType::F16 | DType::Bf16)
        };
        found.filter(writable).ok_or_else(|| {
            let names = DType::BLOCKS.map(DType::name).join(", ");
            let why = format!("there is no format {name}; there are f32, f16, bf16, {names}");
            QuantizeError::Choice(why)
        })
    }

    /// The format of a tensor with rows of any length. `layer` is its own and how many there are.
    pub fn wanted(&self, name: &str, layer: Option<(u32, u32)>) -> DType {
        let role = Role::of(name);
        if role == Role::Exact {
            return DType::F32;
        }
        let named = self
            .tensors
            .iter()
            .rev()
            .find(|(pattern, _)| fits(pattern, name));
        if let Some((_, format)) = named {
            return *format;
        }
        let recipe = &self.recipe;
        let back = match layer {
            Some((layer, layers)) if matters(layer, layers) => recipe.high,
            _ => recipe.base,
        };
        match role {
            Role::Experts => self.experts.unwrap_or(recipe.base),
            Role::ExpertsDown => self.experts.unwrap_or(back),
            Role::Attention => self.attention.unwrap_or(recipe.attention),
            Role::Values => {
                let high = if bits(recipe.high) > bits(recipe.attention) {
                    recipe.high
                } else {
                    recipe.attention
                };
                self.attention.unwrap_or(high)
            }
            Role::Dense => recipe.base,
            Role::DenseDown => back,
            Role::Embedding => recipe.embedding,
            Role::Output => recipe.output,
            Role::Exact => DType::F32,
        }
    }
}

/// Bits a weight, in 256ths.
fn bits(format: DType) -> u64 {
    format.row_bytes(256) * 8
}

/// The layers whose way back to the stream takes the higher format.
fn matters(layer: u32, layers: u32) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= layers - eighth || (layer - eighth) % 3 == 2
}

/// The format for rows of `columns` values: another one of about the size where `format` has
/// blocks that do not fit.
pub(crate) fn fitting(format: DType, columns: u64) -> DType {
    let fits = |format: DType| columns.is_multiple_of(format.block_values());
    if fits(format) {
        return format;
    }
    let smaller = match format {
        DType::Tq1_0 | DType::Tq2_0 => DType::Q4_0,
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        _ => DType::Iq4Nl,
    };
    if fits(smaller) { smaller } else { DType::F16 }
}

/// Whether `name` is what the pattern says: `*` stands for any text, `?` for any one byte.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                // The last star takes one byte more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("blk.?.attn_*", "blk.3.attn_q.weight", true),
            ("blk.?.attn_*", "blk.13.attn_q.weight", false),
            ("*down*", "blk.1.ffn_down_exps.weight", true),
            ("output", "output.weight", false),
            ("*a*b", "aab", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_matters_gets_more_and_what_a_person_says_wins() {
        let mut choice = Choice::new("q4_k_m").unwrap();
        let down = "blk.0.ffn_down_exps.weight";
        assert_eq!(choice.wanted(down, Some((0, 61))), DType::Q6K);
        assert_eq!(choice.wanted(down, Some((8, 61))), DType::Q4K);
        assert_eq!(
            choice.wanted("blk.8.attn_v_b.weight", Some((8, 61))),
            DType::Q6K
        );
        choice.experts = Some(DType::Iq2Xxs);
        assert_eq!(choice.wanted(down, Some((0, 61))), DType::Iq2Xxs);
        choice.tensors = vec![
            ("*down*".into(), DType::Q8_0),
            ("*exps*".into(), DType::Q2K),
        ];
        assert_eq!(choice.wanted(down, Some((0, 61))), DType::Q2K);
        assert_eq!(
            choice.wanted("blk.3.ffn_gate_inp.weight", Some((3, 61))),
            DType::F32
        );
        assert!(Choice::new("Q9").is_err() && Choice::format("f8e4m3").is_err());
    }

    #[test]
    fn rows_that_are_no_whole_blocks_take_smaller_ones() {
        assert_eq!(fitting(DType::Q4K, 128), DType::Q5_0);
        assert_eq!(fitting(DType::Iq2Xxs, 64), DType::Iq4Nl);
        assert_eq!(fitting(DType::Q6K, 7168), DType::Q6K);
        assert_eq!(fitting(DType::Q4_0, 33), DType::F16);
    }
}
