//! Placement respects a device's limits, wastes little, and what is loaded is what was in
//! the file.

mod common;

use std::ops::ControlFlow;

use common::{MemoryDevice, Tensor, checkpoint, host_info, info, scales, tensor};
use hadal_device::{DeviceInfo, Features};
use hadal_weights::{Checkpoint, Declared, Piece, Placement, Progress, TensorSource, WeightsError};
use proptest::prelude::*;

const UP: &str = "model.layers.0.mlp.experts.{}.up_proj.weight";

/// Declarations and a checkpoint of one large and one small matrix, a norm and a table.
fn model(rows: u32, columns: u32, experts: u32) -> (Vec<Declared>, Checkpoint) {
    let (r, c) = (u64::from(rows), u64::from(columns));
    let blocks = [r.div_ceil(128), c.div_ceil(128)];
    let scale = |name: &str, first: f32| {
        let count = blocks[0] * blocks[1];
        scales(
            name,
            &blocks,
            &(0..count).map(|i| first + i as f32).collect::<Vec<_>>(),
        )
    };
    let mut tensors: Vec<Tensor> = vec![
        tensor("big.weight", "BF16", &[3 * r, c], 1),
        tensor("fp8.weight", "F8_E4M3", &[r, c], 2),
        scale("fp8.weight_scale_inv", 1.0),
        tensor("norm.weight", "F32", &[7], 3),
    ];
    for expert in 0..experts {
        let name = UP.replace("{}", &expert.to_string());
        tensors.push(tensor(&name, "F8_E4M3", &[r, c], expert as u8));
        tensors.push(scale(&format!("{name}_scale_inv"), 100.0 * expert as f32));
    }
    let declared = vec![
        Declared::new("big.weight", &[3 * rows, columns]),
        Declared::new("fp8.weight", &[rows, columns]),
        Declared::new("norm.weight", &[7]),
        Declared::table(UP, experts, [rows, columns]),
    ];
    (declared, checkpoint(&tensors))
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Loads and compares every piece with the bytes of the file.
fn load_and_compare(
    info: DeviceInfo,
    adopts: bool,
    declared: &[Declared],
    source: &Checkpoint,
) -> Placement {
    let device = MemoryDevice {
        adopts,
        ..MemoryDevice::new(info)
    };
    let placement = Placement::plan(declared, source, &device.info).unwrap();
    let mut last = Progress {
        bytes_done: 0,
        bytes_total: 0,
        bytes_in_place: 0,
    };
    let buffers = placement
        .load(&device, source, &mut |progress| {
            assert!(progress.bytes_done >= last.bytes_done);
            last = progress;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(last.bytes_done, last.bytes_total);
    assert_eq!(buffers.len(), placement.buffer_bytes().len());
    let data = |piece: &Piece| device.bytes(buffers[piece.buffer], piece.offset, piece.bytes);
    for weight in declared {
        if weight.experts.is_some() {
            let mut expert = 0;
            for chunk in &placement.table(&weight.name).unwrap().chunks {
                assert_eq!(chunk.expert_first, expert);
                for (entry, scale) in chunk.entries.iter().zip(&chunk.scales) {
                    let name = UP.replace("{}", &expert.to_string());
                    assert_eq!(data(entry), source.bytes(&name).unwrap());
                    assert_eq!(
                        data(scale),
                        source.bytes(&format!("{name}_scale_inv")).unwrap()
                    );
                    expert += 1;
                }
            }
            assert_eq!(Some(expert), weight.experts);
        } else {
            let placed = placement.matrix(&weight.name).unwrap();
            let joined: Vec<u8> = placed.pieces.iter().flat_map(data).collect();
            assert_eq!(joined, source.bytes(&weight.name).unwrap());
            if let Some(scale) = &placed.scale {
                assert_eq!(
                    data(scale),
                    source.bytes(&format!("{}_scale_inv", weight.name)).unwrap()
                );
            }
        }
    }
    placement
}

/// Every piece with the number of its buffer, in no order.
fn all_pieces(placement: &Placement, declared: &[Declared]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for weight in declared {
        if let Some(placed) = placement.matrix(&weight.name) {
            pieces.extend(placed.pieces.iter().chain(&placed.scale));
        }
        for chunk in placement
            .table(&weight.name)
            .iter()
            .flat_map(|table| &table.chunks)
        {
            pieces.extend(chunk.entries.iter().chain(&chunk.scales));
        }
    }
    pieces
}

#[test]
fn a_device_that_adopts_uses_the_files_own_bytes() {
    let (declared, source) = model(200, 136, 3);
    let placement = load_and_compare(host_info(), true, &declared, &source);
    assert_eq!(
        placement.buffer_bytes(),
        [source.shards()[0].bytes().len() as u64]
    );
    let placed = placement.matrix("big.weight").unwrap();
    assert_eq!(placed.pieces.len(), 1);
    assert_eq!(
        placed.pieces[0].offset,
        source.get("big.weight").unwrap().offset
    );
    assert_eq!(placement.table(UP).unwrap().chunks.len(), 1);
    // Such a device that cannot adopt after all gets a copy of the same layout.
    load_and_compare(host_info(), false, &declared, &source);
}

#[test]
fn large_matrices_are_cut_between_scale_blocks() {
    let (declared, source) = model(200, 136, 3);
    // 272 bytes a row of bf16: 240 rows fit, of which 128 are taken.
    let placement = load_and_compare(
        info(65_536, 1 << 20, Features::WGSL),
        false,
        &declared,
        &source,
    );
    let cuts: Vec<(u32, u32)> = placement
        .matrix("big.weight")
        .unwrap()
        .pieces
        .iter()
        .map(|p| (p.row_first, p.row_count))
        .collect();
    assert_eq!(
        cuts,
        [(0, 128), (128, 128), (256, 128), (384, 128), (512, 88)]
    );
}

#[test]
fn experts_lie_at_one_stride_and_fit_a_binding() {
    let (declared, source) = model(200, 136, 7);
    let limit = 3 * 27_392; // Three experts of 27,200 bytes at a stride of 27,392.
    let placement = load_and_compare(
        info(limit, 1 << 20, Features::WGSL),
        false,
        &declared,
        &source,
    );
    let table = placement.table(UP).unwrap();
    let sizes: Vec<usize> = table
        .chunks
        .iter()
        .map(|chunk| chunk.entries.len())
        .collect();
    assert_eq!((sizes, table.shape), (vec![3, 3, 1], [7, 200, 136]));
    for chunk in &table.chunks {
        for run in [&chunk.entries, &chunk.scales] {
            let stride = run.get(1).map_or(0, |second| second.offset - run[0].offset);
            for (number, piece) in (0u64..).zip(run.iter()) {
                assert_eq!(
                    (piece.buffer, piece.offset),
                    (run[0].buffer, run[0].offset + number * stride)
                );
            }
        }
    }
    // One byte less, and the third expert no longer fits.
    let tight = 2 * 27_392 + 27_200 - 1;
    let placement = load_and_compare(
        info(tight, 1 << 20, Features::WGSL),
        false,
        &declared,
        &source,
    );
    assert_eq!(placement.table(UP).unwrap().chunks[0].entries.len(), 2);
}

#[test]
fn a_weight_that_cannot_be_cut_small_enough_is_refused_by_name() {
    let (declared, source) = model(200, 136, 3);
    let error =
        Placement::plan(&declared, &source, &info(16_384, 1 << 20, Features::WGSL)).unwrap_err();
    assert!(
        matches!(&error, WeightsError::TooLarge { tensor, .. } if tensor == "big.weight"),
        "{error}"
    );
}

#[test]
fn an_error_or_a_cancel_leaves_nothing_allocated() {
    let (declared, source) = model(200, 136, 3);
    let small = info(65_536, 65_536, Features::WGSL);
    let placement = Placement::plan(&declared, &source, &small).unwrap();
    assert!(placement.buffer_bytes().len() > 3);
    let full = MemoryDevice {
        allocations: 3,
        ..MemoryDevice::new(small.clone())
    };
    let error = placement.load(&full, &source, &mut go_on).unwrap_err();
    assert!(
        matches!(
            error,
            WeightsError::Device(hadal_device::Error::OutOfMemory { .. })
        ),
        "{error}"
    );
    assert_eq!(full.live(), 0);
    let device = MemoryDevice::new(small);
    let mut calls = 0;
    let error = placement.load(&device, &source, &mut |_| {
        calls += 1;
        if calls < 4 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    assert!(matches!(error, Err(WeightsError::Cancelled)));
    assert_eq!((device.live(), calls), (0, 4));
}

#[test]
fn damaged_scales_stop_a_load_before_anything_is_allocated() {
    let tensors = [
        tensor("w.weight", "F8_E4M3", &[4, 4], 0),
        scales("w.weight_scale_inv", &[1, 1], &[f32::NAN]),
    ];
    let (source, declared) = (checkpoint(&tensors), [Declared::new("w.weight", &[4, 4])]);
    let device = MemoryDevice::new(info(1 << 20, 1 << 20, Features::WGSL));
    let placement = Placement::plan(&declared, &source, &device.info).unwrap();
    let error = placement.load(&device, &source, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("w.weight_scale_inv"), "{error}");
    assert_eq!(device.state.lock().unwrap().made, 0);
}

#[test]
fn uploads_come_in_bounded_steps() {
    let rows = 9 << 10;
    let source = checkpoint(&[
        tensor("w.weight", "F8_E4M3", &[rows, 1025], 0),
        scales(
            "w.weight_scale_inv",
            &[rows / 128, 9],
            &vec![1.0; (rows / 128 * 9) as usize],
        ),
    ]);
    let declared = [Declared::new("w.weight", &[rows as u32, 1025])];
    let device = MemoryDevice::new(info(1 << 30, 1 << 30, Features::WGSL));
    let placement = Placement::plan(&declared, &source, &device.info).unwrap();
    let mut calls = 0;
    placement
        .load(&device, &source, &mut |_| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(calls >= 3);
    assert!(device.state.lock().unwrap().largest_write <= 8 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn pieces_respect_every_limit_and_never_overlap(
        rows in 1u32..300, columns in 1u32..300, experts in 1u32..9,
        binding in 40_000u64..400_000, buffer in 40_000u64..800_000
    ) {
        let (declared, source) = model(rows, columns, experts);
        let info = info(binding, buffer, Features::WGSL);
        let Ok(_) = Placement::plan(&declared, &source, &info) else {
            return Ok(());
        };
        let placement = load_and_compare(info, false, &declared, &source);
        let sizes = placement.buffer_bytes();
        prop_assert!(sizes.iter().all(|bytes| *bytes <= buffer));
        let mut pieces = all_pieces(&placement, &declared);
        pieces.sort_by_key(|piece| (piece.buffer, piece.offset));
        for piece in &pieces {
            prop_assert!(piece.offset % 256 == 0 && piece.bytes <= binding);
            prop_assert!((piece.offset + piece.bytes).next_multiple_of(4) <= sizes[piece.buffer]);
        }
        for pair in pieces.windows(2) {
            prop_assert!(pair[0].buffer != pair[1].buffer || pair[0].offset + pair[0].bytes <= pair[1].offset);
        }
        // Padding is all that is wasted.
        let used: u64 = pieces.iter().map(|piece| piece.bytes.next_multiple_of(256)).sum();
        prop_assert_eq!(used, placement.total_bytes());
    }
}
