//! What must be true of every format: the error of normal numbers, what is refused, what
//! extreme numbers become.

use super::*;
use crate::decode;

/// Normal numbers of standard deviation 1, the same every time.
fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 33) as f64 + 0.5) / (1u64 << 31) as f64
    };
    let mut next = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| next() as f32).collect()
}

fn encoded(format: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0xAA; format.row_bytes(values.len() as u64) as usize];
    encode(format, values, importance, &mut bytes).unwrap();
    bytes
}

fn there_and_back(format: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut back = vec![f32::NAN; values.len()];
    decode(format, &encoded(format, values, importance), &mut back);
    back
}

/// Root of the weighted mean square of the difference, as a part of that of `values`.
fn error(values: &[f32], back: &[f32], weights: Option<&[f32]>) -> f64 {
    let weight = |i: usize| weights.map_or(1.0, |w| f64::from(w[i % w.len()]));
    let (mut off, mut all) = (0f64, 0f64);
    for (i, (a, b)) in values.iter().zip(back).enumerate() {
        off += weight(i) * f64::from(a - b).powi(2);
        all += weight(i) * f64::from(*a).powi(2);
    }
    (off / all).sqrt()
}

/// Errors of normal numbers as a part of their standard deviation: what is measured, and a
/// little more.
const BOUNDS: [(DType, f64); 21] = [
    (DType::Q4_0, 0.0824),
    (DType::Q4_1, 0.0713),
    (DType::Q5_0, 0.041),
    (DType::Q5_1, 0.0345),
    (DType::Q8_0, 0.0052),
    (DType::Q2K, 0.2685),
    (DType::Q3K, 0.1464),
    (DType::Q4K, 0.0714),
    (DType::Q5K, 0.0352),
    (DType::Q6K, 0.0173),
    (DType::Iq2Xxs, 0.3341),
    (DType::Iq2Xs, 0.2925),
    (DType::Iq3Xxs, 0.1807),
    (DType::Iq1S, 0.4534),
    (DType::Iq4Nl, 0.075),
    (DType::Iq3S, 0.1317),
    (DType::Iq2S, 0.2449),
    (DType::Iq4Xs, 0.0755),
    (DType::Iq1M, 0.4219),
    (DType::Tq1_0, 0.4431),
    (DType::Tq2_0, 0.4431),
];

#[test]
fn normal_numbers_come_back_within_the_error_of_their_format() {
    let values = gaussian(256 * 64, 7);
    for (format, bound) in BOUNDS {
        let back = there_and_back(format, &values, None);
        let error = error(&values, &back, None);
        assert!(error < bound, "{format}: {error}");
        // A bound that is far above what is measured would hide a worse search.
        assert!(error > 0.9 * bound, "{format}: {error}");
    }
}

#[test]
fn zeros_come_back_as_zeros() {
    for format in DType::BLOCKS {
        let back = there_and_back(format, &[0.0; 512], None);
        assert!(back.iter().all(|value| *value == 0.0), "{format}");
    }
}

#[test]
fn rows_of_one_value_come_back_close() {
    for format in DType::BLOCKS {
        for value in [1.0f32, -1.0, 0.37, -3e-3, 700.0] {
            let values = [value; 512];
            let back = there_and_back(format, &values, None);
            let error = error(&values, &back, None);
            // Signs that must be even cost nothing here; levels that do not meet cost a little.
            assert!(error < 0.03, "{format} {value}: {error}");
        }
    }
}

#[test]
fn one_value_among_zeros_keeps_its_size() {
    for format in DType::BLOCKS {
        for at in [0, 31, 200] {
            let mut values = [0f32; 256];
            values[at] = -2.5;
            let back = there_and_back(format, &values, None);
            let error = error(&values, &back, None);
            assert!(error < 0.75, "{format} at {at}: {error}");
        }
    }
}

