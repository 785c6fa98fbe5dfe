//! Stage for one operation: random data, weights, running every row, comparing.

use hadal_device::{
    Access, Backend, Bind, BufferDesc, BufferId, DType, Device, Dispatch, Features, Inputs,
    KernelRow, OpKind, Operand, Params, Problem, Program, Slot, Span, Step, e4m3_to_f32,
};
use hadal_host::{HostBackend, Isa};
use std::sync::Arc;

pub const WEIGHTS: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3];
/// A NaN that no kernel makes.
pub const POISON: u32 = 0x7FC0_BEEF;
/// Poisoned words on both sides of an output.
const GUARD: usize = 16;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Between -1 and 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// A stored weight and the numbers it stands for.
#[derive(Clone)]
pub struct Weights {
    pub dtype: DType,
    pub k: usize,
    pub bytes: Vec<u8>,
    pub scales: Vec<f32>,
    pub values: Vec<f64>,
}

impl Weights {
    pub fn random(random: &mut Random, dtype: DType, rows: usize, k: usize) -> Weights {
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let columns = k.div_ceil(128);
        let scales = match dtype {
            DType::F8E4M3 => (0..rows.div_ceil(128) * columns)
                .map(|_| 0.003 + 0.002 * random.unit())
                .collect(),
            _ => Vec::new(),
        };
        for i in 0..rows * k {
            let value = random.unit();
            match dtype {
                DType::F32 => {
                    bytes.extend(value.to_le_bytes());
                    values.push(f64::from(value));
                }
                DType::F16 => {
                    let value = half::f16::from_f32(value);
                    bytes.extend(value.to_le_bytes());
                    values.push(value.to_f64());
                }
                DType::Bf16 => {
                    let value = half::bf16::from_f32(value);
                    bytes.extend(value.to_le_bytes());
                    values.push(value.to_f64());
                }
                _ => {
                    let mut code = random.bits() as u8;
                    if code & 0x7F == 0x7F {
                        code ^= 1;
                    }
                    bytes.push(code);
                    let scale: f32 = scales[i / k / 128 * columns + i % k / 128];
                    values.push(f64::from(e4m3_to_f32(code)) * f64::from(scale));
                }
            }
        }
        Weights {
            dtype,
            k,
            bytes,
            scales,
            values,
        }
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.k + column]
    }

    /// Other codes of FP8 weights, by their place; scales stay.
    pub fn set_codes(&mut self, mut code: impl FnMut(usize) -> u8) {
        let columns = self.k.div_ceil(128);
        for at in 0..self.bytes.len() {
            self.bytes[at] = code(at);
            let scale = self.scales[at / self.k / 128 * columns + at % self.k / 128];
            self.values[at] = f64::from(e4m3_to_f32(self.bytes[at])) * f64::from(scale);
        }
    }

    /// Rows `first..first + count`, with the scales of the whole tensor.
    pub fn shard(&self, first: usize, count: usize) -> Vec<Operation> {
        let row = self.dtype.row_bytes(self.k as u64) as usize;
        let mut operands = vec![Operation::In(
            self.bytes[first * row..][..count * row].to_vec(),
        )];
        if self.dtype == DType::F8E4M3 {
            operands.push(input(&self.scales));
        }
        operands
    }

    pub fn whole(&self) -> Vec<Operation> {
        self.shard(0, self.values.len() / self.k)
    }
}

/// The tables of several weights.
pub fn tables(weights: &[Weights]) -> Vec<Operation> {
    let mut operands = vec![Operation::Table(
        weights.iter().map(|w| w.bytes.clone()).collect(),
    )];
    if weights[0].dtype == DType::F8E4M3 {
        let scales = weights.iter().map(|w| float_bytes(&w.scales)).collect();
        operands.push(Operation::Table(scales));
    }
    operands
}

/// An operand.
#[derive(Clone)]
pub enum Operation {
    /// Bytes, placed at an odd address.
    In(Vec<u8>),
    /// Activations, placed at an aligned address.
    Aligned(Vec<u8>),
    /// Entries, each at an odd address.
    Table(Vec<Vec<u8>>),
    /// Words to be written, poisoned.
    Out(usize),
}

