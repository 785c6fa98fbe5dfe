//! Devices that read weights in place: what stays where it lies, what is copied all the
//! same, and that both give the file's bytes.

mod common;

use std::ops::ControlFlow;

use common::{MemoryDevice, Tensor, file_of, info, safetensors, scales, tensor};
use hadal_device::{DType, DeviceInfo, Features};
use hadal_weights::{Checkpoint, Declared, Outline, OutlineTensor, Piece, Placement, TensorSource};

const UP: &str = "model.layers.0.mlp.experts.{}.up_proj.weight";
const EXPERTS: u32 = 5;
/// Bytes of an expert: a multiple of 16 and of no larger power of two.
const EXPERT: [u64; 2] = [128, 7 * 16];

/// A matrix, its scales, and a table whose experts lie side by side behind a gap.
fn tensors(gap: u64) -> Vec<Tensor> {
    let mut tensors = vec![
        tensor("one.weight", "F8_E4M3", &[256, 256], 1),
        tensor("gap", "BF16", &[gap / 8192, 4096], 9),
    ];
    for expert in 0..EXPERTS {
        let name = UP.replace("{}", &expert.to_string());
        tensors.push(tensor(&name, "F8_E4M3", &EXPERT, expert as u8));
    }
    tensors.push(scales(
        "one.weight_scale_inv",
        &[2, 2],
        &[1.0, 2.0, 3.0, 4.0],
    ));
    for expert in 0..EXPERTS {
        let name = UP.replace("{}", &expert.to_string());
        tensors.push(scales(
            &format!("{name}_scale_inv"),
            &[1, 1],
            &[expert as f32],
        ));
    }
    tensors
}

fn declared(gap: u64) -> Vec<Declared> {
    vec![
        Declared::new("one.weight", &[256, 256]),
        Declared::new("gap", &[gap as u32 / 8192, 4096]),
        Declared::table(UP, EXPERTS, [EXPERT[0] as u32, EXPERT[1] as u32]),
    ]
}

/// The file, mapped, with its data at byte `start`.
fn mapped(tensors: &[Tensor], start: usize) -> (tempfile::TempDir, Checkpoint) {
    let file = safetensors(tensors);
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let (header, data) = file[8..].split_at(length);
    let header = String::from_utf8(header.to_vec()).unwrap();
    let padded = format!("{header:<width$}", width = start - 8);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("model.safetensors"),
        file_of(&padded, data),
    )
    .unwrap();
    let source = Checkpoint::open(folder.path()).unwrap();
    (folder, source)
}

fn in_place(align: u64, pointers: bool) -> DeviceInfo {
    let mut features = Features::WGSL.with(Features::IN_PLACE);
    if pointers {
        features = features.with(Features::POINTER_TABLES);
    }
    let mut info = info(1 << 20, 8 << 20, features);
    info.limits.offset_align = align;
    info
}

struct Loaded {
    placement: Placement,
    bytes_in_place: u64,
}

/// Loads on a device that can adopt, and on one that cannot after all, and compares every
/// piece with the file.
fn load(info: DeviceInfo, declared: &[Declared], source: &Checkpoint) -> Loaded {
    let mut bytes = [0; 2];
    let mut last = None;
    for adopts in [true, false] {
        let device = MemoryDevice {
            adopts,
            ..MemoryDevice::new(info.clone())
        };
        let placement = Placement::plan(declared, source, &device.info).unwrap();
        let buffers = placement.load(&device, source, &mut |progress| {
            bytes[usize::from(adopts)] = progress.bytes_in_place;
            ControlFlow::Continue(())
        });
        let buffers = buffers.unwrap();
        let check = |piece: &Piece, name: &str| {
            let found = device.bytes(buffers[piece.buffer], piece.offset, piece.bytes);
            assert!(found == source.bytes(name).unwrap(), "{name}");
        };
        check(
            &placement.matrix("one.weight").unwrap().pieces[0],
            "one.weight",
        );
        let chunk = &placement.table(UP).unwrap().chunks[0];
        assert_eq!(chunk.entries.len(), EXPERTS as usize);
        for (expert, (entry, scale)) in chunk.entries.iter().zip(&chunk.scales).enumerate() {
            let name = UP.replace("{}", &expert.to_string());
            check(entry, &name);
            check(scale, &format!("{name}_scale_inv"));
        }
        last = Some(placement);
    }
    assert_eq!(bytes[0], 0, "nothing is in place where nothing is adopted");
    Loaded {
        placement: last.unwrap(),
        bytes_in_place: bytes[1],
    }
}

