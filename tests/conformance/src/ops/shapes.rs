//! The awkward sizes: one, primes, a value past a power of two or past a scale block, rows
//! that no vector divides, gaps that break alignment. Those of DeepSeek-V3 are in `v3`.

use hadal_device::{DType, OpKind, flags};

use super::{Twist, deep, parts, v3};
use crate::Profile;
use crate::shape::Shape;

/// No size at all.
pub(super) const NONE: Shape = Shape {
    real: 0,
    spare: 0,
    n: 0,
    k: 0,
    heads: 0,
    nope: 0,
    rope: 0,
    value: 0,
    latent: 0,
    context: 0,
    experts: 0,
    groups: 0,
    kept: 0,
    top_k: 0,
    first: 0,
    after: 0,
    gap: 0,
    flags: 0,
};

const PLAIN: [DType; 1] = [DType::F32];
const UNSCALED: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];
const STORED: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3];

/// Formats of an operation's weight; `F32` alone where it has none.
pub fn formats(op: OpKind) -> &'static [DType] {
    match op {
        OpKind::Norm | OpKind::NormQuant | OpKind::Route | OpKind::LatentAppend => &UNSCALED,
        OpKind::Embed
        | OpKind::Linear
        | OpKind::NormLinear
        | OpKind::GateUp
        | OpKind::HeadLinear
        | OpKind::UnpackHeads
        | OpKind::AttendExpanded
        | OpKind::GroupedLinear
        | OpKind::GroupedGateUp
        | OpKind::ExpertLinear
        | OpKind::ExpertGateUp => &STORED,
        _ => &PLAIN,
    }
}

type Listed = Vec<(Shape, Twist)>;

fn plain(shapes: &[Shape]) -> Listed {
    shapes.iter().map(|shape| (*shape, Twist::Plain)).collect()
}

/// `rows x n x k` with `spare` rows and a gap.
pub(super) const fn dense(real: u32, spare: u32, n: u32, k: u32, gap: u32) -> Shape {
    Shape {
        real,
        spare,
        n,
        k,
        gap,
        ..NONE
    }
}

/// The shapes of a profile for one operation, and what each looks at.
pub fn shapes(op: OpKind, profile: Profile) -> Listed {
    let mut list = [core(op), deep::and_coded(op)].concat();
    if profile != Profile::Core {
        list.extend(plain(&v3::decode(op)));
    }
    if profile == Profile::V3Full {
        list.extend(plain(&v3::prefill(op)));
    }
    list
}

fn core(op: OpKind) -> Listed {
    match op {
        OpKind::Embed => plain(&[
            dense(1, 0, 1, 1, 0),
            Shape {
                first: 128,
                after: 3,
                ..dense(3, 1, 72, 20, 4)
            },
            Shape {
                first: 7,
                ..dense(17, 15, 130, 300, 5)
            },
        ]),
        OpKind::Norm => plain(&[
            dense(1, 0, 1, 0, 0),
            dense(3, 1, 40, 0, 4),
            dense(5, 3, 130, 0, 5),
            dense(2, 0, 2052, 0, 0),
        ]),
        OpKind::Linear => linear(),
        OpKind::NormLinear => norm_linear(),
        OpKind::GateUp => products(),
        OpKind::HeadLinear => heads(),
        OpKind::UnpackHeads => plain(&unpacked()),
        OpKind::Rope | OpKind::CacheAppend | OpKind::LatentAppend | OpKind::AttendExpanded => {
            plain(&positions(op))
        }
        OpKind::AttendLatent => attend_latent(),
        OpKind::AttendPart | OpKind::AttendMerge => plain(&parts::shapes()),
        OpKind::Route => route(),
        OpKind::ExpertOffsets | OpKind::Permute | OpKind::Combine => sorting(op),
        OpKind::GroupedLinear | OpKind::GroupedGateUp => experts(0),
        OpKind::ExpertLinear | OpKind::ExpertGateUp => {
            [experts(0), experts(flags::ROW_PER_TOKEN)].concat()
        }
        OpKind::SwiGlu | OpKind::Add => plain(&values()),
        OpKind::Gather => plain(&values()),
        OpKind::Copy => plain(&[
            Shape {
                heads: 1,
                ..dense(1, 0, 1, 0, 0)
            },
            Shape {
                heads: 3,
                first: 5,
                after: 2,
                ..dense(3, 2, 19, 0, 5)
            },
            Shape {
                heads: 8,
                first: 64,
                ..dense(5, 0, 128, 0, 4)
            },
        ]),
        OpKind::Argmax => argmax(),
        OpKind::ActQuant | OpKind::NormQuant => plain(&[
            dense(1, 0, 1, 0, 0),
            dense(3, 1, 128, 0, 4),
            dense(2, 2, 300, 0, 5),
            Shape {
                flags: flags::UE8M0,
                ..dense(3, 0, 520, 0, 0)
            },
        ]),
    }
}

