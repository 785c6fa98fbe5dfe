//! Products deeper than what kernels keep at hand at once, whose rows take more than one tile:
//! where a ring of stages comes round, several times and from one tile to the next. Few
//! outputs, so that they cost little.

use hadal_device::{OpKind, flags};

use super::shapes::dense;
use super::{Twist, coded};
use crate::shape::Shape;

/// These shapes of an operation, behind those of codes, some of which are as deep.
pub fn and_coded(op: OpKind) -> Vec<(Shape, Twist)> {
    let all = coded::shapes(op).into_iter().chain(shapes(op));
    let mut list: Vec<_> = all.map(|shape| (shape, Twist::Plain)).collect();
    if matches!(op, OpKind::Linear | OpKind::GateUp) {
        // A row of the weight ends within a block; what is no number begins the next one.
        let shape = Shape {
            flags: flags::CODED,
            ..dense(64, 0, 9, 144, 0)
        };
        list.push((shape, Twist::Codes));
    }
    list
}

fn shapes(op: OpKind) -> Vec<Shape> {
    let many = Shape {
        first: 128,
        after: 1,
        ..dense(133, 2, 9, 600, 4)
    };
    match op {
        OpKind::Linear => vec![
            many,
            Shape {
                flags: flags::RESIDUAL,
                ..many
            },
        ],
        OpKind::GateUp => vec![many],
        OpKind::GroupedLinear | OpKind::GroupedGateUp => vec![Shape {
            experts: 2,
            first: 1,
            top_k: 2,
            ..dense(220, 1, 9, 216, 4)
        }],
        _ => Vec::new(),
    }
}
