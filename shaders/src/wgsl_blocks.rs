//! Block formats of GGUF in WGSL: what the snippets `block_*.wgsl` see defined for each, and
//! the patterns that some choose from.

use hadal_blocks::grids;
use hadal_device::{DType, DeviceInfo, Launch, Problem, flags};

/// The constant of a launch that names the format, as the bits of `flags` do.
pub const FORMAT: &str = "FORMAT";

/// A launch of a kernel that reads block formats: `launch` with the format.
pub fn launched(
    launch: fn(&Problem, &DeviceInfo) -> Launch,
    problem: &Problem,
    info: &DeviceInfo,
) -> Launch {
    let mut launch = launch(problem, info);
    let bits = flags::format_bits(problem.weight);
    launch.constants.push((FORMAT, bits >> flags::FORMAT_SHIFT));
    launch
}

/// The format that the constants of a launch name.
pub fn format_in(constants: &[(&'static str, u32)]) -> Option<DType> {
    let (_, number) = constants.iter().find(|(name, _)| *name == FORMAT)?;
    flags::format_of(number.checked_shl(flags::FORMAT_SHIFT)?)
}

/// Definitions of a format: its name, and what it has in common with others.
pub fn defines(format: DType) -> &'static [&'static str] {
    match format {
        DType::Q4_0 => &["Q4_0", "NIBBLES", "NIBBLES_AT=2", "ONE_SCALE"],
        DType::Q4_1 => &["Q4_1", "NIBBLES", "NIBBLES_AT=4", "MINIMUM"],
        DType::Q5_0 => &["Q5_0", "NIBBLES", "NIBBLES_AT=6", "ONE_SCALE"],
        DType::Q5_1 => &["Q5_1", "NIBBLES", "NIBBLES_AT=8", "MINIMUM"],
        DType::Q8_0 => &["Q8_0", "ONE_SCALE"],
        DType::Q2K => &["Q2_K", "TWO_BITS"],
        DType::Q3K => &["Q3_K", "TWO_BITS"],
        DType::Q4K => &["Q4_K", "SIX_BITS"],
        DType::Q5K => &["Q5_K", "SIX_BITS"],
        DType::Q6K => &["Q6_K"],
        DType::Iq2Xxs => &["IQ2_XXS", "GRIDS", "EIGHTS"],
        DType::Iq2Xs => &["IQ2_XS", "GRIDS", "EIGHTS", "FOURTHS"],
        DType::Iq3Xxs => &["IQ3_XXS", "GRIDS"],
        DType::Iq1S => &["IQ1_S", "GRIDS", "EIGHTS", "ONES"],
        DType::Iq4Nl => &["IQ4_NL", "NIBBLES", "NIBBLES_AT=2", "ONE_SCALE"],
        DType::Iq3S => &["IQ3_S", "GRIDS", "FOURTHS"],
        DType::Iq2S => &["IQ2_S", "GRIDS", "EIGHTS", "FOURTHS"],
        DType::Iq4Xs => &["IQ4_XS"],
        DType::Iq1M => &["IQ1_M", "GRIDS", "EIGHTS", "ONES"],
        DType::Tq1_0 => &["TQ1_0"],
        DType::Tq2_0 => &["TQ2_0", "TWO_BITS"],
        DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::U32 => &[],
    }
}

/// Constants of a format: its sizes, and how many quads of words its patterns take.
pub fn constants(format: DType) -> String {
    format!(
        "const BLOCK_VALUES: u32 = {}u;\nconst BLOCK_BYTES: u32 = {}u;\nconst PATTERN_QUADS: u32 = {}u;\n",
        format.block_values(),
        format.block_bytes(),
        patterns(format).len() / 8
    )
}

/// The patterns of a format, which follow the parameters of its kernels: tables in a kernel's
/// text are copied by each invocation, which takes drivers minutes to compile.
pub fn patterns(format: DType) -> &'static [u16] {
    match format {
        DType::Iq2Xxs => &grids::IQ2XXS,
        DType::Iq2Xs => &grids::IQ2XS,
        DType::Iq2S => &grids::IQ2S,
        DType::Iq3Xxs => &grids::IQ3XXS,
        DType::Iq3S => &grids::IQ3S,
        DType::Iq1S | DType::Iq1M => &grids::IQ1S,
        _ => &[],
    }
}
