//! Scales with minima: values as `scale * code - minimum`.

use super::fit::{Half, Source, inverse, nearest, sum};

/// What is known of codes: weighted sums over a group.
#[derive(Clone, Copy, Default)]
struct Sums {
    w: f32,
    x: f32,
    q: f32,
    xq: f32,
    qq: f32,
}

impl Sums {
    fn of<const G: usize>(x: &[f32; G], w: &[f32; G], q: &[f32; G]) -> Sums {
        let mut lanes = [[0f32; 8]; 5];
        for first in (0..G).step_by(8) {
            for lane in 0..8 {
                let (x, w, q) = (x[first + lane], w[first + lane], q[first + lane]);
                let (wx, wq) = (w * x, w * q);
                lanes[0][lane] += w;
                lanes[1][lane] += wx;
                lanes[2][lane] += wq;
                lanes[3][lane] += wx * q;
                lanes[4][lane] += wq * q;
            }
        }
        let [w, x, q, xq, qq] = lanes.map(sum);
        Sums { w, x, q, xq, qq }
    }

    /// The squared error, but for `sum(w x x)`.
    fn error(&self, Line { scale, minimum }: Line) -> f32 {
        scale * (scale * self.qq - 2.0 * (self.xq + minimum * self.q))
            + minimum * (minimum * self.w + 2.0 * self.x)
    }

    /// The best scale and minimum of these codes.
    fn line(&self, minima: Minima) -> Line {
        let determinant = self.w * self.qq - self.q * self.q;
        let alone = Line {
            scale: self.xq * inverse(self.qq),
            minimum: 0.0,
        };
        if determinant <= 1e-6 * self.w * self.qq {
            // All codes are the same: they are one number, and either of the two makes it.
            let flat = Line {
                scale: 0.0,
                minimum: -self.x * inverse(self.w),
            };
            let may_be_flat = minima == Minima::Any || flat.minimum >= 0.0;
            let is_better = self.error(flat) < self.error(alone);
            return if may_be_flat && is_better {
                flat
            } else {
                alone
            };
        }
        let line = Line {
            scale: (self.w * self.xq - self.x * self.q) / determinant,
            minimum: (self.q * self.xq - self.qq * self.x) / determinant,
        };
        match minima {
            Minima::NotNegative if line.minimum < 0.0 => alone,
            _ => line,
        }
    }
}

/// `scale * code - minimum`.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Line {
    pub scale: f32,
    pub minimum: f32,
}

/// Which minima a format has.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Minima {
    Any,
    NotNegative,
}

fn code<const G: usize>(x: &[f32; G], line: Line, top: f32, codes: &mut [f32; G]) {
    let inverse = inverse(line.scale);
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest(((x + line.minimum) * inverse).clamp(0.0, top));
    }
}

/// The best scale and minimum for codes from 0 to `top`, whatever numbers they are.
pub(super) fn best_line<const G: usize>(
    (x, w): (&[f32; G], &[f32; G]),
    top: f32,
    minima: Minima,
    stretches: &[f32],
) -> Line {
    let (mut low, mut high) = (x[0], x[0]);
    for x in x {
        (low, high) = (low.min(*x), high.max(*x));
    }
    if minima == Minima::NotNegative {
        low = low.min(0.0);
    }
    let mut codes = [0f32; G];
    let mut best = Line {
        scale: (high - low) / top,
        minimum: -low,
    };
    let first = best;
    let mut least = f32::INFINITY;
    // The last ones refine the best.
    for attempt in 0..stretches.len() + 2 {
        let line = match stretches.get(attempt) {
            Some(stretch) => Line {
                scale: first.scale * top / (top + stretch),
                ..first
            },
            None => best,
        };
        code(x, line, top, &mut codes);
        let sums = Sums::of(x, w, &codes);
        let line = sums.line(minima);
        let error = sums.error(line);
        if error < least && line.scale >= 0.0 {
            (best, least) = (line, error);
        }
    }
    best
}

/// Codes for `line`, as both formats with a minimum of their own lay them out.
pub(super) fn codes_at<const G: usize>(x: &[f32; G], line: Line, top: f32) -> [f32; G] {
    let mut codes = [0f32; G];
    code(x, line, top, &mut codes);
    codes
}

/// A block of 256 values with a scale and a minimum, and whole multiples of both for each
/// group.
#[derive(Clone)]
pub(super) struct Lines {
    pub scale: Half,
    pub minimum: Half,
    pub scales: [u8; 16],
    pub minima: [u8; 16],
    pub codes: [f32; 256],
}

