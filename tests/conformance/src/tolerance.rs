//! How far a kernel may be off: one table, derived from formats and lengths of sums.
//!
//! A sum of `k` products of `f32` values, in any order, is off by about `sqrt(k)` roundings
//! of the sum of magnitudes (Higham and Mary, "A new approach to probabilistic rounding
//! error analysis", 2019: `lambda sqrt(k) u` with probability near 1); four of those are
//! allowed here, and some roundings for what is not a sum. Stored formats (F16, BF16, E4M3
//! times scale) decode exactly into `f32`, so they cost nothing but the scale's rounding.

use hadal_device::{OpKind, flags};

use crate::shape::Shape;

/// What one rounding of `f32` loses, relatively.
pub const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// What a value of a small model may be off by, as a share of its tensor's largest: a few layers
/// deep, each some thousand roundings.
pub const MODEL: f64 = 2e-5;

/// The least normal number of `f32`: what is below may be taken for zero.
pub const FLUSHED: f64 = f32::MIN_POSITIVE as f64;

/// Allowed standard deviations of a sum's rounding.
const SPREAD: f64 = 4.0;

/// Roundings of an operation besides those of its sum: functions (WGSL allows `exp` three
/// units and two more for each power, `sqrt` and division 2.5), scales, conversions.
const ROUNDINGS: &[(OpKind, f64)] = &[
    (OpKind::Embed, 2.0),
    (OpKind::Norm, 16.0),
    (OpKind::Linear, 16.0),
    (OpKind::NormLinear, 32.0),
    (OpKind::GateUp, 48.0),
    (OpKind::HeadLinear, 16.0),
    (OpKind::UnpackHeads, 2.0),
    (OpKind::Rope, 4.0),
    (OpKind::LatentAppend, 20.0),
    (OpKind::AttendLatent, 64.0),
    (OpKind::AttendPart, 64.0),
    (OpKind::AttendMerge, 64.0),
    (OpKind::AttendExpanded, 64.0),
    (OpKind::Route, 64.0),
    (OpKind::GroupedLinear, 16.0),
    (OpKind::GroupedGateUp, 48.0),
    (OpKind::ExpertLinear, 16.0),
    (OpKind::ExpertGateUp, 48.0),
    (OpKind::Combine, 4.0),
    (OpKind::SwiGlu, 32.0),
    (OpKind::Add, 2.0),
    (OpKind::ActQuant, 4.0),
    (OpKind::NormQuant, 20.0),
];

/// Everything else moves values or decides, and must be exact.
fn roundings(op: OpKind) -> f64 {
    let found = ROUNDINGS.iter().find(|(known, _)| *known == op);
    found.map_or(0.0, |(_, roundings)| *roundings)
}

/// What FP8 units lose of a sum of 128 products, of the sum of their magnitudes. They take 32 at a
/// time and the sum so far, and keep thirteen bits behind the largest of these (DeepSeek-V3 report,
/// section 3.5.2): each of the 33 loses up to 2^-13 of it, and codes are such that few products
/// are most of the sum. Simulated on cases of this suite it was 2^-10.9 at most, and 2^-9.3 where all
/// have one sign.
const FP8_UNITS: f64 = 1.0 / (1u64 << 9) as f64;

/// [`share`] of a product over `shape.k` values, which may be codes.
pub fn product(op: OpKind, shape: &Shape) -> f64 {
    let units = match shape.flags & flags::CODED {
        0 => 0.0,
        _ => FP8_UNITS,
    };
    share(op, shape.k) + units
}

/// What a number loses at most when it is rounded to BF16, relatively.
pub const BF16: f64 = 1.0 / (1u64 << 9) as f64;

/// What rounding both factors of its products to BF16 does to a sum of them, where one is below 1, and
/// `norm` is the square root of the sum of the others' squares.
pub fn rounded_sum(norm: f64) -> f64 {
    SPREAD * BF16 * norm
}

/// What a result of `op` over a sum of `terms` may be off by, as a share of the sum of
/// magnitudes.
pub fn share(op: OpKind, terms: u32) -> f64 {
    match roundings(op) {
        0.0 => 0.0,
        roundings => UNIT * (roundings + SPREAD * f64::from(terms).sqrt()),
    }
}
