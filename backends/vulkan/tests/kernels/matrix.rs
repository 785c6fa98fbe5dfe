//! Rows on matrix units and tables by address: edges of tiles, magnitudes that f16 does not
//! hold, entries that lie anywhere.

use hadal_device::{COUNT_ALL, DType, Features, Inputs, OpKind, Params, flags};
use half::bf16;

use crate::formats::{FORMATS, Weight, dot};
use crate::harness::{Arg, Case, Random, SUMS, Step0, answer, check, fitting};
use crate::open::devices;

fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

fn params(rows: u32, n: u32, k: u32) -> Params {
    Params {
        rows,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n,
        k,
        x_offset: 4,
        x_stride: k + 4,
        y_offset: 2,
        y_stride: n + 3,
        b_offset: 1,
        b_stride: n + 7,
        row_count: n,
        ..Params::default()
    }
}

/// Activations whose rows from `real` on are NaN, as memory that no step wrote may be.
fn activations(p: &Params, real: u32, random: &mut Random) -> Vec<f32> {
    let mut x = random.floats((p.x_offset + p.rows * p.x_stride) as usize);
    x[(p.x_offset + real * p.x_stride) as usize..].fill(f32::NAN);
    x
}

fn x_row<'x>(x: &'x [f32], p: &Params, r: usize) -> &'x [f32] {
    &x[p.x_offset as usize + r * p.x_stride as usize..][..p.k as usize]
}

/// Answers for `real` rows and the outputs that a shard has.
fn output(p: &Params, real: u32, value: impl Fn(usize, usize) -> f64) -> Vec<Option<f64>> {
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for r in 0..real as usize {
        for i in p.row_first as usize..(p.row_first + p.row_count) as usize {
            out[p.y_offset as usize + r * p.y_stride as usize + i] = Some(value(r, i));
        }
    }
    out
}

/// (rows prepared, real rows, outputs, inputs): full tiles, and every edge ragged.
const SHAPES: [(u32, u32, u32, u32); 4] = [
    (16, 16, 64, 128),
    (32, 29, 70, 144),
    (64, 3, 20, 32),
    (130, 97, 97, 400),
];

#[test]
fn tiles_of_a_linear_are_right_at_every_edge() {
    for dtype in FORMATS {
        for (rows, real, n, k) in SHAPES {
            let residual = rows == 32;
            let mut random = Random(41);
            let w = Weight::random(dtype, n as usize, k as usize, &mut random);
            let p = Params {
                flags: if residual { flags::RESIDUAL } else { 0 },
                ..params(rows, n, k)
            };
            let x = activations(&p, real, &mut random);
            let b = random.floats((p.b_offset + rows * p.b_stride) as usize);
            let out = output(&p, real, |r, i| {
                let added = b[p.b_offset as usize + r * p.b_stride as usize + i];
                dot(x_row(&x, &p, r), w.row(i)) + if residual { added.into() } else { 0.0 }
            });
            let mut args = vec![Arg::F32(x), Arg::Weight(&w)];
            if residual {
                args.push(Arg::F32(b));
            }
            args.push(Arg::Out(out));
            check(Case {
                name: format!("tiles {dtype} {real} of {rows} x {n} x {k}, residual {residual}"),
                op: OpKind::Linear,
                weight: dtype,
                params: p,
                step: Step0::of(rows, real),
                args,
                tolerance: SUMS,
            });
        }
    }
}

#[test]
fn tiles_of_a_shard_find_the_scales_of_the_whole() {
    for dtype in FORMATS {
        let (rows, real, n, k) = (17, 17, 300, 272);
        let mut random = Random(43);
        let w = Weight::random(dtype, n as usize, k as usize, &mut random);
        let v = Weight::random(dtype, n as usize, k as usize, &mut random);
        let p = Params {
            row_first: 128,
            row_count: 150,
            ..params(rows, n, k)
        };
        let x = activations(&p, real, &mut random);
        let out = output(&p, real, |r, i| {
            let x = x_row(&x, &p, r);
            silu(dot(x, w.row(i))) * dot(x, v.row(i))
        });
        let (w, v) = (w.shard(128, 150), v.shard(128, 150));
        check(Case {
            name: format!("tiles of a shard, {dtype}"),
            op: OpKind::GateUp,
            weight: dtype,
            params: p,
            step: Step0::of(rows, real),
            args: vec![Arg::F32(x), Arg::Weight(&w), Arg::Weight(&v), Arg::Out(out)],
            tolerance: SUMS,
        });
    }
}

const EXPERTS: u32 = 5;

/// Choices of experts, sorted: expert 1 gets none, expert 3 more than a tile takes.
fn chosen(rows: u32) -> Vec<u32> {
    let experts = [0, 2, 3, 3, 3, 4];
    let mut idx: Vec<u32> = (0..rows).map(|r| experts[r as usize % 6]).collect();
    idx.sort_unstable();
    idx
}