fn argmax() -> Listed {
    let sizes = [
        dense(1, 0, 1, 0, 0),
        dense(3, 1, 65, 0, 5),
        dense(2, 2, 3001, 0, 0),
    ];
    let mut list = plain(&sizes);
    for twist in [Twist::Ties, Twist::Nan] {
        list.extend(sizes[1..].iter().map(|shape| (*shape, twist)));
    }
    list
}

fn values() -> [Shape; 3] {
    [
        dense(1, 0, 1, 0, 0),
        dense(3, 2, 72, 0, 4),
        dense(5, 3, 259, 0, 5),
    ]
}

/// Shapes of products: a single value; odd everything; shards; vectors; many rows.
const PRODUCTS: [Shape; 8] = [
    dense(1, 0, 1, 1, 0),
    dense(1, 0, 65, 131, 5),
    Shape {
        first: 128,
        after: 3,
        ..dense(3, 1, 40, 72, 4)
    },
    dense(1, 0, 35, 528, 4),
    dense(2, 0, 33, 400, 0),
    dense(5, 3, 100, 272, 4),
    Shape {
        first: 3,
        after: 126,
        ..dense(17, 15, 70, 144, 8)
    },
    dense(70, 2, 150, 160, 0),
];

fn products() -> Listed {
    let mut list = plain(&PRODUCTS);
    list.push((dense(2, 0, 9, 160, 0), Twist::Codes));
    list.push((dense(6, 0, 9, 144, 0), Twist::Codes));
    list
}

fn linear() -> Listed {
    let mut list = products();
    let residual = |shape: &Shape| Shape {
        flags: flags::RESIDUAL,
        ..*shape
    };
    let added: Vec<Shape> = PRODUCTS[1..].iter().map(residual).collect();
    list.extend(plain(&added));
    // As a vendor's library wants it.
    let whole = Shape {
        first: 128,
        after: 3,
        ..dense(77, 3, 144, 264, 4)
    };
    list.extend(plain(&[whole, residual(&whole)]));
    list
}

fn norm_linear() -> Listed {
    let bf16 = |shape: &Shape| Shape {
        flags: flags::NORM_BF16,
        ..*shape
    };
    let mut list = plain(&PRODUCTS[..6]);
    list.extend(
        PRODUCTS[..6]
            .iter()
            .map(|shape| (bf16(shape), Twist::Plain)),
    );
    list.push((dense(2, 0, 9, 160, 0), Twist::Codes));
    list
}

fn heads() -> Listed {
    let sizes = [
        Shape {
            heads: 1,
            ..dense(1, 0, 1, 1, 0)
        },
        Shape {
            heads: 3,
            first: 24,
            after: 1,
            ..dense(3, 1, 20, 48, 4)
        },
        Shape {
            heads: 2,
            first: 5,
            ..dense(9, 0, 130, 17, 5)
        },
        Shape {
            heads: 2,
            after: 96,
            ..dense(6, 2, 32, 272, 0)
        },
    ];
    let mut list = plain(&sizes);
    list.push((
        Shape {
            heads: 2,
            ..dense(2, 0, 8, 32, 0)
        },
        Twist::Codes,
    ));
    let transposed = |(shape, twist): (Shape, Twist)| {
        let turned = Shape {
            n: shape.k,
            k: shape.n,
            flags: flags::TRANSPOSED,
            ..shape
        };
        (turned, twist)
    };
    // A NaN code in a row of the transposed slice would reach every output.
    let more: Listed = plain(&sizes).into_iter().map(transposed).collect();
    list.extend(more);
    list
}

fn positions(op: OpKind) -> Vec<Shape> {
    let at = |real: u32, spare: u32, context: u32, gap: u32| Shape {
        real,
        spare,
        context,
        gap,
        ..NONE
    };
    let sizes = [
        at(1, 0, 1, 0),
        at(1, 0, 200, 4),
        at(3, 1, 65, 5),
        at(20, 12, 130, 4),
    ];
    let with = |shape: &Shape, index: usize| {
        let [heads, latent, rope, nope, value] = [
            [1, 4, 2, 3, 2],
            [8, 64, 16, 24, 40],
            [5, 130, 18, 33, 29],
            [4, 48, 8, 16, 16],
        ][index];
        match op {
            OpKind::Rope => Shape {
                heads,
                rope,
                nope,
                ..*shape
            },
            OpKind::LatentAppend => Shape {
                latent,
                rope,
                ..*shape
            },
            OpKind::CacheAppend => Shape {
                n: latent + rope,
                ..*shape
            },
            OpKind::AttendLatent => Shape {
                heads,
                latent,
                rope,
                ..*shape
            },
            _ => Shape {
                heads,
                latent,
                rope,
                nope,
                value,
                ..*shape
            },
        }
    };
    sizes.iter().enumerate().map(|(i, s)| with(s, i)).collect()
}

