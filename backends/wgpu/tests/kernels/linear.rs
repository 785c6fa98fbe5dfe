//! Matrix products without experts.

use hadal_device::{COUNT_ALL, DType, Inputs, OpKind, Params, flags};

use crate::formats::{FORMATS, Weight, dot};
use crate::harness::{Arg, Case, Random, SUMS, Step0, check};

/// (rows prepared, real rows, outputs, inputs)
const SHAPES: [(u32, u32, u32, u32); 13] = [
    (1, 1, 37, 144),
    (3, 2, 260, 272),
    (1, 1, 1, 24),
    (1, 1, 130, 72),
    (2, 2, 70, 40),
    (4, 3, 33, 136),
    (8, 5, 257, 200),
    (3, 3, 20, 33),
    (5, 0, 20, 30),
    (16, 16, 64, 256),
    (70, 67, 66, 64),
    (40, 33, 130, 40),
    (17, 17, 20, 72),
];

fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

/// Where all sizes are multiples of 8, activations begin at multiples of 4; elsewhere not.
fn params(rows: u32, n: u32, k: u32) -> Params {
    let odd = u32::from(!k.is_multiple_of(8) || rows == 8);
    Params {
        rows,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n,
        k,
        x_offset: 4 - odd,
        x_stride: k + 4 + odd,
        y_offset: 2,
        y_stride: n + 3,
        b_offset: 1,
        b_stride: n + 7,
        row_count: n,
        ..Params::default()
    }
}

/// An output of `rows` rows in which `value(r, column)` stands where a kernel writes.
fn output(p: &Params, rows: u32, value: impl Fn(usize, usize) -> Option<f64>) -> Vec<Option<f64>> {
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for r in 0..rows as usize {
        for column in 0..p.n as usize {
            out[p.y_offset as usize + r * p.y_stride as usize + column] = value(r, column);
        }
    }
    out
}

fn x_row<'x>(x: &'x [f32], p: &Params, r: usize) -> &'x [f32] {
    &x[p.x_offset as usize + r * p.x_stride as usize..][..p.k as usize]
}