/// An expert operation over tables in one range or scattered.
fn expert_case(op: OpKind, dtype: DType, rows: u32, (n, k): (u32, u32), scattered: bool) {
    let gated = matches!(op, OpKind::GroupedGateUp | OpKind::ExpertGateUp);
    let grouped = matches!(op, OpKind::GroupedGateUp | OpKind::GroupedLinear);
    let mut random = Random(47);
    let mut table = || -> Vec<Weight> {
        let entry = |_| Weight::random(dtype, n as usize, k as usize, &mut random);
        (0..EXPERTS).map(entry).collect()
    };
    let (gates, ups) = (table(), table());
    // A table that begins with expert 2.
    let first = 2;
    let p = Params {
        count_scale: 1,
        top_k: 1,
        experts: EXPERTS,
        expert_first: first,
        expert_count: EXPERTS - first,
        row_count: n,
        x_offset: if k.is_multiple_of(16) { 4 } else { 1 },
        x_stride: if k.is_multiple_of(16) { k + 4 } else { k },
        ..params(rows, n, k)
    };
    let idx = chosen(rows);
    let x = Random(48).floats((p.x_offset + p.rows * p.x_stride) as usize);
    let mut out = output(&p, rows, |r, i| {
        let (x, e) = (x_row(&x, &p, r), idx[r] as usize);
        let gate = dot(x, gates[e].row(i));
        let up = || dot(x, ups[e].row(i));
        if gated { silu(gate) * up() } else { gate }
    });
    for r in (0..rows as usize).filter(|r| idx[*r] < first) {
        let at = p.y_offset as usize + r * p.y_stride as usize;
        out[at..at + n as usize].fill(None);
    }
    let before = |e: u32| idx.iter().filter(|i| **i < e).count() as u32;
    let lookup = match grouped {
        true => (0..=EXPERTS).map(before).collect(),
        false => idx,
    };
    let mut args = vec![Arg::F32(x), Arg::U32(lookup)];
    let way = if scattered {
        Arg::Scattered
    } else {
        Arg::Experts
    };
    for table in [&gates, &ups].into_iter().take(1 + usize::from(gated)) {
        args.push(way(&table[first as usize..]));
    }
    args.push(Arg::Out(out));
    let case = Case {
        name: format!(
            "{} {dtype} {rows} x {n} x {k}, scattered {scattered}",
            op.name()
        ),
        op,
        weight: dtype,
        params: p,
        step: Step0::of(rows, rows),
        args,
        tolerance: SUMS,
    };
    let pointers = |info: &hadal_device::DeviceInfo| info.features.has(Features::POINTER_TABLES);
    if scattered && !devices().iter().all(|(_, device)| pointers(device.info())) {
        println!("{}: NOT RUN, no device takes scattered tables", case.name);
        return;
    }
    check(case);
}

#[test]
fn many_rows_an_expert_fill_tiles_and_others_rows_are_left_alone() {
    for op in [OpKind::GroupedLinear, OpKind::GroupedGateUp] {
        for dtype in FORMATS {
            // Of tables in one range, which every row takes, and scattered ones.
            expert_case(op, dtype, 60, (70, 144), false);
            expert_case(op, dtype, 40, (33, 272), true);
        }
    }
}

#[test]
fn entries_of_a_table_may_lie_anywhere() {
    let [one, two] = [OpKind::GroupedLinear, OpKind::GroupedGateUp];
    for op in [one, two, OpKind::ExpertLinear, OpKind::ExpertGateUp] {
        for dtype in FORMATS {
            for (n, k) in [(150, 144), (37, 33)] {
                expert_case(op, dtype, 7, (n, k), true);
            }
        }
    }
}

/// A weight whose rows differ, and all of them from what f16 holds, as far as its format does.
fn uneven(dtype: DType, rows: usize, k: usize, random: &mut Random) -> Weight {
    let mut weight = Weight::random(dtype, rows, k, random);
    let size = |i: usize| [1e-20, 1e-23, 3e-18][i / k % 3];
    match dtype {
        DType::F32 | DType::Bf16 => {
            weight.bytes.clear();
            for (i, value) in weight.values.iter_mut().enumerate() {
                let wanted = (*value * size(i)) as f32;
                if dtype == DType::F32 {
                    weight.bytes.extend(wanted.to_le_bytes());
                    *value = wanted.into();
                } else {
                    let code = bf16::from_f32(wanted);
                    weight.bytes.extend(code.to_le_bytes());
                    *value = code.to_f64();
                }
            }
        }
        _ => {}
    }
    weight
}

