//! What is used of cuBLASLt: products of E4M3 codes with block scales, by its documentation
//! (`cublasLtMatmul`, "128-element 1D and 128x128 2D block scaling for FP8 data types").
#![allow(non_snake_case, reason = "the vendor's names")]

use std::collections::BTreeMap;

use crate::codes::{ILLEGAL_ADDRESS, Result};
use crate::exports::{driver, put};
use crate::memory::Place;
use crate::queue::Op;
use crate::state::{State, object};

/// The library's codes.
const NOT_INITIALIZED: u32 = 1;
const INVALID_VALUE: u32 = 7;
const NOT_SUPPORTED: u32 = 15;

/// Types and modes by their numbers in the headers.
const F32: i32 = 0;
const E4M3: i32 = 28;
const EACH_128: u64 = 4;
const EACH_128_BY_128: u64 = 5;

/// An algorithm, as this library knows its own again.
const ALGORITHM: u64 = 0x6d6f_636b;

/// Memory that a product wants.
const WORKSPACE: usize = 1 << 20;

/// What the library hands out.
pub(crate) enum Described {
    Handle,
    /// Attributes by number.
    Product(BTreeMap<i32, u64>),
    Layout {
        kind: i32,
        lines: u64,
        columns: u64,
        stride: i64,
    },
    /// The most memory.
    Preference(u64),
}

