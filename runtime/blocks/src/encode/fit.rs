//! Scales: what codes times a scale come closest to values.
//!
//! Codes that are chosen fix the best scale, `sum(w x q) / sum(w q q)`, and a scale fixes the
//! best codes. A few scales are tried, the best is refined by turns. Where scales of groups are
//! small integers times one half-precision number, that number is refined the same way, and
//! each group looks at the integers beside its own too.

use half::f16;

/// Values of a block with the weights of their errors, both scaled by powers of two so that
/// no sum of squares overflows.
#[derive(Clone)]
pub(super) struct Source<const N: usize> {
    /// Values, the largest between 1 and 2 unless all are zero.
    pub x: [f32; N],
    /// Weights, the largest 1.
    pub w: [f32; N],
    /// Factor of the values.
    up: f32,
}

impl<const N: usize> Source<N> {
    /// `values` and `weights` are finite and have `N` numbers.
    pub fn new(values: &[f32], weights: Option<&[f32]>) -> Source<N> {
        let peak = values.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        // Beyond these even half precision is zero or infinite.
        let exponent = (peak.to_bits() >> 23) as i32 - 127;
        let up = 2f32.powi(-exponent.clamp(-100, 100));
        let mut source = Source {
            x: [0.0; N],
            w: [1.0; N],
            up,
        };
        for (to, x) in source.x.iter_mut().zip(values) {
            *to = x * up;
        }
        let heaviest = weights.map_or(0.0, |w| w.iter().fold(0f32, |peak, w| peak.max(*w)));
        if let (Some(weights), true) = (weights, heaviest > 0.0) {
            for (to, w) in source.w.iter_mut().zip(weights) {
                // A column that never saw an activation still must not be garbage.
                *to = (w / heaviest).max(1e-6);
            }
        }
        source
    }

    /// `scale` as half precision keeps it, in both units; `None` where it overflows.
    pub fn half(&self, scale: f32) -> Option<Half> {
        let bits = f16::from_f32(scale / self.up);
        let kept = Half {
            bits,
            value: bits.to_f32() * self.up,
        };
        bits.is_finite().then_some(kept)
    }

    /// Group `index` of `G` values, and its weights.
    pub fn group<const G: usize>(&self, index: usize) -> (&[f32; G], &[f32; G]) {
        (part(&self.x, index), part(&self.w, index))
    }
}

/// Part `index` of `G` values.
pub(super) fn part<const G: usize>(of: &[f32], index: usize) -> &[f32; G] {
    // Callers ask for parts that are there; a zero part is all that a mistake gives.
    let parts = of.as_chunks::<G>().0;
    parts.get(index).unwrap_or(&[0.0; G])
}

/// A number in half precision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Half {
    /// As it is stored.
    pub bits: f16,
    /// What it stands for, in units of [`Source::x`].
    pub value: f32,
}

/// The nearest whole number of one below 2^22; unlike `round` it needs no instruction that old
/// processors lack, so that loops of it are vectors everywhere.
pub(super) fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// `sum(w x q)` and `sum(w q q)`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    pub xq: f32,
    pub qq: f32,
}

impl Fit {
    /// Sums over a group.
    pub fn of<const G: usize>(x: &[f32; G], w: &[f32; G], q: &[f32; G]) -> Fit {
        let (mut xq, mut qq) = ([0f32; 8], [0f32; 8]);
        for first in (0..G).step_by(8) {
            for lane in 0..8 {
                let wq = w[first + lane] * q[first + lane];
                xq[lane] += wq * x[first + lane];
                qq[lane] += wq * q[first + lane];
            }
        }
        Fit {
            xq: sum(xq),
            qq: sum(qq),
        }
    }

    /// How much of `sum(w x x)` the best scale takes off.
    pub fn gain(&self) -> f32 {
        match self.qq > 0.0 {
            true => self.xq * self.xq / self.qq,
            false => 0.0,
        }
    }

    /// The best scale of these codes.
    pub fn scale(&self) -> f32 {
        match self.qq > 0.0 {
            true => self.xq / self.qq,
            false => 0.0,
        }
    }

    /// The squared error at `scale`, but for `sum(w x x)`.
    pub fn error(&self, scale: f32) -> f32 {
        scale * (scale * self.qq - 2.0 * self.xq)
    }
}

/// The sum of eight lanes.
pub(super) fn sum(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// What codes a format has for a group of `G` values.
pub(super) trait Coder<const G: usize> {
    /// The codes for `x` at `scale`, as the numbers that the scale multiplies.
    fn code(&self, x: &[f32; G], w: &[f32; G], scale: f32, codes: &mut [f32; G]);

    /// The value whose code the scale is sought by.
    fn furthest(&self, x: &[f32; G]) -> f32 {
        x[super::largest(x)]
    }
}

/// Whole numbers from `low` to `high`.
pub(super) struct Whole {
    pub low: f32,
    pub high: f32,
}

impl<const G: usize> Coder<G> for Whole {
    fn code(&self, x: &[f32; G], _: &[f32; G], scale: f32, codes: &mut [f32; G]) {
        let inverse = inverse(scale);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = nearest((x * inverse).clamp(self.low, self.high));
        }
    }
}