pub fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
pub fn input(values: &[f32]) -> Operation {
    Operation::In(float_bytes(values))
}
pub fn activations(values: &[f32]) -> Operation {
    Operation::Aligned(float_bytes(values))
}
pub fn words(values: &[u32]) -> Operation {
    Operation::Aligned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// The `inputs` buffer of a step.
pub struct StepInputs {
    pub real: u32,
    pub bucket: u32,
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub sequences: Vec<u32>,
    pub logit_rows: Vec<u32>,
    pub pages: Vec<u32>,
}

impl StepInputs {
    pub fn rows(real: usize, bucket: usize) -> StepInputs {
        StepInputs {
            real: real as u32,
            bucket: bucket as u32,
            ids: vec![],
            positions: vec![],
            sequences: vec![],
            logit_rows: vec![],
            pages: vec![],
        }
    }
    pub fn operand(&self) -> Operation {
        let list = |values: &[u32]| {
            let mut list = values.to_vec();
            // What lies beyond the real rows is garbage on purpose.
            list.resize(self.bucket as usize, 0xDEAD_BEEF);
            list
        };
        let mut all = vec![0xDEAD_BEEF; Inputs::HEADER as usize];
        all[Inputs::TOKENS as usize] = self.real;
        all[Inputs::LOGIT_ROWS as usize] = self.real;
        all[Inputs::BUCKET as usize] = self.bucket;
        for values in [
            &self.ids,
            &self.positions,
            &self.sequences,
            &self.logit_rows,
        ] {
            all.extend(list(values));
        }
        all.extend(&self.pages);
        words(&all)
    }
}

/// Every device of this machine: each instruction set it has, with 1 and 3 threads.
pub fn devices() -> Vec<(Isa, Arc<dyn Device>)> {
    let mut devices = Vec::new();
    for isa in Isa::ALL {
        if isa.available() {
            let backend = HostBackend::new().with_isa(isa).with_threads(3);
            devices.push((isa, backend.open(0).unwrap()));
        }
    }
    devices
}

/// Rows of the table that do `problem` on a device, one whose turn it is first.
pub fn rows_for(device: &dyn Device, problem: &Problem) -> Vec<&'static KernelRow> {
    hadal_shaders::table()
        .iter()
        .filter(|row| row.op == problem.op && row.needs.has(Features::HOST))
        .filter(|row| device.info().features.has(row.needs))
        .filter(|row| (row.fits)(problem).is_none())
        .collect()
}

struct Placed {
    table: Vec<BufferId>,
    operands: Vec<Operand>,
    outputs: Vec<(BufferId, usize)>,
}

fn place(device: &dyn Device, operands: &[Operation]) -> Placed {
    let mut placed = Placed {
        table: vec![],
        operands: vec![],
        outputs: vec![],
    };
    let mut put = |bytes: &[u8], offset: usize, access: Access| {
        let mut all = vec![0xFF; offset];
        all.extend(bytes);
        all.resize(all.len().next_multiple_of(4).max(4), 0xFF);
        let id = device
            .alloc(&BufferDesc::new("test", all.len() as u64))
            .unwrap();
        let span = Span {
            buffer: id,
            offset: 0,
            bytes: all.len() as u64,
        };
        device.write(span, &all).unwrap();
        let slot = Slot(placed.table.len() as u16);
        placed.table.push(id);
        Bind {
            slot,
            offset: offset as u64,
            bytes: bytes.len() as u64,
            access,
        }
    };
    for operand in operands {
        let operand = match operand {
            Operation::In(bytes) => Operand::Range(put(bytes, 1, Access::Read)),
            Operation::Aligned(bytes) => Operand::Range(put(bytes, 64, Access::Read)),
            Operation::Table(entries) => {
                Operand::Table(entries.iter().map(|e| put(e, 3, Access::Read)).collect())
            }
            Operation::Out(words) => {
                let poison = POISON.to_le_bytes().repeat(words + 2 * GUARD);
                let bind = put(&poison, 0, Access::Write);
                placed
                    .outputs
                    .push((BufferId(u64::from(bind.slot.0)), *words));
                Operand::Range(Bind {
                    offset: 4 * GUARD as u64,
                    bytes: 4 * *words as u64,
                    ..bind
                })
            }
        };
        placed.operands.push(operand);
    }
    for (id, _) in &mut placed.outputs {
        *id = placed.table[id.0 as usize];
    }
    placed
}

/// Runs one row twice through one prepared program; the words of every output.
pub fn run_row(
    device: &dyn Device,
    row: &KernelRow,
    problem: &Problem,
    operands: &[Operation],
) -> hadal_device::Result<Vec<Vec<u32>>> {
    let launch = (row.launch)(problem, device.info());
    let pipeline = device.pipeline(row.name, &row.body, &launch.constants)?;
    let placed = place(device, operands);
    let program = Program {
        slots: placed.table.len() as u16,
        steps: vec![Step::Dispatch(Dispatch {
            pipeline,
            groups: launch.groups,
            operands: placed.operands,
            params: Box::new(problem.params),
            label: row.name.to_string(),
        })],
    };
    let mut executable = device.prepare(&program)?;
    executable.submit(&placed.table)?;
    let read = || -> Vec<Vec<u32>> {
        let read = |(id, words): &(BufferId, usize)| {
            let mut bytes = vec![0; 4 * (words + 2 * GUARD)];
            let span = Span {
                buffer: *id,
                offset: 0,
                bytes: bytes.len() as u64,
            };
            device.read(span, &mut bytes).unwrap();
            let all: Vec<u32> = bytes
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            let guards = all[..GUARD].iter().chain(&all[GUARD + words..]);
            assert!(
                guards.copied().all(|w| w == POISON),
                "{}: a guard was written",
                row.name
            );
            all[GUARD..GUARD + words].to_vec()
        };
        placed.outputs.iter().map(read).collect()
    };
    let first = read();
    executable.submit(&placed.table)?;
    assert_eq!(
        first,
        read(),
        "{}: a second submit gave another result",
        row.name
    );
    placed.table.iter().for_each(|id| device.free(*id));
    Ok(first)
}

