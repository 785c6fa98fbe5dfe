//! The published numbers of the block formats of GGUF, read by the kernels of every device.

use hadal_device::{DType, OpKind, Params, flags};
use hadal_tests::dispatch::Argument;
use hadal_tests::unit::{Unit, dense, inputs, share};

/// Largest difference of a value, as a share of the case's largest.
const SINGLE: f64 = 1e-6;

/// Unit vectors that are multiplied at once.
const UNIT_VECTORS: usize = 64;

/// Every block format of GGUF, multiplied with each unit vector in turn.
#[test]
fn block_formats_are_what_their_vectors_say() {
    let Some(unit) = Unit::open("block_formats_are_what_their_vectors_say") else {
        return;
    };
    let formats = unit.cases["gguf"].as_array().expect("a list of formats");
    for format in formats {
        let name = format["name"].as_str().expect("a name");
        let dtype = DType::from_name(&name.to_lowercase()).expect("a known format");
        let k = dtype.block_values() as usize;
        let want = unit.values(&format!("gguf.{name}.values"));
        let n = want.len() / k;
        // Few at a time: some devices bind 128 KiB.
        for first in (0..k).step_by(UNIT_VECTORS) {
            let rows = UNIT_VECTORS.min(k - first);
            let vectors: Vec<f32> = (0..rows * k)
                .map(|i| f32::from(u8::from(first + i / k == i % k)))
                .collect();
            let params = Params {
                flags: flags::format_bits(dtype),
                ..dense(rows, k, n)
            };
            let arguments = [
                inputs(rows),
                Argument::floats(&vectors),
                Argument::In(unit.codes(&format!("gguf.{name}.blocks"))),
                Argument::Out(rows * n),
            ];
            let part: Vec<f64> = (0..rows * n)
                .map(|i| want[i % n * k + first + i / n])
                .collect();
            let problem = (OpKind::Linear, dtype, params);
            unit.check(name, problem, &arguments, SINGLE, |_, done| {
                share(&done.floats(0), &part)
            });
        }
    }
}
