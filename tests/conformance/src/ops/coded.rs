//! Rows of E4M3 codes with a scale for each 128 values (`flags::CODED`): what goes into
//! products on FP8 units, and what `act_quant` and `norm_quant` make for them.

use hadal_device::{OpKind, coded_scales, coded_words, e4m3_to_f32, f32_to_e4m3, flags};
use hadal_graph::reference::Tensor;

use super::dense::near;
use super::layout::{Activations, GARBAGE, Rows, StepInputs, params};
use super::shapes::dense;
use super::{OpCase, Operand, Want};
use crate::random::Random;
use crate::shape::Shape;
use crate::stage::POISON;
use crate::tolerance;
use crate::weights;

/// Values that share a scale.
const GROUP: usize = 128;

/// The code of 448, the largest value.
const LARGEST: u8 = 0x7e;

/// The shapes of an operation that knows codes.
pub fn shapes(op: OpKind) -> Vec<Shape> {
    let sizes = match op {
        OpKind::Linear | OpKind::GateUp => vec![
            dense(16, 0, 40, 128, 0),
            Shape {
                first: 128,
                after: 3,
                ..dense(17, 15, 70, 144, 8)
            },
            dense(70, 2, 150, 400, 4),
            // Deep enough for a ring of stages to come round more than once.
            Shape {
                first: 128,
                after: 3,
                ..dense(140, 3, 136, 1680, 4)
            },
            // Tiles of 256 rows and of fewer, and several for a block that stays.
            dense(330, 2, 400, 656, 0),
            // As a vendor's library wants it.
            Shape {
                first: 128,
                after: 3,
                ..dense(77, 3, 144, 512, 4)
            },
        ],
        OpKind::GroupedLinear | OpKind::GroupedGateUp => vec![
            Shape {
                experts: 4,
                top_k: 2,
                ..dense(40, 0, 70, 272, 0)
            },
            Shape {
                experts: 3,
                first: 2,
                after: 1,
                top_k: 2,
                ..dense(70, 3, 33, 144, 4)
            },
            // More rows for an expert than any tile has.
            Shape {
                experts: 2,
                first: 1,
                top_k: 2,
                ..dense(220, 4, 136, 400, 0)
            },
        ],
        OpKind::ActQuant | OpKind::NormQuant => vec![
            dense(3, 1, 128, 0, 4),
            dense(2, 2, 300, 0, 0),
            Shape {
                flags: flags::UE8M0,
                ..dense(3, 0, 520, 0, 8)
            },
        ],
        _ => Vec::new(),
    };
    let residual = |shape: &Shape| Shape {
        flags: flags::RESIDUAL,
        ..*shape
    };
    let more = sizes.iter().filter(|_| op == OpKind::Linear).map(residual);
    let all: Vec<Shape> = sizes.iter().copied().chain(more).collect();
    let coded = |shape: Shape| Shape {
        flags: shape.flags | flags::CODED,
        ..shape
    };
    all.into_iter().map(coded).collect()
}

/// Whether a row of codes and scales lies within the row of numbers that it stands for.
pub fn fits_its_rows(case: &OpCase) -> bool {
    let shape = &case.shape;
    let (values, gap) = match case.op {
        OpKind::ActQuant | OpKind::NormQuant => (shape.n, shape.gap),
        _ => (shape.k, 0),
    };
    shape.flags & flags::CODED == 0 || coded_words(values) <= values + gap
}

/// `x`, as codes if the shape says so: what they stand for, and the words.
pub fn activations(shape: &Shape, x: Activations) -> Activations {
    if shape.flags & flags::CODED == 0 {
        return x;
    }
    let width = x.rows.width;
    let mut values = Vec::new();
    let mut stored = Vec::new();
    for row in x.stored.chunks(width as usize) {
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        for group in row.chunks(GROUP) {
            let most = group
                .iter()
                .fold(1e-4f32, |most, value| most.max(value.abs()));
            let scale = most / 448.0;
            for value in group {
                let code = f32_to_e4m3(value / scale);
                values.push(f64::from(e4m3_to_f32(code)) * f64::from(scale));
                bytes.push(code);
            }
            scales.push(scale.to_bits());
        }
        stored.extend(words(&bytes, &scales, width).map(f32::from_bits));
    }
    Activations {
        values: Tensor {
            shape: x.values.shape.clone(),
            data: values,
        },
        stored,
        rows: x.rows,
    }
}

/// A row of `width` words with these codes and scales; what lies between and after is garbage.
fn words(codes: &[u8], scales: &[u32], width: u32) -> impl Iterator<Item = u32> {
    let n = codes.len() as u32;
    assert!(
        coded_words(n) <= width,
        "the codes of {n} values fit their row"
    );
    let mut row = vec![GARBAGE; width as usize];
    for (word, four) in row.iter_mut().zip(codes.chunks(4)) {
        *word = word_of(four, GARBAGE);
    }
    row[coded_scales(n) as usize..][..scales.len()].copy_from_slice(scales);
    row.into_iter()
}

/// Up to four codes as a word, above them what is in `rest`.
fn word_of(codes: &[u8], rest: u32) -> u32 {
    let mut bytes = rest.to_le_bytes();
    bytes[..codes.len()].copy_from_slice(codes);
    u32::from_le_bytes(bytes)
}

