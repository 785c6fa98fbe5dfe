//! The numbers of the products, and what they come to.

use hadal_device::{Body, Params, coded_scales, coded_words, flags};
use hadal_gpucpp::Vendor;

/// A bucket of rows of which some are there, and a shard that begins at the second block of
/// scales.
pub const ROWS: u32 = 64;
pub const REAL: u32 = 50;
pub const DEPTH: u32 = 512;
pub const FIRST: u32 = 128;
pub const OUTPUTS: u32 = 144;
pub const ALL: u32 = FIRST + OUTPUTS;

/// What no product writes.
pub const LEFT: f32 = -77.0;

/// Any number from 0 to 1, always the same for a place.
pub fn any(place: usize) -> f32 {
    (place as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32
}

/// Codes of small values of both signs.
pub fn code(place: usize) -> u8 {
    let code = 0x28 + (any(place) * 24.0) as u8;
    if place.is_multiple_of(3) {
        code | 0x80
    } else {
        code
    }
}

pub fn value(code: u8) -> f32 {
    let magnitude = (1.0 + f32::from(code & 7) / 8.0) * 2f32.powi(i32::from(code >> 3 & 15) - 7);
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// What is multiplied, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Codes, by cuBLASLt.
    Codes,
    /// Values with a weight of BF16, by cuBLASLt.
    CudaValues,
    /// The same by hipBLASLt.
    HipValues,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Codes, Kind::CudaValues, Kind::HipValues];

    pub fn vendor(self) -> Vendor {
        match self {
            Kind::HipValues => Vendor::Hip,
            _ => Vendor::Cuda,
        }
    }

    /// The kernel that stands in, its launch, and whether it takes a residual.
    pub fn body(self, has_residual: bool) -> (Body, Vec<(&'static str, u32)>, [u32; 3]) {
        let names = match (self, has_residual) {
            (Kind::Codes, false) => ["hopper8", "linear_wgmma8", "rxmrw"],
            (Kind::Codes, true) => ["hopper8", "linear_residual_wgmma8", "rxmrrw"],
            (Kind::CudaValues, false) => ["matrix", "linear_mma_bf16", "rrrw"],
            (Kind::CudaValues, true) => ["matrix", "linear_residual_mma_bf16", "rrrrw"],
            (Kind::HipValues, false) => ["matrix", "linear_mfma_bf16", "rrrw"],
            (Kind::HipValues, true) => ["matrix", "linear_residual_mfma_bf16", "rrrrw"],
        };
        let [file, entry, operands] = names;
        let body = Body::Native {
            file,
            entry,
            operands,
        };
        match self {
            Kind::Codes => {
                let shared = 1024 + 4 * (3 * 128 * 128 + 16);
                let constants = vec![("THREADS", 384), ("SHARED", shared)];
                (body, constants, [OUTPUTS.div_ceil(128), 1, 1])
            }
            _ => (
                body,
                vec![("THREADS", 256)],
                [OUTPUTS.div_ceil(64), 1, ROWS.div_ceil(64)],
            ),
        }
    }
}

pub fn params(kind: Kind, has_residual: bool) -> Params {
    let coded = kind == Kind::Codes;
    Params {
        rows: ROWS,
        count_word: 0,
        count_scale: 1,
        n: ALL,
        k: DEPTH,
        x_offset: 4,
        x_stride: match coded {
            true => coded_words(DEPTH).next_multiple_of(4),
            false => DEPTH + 8,
        },
        y_offset: 3,
        y_stride: ALL + 5,
        b_offset: 7,
        b_stride: ALL + 1,
        row_first: FIRST,
        row_count: OUTPUTS,
        flags: if coded { flags::CODED } else { 0 }
            | if has_residual { flags::RESIDUAL } else { 0 },
        ..Params::default()
    }
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The rows of codes, and their scales by themselves.
pub fn coded_rows(params: &Params) -> (Vec<u8>, Vec<f32>) {
    let (depth, blocks) = (DEPTH as usize, DEPTH as usize / 128);
    let mut rows = vec![0u8; 4 * (params.x_offset + ROWS * params.x_stride) as usize];
    let mut scales = Vec::new();
    for row in 0..ROWS as usize {
        let begin = 4 * (params.x_offset as usize + row * params.x_stride as usize);
        for i in 0..depth {
            rows[begin + i] = code(row * depth + i);
        }
        for block in 0..blocks {
            let scale = 0.5 + any(row * 7 + block);
            scales.push(scale);
            let at = begin + 4 * (coded_scales(DEPTH) as usize + block);
            rows[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        }
    }
    (rows, scales)
}

/// The sum of a row and an output, and how far it may be off.
type Sum = Box<dyn Fn(usize, usize) -> (f32, f32)>;

/// What is read, the other weight last, and the sums.
pub struct Numbers {
    pub rows: Vec<u8>,
    pub weight: Vec<Vec<u8>>,
    pub other: Vec<u8>,
    pub sum: Sum,
}

pub fn codes(params: &Params) -> Numbers {
    let (depth, blocks) = (DEPTH as usize, DEPTH as usize / 128);
    let (rows, row_scales) = coded_rows(params);
    let weight: Vec<u8> = (0..OUTPUTS as usize * depth)
        .map(|i| code(i + 99))
        .collect();
    let scales: Vec<f32> = (0..ALL.div_ceil(128) as usize * blocks)
        .map(|i| 0.25 + any(i + 5))
        .collect();
    let (codes, scale_bytes) = (weight.clone(), bytes(&scales));
    let dot = move |row: usize, i: usize, block: usize| {
        let depths = block * 128..(block + 1) * 128;
        let products = depths.map(|d| value(code(row * depth + d)) * value(codes[i * depth + d]));
        let scale = scales[(FIRST as usize + i) / 128 * blocks + block];
        let scale = scale * row_scales[row * blocks + block];
        products.fold((0.0, 0.0), |(sum, most), product: f32| {
            (sum + product * scale, most + product.abs() * scale)
        })
    };
    Numbers {
        rows,
        other: weight.iter().map(|code| code ^ 0x80).collect(),
        weight: vec![weight, scale_bytes],
        sum: Box::new(move |row, i| {
            let dots = (0..blocks).map(|block| dot(row, i, block));
            let (sum, most) = dots.fold((0.0, 0.0), |all, dot| (all.0 + dot.0, all.1 + dot.1));
            // The units keep thirteen bits behind the largest of some products.
            (sum, most / 512.0)
        }),
    }
}

/// Values of 24 bits, of which none may be lost, with a weight of BF16.
pub fn values(params: &Params) -> Numbers {
    let depth = DEPTH as usize;
    let input = |row: usize, i: usize| any(row * 31 + i * 7) - 0.5;
    let half = |place: usize| ((any(place + 3) - 0.5).to_bits() >> 16) as u16;
    let mut rows = vec![f32::NAN; (params.x_offset + ROWS * params.x_stride) as usize];
    for row in 0..ROWS as usize {
        let begin = params.x_offset as usize + row * params.x_stride as usize;
        for i in 0..depth {
            rows[begin + i] = input(row, i);
        }
    }
    let weight: Vec<u16> = (0..OUTPUTS as usize * depth).map(half).collect();
    let halves = |weight: &[u16]| weight.iter().flat_map(|half| half.to_le_bytes()).collect();
    let other: Vec<u16> = weight.iter().map(|half| half ^ 0x8000).collect();
    Numbers {
        rows: bytes(&rows),
        other: halves(&other),
        weight: vec![halves(&weight)],
        sum: Box::new(move |row, i| {
            let weight = |d: usize| f32::from_bits(u32::from(half(i * depth + d)) << 16);
            let products = (0..depth).map(|d| f64::from(input(row, d)) * f64::from(weight(d)));
            // Rounded to bf16, values would be off by a hundred times as much.
            (products.sum::<f64>() as f32, 2e-5)
        }),
    }
}
