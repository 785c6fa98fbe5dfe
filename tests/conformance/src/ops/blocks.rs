//! Weights in the block formats of GGUF: rows of one block and of several, rows that begin at
//! any even byte, every way to multiply.

use hadal_device::{DType, OpKind, flags};

use super::shapes::{NONE, dense};
use super::{OpCase, Twist};
use crate::Profile;
use crate::shape::Shape;

/// Formats that stand for the others where an operation only differs in how it walks: 32
/// values a block with a minimum, rows of odd words, scales of six bits, patterns with signs.
const FEW: [DType; 5] = [
    DType::Q4_1,
    DType::Q8_0,
    DType::Q3K,
    DType::Q4K,
    DType::Iq2Xxs,
];

/// The cases of an operation that reads matrices.
pub fn cases(op: OpKind, profile: Profile) -> Vec<OpCase> {
    let formats: &[DType] = match op {
        OpKind::Linear | OpKind::Embed => &DType::BLOCKS,
        OpKind::GateUp
        | OpKind::HeadLinear
        | OpKind::UnpackHeads
        | OpKind::AttendExpanded
        | OpKind::GroupedLinear
        | OpKind::GroupedGateUp
        | OpKind::ExpertLinear
        | OpKind::ExpertGateUp => &FEW,
        _ => &[],
    };
    let of = |weight: &DType| {
        let weight = *weight;
        let block = weight.block_values() as u32;
        let mut shapes = shapes(op, block, profile);
        if op == OpKind::Linear && FEW.contains(&weight) {
            shapes.extend([
                residual(dense(1, 0, 35, 3 * block, 5)),
                residual(dense(20, 12, 70, 3 * block, 0)),
            ]);
        }
        shapes.into_iter().map(move |shape| OpCase {
            op,
            weight,
            shape,
            twist: Twist::Plain,
        })
    };
    formats.iter().flat_map(of).collect()
}

fn residual(shape: Shape) -> Shape {
    Shape {
        flags: flags::RESIDUAL,
        ..shape
    }
}

/// Shapes of products, with and without what can be added to them.
fn products(block: u32, profile: Profile) -> Vec<Shape> {
    let mut list = vec![
        dense(1, 0, 35, 3 * block, 5),
        residual(Shape {
            first: 128,
            after: 3,
            ..dense(5, 3, 41, block, 4)
        }),
        dense(20, 12, 70, 3 * block, 0),
    ];
    if profile != Profile::Core {
        list.push(dense(1, 0, 64, 7168, 0));
    }
    list
}

/// Shapes whose rows are multiples of `block` values.
fn shapes(op: OpKind, block: u32, profile: Profile) -> Vec<Shape> {
    match op {
        OpKind::Embed => vec![Shape {
            first: 7,
            ..dense(17, 15, 3 * block, 30, 5)
        }],
        OpKind::Linear => products(block, profile),
        OpKind::GateUp => vec![
            dense(1, 0, 33, block, 0),
            Shape {
                first: 3,
                after: 126,
                ..dense(17, 15, 70, 3 * block, 8)
            },
        ],
        OpKind::HeadLinear => vec![
            Shape {
                heads: 3,
                first: 24,
                after: 1,
                ..dense(3, 1, 20, 3 * block, 4)
            },
            Shape {
                heads: 2,
                after: 96,
                flags: flags::TRANSPOSED,
                ..dense(6, 2, 3 * block, 32, 0)
            },
        ],
        OpKind::UnpackHeads => [0, flags::TRANSPOSED]
            .map(|flags| Shape {
                flags,
                ..dense(3, 1, 35, 2 * block, 4)
            })
            .to_vec(),
        OpKind::AttendExpanded => vec![Shape {
            real: 3,
            spare: 1,
            context: 65,
            gap: 5,
            heads: 5,
            latent: block,
            rope: 18,
            nope: 33,
            value: 29,
            ..NONE
        }],
        // Enough rows an expert for tiles; table entries that are no whole words.
        _ => vec![Shape {
            experts: 3,
            first: 2,
            after: 1,
            top_k: 2,
            flags: match op {
                OpKind::ExpertGateUp => flags::ROW_PER_TOKEN,
                _ => 0,
            },
            ..dense(40, 3, 33, 3 * block, 4)
        }],
    }
}

/// Whether the rows of a case's weight are whole blocks.
pub fn are_whole(case: &OpCase) -> bool {
    let transposed = case.shape.flags & flags::TRANSPOSED != 0;
    let width = match case.op {
        OpKind::Embed => case.shape.n,
        OpKind::HeadLinear if transposed => case.shape.n,
        OpKind::AttendExpanded => case.shape.latent,
        _ => case.shape.k,
    };
    u64::from(width).is_multiple_of(case.weight.block_values())
}
