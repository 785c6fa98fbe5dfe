//! A register of floats: what the vector core needs of an instruction set.

/// `N` floats in a register.
///
/// # Safety
/// Every method may be called only on a processor with the instruction set of the
/// implementation, from a function compiled for it (through `inline(always)` all the way).
/// Pointers are valid for `N` elements of their format, at any alignment.
pub(crate) unsafe trait Lanes: Copy {
    /// Floats in a register.
    const N: usize;
    /// Weight rows that a tile of four rows of activations takes at once: as many as there
    /// are registers for.
    const TILE: usize;
    /// Registers are enough for six rows of activations, too.
    const SIX: bool = false;
    /// `load_e4m3` gives values divided by this power of two.
    const E4M3_UNIT: f32;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Half precision, exact.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// Top halves of floats, exact.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// E4M3 codes, exact: subnormals and NaN too.
    unsafe fn load_e4m3(from: *const u8) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// The larger, `other` where this is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self + a * b`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// `e^self`, within 2 units in the last place; below the normal numbers it may stop at
    /// the smallest of them, above about 88.3 it may be infinite.
    unsafe fn exp(self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// The sums of the lanes of each.
    #[inline(always)]
    unsafe fn sums<const C: usize>(registers: [Self; C]) -> [f32; C] {
        // SAFETY: the caller's promise.
        registers.map(|register| unsafe { register.sum() })
    }
    /// Asks for the cache line at `at`, which need not be valid.
    unsafe fn prefetch(at: *const u8);
}

/// Constants of `e^x = 2^n * e^r`, `|r| <= ln(2) / 2`: Cody and Waite reduction and a
/// minimax polynomial of degree 7 in all (Cephes `expf`).
pub(super) mod exp {
    /// Below this the result would be subnormal.
    pub const LOW: f32 = -87.336;
    /// Above this the result is infinite.
    pub const HIGH: f32 = 89.0;
    pub const LN2_HIGH: f32 = 0.693_359_4;
    pub const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Highest power first; `1 + r + r^2 * p(r)`.
    pub const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
}