/// A product as it was asked for: `D[i][j]` is the sum over depth of `A[i]` and `B[j]`, which
/// have their codes one after another.
#[derive(Clone)]
pub(crate) struct Product {
    outputs: u64,
    rows: u64,
    depth: u64,
    strides: [u64; 3],
    a: u64,
    b: u64,
    d: u64,
    scales_a: u64,
    scales_b: u64,
    workspace: (u64, usize),
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub struct Chosen {
    algorithm: [u64; 8],
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
    fn cublasLtCreate(state, out: *mut u64) { made(state, out, Described::Handle) }
    fn cublasLtDestroy(state, handle: u64) { gone(state, handle) }
    fn cublasLtMatmulDescCreate(state, out: *mut u64, sums: i32, factors: i32) {
        if (sums, factors) != (68, F32) {
            return Err(NOT_SUPPORTED);
        }
        made(state, out, Described::Product(BTreeMap::new()))
    }
    fn cublasLtMatmulDescDestroy(state, handle: u64) { gone(state, handle) }
    fn cublasLtMatmulDescSetAttribute(
        state, handle: u64, attribute: i32, value: *const u8, bytes: usize
    ) {
        let wanted = match attribute {
            3 | 4 | 31 | 32 => 4,
            17 | 18 => 8,
            _ => return state.refuse(NOT_SUPPORTED, format!("attribute {attribute}")),
        };
        let value = number(state, value, bytes, wanted)?;
        match described(state, handle)? {
            Described::Product(attributes) => {
                attributes.insert(attribute, value);
                Ok(())
            }
            _ => state.refuse(INVALID_VALUE, "an attribute of no product"),
        }
    }
    fn cublasLtMatrixLayoutCreate(
        state, out: *mut u64, kind: i32, lines: u64, columns: u64, stride: i64
    ) {
        made(state, out, Described::Layout { kind, lines, columns, stride })
    }
    fn cublasLtMatrixLayoutDestroy(state, handle: u64) { gone(state, handle) }
    fn cublasLtMatmulPreferenceCreate(state, out: *mut u64) {
        made(state, out, Described::Preference(0))
    }
    fn cublasLtMatmulPreferenceDestroy(state, handle: u64) { gone(state, handle) }
    fn cublasLtMatmulPreferenceSetAttribute(
        state, handle: u64, attribute: i32, value: *const u8, bytes: usize
    ) {
        let value = number(state, value, bytes, 8)?;
        match (described(state, handle)?, attribute) {
            (Described::Preference(most), 1) => {
                *most = value;
                Ok(())
            }
            _ => state.refuse(INVALID_VALUE, format!("attribute {attribute}")),
        }
    }
    fn cublasLtMatmulAlgoGetHeuristic(
        state, handle: u64, product: u64, a: u64, b: u64, c: u64, d: u64, preference: u64,
        most: i32, out: *mut Chosen, count: *mut i32
    ) {
        is_handle(state, handle)?;
        shape(state, product, [a, b, c, d])?;
        let Described::Preference(memory) = *described(state, preference)? else {
            return state.refuse(INVALID_VALUE, "no preference");
        };
        if most < 1 {
            return state.refuse(INVALID_VALUE, "no room for a result");
        }
        if memory < WORKSPACE as u64 {
            put(state, count, 0)?;
            return Err(NOT_SUPPORTED);
        }
        put(state, out, Chosen {
            algorithm: [ALGORITHM; 8],
            workspace: WORKSPACE,
            status: 0,
            waves: 1.0,
            reserved: [0; 4],
        })?;
        put(state, count, 1)
    }
    fn cublasLtMatmul(
        state, handle: u64, product: u64, alpha: *const f32, a: u64, layout_a: u64, b: u64,
        layout_b: u64, beta: *const f32, c: u64, layout_c: u64, d: u64, layout_d: u64,
        algorithm: *const u64, workspace: u64, workspace_bytes: usize, stream: u64
    ) {
        is_handle(state, handle)?;
        let shape = shape(state, product, [layout_a, layout_b, layout_c, layout_d])?;
        if alpha.is_null() || beta.is_null() || algorithm.is_null() {
            return state.refuse(INVALID_VALUE, "no factors or no algorithm");
        }
        // SAFETY: not null; the caller's word that they are such.
        let (alpha, beta, algorithm) = unsafe { (*alpha, *beta, *algorithm) };
        if (alpha, beta, c) != (1.0, 0.0, d) || algorithm != ALGORITHM {
            return state.refuse(NOT_SUPPORTED, "other factors, or another's algorithm");
        }
        if workspace_bytes < WORKSPACE || !workspace.is_multiple_of(256) {
            return state.refuse(INVALID_VALUE, "a workspace that is too short or not aligned");
        }
        let workspace = (workspace, workspace_bytes);
        let product = Product { a, b, d, workspace, ..shape };
        let aligned = [a, b, d, product.scales_a, product.scales_b];
        if aligned.iter().any(|address| address % 16 != 0) {
            return state.refuse(NOT_SUPPORTED, "an operand that begins at no multiple of 16");
        }
        state.enqueue(stream, Op::Product(product))
    }
}

fn made(state: &mut State, out: *mut u64, what: Described) -> Result {
    let device = state.device()?;
    let handle = state.library.add(device, what);
    put(state, out, handle)
}

fn gone(state: &mut State, handle: u64) -> Result {
    match state.library.items.remove(&handle) {
        Some(_) => Ok(()),
        None => state.refuse(
            INVALID_VALUE,
            format!("{handle:#x} is nothing of cuBLASLt's"),
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
    let [transpose, plain, mode_a, mode_b] = [3, 4, 31, 32].map(attribute);
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
    let is_known = (transpose, plain, mode_a, mode_b) == (1, 0, EACH_128_BY_128, EACH_128)
        && sizes.map(|size| size.0) == [E4M3, E4M3, F32, F32]
        && sizes[1].1[0] == depth
        && [sizes[2].1, sizes[3].1] == [[outputs, rows, stride_d]; 2]
        && strides[0] >= depth
        && strides[1] >= depth
        && stride_d >= outputs
        && [depth, outputs, rows, strides[0], strides[1]].iter().all(|size| size % 16 == 0)
        // So that lines of the weight's scales are whole fours.
        && depth.div_ceil(128) % 4 == 0;
    if !is_known || sizes.iter().any(|size| size.1.contains(&0)) {
        return Err(NOT_SUPPORTED);
    }
    Ok(Product {
        outputs,
        rows,
        depth,
        strides,
        a: 0,
        b: 0,
        d: 0,
        scales_a,
        scales_b,
        workspace: (0, 0),
    })
}

/// The value of an E4M3 code.
fn value(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

impl Product {
    /// What is read and written: where, and how many bytes.
    fn ranges(&self) -> [(u64, u64); 6] {
        let blocks = self.depth.div_ceil(128);
        let lines = |count: u64, stride: u64, last: u64| (count - 1) * stride + last;
        [
            (self.a, lines(self.outputs, self.strides[0], self.depth)),
            (self.b, lines(self.rows, self.strides[1], self.depth)),
            (self.scales_a, 4 * blocks * self.outputs.div_ceil(128)),
            (self.scales_b, 4 * blocks * self.rows),
            (self.d, 4 * lines(self.rows, self.strides[2], self.outputs)),
            (self.workspace.0, self.workspace.1 as u64),
        ]
    }

    /// # Safety
    /// The ranges are memory of this process that nothing else writes.
    unsafe fn run(&self) {
        let values: Vec<f32> = (0..=255).map(value).collect();
        let blocks = self.depth.div_ceil(128);
        // SAFETY: the caller's word.
        let scale = |at: u64, place: u64| unsafe { *(at as *const f32).add(place as usize) };
        // SAFETY: the caller's word.
        let line = |at: u64, stride: u64, number: u64| unsafe {
            std::slice::from_raw_parts((at + number * stride) as *const u8, self.depth as usize)
        };
        for row in 0..self.rows {
            let b = line(self.b, self.strides[1], row);
            for output in 0..self.outputs {
                let a = line(self.a, self.strides[0], output);
                let mut sum = 0.0;
                for (block, (a, b)) in (0..).zip(a.chunks(128).zip(b.chunks(128))) {
                    let codes = a.iter().zip(b);
                    let part: f32 = codes
                        .map(|(a, b)| values[usize::from(*a)] * values[usize::from(*b)])
                        .sum();
                    sum += part
                        * scale(self.scales_a, output / 128 * blocks + block)
                        * scale(self.scales_b, block * self.rows + row);
                }
                // SAFETY: the caller's word.
                unsafe {
                    let place = row * self.strides[2] + output;
                    *(self.d as *mut f32).add(place as usize) = sum;
                }
            }
        }
        // SAFETY: the caller's word. What is left there is nothing to rely on.
        unsafe { std::ptr::write_bytes(self.workspace.0 as *mut u8, 0xff, self.workspace.1) };
    }
}

impl State {
    /// Does a product. Operands that are no memory of the device make it fail from now on.
    pub fn execute_product(&mut self, device: usize, product: &Product) {
        for (number, (address, bytes)) in product.ranges().into_iter().enumerate() {
            let block = self.memory.find(address);
            let holds = block.is_some_and(|block| {
                block.place == Place::Device(device)
                    && address + bytes <= block.address() + block.bytes as u64
            });
            if !holds {
                self.complain(format!(
                    "a product's operand {number} is no memory of the device"
                ));
                return self.stick(device, ILLEGAL_ADDRESS);
            }
        }
        // SAFETY: just checked; work of a device is done one piece after another.
        unsafe { product.run() };
        if !self.config.is_library_fast {
            self.clock += 1e3;
        }
    }
}