#[test]
fn tiny_values_become_zeros_or_themselves_and_huge_ones_are_refused() {
    let shape = gaussian(256, 3);
    for format in DType::BLOCKS {
        for scale in [1e-45f32, 1e-40, 1e-30, 1e-12, 1e-8, 1e-6, 1e-3, 1e3] {
            let values: Vec<f32> = shape.iter().map(|x| x * scale).collect();
            let back = there_and_back(format, &values, None);
            assert!(
                back.iter().all(|value| value.is_finite()),
                "{format} {scale}"
            );
            if scale >= 1e-3 {
                let error = error(&values, &back, None);
                assert!(error < 0.6, "{format} {scale}: {error}");
            } else {
                let most = back.iter().fold(0f32, |most, x| most.max(x.abs()));
                assert!(most <= 8.0 * scale + 1e-5, "{format} {scale}: {most}");
            }
        }
        for scale in [1e25f32, 3e37] {
            let values: Vec<f32> = shape.iter().map(|x| x * scale).collect();
            let mut bytes = vec![0; format.row_bytes(256) as usize];
            let outcome = encode(format, &values, None, &mut bytes);
            assert!(
                matches!(outcome, Err(EncodeError::TooLarge { .. })),
                "{format}"
            );
        }
    }
}

#[test]
fn what_is_no_finite_number_is_refused_by_its_place() {
    for format in DType::BLOCKS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1f32; 512];
            values[300] = bad;
            let mut bytes = vec![0; format.row_bytes(512) as usize];
            match encode(format, &values, None, &mut bytes) {
                Err(EncodeError::NotFinite { at: 300, .. }) => {}
                other => panic!("{format}: {other:?}"),
            }
        }
    }
    let mut bytes = vec![0; 144];
    let mut weights = [1f32; 256];
    weights[5] = -1.0;
    let outcome = encode(DType::Q4K, &[1.0; 256], Some(&weights), &mut bytes);
    assert!(matches!(
        outcome,
        Err(EncodeError::Importance { at: 5, .. })
    ));
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let mut bytes = vec![0; 144];
    let shape = |outcome| matches!(outcome, Err(EncodeError::Shape { .. }));
    assert!(shape(encode(DType::Q4K, &[1.0; 255], None, &mut bytes)));
    assert!(shape(encode(DType::Q4K, &[1.0; 512], None, &mut bytes)));
    assert!(shape(encode(
        DType::Q4K,
        &[1.0; 256],
        Some(&[1.0; 128]),
        &mut bytes
    )));
    assert!(shape(encode(DType::F32, &[1.0; 36], None, &mut bytes)));
    assert!(encode(DType::Q4K, &[], None, &mut []).is_ok());
}

#[test]
fn encoding_what_was_decoded_loses_next_to_nothing() {
    let values = gaussian(256 * 16, 11);
    for format in DType::BLOCKS {
        let once = there_and_back(format, &values, None);
        let twice = there_and_back(format, &once, None);
        let (first, second) = (error(&values, &once, None), error(&once, &twice, None));
        assert!(second < 0.35 * first, "{format}: {first} then {second}");
    }
}

#[test]
fn what_matters_comes_back_better_with_its_importance() {
    let values = gaussian(256 * 16, 13);
    // A few columns matter much more than the others, as in activations.
    let uneven = gaussian(256, 17);
    let weights: Vec<f32> = uneven.iter().map(|x| (2.0 * x).exp()).collect();
    for format in DType::BLOCKS {
        let plain = there_and_back(format, &values, None);
        let weighed = there_and_back(format, &values, Some(&weights));
        let without = error(&values, &plain, Some(&weights));
        let with = error(&values, &weighed, Some(&weights));
        let least = if format == DType::Q8_0 { 1.001 } else { 0.97 };
        assert!(with < least * without, "{format}: {without} to {with}");
    }
}

#[test]
fn columns_without_importance_still_come_back() {
    let values = gaussian(512, 19);
    for format in DType::BLOCKS {
        let all = error(&values, &there_and_back(format, &values, None), None);
        let none = there_and_back(format, &values, Some(&[0.0; 256]));
        assert!((error(&values, &none, None) - all).abs() < 1e-6, "{format}");
    }
}

#[test]
fn every_byte_is_the_same_whatever_else_is_encoded_with_it() {
    let values = gaussian(512, 23);
    for format in DType::BLOCKS {
        let all = encoded(format, &values, None);
        let half = format.row_bytes(256) as usize;
        assert_eq!(
            all[half..],
            encoded(format, &values[256..], None),
            "{format}"
        );
    }
}
