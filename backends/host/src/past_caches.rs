//! Writing memory past the caches, so that what is read next comes from the memory itself: for
//! measuring how fast that is with less of it than the caches hold.

/// Fills `words` with `value`. On x86-64 no cache holds any of them afterwards; elsewhere it is an
/// ordinary fill.
pub fn fill_past_caches(words: &mut [u64], value: u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every pointer is that of a word that may be written, and SSE2 is part of x86-64. The
    // fence orders the stores before all that comes later.
    unsafe {
        use std::arch::x86_64::{_mm_sfence, _mm_stream_si64};
        for word in words {
            _mm_stream_si64(std::ptr::from_mut(word).cast(), value as i64);
        }
        _mm_sfence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    words.fill(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_written() {
        let mut words = vec![0; 1001];
        fill_past_caches(&mut words, u64::MAX - 1);
        assert!(words.iter().all(|word| *word == u64::MAX - 1));
    }
}
