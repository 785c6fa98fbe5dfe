//! What is used of cuBLASLt and hipBLASLt, by their documentation: products of bf16 with sums of f32,
//! and, of the first alone, of E4M3 codes with block scales (`cublasLtMatmul`, "128-element 1D and
//! 128x128 2D block scaling for FP8 data types").
#![allow(non_snake_case, reason = "the vendors' names")]

use std::collections::BTreeMap;

use crate::codes::Result;
use crate::codes::Vendor;
use crate::exports::{both, driver, put};
use crate::product::Product;
use crate::queue::Op;
use crate::state::{State, object};

/// The library's codes.
const NOT_INITIALIZED: u32 = 1;
const INVALID_VALUE: u32 = 7;
const NOT_SUPPORTED: u32 = 15;

/// Types and modes by their numbers in the headers.
const F32: i32 = 0;
const BF16: i32 = 14;
const E4M3: i32 = 28;
const EACH_128: u64 = 4;
const EACH_128_BY_128: u64 = 5;

/// An algorithm, as this library knows its own again. What operands must be aligned to follows.
const ALGORITHM: u64 = 0x6d6f_636b;

/// Memory that a product wants.
const WORKSPACE: usize = 1 << 20;

/// Attributes of a product by cuBLASLt's numbers.
const TRANSPOSE_A: i32 = 3;
const TRANSPOSE_B: i32 = 4;

/// What the library hands out.
pub(crate) enum Described {
    Handle,
    /// Attributes by cuBLASLt's number.
    Product(BTreeMap<i32, u64>),
    Layout {
        kind: i32,
        lines: u64,
        columns: u64,
        stride: i64,
    },
    /// The most memory, and by cuBLASLt's numbers what operands are aligned to.
    Preference(u64, BTreeMap<i32, u64>),
}

/// `cublasLtMatmulHeuristicResult_t`, and hipBLASLt's with a shorter algorithm.
#[repr(C)]
pub struct Chosen<const WORDS: usize> {
    algorithm: [u64; WORDS],
    workspace: usize,
    status: u32,
    waves: f32,
    reserved: [i32; 4],
}

driver! { Cuda:
    fn cublasLtGetProperty(state, part: i32, out: *mut i32) {
        let version = state.config.library;
        match (version, part) {
            (0, _) => Err(NOT_INITIALIZED),
            (_, 0) => put(state, out, version / 10000),
            (_, 1) => put(state, out, version / 100 % 100),
            (_, 2) => put(state, out, version % 100),
            _ => state.refuse(INVALID_VALUE, format!("property {part}")),
        }
    }
    fn cublasLtMatmulDescCreate(state, out: *mut u64, sums: i32, factors: i32) {
        product_made(state, out, (sums, factors) == (68, F32))
    }
    fn cublasLtMatmulDescSetAttribute(
        state, handle: u64, attribute: i32, value: *const u8, bytes: usize
    ) {
        let wanted = match attribute {
            TRANSPOSE_A | TRANSPOSE_B | 31 | 32 => 4,
            17 | 18 => 8,
            _ => return state.refuse(NOT_SUPPORTED, format!("attribute {attribute}")),
        };
        let value = number(state, value, bytes, wanted)?;
        set(state, handle, attribute, value)
    }
    fn cublasLtMatmulAlgoGetHeuristic(
        state, handle: u64, product: u64, a: u64, b: u64, c: u64, d: u64, preference: u64,
        most: i32, out: *mut Chosen<8>, count: *mut i32
    ) {
        let described = (handle, product, [a, b, c, d]);
        search(state, Vendor::Cuda, described, preference, most, (out, count))
    }
}

driver! { Hip:
    fn hipblasLtGetVersion(state, handle: u64, out: *mut i32) {
        is_handle(state, handle)?;
        put(state, out, state.config.library)
    }
    fn hipblasLtMatmulDescCreate(state, out: *mut u64, sums: i32, factors: i32) {
        product_made(state, out, (sums, factors) == (2, F32))
    }
    fn hipblasLtMatmulDescSetAttribute(
        state, handle: u64, attribute: i32, value: *const u8, bytes: usize
    ) {
        // `HIPBLAS_OP_N` and `HIPBLAS_OP_T` are letters.
        let value = match number(state, value, bytes, 4)? {
            111 => 0,
            112 => 1,
            other => return state.refuse(NOT_SUPPORTED, format!("an operation {other}")),
        };
        match attribute {
            0 => set(state, handle, TRANSPOSE_A, value),
            1 => set(state, handle, TRANSPOSE_B, value),
            _ => state.refuse(NOT_SUPPORTED, format!("attribute {attribute}")),
        }
    }
    fn hipblasLtMatmulAlgoGetHeuristic(
        state, handle: u64, product: u64, a: u64, b: u64, c: u64, d: u64, preference: u64,
        most: i32, out: *mut Chosen<3>, count: *mut i32
    ) {
        let described = (handle, product, [a, b, c, d]);
        search(state, Vendor::Hip, described, preference, most, (out, count))
    }
}

