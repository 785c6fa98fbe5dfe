//! Sizes of DeepSeek-V3, by operation: its inputs a row, heads and latents, but only a part of
//! the outputs and experts, which the evaluator would take minutes for.

use hadal_device::{OpKind, flags};

use super::shapes::{NONE, dense};
use crate::shape::Shape;

/// DeepSeek-V3 as it decodes: one token, or one with its draft.
pub(super) fn decode(op: OpKind) -> Vec<Shape> {
    let attention = Shape {
        real: 1,
        heads: 128,
        latent: 512,
        rope: 64,
        context: 1000,
        ..NONE
    };
    match op {
        OpKind::Embed => vec![dense(2, 0, 7168, 16, 0)],
        OpKind::Norm | OpKind::NormQuant => vec![dense(1, 0, 7168, 0, 0), dense(2, 0, 1536, 0, 0)],
        OpKind::Linear => vec![
            Shape {
                flags: flags::RESIDUAL,
                ..dense(1, 0, 256, 16384, 0)
            },
            dense(1, 0, 576, 7168, 0),
            Shape {
                first: 1024,
                ..dense(2, 0, 512, 1536, 0)
            },
        ],
        OpKind::GateUp => vec![dense(1, 0, 256, 7168, 0)],
        OpKind::HeadLinear => vec![
            Shape {
                heads: 16,
                first: 128,
                ..dense(1, 0, 128, 512, 0)
            },
            Shape {
                heads: 16,
                after: 128,
                flags: flags::TRANSPOSED,
                ..dense(2, 0, 512, 128, 0)
            },
        ],
        OpKind::AttendLatent => vec![
            attention,
            Shape {
                real: 2,
                heads: 16,
                ..attention
            },
        ],
        OpKind::ExpertLinear => {
            vec![Shape {
                experts: 16,
                top_k: 8,
                ..dense(1, 0, 512, 2048, 0)
            }]
        }
        OpKind::ExpertGateUp => vec![Shape {
            experts: 16,
            top_k: 8,
            flags: flags::ROW_PER_TOKEN,
            ..dense(1, 0, 128, 7168, 0)
        }],
        OpKind::Argmax => vec![dense(1, 0, 129_280, 0, 0)],
        _ => Vec::new(),
    }
}

/// DeepSeek-V3 as it reads a prompt.
pub(super) fn prefill(op: OpKind) -> Vec<Shape> {
    match op {
        OpKind::Linear => vec![dense(70, 26, 160, 7168, 0)],
        OpKind::GateUp => vec![dense(70, 26, 96, 7168, 0)],
        OpKind::HeadLinear => vec![Shape {
            heads: 16,
            after: 128,
            ..dense(34, 0, 128, 512, 0)
        }],
        OpKind::AttendLatent => vec![Shape {
            real: 18,
            heads: 16,
            latent: 512,
            rope: 64,
            context: 600,
            ..NONE
        }],
        OpKind::GroupedLinear => vec![Shape {
            experts: 8,
            top_k: 4,
            ..dense(60, 4, 160, 2048, 0)
        }],
        OpKind::GroupedGateUp => vec![Shape {
            experts: 8,
            top_k: 4,
            ..dense(60, 4, 64, 7168, 0)
        }],
        OpKind::ExpertOffsets => vec![Shape {
            real: 512,
            experts: 256,
            top_k: 8,
            ..NONE
        }],
        OpKind::Route => vec![Shape {
            real: 512,
            experts: 256,
            groups: 8,
            kept: 4,
            top_k: 8,
            flags: flags::BIAS | flags::NORMALISE,
            ..NONE
        }],
        _ => Vec::new(),
    }
}