/// The largest error of each fitting row over outputs, as a share of the sum of magnitudes
/// of the products: what f32 sums have is about 1e-7 a few times.
fn errors(dtype: DType, outlier: f32, even: bool) -> Vec<(&'static str, f64)> {
    let (rows, n, k) = (32, 48, 1536);
    let mut random = Random(53);
    let w = if even {
        Weight::random(dtype, n as usize, k as usize, &mut random)
    } else {
        uneven(dtype, n as usize, k as usize, &mut random)
    };
    let p = Params {
        count_word: COUNT_ALL,
        ..params(rows, n, k)
    };
    let mut x = activations(&p, rows, &mut random);
    for r in 0..rows as usize {
        // One in a hundred is far larger, and rows differ too.
        let at = p.x_offset as usize + r * p.x_stride as usize;
        for value in &mut x[at..at + k as usize] {
            let large = random.below(100) == 0;
            *value *= if large { outlier } else { 1.0 } * [1.0, 1e-3][r % 2];
        }
    }
    let out = output(&p, rows, |_, _| 0.0);
    let case = Case {
        name: format!("errors {dtype}"),
        op: OpKind::Linear,
        weight: dtype,
        params: p,
        step: Step0::of(rows, rows),
        args: vec![Arg::F32(x.clone()), Arg::Weight(&w), Arg::Out(out)],
        tolerance: 0.0,
    };
    let Some((_, device)) = devices().first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for row in fitting(&case, device.info()) {
        let y = answer(&case, device.as_ref(), row);
        let mut worst = 0.0f64;
        for r in 0..rows as usize {
            for i in 0..n as usize {
                let (x, w) = (x_row(&x, &p, r), w.row(i));
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * w);
                let (want, size) = products.fold((0.0, 0.0), |(s, m), v| (s + v, m + v.abs()));
                let got = y[p.y_offset as usize + r * p.y_stride as usize + i];
                worst = worst.max((f64::from(got) - want).abs() / size);
            }
        }
        found.push((row.name, worst));
    }
    found
}

#[test]
fn matrix_units_are_as_exact_as_f32_whatever_the_magnitudes() {
    for dtype in FORMATS {
        for outlier in [1.0, 3e6] {
            for even in [true, false] {
                let errors = errors(dtype, outlier, even);
                for (row, error) in &errors {
                    println!("{row}, outliers of {outlier:e}, even {even}: {error:.1e}");
                }
                // The others sum in f32 alone.
                let matrix = |row: &str| row.starts_with("spirv_");
                let plain = errors.iter().filter(|(row, _)| !matrix(row));
                let bound = plain.fold(0.0f64, |most, (_, error)| most.max(*error));
                for (row, error) in errors.iter().filter(|(row, _)| matrix(row)) {
                    assert!(*error <= bound, "{row}: {error:e} where f32 has {bound:e}");
                }
            }
        }
    }
}

#[test]
fn an_infinite_row_stays_alone() {
    for dtype in FORMATS {
        let (rows, n, k) = (16, 24, 160);
        let mut random = Random(59);
        let w = Weight::random(dtype, n as usize, k as usize, &mut random);
        let p = params(rows, n, k);
        let mut x = activations(&p, rows, &mut random);
        for (r, value) in [(3, f32::INFINITY), (9, f32::NAN)] {
            x[(p.x_offset + r * p.x_stride + 70) as usize] = value;
        }
        let out = output(&p, rows, |r, i| match r {
            // Infinity times a zero code, plus numbers: any of them may come out.
            3 => f64::NAN,
            9 => f64::NAN,
            _ => dot(x_row(&x, &p, r), w.row(i)),
        });
        check_finite(dtype, p, x, &w, &out);
    }
}

/// Compares the finite answers; others must not be finite.
fn check_finite(dtype: DType, p: Params, x: Vec<f32>, w: &Weight, want: &[Option<f64>]) {
    let case = Case {
        name: format!("infinities {dtype}"),
        op: OpKind::Linear,
        weight: dtype,
        params: p,
        step: Step0::of(p.rows, p.rows),
        args: vec![Arg::F32(x), Arg::Weight(w), Arg::Out(want.to_vec())],
        tolerance: SUMS,
    };
    for (name, device) in devices() {
        for row in fitting(&case, device.info()) {
            let y = answer(&case, device.as_ref(), row);
            for (at, want) in want.iter().enumerate() {
                let Some(want) = want else { continue };
                let place = format!("{dtype} [{}, {name}] {at}", row.name);
                if want.is_nan() {
                    assert!(!y[at].is_finite(), "{place}: {}", y[at]);
                } else {
                    let off = (f64::from(y[at]) - want).abs();
                    assert!(off <= 1e-4, "{place}: {} instead of {want}", y[at]);
                }
            }
        }
    }
}