both! {
    fn cublasLtCreate hipblasLtCreate(state, out: *mut u64) {
        match state.config.library {
            0 => Err(NOT_INITIALIZED),
            _ => {
                retain(state)?;
                made(state, out, Described::Handle)
            }
        }
    }
    fn cublasLtDestroy hipblasLtDestroy(state, handle: u64) { gone(state, handle) }
    fn cublasLtMatmulDescDestroy hipblasLtMatmulDescDestroy(state, handle: u64) {
        gone(state, handle)
    }
    fn cublasLtMatrixLayoutCreate hipblasLtMatrixLayoutCreate(
        state, out: *mut u64, kind: i32, lines: u64, columns: u64, stride: i64
    ) {
        made(state, out, Described::Layout { kind, lines, columns, stride })
    }
    fn cublasLtMatrixLayoutDestroy hipblasLtMatrixLayoutDestroy(state, handle: u64) {
        gone(state, handle)
    }
    fn cublasLtMatmulPreferenceCreate hipblasLtMatmulPreferenceCreate(state, out: *mut u64) {
        made(state, out, Described::Preference(0, BTreeMap::new()))
    }
    fn cublasLtMatmulPreferenceDestroy hipblasLtMatmulPreferenceDestroy(state, handle: u64) {
        gone(state, handle)
    }
    fn cublasLtMatmulPreferenceSetAttribute hipblasLtMatmulPreferenceSetAttribute(
        state, handle: u64, attribute: i32, value: *const u8, bytes: usize
    ) {
        let value = number(state, value, bytes, if attribute == 1 { 8 } else { 4 })?;
        let has_alignments = state.vendor == Vendor::Cuda;
        match (described(state, handle)?, attribute) {
            (Described::Preference(most, _), 1) => {
                *most = value;
                Ok(())
            }
            (Described::Preference(_, alignments), 5..=8) if has_alignments => {
                alignments.insert(attribute, value);
                Ok(())
            }
            _ => state.refuse(INVALID_VALUE, format!("attribute {attribute}")),
        }
    }
    fn cublasLtMatmul hipblasLtMatmul(
        state, handle: u64, product: u64, alpha: *const f32, a: u64, layout_a: u64, b: u64,
        layout_b: u64, beta: *const f32, c: u64, layout_c: u64, d: u64, layout_d: u64,
        algorithm: *const u64, workspace: u64, workspace_bytes: usize, stream: u64
    ) {
        is_handle(state, handle)?;
        let shape = shape(state, product, [layout_a, layout_b, layout_c, layout_d])?;
        if alpha.is_null() || beta.is_null() || algorithm.is_null() {
            return state.refuse(INVALID_VALUE, "no factors or no algorithm");
        }
        // SAFETY: not null; the caller's word that they are such; an algorithm has more words.
        let (alpha, beta, algorithm, least) =
            unsafe { (*alpha, *beta, *algorithm, *algorithm.add(1)) };
        let adds = beta == 1.0 && !shape.is_coded;
        if (alpha, c) != (1.0, d) || (beta != 0.0 && !adds) || algorithm != ALGORITHM {
            return state.refuse(NOT_SUPPORTED, "other factors, or another's algorithm");
        }
        if workspace_bytes < WORKSPACE || !workspace.is_multiple_of(256) {
            return state.refuse(INVALID_VALUE, "a workspace that is too short or not aligned");
        }
        let workspace = (workspace, workspace_bytes);
        let product = Product { adds, a, b, d, workspace, ..shape };
        let scales = [product.scales_a, product.scales_b];
        let are_aligned = [a, b, d].iter().all(|address| address % least == 0);
        if !are_aligned || scales.iter().any(|address| address % 16 != 0) {
            let why = format!("an operand that begins at no multiple of 16 or of {least}");
            return state.refuse(NOT_SUPPORTED, why);
        }
        state.enqueue(stream, Op::Product(product))
    }
}

fn product_made(state: &mut State, out: *mut u64, is_known: bool) -> Result {
    match is_known {
        true => made(state, out, Described::Product(BTreeMap::new())),
        false => Err(NOT_SUPPORTED),
    }
}

fn set(state: &mut State, handle: u64, attribute: i32, value: u64) -> Result {
    match described(state, handle)? {
        Described::Product(attributes) => {
            attributes.insert(attribute, value);
            Ok(())
        }
        _ => state.refuse(INVALID_VALUE, "an attribute of no product"),
    }
}

