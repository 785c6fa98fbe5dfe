//! Vector arithmetic element by element, once for all instruction sets.

use super::lanes::Lanes;
use crate::weight::BLOCK;

/// `Core::swiglu`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn swiglu<V: Lanes>(gate: &mut [f32], up: &[f32]) {
    let count = gate.len().min(up.len());
    let whole = count / V::N * V::N;
    // SAFETY: registers lie below `whole`.
    unsafe {
        let one = V::splat(1.0);
        for c in (0..whole).step_by(V::N) {
            let (z, up) = (V::load(gate.as_ptr().add(c)), V::load(up.as_ptr().add(c)));
            let divisor = one.add(z.mul(V::splat(-1.0)).exp());
            z.div(divisor).mul(up).store(gate.as_mut_ptr().add(c));
        }
    }
    for c in whole..count {
        gate[c] = super::scalar::silu(gate[c]) * up[c];
    }
}

/// Floats of the largest register.
const LANES: usize = 16;

/// `Core::scale`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn scale<V: Lanes>(values: &mut [f32], factor: f32) -> f32 {
    const { assert!(V::N <= LANES) };
    let whole = values.len() / V::N * V::N;
    let mut largest = f32::NEG_INFINITY;
    // SAFETY: registers lie below `whole`; `lanes` has room for one.
    unsafe {
        let mut most = V::splat(f32::NEG_INFINITY);
        for c in (0..whole).step_by(V::N) {
            let at = values.as_mut_ptr().add(c);
            let scaled = V::load(at).mul(V::splat(factor));
            scaled.store(at);
            most = scaled.max(most);
        }
        let mut lanes = [f32::NEG_INFINITY; LANES];
        most.store(lanes.as_mut_ptr());
        for lane in lanes {
            largest = largest.max(lane);
        }
    }
    for value in &mut values[whole..] {
        *value *= factor;
        largest = largest.max(*value);
    }
    largest
}

/// `Core::exp`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(values: &mut [f32], shift: f32) -> f32 {
    let whole = values.len() / V::N * V::N;
    let mut total;
    // SAFETY: registers lie below `whole`.
    unsafe {
        let mut sum = V::splat(0.0);
        for c in (0..whole).step_by(V::N) {
            let at = values.as_mut_ptr().add(c);
            let power = V::load(at).add(V::splat(-shift)).exp();
            power.store(at);
            sum = sum.add(power);
        }
        total = sum.sum();
    }
    for value in &mut values[whole..] {
        *value = (*value - shift).exp();
        total += *value;
    }
    total
}

/// `Core::squares`: short sums in `f32`, their total in `f64`.
///
/// # Safety
/// See [`Lanes`].
#[inline(always)]
pub(super) unsafe fn squares<V: Lanes>(values: &[f32]) -> f64 {
    let mut total = 0.0;
    for values in values.chunks(BLOCK) {
        let whole = values.len() / V::N * V::N;
        // SAFETY: registers lie below `whole`.
        unsafe {
            let mut sum = V::splat(0.0);
            for c in (0..whole).step_by(V::N) {
                let value = V::load(values.as_ptr().add(c));
                sum = sum.fma(value, value);
            }
            total += f64::from(sum.sum());
        }
        for value in &values[whole..] {
            total += f64::from(*value) * f64::from(*value);
        }
    }
    total
}