/// The sums that scale and minimum of a whole block follow from.
#[derive(Default)]
struct Normal {
    ss: f32,
    sm: f32,
    mm: f32,
    xs: f32,
    xm: f32,
}

impl Normal {
    fn add(&mut self, sums: &Sums, s: f32, m: f32) {
        self.ss += s * s * sums.qq;
        self.sm += s * m * sums.q;
        self.mm += m * m * sums.w;
        self.xs += s * sums.xq;
        self.xm += m * sums.x;
    }

    /// The best scale and minimum of the block.
    fn line(&self) -> Line {
        let determinant = self.ss * self.mm - self.sm * self.sm;
        if determinant <= 1e-9 * self.ss * self.mm {
            return Line {
                scale: self.xs * inverse(self.ss),
                minimum: 0.0,
            };
        }
        Line {
            scale: (self.mm * self.xs - self.sm * self.xm) / determinant,
            minimum: (self.sm * self.xs - self.ss * self.xm) / determinant,
        }
    }
}

/// Fits a block with groups of `G` values, codes up to `top` and multiples up to `most`;
/// `None` where a scale overflows.
pub(super) fn lines<const G: usize>(
    source: &Source<256>,
    top: f32,
    most: u8,
    stretches: &[f32],
) -> Option<Lines> {
    let mut wanted = [Line::default(); 16];
    for (index, wanted) in wanted.iter_mut().enumerate().take(256 / G) {
        let group = source.group::<G>(index);
        *wanted = best_line(group, top, Minima::NotNegative, stretches);
    }
    let far = |of: fn(&Line) -> f32| wanted.iter().map(of).fold(0f32, f32::max);
    let mut scale = source.half(far(|line| line.scale) / f32::from(most))?;
    let mut minimum = source.half(far(|line| line.minimum) / f32::from(most))?;
    let mut best: Option<Lines> = None;
    let mut least = f32::INFINITY;
    const ROUNDS: usize = 3;
    for _ in 0..ROUNDS {
        let (block, error, refined) =
            with_line::<G>(source, (scale, minimum), &wanted, (top, most));
        if error < least || best.is_none() {
            (best, least) = (Some(block), error);
        }
        if refined.scale <= 0.0 || refined.minimum < 0.0 {
            break;
        }
        let refined = (source.half(refined.scale)?, source.half(refined.minimum)?);
        if refined == (scale, minimum) {
            break;
        }
        (scale, minimum) = refined;
    }
    best
}

/// The best multiples and codes of a block, their error, and the numbers that suit them best.
fn with_line<const G: usize>(
    source: &Source<256>,
    (scale, minimum): (Half, Half),
    wanted: &[Line; 16],
    (top, most): (f32, u8),
) -> (Lines, f32, Line) {
    let mut block = Lines {
        scale,
        minimum,
        scales: [0; 16],
        minima: [0; 16],
        codes: [0.0; 256],
    };
    let multiple = |wanted: f32, of: Half| {
        let most = f32::from(most);
        nearest((wanted * inverse(of.value)).clamp(0.0, most)) as u8
    };
    let around = |k: u8| k.saturating_sub(1)..=(k + 1).min(most);
    let mut normal = Normal::default();
    let mut error = 0.0;
    let (groups, _) = block.codes.as_chunks_mut::<G>();
    for (index, kept) in groups.iter_mut().enumerate() {
        let (x, w) = source.group::<G>(index);
        let mut least = f32::INFINITY;
        let mut chosen = (Sums::default(), 0.0, 0.0);
        let mut codes = [0f32; G];
        for s in around(multiple(wanted[index].scale, scale)) {
            for m in around(multiple(wanted[index].minimum, minimum)) {
                let line = Line {
                    scale: scale.value * f32::from(s),
                    minimum: minimum.value * f32::from(m),
                };
                code(x, line, top, &mut codes);
                let sums = Sums::of(x, w, &codes);
                let group = sums.error(line);
                if group < least {
                    least = group;
                    (block.scales[index], block.minima[index], *kept) = (s, m, codes);
                    chosen = (sums, f32::from(s), f32::from(m));
                }
            }
        }
        error += least;
        normal.add(&chosen.0, chosen.1, chosen.2);
    }
    (block, error, normal.line())
}