/// The one algorithm there is, if the product is known and may use the memory that it takes.
fn search<const WORDS: usize>(
    state: &mut State,
    vendor: Vendor,
    (handle, product, layouts): (u64, u64, [u64; 4]),
    preference: u64,
    most: i32,
    (out, count): (*mut Chosen<WORDS>, *mut i32),
) -> Result {
    is_handle(state, handle)?;
    if shape(state, product, layouts)?.is_coded && vendor == Vendor::Hip {
        return Err(NOT_SUPPORTED);
    }
    if state
        .streams
        .items
        .values()
        .any(|(_, stream)| stream.recorded.is_some())
    {
        return state.refuse(INVALID_VALUE, "a search while a stream is being recorded");
    }
    let Described::Preference(memory, alignments) = described(state, preference)? else {
        return state.refuse(INVALID_VALUE, "no preference");
    };
    let memory = *memory;
    let least = (5..=8).map(|of| alignments.get(&of).copied().unwrap_or(256));
    let least = match vendor {
        Vendor::Cuda => least.max().unwrap_or(256),
        Vendor::Hip => 16,
    };
    if most < 1 {
        return state.refuse(INVALID_VALUE, "no room for a result");
    }
    if memory < WORKSPACE as u64 {
        put(state, count, 0)?;
        return Err(NOT_SUPPORTED);
    }
    let mut algorithm = [ALGORITHM; WORDS];
    algorithm[1] = least.max(1);
    let chosen = Chosen {
        algorithm,
        workspace: WORKSPACE,
        status: 0,
        waves: 1.0,
        reserved: [0; 4],
    };
    put(state, out, chosen)?;
    put(state, count, 1)
}

fn made(state: &mut State, out: *mut u64, what: Described) -> Result {
    let device = state.device()?;
    let handle = state.library.add(device, what);
    put(state, out, handle)
}

/// The runtime in cuBLASLt retains the primary context of a device where it is first used.
fn retain(state: &mut State) -> Result {
    let device = state.device()?;
    let device = &mut state.devices[device];
    if state.vendor == Vendor::Cuda && !device.is_of_library {
        device.is_of_library = true;
        device.retained += 1;
    }
    Ok(())
}

fn gone(state: &mut State, handle: u64) -> Result {
    match state.library.items.remove(&handle) {
        Some(_) => Ok(()),
        None => state.refuse(
            INVALID_VALUE,
            format!("{handle:#x} is nothing of the library's"),
        ),
    }
}

/// Described for the current device: what the library makes is of no device, but nothing here
/// is used with two.
fn described(state: &mut State, handle: u64) -> Result<&mut Described> {
    let device = state.device()?;
    Ok(object!(state.library[handle], device))
}

fn is_handle(state: &mut State, handle: u64) -> Result {
    match described(state, handle)? {
        Described::Handle => Ok(()),
        _ => state.refuse(INVALID_VALUE, "no handle"),
    }
}

/// The number at `value`, which has `wanted` bytes.
fn number(state: &mut State, value: *const u8, bytes: usize, wanted: usize) -> Result<u64> {
    if value.is_null() || bytes != wanted {
        return state.refuse(INVALID_VALUE, format!("an attribute of {bytes} bytes"));
    }
    let mut all = [0; 8];
    // SAFETY: not null; the caller's word that it has so many bytes, of which there is room
    // for eight.
    unsafe { std::ptr::copy_nonoverlapping(value, all.as_mut_ptr(), bytes) };
    Ok(u64::from_le_bytes(all))
}

/// A product without its operands, if it is one of those that are known.
fn shape(state: &mut State, product: u64, layouts: [u64; 4]) -> Result<Product> {
    let Described::Product(attributes) = described(state, product)? else {
        return state.refuse(INVALID_VALUE, "no product");
    };
    let attribute = |number| attributes.get(&number).copied().unwrap_or(0);
    let [transpose, plain, mode_a, mode_b] = [TRANSPOSE_A, TRANSPOSE_B, 31, 32].map(attribute);
    let [scales_a, scales_b] = [17, 18].map(attribute);
    let mut sizes = [(0, [0; 3]); 4];
    for (handle, size) in layouts.into_iter().zip(&mut sizes) {
        let Described::Layout {
            kind,
            lines,
            columns,
            stride,
        } = *described(state, handle)?
        else {
            return state.refuse(INVALID_VALUE, "no layout");
        };
        *size = (kind, [lines, columns, stride.unsigned_abs()]);
    }
    let [
        (_, [depth, outputs, _]),
        (_, [_, rows, _]),
        _,
        (_, [_, _, stride_d]),
    ] = sizes;
    let strides = [sizes[0].1[2], sizes[1].1[2], stride_d];
    let kinds = sizes.map(|size| size.0);
    let is_coded = kinds == [E4M3, E4M3, F32, F32];
    let is_kind = match is_coded {
        true => {
            (mode_a, mode_b) == (EACH_128_BY_128, EACH_128)
                && [depth, outputs, rows, strides[0], strides[1]].iter().all(|size| size % 16 == 0)
                // So that lines of the weight's scales are whole fours.
                && depth.div_ceil(128) % 4 == 0
        }
        false => kinds == [BF16, BF16, F32, F32] && (mode_a, mode_b) == (0, 0),
    };
    let is_known = (transpose, plain) == (1, 0)
        && is_kind
        && sizes[1].1[0] == depth
        && [sizes[2].1, sizes[3].1] == [[outputs, rows, stride_d]; 2]
        && strides[0] >= depth
        && strides[1] >= depth
        && stride_d >= outputs;
    if !is_known || sizes.iter().any(|size| size.1.contains(&0)) {
        return Err(NOT_SUPPORTED);
    }
    Ok(Product {
        outputs,
        rows,
        depth,
        strides,
        is_coded,
        adds: false,
        a: 0,
        b: 0,
        d: 0,
        scales_a,
        scales_b,
        workspace: (0, 0),
    })
}