#[test]
fn a_linear_with_and_without_residual_is_the_dot_product() {
    for dtype in FORMATS {
        for (rows, real, n, k) in SHAPES {
            let mut random = Random(7);
            let w = Weight::random(dtype, n as usize, k as usize, &mut random);
            for residual in [false, true] {
                let p = Params {
                    flags: if residual { flags::RESIDUAL } else { 0 },
                    ..params(rows, n, k)
                };
                let x = random.floats((p.x_offset + rows * p.x_stride) as usize);
                let b = random.floats((p.b_offset + rows * p.b_stride) as usize);
                let out = output(&p, real, |r, i| {
                    let added = if residual {
                        b[p.b_offset as usize + r * p.b_stride as usize + i].into()
                    } else {
                        0.0
                    };
                    Some(dot(x_row(&x, &p, r), w.row(i)) + added)
                });
                let mut args = vec![Arg::F32(x), Arg::Weight(&w)];
                if residual {
                    args.push(Arg::F32(b));
                }
                args.push(Arg::Out(out));
                check(Case {
                    name: format!("linear {dtype} {rows}({real}) x {n} x {k}, residual {residual}"),
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
}

#[test]
fn a_shard_of_a_linear_writes_its_own_columns_with_the_scales_of_the_whole() {
    for dtype in FORMATS {
        // Few rows, and enough for the kernel that takes blocks of them.
        for (op, rows, k) in [
            (OpKind::Linear, 4u32, 136u32),
            (OpKind::GateUp, 4, 136),
            (OpKind::Linear, 9, 144),
            (OpKind::GateUp, 9, 144),
        ] {
            let (n, first, count) = (300u32, 120u32, 100u32);
            let mut random = Random(11);
            let w = Weight::random(dtype, n as usize, k as usize, &mut random);
            let v = Weight::random(dtype, n as usize, k as usize, &mut random);
            let p = Params {
                row_first: first,
                row_count: count,
                ..params(rows, n, k)
            };
            let x = random.floats((p.x_offset + p.rows * p.x_stride) as usize);
            let out = output(&p, rows - 1, |r, i| {
                let inside = (first..first + count).contains(&(i as u32));
                let gate = dot(x_row(&x, &p, r), w.row(i));
                inside.then(|| match op {
                    OpKind::GateUp => silu(gate) * dot(x_row(&x, &p, r), v.row(i)),
                    _ => gate,
                })
            });
            let (w, v) = (
                w.shard(first as usize, count as usize),
                v.shard(first as usize, count as usize),
            );
            let mut args = vec![Arg::F32(x), Arg::Weight(&w)];
            if op == OpKind::GateUp {
                args.push(Arg::Weight(&v));
            }
            args.push(Arg::Out(out));
            check(Case {
                name: format!("{} {dtype}, a shard, {rows} rows", op.name()),
                op,
                weight: dtype,
                params: p,
                step: Step0::of(rows, rows - 1),
                args,
                tolerance: SUMS,
            });
        }
    }
}

#[test]
fn gate_and_up_are_joined_by_silu() {
    for dtype in FORMATS {
        for (rows, real, n, k) in SHAPES {
            let mut random = Random(13);
            let w = Weight::random(dtype, n as usize, k as usize, &mut random);
            let v = Weight::random(dtype, n as usize, k as usize, &mut random);
            let p = params(rows, n, k);
            let x = random.floats((p.x_offset + rows * p.x_stride) as usize);
            let out = output(&p, real, |r, i| {
                let x = x_row(&x, &p, r);
                Some(silu(dot(x, w.row(i))) * dot(x, v.row(i)))
            });
            check(Case {
                name: format!("gate_up {dtype} {rows}({real}) x {n} x {k}"),
                op: OpKind::GateUp,
                weight: dtype,
                params: p,
                step: Step0::of(rows, real),
                args: vec![Arg::F32(x), Arg::Weight(&w), Arg::Weight(&v), Arg::Out(out)],
                tolerance: SUMS,
            });
        }
    }
}

fn head_output(p: &Params, x: &[f32], w: &Weight, transposed: bool) -> Vec<Option<f64>> {
    let mut out = vec![None; (p.y_offset + p.rows * p.y_stride) as usize];
    for (r, a) in (0..p.rows).flat_map(|r| (0..p.heads).map(move |a| (r, a))) {
        let x_at = p.x_offset + r * p.x_stride + a * p.x_head_stride;
        let x = &x[x_at as usize..][..p.k as usize];
        let y_at = p.y_offset + r * p.y_stride + a * p.y_head_stride;
        let base = (a * p.head_rows + p.head_first) as usize;
        for i in 0..p.n as usize {
            let column = |j: usize| f64::from(x[j]) * w.row(base + j)[i];
            out[y_at as usize + i] = Some(if transposed {
                (0..p.k as usize).map(column).sum()
            } else {
                dot(x, w.row(base + i))
            });
        }
    }
    out
}

#[test]
fn a_head_linear_takes_its_slice_of_each_head_straight_and_transposed() {
    // (rows, heads, rows a head, first, slice, latent)
    for (rows, heads, head_rows, first, slice, latent) in [
        (1u32, 2u32, 24u32, 0u32, 16u32, 40u32),
        (3, 3, 40, 16, 24, 136),
        (6, 2, 150, 30, 120, 72),
        (2, 2, 20, 5, 10, 33),
        (4, 2, 150, 30, 120, 144),
    ] {
        for dtype in FORMATS {
            for transposed in [false, true] {
                let mut random = Random(17);
                let w = Weight::random(
                    dtype,
                    (heads * head_rows) as usize,
                    latent as usize,
                    &mut random,
                );
                let (n, k) = if transposed {
                    (latent, slice)
                } else {
                    (slice, latent)
                };
                let odd = rows % 2;
                let p = Params {
                    rows,
                    count_word: COUNT_ALL,
                    count_scale: 1,
                    n,
                    k,
                    x_offset: 4 + odd,
                    x_head_stride: k + 4 + odd,
                    x_stride: heads * (k + 4 + odd) + 4,
                    y_offset: 4,
                    y_head_stride: n + 1,
                    y_stride: heads * (n + 1) + 2,
                    heads,
                    latent,
                    head_rows,
                    head_first: first,
                    flags: if transposed { flags::TRANSPOSED } else { 0 },
                    ..Params::default()
                };
                let x = random.floats((p.x_offset + rows * p.x_stride) as usize);
                let out = head_output(&p, &x, &w, transposed);
                check(Case {
                    name: format!(
                        "head_linear {dtype} {rows} x {heads} x {n} x {k}, transposed {transposed}"
                    ),
                    op: OpKind::HeadLinear,
                    weight: dtype,
                    params: p,
                    step: Step0::of(rows, rows),
                    args: vec![Arg::F32(x), Arg::Weight(&w), Arg::Out(out)],
                    tolerance: SUMS,
                });
            }
        }
    }
}

#[test]
fn a_nan_code_makes_its_own_sum_nan_and_no_other() {
    for nan_code in [0x7fu8, 0xff] {
        let mut random = Random(19);
        let (n, k) = (5usize, 72usize);
        let mut w = Weight::random(DType::F8E4M3, n, k, &mut random);
        w.bytes[2 * k + 7] = nan_code;
        w.values[2 * k + 7] = f64::NAN;
        let p = params(1, n as u32, k as u32);
        let x = random.floats((p.x_offset + p.x_stride) as usize);
        let out = output(&p, 1, |r, i| Some(dot(x_row(&x, &p, r), w.row(i))));
        check(Case {
            name: format!("linear with code {nan_code:#x}"),
            op: OpKind::Linear,
            weight: DType::F8E4M3,
            params: p,
            step: Step0::of(1, 1),
            args: vec![Arg::F32(x), Arg::Weight(&w), Arg::Out(out)],
            tolerance: SUMS,
        });
    }
}

#[test]
fn a_linear_of_a_norm_divides_by_the_root_mean_square_of_its_row() {
    for norm_dtype in [DType::F32, DType::Bf16] {
        for dtype in FORMATS {
            for (rows, real, n, k) in SHAPES.into_iter().filter(|s| s.3 % 16 == 0) {
                let mut random = Random(31);
                let w = Weight::random(dtype, 2 * n as usize, k as usize, &mut random);
                let norm = Weight::random(norm_dtype, 1, k as usize, &mut random);
                // The second half of the outputs, with the scales of the whole.
                let p = Params {
                    eps: 1e-3,
                    row_first: n,
                    flags: match norm_dtype {
                        DType::Bf16 => flags::NORM_BF16,
                        _ => 0,
                    },
                    ..params(rows, 2 * n, k)
                };
                let p = Params {
                    row_count: n,
                    x_offset: 4,
                    x_stride: k + 4,
                    ..p
                };
                let x = random.floats((p.x_offset + rows * p.x_stride) as usize);
                let out = output(&p, real, |r, i| {
                    let x = x_row(&x, &p, r);
                    let mean = dot(x, &x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
                    let root = (mean / f64::from(k) + f64::from(p.eps)).sqrt();
                    let products = w.row(i).iter().zip(&norm.values).map(|(w, n)| w * n);
                    let sum = dot(x, &products.collect::<Vec<_>>());
                    (i >= n as usize).then_some(sum / root)
                });
                let shard = w.shard(n as usize, n as usize);
                check(Case {
                    name: format!("norm_linear {norm_dtype} {dtype} {rows}({real}) x {n} x {k}"),
                    op: OpKind::NormLinear,
                    weight: dtype,
                    params: p,
                    step: Step0::of(rows, real),
                    args: vec![
                        Arg::F32(x),
                        Arg::Weight(&norm),
                        Arg::Weight(&shard),
                        Arg::Out(out),
                    ],
                    tolerance: 2.0 * SUMS,
                });
            }
        }
    }
}
