//! Where values of a case lie: rows with gaps between them that belong to nobody, `inputs`
//! with garbage wherever nothing may be read.

use hadal_device::{COUNT_ALL, Inputs, PAGE, Params};
use hadal_graph::reference::Tensor;

use super::{Operand, Want};
use crate::random::Random;
use crate::shape::Shape;

/// A NaN in places that no kernel may read, or no index that leads anywhere.
pub const GARBAGE: u32 = 0x7fc0_dead;

/// Rows of `width` values: where the first begins and how far the next one is.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    pub width: u32,
    pub offset: u32,
    pub stride: u32,
    /// Rows there is room for.
    pub count: u32,
}

impl Rows {
    /// Room for the bucket of `shape`, with its gaps.
    pub fn of(shape: &Shape, width: u32) -> Rows {
        Rows::counted(shape, width, shape.bucket())
    }

    /// Room for `count` rows with the gaps of `shape`.
    pub fn counted(shape: &Shape, width: u32, count: u32) -> Rows {
        Rows {
            width,
            offset: shape.gap,
            stride: width + shape.gap,
            count,
        }
    }

    /// Rows without gaps.
    pub fn dense(width: u32, count: u32) -> Rows {
        Rows {
            width,
            offset: 0,
            stride: width,
            count,
        }
    }

    fn words(&self) -> usize {
        (self.offset + self.stride * self.count).max(1) as usize
    }

    /// Where value `i` of row `r` lies.
    pub fn at(&self, r: u32, i: u32) -> usize {
        (self.offset + r * self.stride + i) as usize
    }

    /// The words of an operand with these rows; everything else is garbage.
    pub fn filled<'v>(&self, rows: impl IntoIterator<Item = &'v [f32]>) -> Operand {
        let mut words = vec![GARBAGE; self.words()];
        for (row, r) in rows.into_iter().zip(0..) {
            for (value, i) in row.iter().zip(0..) {
                words[self.at(r, i)] = value.to_bits();
            }
        }
        Operand::Words(words)
    }

    /// An output in which nothing may change yet.
    pub fn untouched(&self) -> Vec<Want> {
        vec![Want::Untouched; self.words()]
    }
}

/// Random rows: as numbers for the evaluator, and as an operand.
pub struct Activations {
    pub values: Tensor,
    pub stored: Vec<f32>,
    pub rows: Rows,
}

impl Activations {
    /// Real rows of `shape`, each of `width` values.
    pub fn random(random: &mut Random, shape: &Shape, width: u32) -> Activations {
        Activations::from(
            random.floats((shape.real * width) as usize),
            Rows::of(shape, width),
        )
    }

    /// These values in these rows.
    pub fn from(stored: Vec<f32>, rows: Rows) -> Activations {
        let width = rows.width.max(1) as usize;
        let values = Tensor {
            shape: vec![stored.len() / width, width],
            data: stored.iter().map(|v| f64::from(*v)).collect(),
        };
        Activations {
            values,
            stored,
            rows,
        }
    }

    /// The operand.
    pub fn operand(&self) -> Operand {
        self.rows
            .filled(self.stored.chunks(self.rows.width.max(1) as usize))
    }

    /// The row `r`.
    pub fn row(&self, r: u32) -> &[f64] {
        let width = self.rows.width as usize;
        &self.values.data[r as usize * width..][..width]
    }
}

/// The magnitudes of a tensor.
pub fn magnitudes(x: &Tensor) -> Tensor {
    Tensor {
        shape: x.shape.clone(),
        data: x.data.iter().map(|v| v.abs()).collect(),
    }
}

/// The values' magnitudes.
pub fn magnitude(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// Parameters that every case has: rows, their count in `inputs`, strides of `x` and `y`.
pub fn params(shape: &Shape, x: Rows, y: Rows) -> Params {
    Params {
        rows: shape.bucket(),
        // A case without spare rows also covers kernels whose rows are all real.
        count_word: if shape.spare == 0 {
            COUNT_ALL
        } else {
            Inputs::TOKENS
        },
        count_scale: 1,
        n: shape.n,
        k: shape.k,
        x_offset: x.offset,
        x_stride: x.stride,
        y_offset: y.offset,
        y_stride: y.stride,
        flags: shape.flags,
        ..Params::default()
    }
}

/// The `inputs` buffer of a step.
#[derive(Default)]
pub struct StepInputs {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub sequences: Vec<u32>,
    pub logit_rows: Vec<u32>,
    pub pages: Vec<u32>,
}

impl StepInputs {
    /// A step whose real rows are counted and nothing else.
    pub fn count(shape: &Shape) -> Operand {
        StepInputs::default().operand(shape)
    }

    /// The words: garbage beyond the real rows.
    pub fn operand(&self, shape: &Shape) -> Operand {
        let bucket = shape.bucket();
        let mut words = vec![GARBAGE; Inputs::HEADER as usize];
        words[Inputs::TOKENS as usize] = shape.real;
        words[Inputs::LOGIT_ROWS as usize] = shape.real;
        words[Inputs::BUCKET as usize] = bucket;
        for list in [
            &self.ids,
            &self.positions,
            &self.sequences,
            &self.logit_rows,
        ] {
            words.extend(list);
            let garbage = bucket as usize - list.len();
            words.extend(std::iter::repeat_n(GARBAGE, garbage));
        }
        words.extend(&self.pages);
        Operand::Words(words)
    }
}

/// Tokens of two sequences in a paged cache whose pages lie scattered.
pub struct Context {
    pub inputs: StepInputs,
    pub page_stride: u32,
    /// Pages of memory; some belong to nobody.
    pub pages: u32,
}

impl Context {
    /// The longest sequence has `shape.context` positions; the step's rows are the last of
    /// two sequences in turn, of one if there is one row.
    pub fn new(random: &mut Random, shape: &Shape) -> Context {
        let page_stride = shape.context.div_ceil(PAGE) + 1;
        let pages = 2 * page_stride + 1;
        let order = random.permutation(pages);
        let mut inputs = StepInputs::default();
        for r in 0..shape.real {
            let after = (shape.real - 1 - r) / 2;
            inputs.sequences.push(r % 2);
            inputs.positions.push(shape.context - 1 - after);
        }
        let used = shape.context.div_ceil(PAGE);
        for sequence in 0..2 {
            for page in 0..page_stride {
                let place = order[(sequence * page_stride + page) as usize];
                inputs.pages.push(if page < used { place } else { GARBAGE });
            }
        }
        Context {
            inputs,
            page_stride,
            pages,
        }
    }

    /// The cache row of a position.
    pub fn row(&self, sequence: u32, position: u32) -> u32 {
        let entry = sequence * self.page_stride + position / PAGE;
        self.inputs.pages[entry as usize] * PAGE + position % PAGE
    }

    /// `(row, sequence, position)` of the step's tokens.
    pub fn tokens(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let pairs = self.inputs.sequences.iter().zip(&self.inputs.positions);
        (0..).zip(pairs).map(|(r, (s, p))| (r, *s, *p))
    }
}