/// Values that are codes times a power of two, with a largest one in each group, so that the
/// scale and every code are exact.
pub fn act_quant(case: &OpCase, random: &mut Random) -> (hadal_device::Params, Vec<Operand>) {
    let shape = &case.shape;
    let y = Rows::of(shape, shape.n);
    let (mut stored, mut want) = (Vec::new(), y.untouched());
    for r in 0..shape.real {
        let mut codes = Vec::new();
        for group in 0..(shape.n as usize).div_ceil(GROUP) {
            let count = GROUP.min(shape.n as usize - group * GROUP);
            let scale = [0.125f32, 32.0, 1.0][group % 3];
            let largest = random.below(count as u32) as usize;
            for i in 0..count {
                // Minus zero may come out as zero.
                let code = match (random.bits() as u8, i == largest) {
                    (_, true) => LARGEST,
                    (0x80, _) | (0x7f, _) | (0xff, _) => 1,
                    (code, _) => code,
                };
                codes.push(code);
                stored.push(e4m3_to_f32(code) * scale);
            }
            let at = coded_scales(shape.n) + group as u32;
            want[y.at(r, at)] = Want::Word(scale.to_bits());
        }
        for (word, four) in (0..).zip(codes.chunks(4)) {
            want[y.at(r, word)] = Want::Word(word_of(four, POISON));
        }
    }
    let x = Activations::from(stored, Rows::of(shape, shape.n));
    let operands = vec![
        StepInputs::count(shape),
        x.operand(),
        Operand::Output("codes and scales", want),
    ];
    (params(shape, x.rows, y), operands)
}

/// A row of codes times powers of two, its groups' scales, behind a norm that divides by `FACTOR`.
struct Quantised {
    codes: Vec<u8>,
    scales: Vec<f32>,
}

/// What the norms of `norm_quant` divide by.
const FACTOR: f32 = 4.0;

impl Quantised {
    /// Small enough that the norm's mean of squares stays below `FACTOR` squared. Each group has
    /// the code `largest` and none above.
    fn random(random: &mut Random, n: usize, largest: u8) -> Quantised {
        let mut codes: Vec<u8> = (0..n)
            .map(|_| match random.below(0x80) as u8 {
                code if code > largest => 1,
                code => code,
            })
            .collect();
        for group in codes.chunks_mut(GROUP) {
            group[random.below(group.len() as u32) as usize] = largest;
        }
        let scales = (0..n.div_ceil(GROUP)).map(|group| [2048.0, 32768.0, 8192.0][group % 3]);
        let scales = scales.map(f32::recip).collect();
        Quantised { codes, scales }
    }

    fn value(&self, i: usize) -> f32 {
        e4m3_to_f32(self.codes[i]) * self.scales[i / GROUP]
    }
}

/// Rows whose norms are codes times a power of two but for roundings, which lead to no other code.
/// All rows have the same magnitudes, so that with one `eps` all norms divide by `FACTOR`; their
/// signs differ. Weights are powers of two.
pub fn norm_quant(case: &OpCase, random: &mut Random) -> (hadal_device::Params, Vec<Operand>) {
    let shape = &case.shape;
    let n = shape.n as usize;
    // The power of two above 448 times one is another where roundings add to it.
    let largest = match shape.flags & flags::UE8M0 {
        0 => LARGEST,
        _ => LARGEST - 2,
    };
    let made = Quantised::random(random, n, largest);
    let factors: Vec<f32> = (0..n)
        .map(|_| [0.5, 1.0, -1.0, 2.0][random.below(4) as usize])
        .collect();
    let before = |i: usize| made.value(i) * FACTOR / factors[i];
    let mean = (0..n).map(|i| f64::from(before(i)).powi(2)).sum::<f64>() / n as f64;
    let (mut stored, y) = (Vec::new(), Rows::of(shape, shape.n));
    let (mut want, share) = (y.untouched(), tolerance::share(case.op, shape.n));
    for r in 0..shape.real {
        // A zero has no sign.
        let minus: Vec<bool> = (0..n)
            .map(|i| random.below(2) == 1 && made.codes[i] != 0)
            .collect();
        let signed = |i: usize, value: f32| if minus[i] { -value } else { value };
        stored.extend((0..n).map(|i| signed(i, before(i))));
        if shape.flags & flags::CODED == 0 {
            for i in 0..n {
                let value = f64::from(signed(i, made.value(i)));
                want[y.at(r, i as u32)] = near(value, share * value.abs());
            }
            continue;
        }
        let codes: Vec<u8> = (0..n)
            .map(|i| made.codes[i] | if minus[i] { 0x80 } else { 0 })
            .collect();
        for (word, four) in (0..).zip(codes.chunks(4)) {
            want[y.at(r, word)] = Want::Word(word_of(four, POISON));
        }
        for (at, scale) in (coded_scales(shape.n)..).zip(&made.scales) {
            let scale = f64::from(*scale);
            want[y.at(r, at)] = near(scale, share * scale);
        }
    }
    let x = Activations::from(stored, Rows::of(shape, shape.n));
    let params = hadal_device::Params {
        eps: (f64::from(FACTOR).powi(2) - mean) as f32,
        ..params(shape, x.rows, y)
    };
    let bytes = factors
        .iter()
        .flat_map(|w| weights::stored(case.weight, *w));
    let operands = vec![
        StepInputs::count(shape),
        x.operand(),
        Operand::Stored(bytes.collect()),
        Operand::Output("codes and scales, or values", want),
    ];
    (params, operands)
}
