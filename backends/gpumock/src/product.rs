//! Products of the mock libraries as they run.

use crate::codes::ILLEGAL_ADDRESS;
use crate::memory::Place;
use crate::state::State;

/// A product as it was asked for: `D[i][j]` is the sum over depth of `A[i]` and `B[j]`, which
/// have their codes one after another.
#[derive(Clone)]
pub(crate) struct Product {
    pub outputs: u64,
    pub rows: u64,
    pub depth: u64,
    pub strides: [u64; 3],
    pub is_coded: bool,
    /// What is there already is added to.
    pub adds: bool,
    pub a: u64,
    pub b: u64,
    pub d: u64,
    pub scales_a: u64,
    pub scales_b: u64,
    pub workspace: (u64, usize),
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
    /// Bytes of a value.
    fn width(&self) -> u64 {
        if self.is_coded { 1 } else { 2 }
    }

    /// What is read and written: where, and how many bytes.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let blocks = self.depth.div_ceil(128);
        let lines = |count: u64, stride: u64, last: u64| (count - 1) * stride + last;
        let values = |count, stride| self.width() * lines(count, stride, self.depth);
        let mut ranges = vec![
            (self.a, values(self.outputs, self.strides[0])),
            (self.b, values(self.rows, self.strides[1])),
            (self.d, 4 * lines(self.rows, self.strides[2], self.outputs)),
            (self.workspace.0, self.workspace.1 as u64),
        ];
        if self.is_coded {
            ranges.push((self.scales_a, 4 * blocks * self.outputs.div_ceil(128)));
            ranges.push((self.scales_b, 4 * blocks * self.rows));
        }
        ranges
    }

    /// Line `number` of a matrix as numbers.
    ///
    /// # Safety
    /// The line is memory of this process that nothing writes.
    unsafe fn line(&self, at: u64, stride: u64, number: u64) -> Vec<f32> {
        let (at, depth) = (at + self.width() * number * stride, self.depth as usize);
        // SAFETY: the caller's word.
        unsafe {
            match self.is_coded {
                true => {
                    let codes = std::slice::from_raw_parts(at as *const u8, depth);
                    codes.iter().map(|code| value(*code)).collect()
                }
                false => {
                    let halves = std::slice::from_raw_parts(at as *const u16, depth);
                    let whole = |half: &u16| f32::from_bits(u32::from(*half) << 16);
                    halves.iter().map(whole).collect()
                }
            }
        }
    }

    /// # Safety
    /// The ranges are memory of this process that nothing else writes.
    unsafe fn run(&self) {
        let blocks = self.depth.div_ceil(128);
        // SAFETY: the caller's word.
        let scale = |at: u64, place: u64| unsafe { *(at as *const f32).add(place as usize) };
        // SAFETY: the caller's word.
        let line = |at, stride, number| unsafe { self.line(at, stride, number) };
        let weight: Vec<Vec<f32>> = (0..self.outputs)
            .map(|output| line(self.a, self.strides[0], output))
            .collect();
        for row in 0..self.rows {
            let b = line(self.b, self.strides[1], row);
            for (output, a) in (0u64..).zip(&weight) {
                let place = (row * self.strides[2] + output) as usize;
                // SAFETY: the caller's word.
                let to = unsafe { &mut *(self.d as *mut f32).add(place) };
                let mut sum = if self.adds { *to } else { 0.0 };
                for (block, (a, b)) in (0..).zip(a.chunks(128).zip(b.chunks(128))) {
                    let part: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    sum += match self.is_coded {
                        true => {
                            part * scale(self.scales_a, output / 128 * blocks + block)
                                * scale(self.scales_b, block * self.rows + row)
                        }
                        false => part,
                    };
                }
                *to = sum;
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