/// `real` heads with `n` weight rows of `k` values.
fn unpacked() -> Vec<Shape> {
    let sizes = [
        dense(1, 0, 1, 1, 0),
        dense(3, 1, 33, 20, 4),
        dense(5, 3, 70, 130, 5),
    ];
    let transposed = |shape: Shape| Shape {
        flags: flags::TRANSPOSED,
        ..shape
    };
    [sizes, sizes.map(transposed)].concat()
}

fn attend_latent() -> Listed {
    let wide = |context, heads, latent, rope| Shape {
        real: 2,
        context,
        heads,
        latent,
        rope,
        ..NONE
    };
    let some = positions(OpKind::AttendLatent);
    let mut list = plain(&some);
    // The true width, and several blocks of positions.
    list.extend(plain(&[wide(33, 3, 512, 64), wide(700, 6, 16, 4)]));
    // Sixty-four queries and more: heads of sixteen rows, not a power of two, the true width.
    let mut many = wide(70, 4, 32, 8);
    (many.real, many.spare, many.gap) = (31, 5, 4);
    list.extend(plain(&[many, wide(130, 40, 64, 16), wide(65, 64, 512, 64)]));
    // Where products may be rounded, too, and of a width that is no whole eights.
    let rough = [many, wide(130, 40, 64, 12), wide(200, 64, 512, 64)].map(Shape::rough);
    list.extend(plain(&rough));
    // A NaN that only one of the tokens sees.
    let seen_by_one = some[2..].iter().chain([&many, &rough[0]]);
    list.extend(seen_by_one.map(|shape| (*shape, Twist::Nan)));
    list
}

fn route() -> Listed {
    let shape = |real, experts, groups, kept, top_k, flags, gap| Shape {
        real,
        experts,
        groups,
        kept,
        top_k,
        flags,
        gap,
        ..NONE
    };
    let v3 = flags::BIAS | flags::NORMALISE;
    let v2 = flags::SOFTMAX | flags::GROUP_MAX;
    let sizes = [
        shape(1, 1, 1, 1, 1, 0, 0),
        shape(17, 256, 8, 4, 8, v3, 0),
        shape(5, 256, 8, 4, 8, 0, 4),
        shape(3, 16, 4, 2, 4, v3, 5),
        shape(9, 64, 1, 1, 6, v3, 0),
        shape(5, 384, 1, 1, 8, flags::BIAS, 0),
        shape(7, 160, 8, 3, 6, v2, 5),
        shape(3, 66, 1, 1, 6, flags::SOFTMAX | flags::NORMALISE, 0),
    ];
    let mut list = plain(&sizes);
    list[1].0.spare = 15;
    for twist in [Twist::Ties, Twist::Nan] {
        list.extend([sizes[1], sizes[2], sizes[4]].map(|shape| (shape, twist)));
    }
    list
}

fn sorting(op: OpKind) -> Listed {
    let shape = |real, spare, experts, top_k, n, gap| Shape {
        real,
        spare,
        experts,
        top_k,
        n: if op == OpKind::ExpertOffsets { 0 } else { n },
        gap: if op == OpKind::ExpertOffsets { 0 } else { gap },
        ..NONE
    };
    let sizes = [
        shape(1, 0, 1, 1, 1, 0),
        shape(3, 1, 16, 4, 24, 4),
        shape(33, 31, 256, 8, 19, 5),
        shape(21, 0, 10, 3, 130, 0),
    ];
    let mut list = plain(&sizes);
    match op {
        OpKind::ExpertOffsets => {
            list.extend(sizes[1..].iter().map(|shape| (*shape, Twist::Crowded)));
        }
        OpKind::Combine => {
            let placed = |shape: &Shape| Shape {
                flags: flags::PLACED,
                ..*shape
            };
            list.extend(plain(&sizes.each_ref().map(placed)));
        }
        _ => {}
    }
    list
}

fn experts(flags: u32) -> Listed {
    let sizes = [
        Shape {
            experts: 1,
            top_k: 1,
            flags,
            ..dense(1, 0, 1, 1, 0)
        },
        Shape {
            experts: 4,
            first: 2,
            after: 3,
            top_k: 3,
            flags,
            ..dense(3, 1, 20, 72, 4)
        },
        Shape {
            experts: 3,
            first: 1,
            top_k: 2,
            flags,
            ..dense(7, 0, 31, 131, 5)
        },
        Shape {
            experts: 5,
            after: 1,
            top_k: 4,
            flags,
            ..dense(9, 7, 40, 144, 0)
        },
        Shape {
            experts: 2,
            top_k: 2,
            flags,
            ..dense(34, 0, 70, 160, 0)
        },
    ];
    let mut list = plain(&sizes);
    // Rows long enough for a subgroup of 32 to read together.
    list.push((
        Shape {
            experts: 3,
            top_k: 2,
            flags,
            ..dense(3, 0, 20, 528, 0)
        },
        Twist::Plain,
    ));
    list.push((sizes[3], Twist::Crowded));
    list.push((
        Shape {
            spare: 0,
            n: 9,
            ..sizes[3]
        },
        Twist::Codes,
    ));
    list
}