/// `1 / scale`, and 0 for a scale so small that nothing can be divided by it.
pub(super) fn inverse(scale: f32) -> f32 {
    match scale.abs() > 1e-30 {
        true => 1.0 / scale,
        false => 0.0,
    }
}

/// The best scale of a group, whatever number it is: the furthest value is taken for each of
/// the codes `peaks` by turns.
pub(super) fn best_scale<const G: usize>(
    coder: &impl Coder<G>,
    (x, w): (&[f32; G], &[f32; G]),
    peaks: &[f32],
) -> f32 {
    let furthest = coder.furthest(x);
    if furthest == 0.0 {
        return 0.0;
    }
    let mut codes = [0f32; G];
    let (mut best, mut gain) = (0f32, 0f32);
    for peak in peaks {
        coder.code(x, w, furthest / peak, &mut codes);
        let fit = Fit::of(x, w, &codes);
        // A sign that turns round belongs to codes that are no better than none.
        if fit.gain() > gain && fit.xq * furthest * peak > 0.0 {
            (best, gain) = (fit.scale(), fit.gain());
        }
    }
    // The best scale of codes may have better codes.
    coder.code(x, w, best, &mut codes);
    let fit = Fit::of(x, w, &codes);
    match fit.gain() > gain {
        true => fit.scale(),
        false => best,
    }
}

/// Which multiples of a block's scale its groups may have: `first + step * k`.
pub(super) struct Steps {
    pub first: f32,
    pub step: f32,
    /// How many there are.
    pub count: u8,
    /// The `k` of the multiple that is furthest from zero.
    pub far: u8,
}

impl Steps {
    fn multiple(&self, k: u8) -> f32 {
        self.first + self.step * f32::from(k)
    }

    /// The nearest multiple to `wanted`.
    fn nearest(&self, wanted: f32) -> u8 {
        let most = f32::from(self.count - 1);
        nearest(((wanted - self.first) / self.step).clamp(0.0, most)) as u8
    }
}

/// A block of 256 values with one scale and a multiple of it for each group.
pub(super) struct Scaled {
    pub scale: Half,
    /// Of each group, the `k` of its [`Steps`].
    pub steps: [u8; 16],
    /// The numbers that scales multiply.
    pub codes: [f32; 256],
}

/// Fits a block with groups of `G` values; `None` where its scale overflows.
pub(super) fn scaled<const G: usize>(
    coder: &impl Coder<G>,
    source: &Source<256>,
    peaks: &[f32],
    steps: &Steps,
) -> Option<Scaled> {
    let mut wanted = [0f32; 16];
    for (index, wanted) in wanted.iter_mut().enumerate().take(256 / G) {
        *wanted = best_scale(coder, source.group::<G>(index), peaks);
    }
    let top = wanted[super::largest(&wanted)];
    let mut scale = source.half(top / steps.multiple(steps.far))?;
    let mut best = None;
    let mut least = f32::INFINITY;
    const ROUNDS: usize = 3;
    for _ in 0..ROUNDS {
        let (block, error, refined) = with_scale(coder, source, scale, &wanted, steps);
        if error < least || best.is_none() {
            (best, least) = (Some(block), error);
        }
        match source.half(refined) {
            Some(refined) if refined != scale && refined.value != 0.0 => scale = refined,
            _ => break,
        }
    }
    best
}

/// The best multiples and codes of a block with this scale, their error, and the scale that
/// suits them best.
fn with_scale<const G: usize>(
    coder: &impl Coder<G>,
    source: &Source<256>,
    scale: Half,
    wanted: &[f32; 16],
    steps: &Steps,
) -> (Scaled, f32, f32) {
    let mut block = Scaled {
        scale,
        steps: [0; 16],
        codes: [0.0; 256],
    };
    let mut whole = Fit::default();
    let mut error = 0.0;
    let (groups, _) = block.codes.as_chunks_mut::<G>();
    for (index, kept) in groups.iter_mut().enumerate() {
        let (x, w) = source.group::<G>(index);
        let middle = steps.nearest(wanted[index] * inverse(scale.value));
        let mut least = f32::INFINITY;
        let mut chosen = Fit::default();
        let mut codes = [0f32; G];
        for k in middle.saturating_sub(1)..=(middle + 1).min(steps.count - 1) {
            let multiple = steps.multiple(k);
            coder.code(x, w, scale.value * multiple, &mut codes);
            let fit = Fit::of(x, w, &codes);
            let group = fit.error(scale.value * multiple);
            if group < least {
                least = group;
                (block.steps[index], *kept) = (k, codes);
                chosen = Fit {
                    xq: fit.xq * multiple,
                    qq: fit.qq * multiple * multiple,
                };
            }
        }
        error += least;
        whole.xq += chosen.xq;
        whole.qq += chosen.qq;
    }
    (block, error, whole.scale())
}