/// What a word of an output must be.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// Untouched.
    Poison,
    /// This number, and how far off it may be.
    Near(f64, f64),
    /// This word.
    Word(u32),
    /// Any NaN but the poison.
    Nan,
    /// The same, or an infinity.
    NoNumber,
}

impl Want {
    /// The same, but a number may be so much farther off.
    pub fn wider(self, off: f64) -> Want {
        match self {
            Want::Near(want, tolerance) => Want::Near(want, tolerance + off),
            other => other,
        }
    }
}

pub fn check(name: &str, found: &[u32], want: &[Want]) {
    assert_eq!(found.len(), want.len(), "{name}");
    for (i, (found, want)) in found.iter().zip(want).enumerate() {
        let value = f64::from(f32::from_bits(*found));
        let good = match want {
            Want::Poison => *found == POISON,
            Want::Near(want, tolerance) => (value - want).abs() <= *tolerance,
            Want::Word(want) => found == want,
            Want::Nan => value.is_nan() && *found != POISON,
            Want::NoNumber => !value.is_finite() && *found != POISON,
        };
        assert!(
            good,
            "{name}: word {i} is {found:#010x} = {value}, wanted {want:?}"
        );
    }
}

/// Runs all rows of all devices and compares every output.
pub fn check_all(
    op: OpKind,
    weight: DType,
    params: Params,
    operands: &[Operation],
    want: &[Vec<Want>],
) {
    check_some(|_| true, op, weight, params, operands, want);
}

/// The same with some rows.
pub fn check_some(
    some: impl Fn(&KernelRow) -> bool,
    op: OpKind,
    weight: DType,
    params: Params,
    operands: &[Operation],
    want: &[Vec<Want>],
) {
    let problem = Problem { op, weight, params };
    for (isa, device) in devices() {
        let rows = rows_for(&*device, &problem);
        assert!(!rows.is_empty(), "no row for {problem:?}");
        for row in rows.into_iter().filter(|row| some(row)) {
            let name = format!("{} on {}", row.name, isa.name());
            let outputs = run_row(&*device, row, &problem, operands)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(outputs.len(), want.len());
            for (output, want) in outputs.iter().zip(want) {
                check(&name, output, want);
            }
        }
    }
}

/// A sum of products and the error that its evaluation in `f32` may have: kernels add at
/// most `128 + k / 128 + 8` terms in a chain, each addition and product rounding by 2^-24.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    pub value: f64,
    pub magnitude: f64,
    terms: usize,
}

impl Sum {
    pub fn add(&mut self, product: f64) {
        self.value += product;
        self.magnitude += product.abs();
        self.terms += 1;
    }
    pub fn error(&self) -> f64 {
        let chain = 128.0f64.min(self.terms as f64) + self.terms as f64 / 128.0 + 8.0;
        chain * self.magnitude / (1u64 << 24) as f64 + 1e-30
    }
    pub fn want(&self) -> Want {
        Want::Near(self.value, self.error())
    }
}

/// `silu(gate) * up` of two inexact sums.
pub fn gated(gate: Sum, up: Sum) -> Want {
    let silu = |z: f64| z / (1.0 + (-z).exp());
    let value = silu(gate.value) * up.value;
    // The slope of silu is at most 1.1.
    let error = 1.1 * gate.error() * (up.value.abs() + up.error())
        + silu(gate.value).abs() * up.error()
        + value.abs() * 4e-7
        + 1e-12;
    Want::Near(value, error)
}

/// Parameters of a product of `rows` rows one after the other.
pub fn product_params(dtype: DType, rows: usize, n: usize, k: usize) -> Params {
    Params {
        rows: rows as u32,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n: n as u32,
        k: k as u32,
        x_stride: k as u32,
        y_stride: n as u32,
        row_count: n as u32,
        flags: hadal_device::flags::format_bits(dtype),
        ..Params::default()
    }
}