#[test]
fn aligned_tensors_stay_where_they_lie_and_begin_a_page() {
    let (_folder, source) = mapped(&tensors(8192), 4096);
    let loaded = load(in_place(16, false), &declared(8192), &source);
    let sizes = loaded.placement.buffer_bytes();
    assert_eq!(sizes.len(), 1, "one window and no arena: {sizes:?}");
    assert_eq!(loaded.bytes_in_place, sizes[0]);
    let file = source.shards()[0].bytes().len() as u64;
    assert_eq!(sizes[0], file, "the window goes on to the last tensor");
    // The scales of five experts lie four bytes apart, which the table's stride allows.
    let scales = &loaded.placement.table(UP).unwrap().chunks[0].scales;
    assert_eq!(scales[1].offset - scales[0].offset, 4);
}

#[test]
fn what_is_not_aligned_is_copied() {
    // Everything is 8 bytes off.
    let (_folder, source) = mapped(&tensors(8192), 4104);
    let loaded = load(in_place(16, false), &declared(8192), &source);
    assert_eq!(loaded.bytes_in_place, 0);
    let experts = u64::from(EXPERTS) * EXPERT[0] * EXPERT[1];
    let loaded = load(in_place(8, false), &declared(8192), &source);
    assert!(loaded.bytes_in_place > experts, "a device that needs less");
    // Kernels that follow pointers read four words at a time, wherever these begin.
    let loaded = load(in_place(256, true), &declared(8192), &source);
    assert!(loaded.bytes_in_place < experts, "scales at most");
    let (_folder, source) = mapped(&tensors(8192), 4112);
    let loaded = load(in_place(256, true), &declared(8192), &source);
    assert!(loaded.bytes_in_place > experts, "16 bytes off");
}

#[test]
fn a_table_at_no_even_stride_is_copied_unless_there_are_pointers() {
    let mut tensors = tensors(8192);
    // Swapped, the experts no longer count up.
    tensors.swap(3, 5);
    let (_folder, source) = mapped(&tensors, 4096);
    let buffer_of = |info| {
        let loaded = load(info, &declared(8192), &source);
        let table = &loaded.placement.table(UP).unwrap().chunks[0];
        let matrix = loaded.placement.matrix("one.weight").unwrap();
        (matrix.pieces[0].buffer, table.entries[0].buffer)
    };
    let (matrix, table) = buffer_of(in_place(16, false));
    assert_ne!(matrix, table);
    let (matrix, table) = buffer_of(in_place(16, true));
    assert_eq!(matrix, table);
}

#[test]
fn windows_respect_the_largest_buffer() {
    let gap = 3 << 20;
    let (_folder, source) = mapped(&tensors(gap), 4096);
    // The matrix in the gap is longer than a window.
    let mut small = in_place(16, false);
    small.limits.max_buffer_bytes = 1 << 20;
    let loaded = load(small, &declared(gap), &source);
    let sizes = loaded.placement.buffer_bytes();
    assert!(sizes.iter().all(|bytes| *bytes <= 1 << 20), "{sizes:?}");
    let matrix = loaded.placement.matrix("one.weight").unwrap().pieces[0].buffer;
    let table = loaded.placement.table(UP).unwrap().chunks[0].entries[0].buffer;
    assert_eq!((matrix, table), (0, 1), "a window on each side of the gap");
    assert!(loaded.bytes_in_place < 1 << 20, "the gap is in none");
}

#[test]
fn a_window_ends_where_nothing_is_read_in_place_for_long() {
    let gap = 3 << 20;
    let mut tensors = tensors(gap);
    let mut declared = declared(gap);
    // The gap is 8 bytes off, so it is copied; behind it all is aligned again.
    for (at, name) in [(1, "before"), (3, "behind")] {
        tensors.insert(at, tensor(name, "F32", &[2], 0));
        declared.push(Declared::new(name, &[2]));
    }
    let (_folder, source) = mapped(&tensors, 4096);
    let loaded = load(in_place(16, false), &declared, &source);
    let matrix = loaded.placement.matrix("one.weight").unwrap().pieces[0].buffer;
    let table = loaded.placement.table(UP).unwrap().chunks[0].entries[0].buffer;
    assert_eq!((matrix, table), (0, 1), "a window on each side of the gap");
    assert!(loaded.bytes_in_place < 1 << 20, "the gap is in none");
}

#[test]
fn what_is_longer_than_a_binding_is_cut_even_in_place() {
    let (_folder, source) = mapped(&tensors(8192), 4096);
    let mut small = in_place(16, false);
    // Half of the matrix, and two experts of five.
    small.limits.max_binding_bytes = 32 << 10;
    let placement = Placement::plan(&declared(8192), &source, &small).unwrap();
    let pieces = &placement.matrix("one.weight").unwrap().pieces;
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|piece| piece.bytes <= 32 << 10));
    for chunk in &placement.table(UP).unwrap().chunks {
        let (first, last) = (&chunk.entries[0], chunk.entries.last().unwrap());
        assert_eq!(first.buffer, last.buffer);
        assert!(last.offset + last.bytes - first.offset <= 32 << 10);
    }
}

#[test]
fn experts_at_a_stride_that_kernels_do_not_read_at_are_copied() {
    // 24 bytes each, of which the second begins 8 bytes off.
    let mut tensors = Vec::new();
    for expert in 0..EXPERTS {
        let name = UP.replace("{}", &expert.to_string());
        tensors.push(tensor(&name, "F8_E4M3", &[3, 8], expert as u8));
    }
    for expert in 0..EXPERTS {
        let name = UP.replace("{}", &expert.to_string());
        tensors.push(scales(&format!("{name}_scale_inv"), &[1, 1], &[1.0]));
    }
    let declared = [Declared::table(UP, EXPERTS, [3, 8])];
    let (_folder, source) = mapped(&tensors, 4096);
    let placement = Placement::plan(&declared, &source, &in_place(8, false)).unwrap();
    let entries = &placement.table(UP).unwrap().chunks[0].entries;
    assert!(entries[1].offset.is_multiple_of(16), "{entries:?}");
}

#[test]
fn tables_in_block_formats_are_scattered_only_where_kernels_follow_them() {
    // Experts in the wrong order, in a block format.
    let experts = (0..EXPERTS).rev().map(|expert| OutlineTensor {
        name: UP.replace("{}", &expert.to_string()),
        shape: vec![128, 256],
        dtype: DType::Q4K,
        bytes: 128 * DType::Q4K.row_bytes(256),
        file: "model.gguf".into(),
    });
    let source = Outline::new("here", experts).unwrap();
    let declared = [Declared::table(UP, EXPERTS, [128, 256])];
    let stays = |features| {
        let mut info = in_place(16, true);
        info.features = info.features.with(features);
        let placement = Placement::plan(&declared, &source, &info).unwrap();
        let entries = &placement.table(UP).unwrap().chunks[0].entries;
        entries[0].offset > entries[1].offset
    };
    assert!(stays(Features::BLOCK_POINTER_TABLES));
    assert!(!stays(Features::NONE), "they are copied, in order");
}
