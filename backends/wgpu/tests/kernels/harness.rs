//! Lays a case out in buffers, runs all rows that fit it, compares and checks the guards.

use hadal_device::{
    Access, Bind, Body, BufferDesc, BufferId, DType, Device, DeviceInfo, Dispatch, Features,
    Inputs, KernelRow, Limits, OpKind, Operand, Params, Problem, Program, Slot, Span, Step,
};

use crate::formats::Weight;
use crate::open::devices;

/// A NaN with a mark, so that an unwritten value is known from a computed one.
pub const POISON: u32 = 0x7fc0_dead;
const GUARD: u32 = 0x7fc0_beef;
const GUARD_WORDS: usize = 64;
const ALIGN_WORDS: usize = 64;

/// Numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    pub fn below(&mut self, end: u32) -> u32 {
        self.word() % end
    }

    /// Evenly in -1 .. 1.
    pub fn float(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// The `inputs` buffer of a step.
#[derive(Clone, Default)]
pub struct Step0 {
    pub bucket: u32,
    pub tokens: u32,
    pub logit_rows: u32,
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub sequences: Vec<u32>,
    pub gathered: Vec<u32>,
    pub pages: Vec<u32>,
}

impl Step0 {
    /// `tokens` real ones of a bucket of `bucket`.
    pub fn of(bucket: u32, tokens: u32) -> Step0 {
        Step0 {
            bucket,
            tokens,
            logit_rows: tokens,
            ..Step0::default()
        }
    }

    pub fn words(&self) -> Vec<u32> {
        let layout = Inputs {
            bucket: self.bucket,
        };
        let mut words = vec![0; layout.pages() as usize];
        words[Inputs::TOKENS as usize] = self.tokens;
        words[Inputs::LOGIT_ROWS as usize] = self.logit_rows;
        words[Inputs::BUCKET as usize] = self.bucket;
        for (start, list) in [
            (layout.ids(), &self.ids),
            (layout.positions(), &self.positions),
            (layout.sequences(), &self.sequences),
            (layout.logit_rows(), &self.gathered),
        ] {
            words[start as usize..start as usize + list.len()].copy_from_slice(list);
        }
        words.extend(&self.pages);
        words
    }
}

/// An operand after `inputs`.
pub enum Arg<'a> {
    /// Activations or a cache.
    F32(Vec<f32>),
    U32(Vec<u32>),
    /// Codes and, for FP8, scales: one or two operands.
    Weight(&'a Weight),
    /// Plain numbers that only weights and tables are bound as.
    Table32(Vec<f32>),
    /// An expert table and, for FP8, the table of its scales.
    Experts(&'a [Weight]),
    /// The same in no order, over two buffers: for rows that take addresses.
    #[allow(dead_code, reason = "not every backend's tests have such rows")]
    Scattered(&'a [Weight]),
    /// Written; compared with this, `None` where nothing may be written. The kernel may
    /// read what was there if `was` is given.
    Out(Vec<Option<f64>>),
    OutU32(Vec<Option<u32>>),
    /// Written in part: what was there before, and what must be there after.
    Update(Vec<f32>, Vec<f64>),
}

/// One operation with its operands and the answer.
pub struct Case<'a> {
    pub name: String,
    pub op: OpKind,
    pub weight: DType,
    pub params: Params,
    pub step: Step0,
    pub args: Vec<Arg<'a>>,
    /// Largest error allowed, as a share of the largest answer.
    pub tolerance: f64,
}

/// Sums of some hundred products of f32.
pub const SUMS: f64 = 4e-6;
/// One or two f32 operations, one of them perhaps `exp`.
pub const VALUES: f64 = 1e-6;

/// Name of the device without checks.
pub const TRUSTED: &str = "trusted";

struct Layout {
    /// Words of the buffer of activations, with guards.
    arena: Vec<u32>,
    /// Bytes of the buffers of weights.
    weights: [Vec<u8>; 2],
    operands: Vec<Operand>,
    /// Of each arena operand: first word, length, argument.
    placed: Vec<(usize, usize, usize)>,
}

const INPUTS: Slot = Slot(0);
const ARENA: Slot = Slot(1);
const WEIGHTS: Slot = Slot(2);

impl Layout {
    fn of(case: &Case<'_>, inputs_bytes: u64) -> Layout {
        let mut layout = Layout {
            arena: vec![GUARD; GUARD_WORDS],
            weights: [Vec::new(), Vec::new()],
            operands: vec![Operand::Range(Bind {
                slot: INPUTS,
                offset: 0,
                bytes: inputs_bytes,
                access: Access::Read,
            })],
            placed: Vec::new(),
        };
        for (number, arg) in case.args.iter().enumerate() {
            match arg {
                Arg::F32(values) => layout.activation(number, bits(values), Access::Read),
                Arg::U32(values) => layout.activation(number, values.clone(), Access::Read),
                Arg::Out(values) => {
                    layout.activation(number, vec![POISON; values.len()], Access::Write);
                }
                Arg::OutU32(values) => {
                    layout.activation(number, vec![POISON; values.len()], Access::Write);
                }
                Arg::Update(before, _) => layout.activation(number, bits(before), Access::Write),
                Arg::Table32(values) => {
                    let bind = layout.constant(&bytes_of(&bits(values)));
                    layout.operands.push(Operand::Range(bind));
                }
                Arg::Weight(weight) => {
                    let bind = layout.constant(&weight.bytes);
                    layout.operands.push(Operand::Range(bind));
                    if weight.dtype.has_block_scales() {
                        let bind = layout.constant(&bytes_of(&bits(&weight.scales)));
                        layout.operands.push(Operand::Range(bind));
                    }
                }
                Arg::Experts(experts) => layout.table(experts, false),
                Arg::Scattered(experts) => layout.table(experts, true),
            }
        }
        layout
    }

    fn activation(&mut self, number: usize, words: Vec<u32>, access: Access) {
        let first = self.arena.len();
        assert_eq!(first % ALIGN_WORDS, 0);
        self.operands.push(Operand::Range(Bind {
            slot: ARENA,
            offset: 4 * first as u64,
            bytes: 4 * words.len() as u64,
            access,
        }));
        self.placed.push((first, words.len(), number));
        self.arena.extend(words);
        self.arena.extend([GUARD; GUARD_WORDS]);
        let end = self.arena.len().next_multiple_of(ALIGN_WORDS);
        self.arena.resize(end, GUARD);
    }

    /// A table and, for FP8, the table of its scales; `scattered` from the last entry to the
    /// first, in turn into one buffer and the other.
    fn table(&mut self, experts: &[Weight], scattered: bool) {
        let codes = experts.iter().map(|w| w.bytes.clone()).collect();
        let mut lists: Vec<Vec<Vec<u8>>> = vec![codes];
        if experts[0].dtype.has_block_scales() {
            let scales = experts.iter().map(|w| bytes_of(&bits(&w.scales)));
            lists.push(scales.collect());
        }
        for list in lists {
            let entries = if scattered {
                let places = list.iter().enumerate().rev();
                let mut entries: Vec<_> = places
                    .map(|(number, entry)| self.constant_in(number % 2, entry))
                    .collect();
                entries.reverse();
                entries
            } else {
                list.iter().map(|entry| self.constant(entry)).collect()
            };
            self.operands.push(Operand::Table(entries));
        }
    }

    fn constant(&mut self, bytes: &[u8]) -> Bind {
        self.constant_in(0, bytes)
    }

    fn constant_in(&mut self, buffer: usize, bytes: &[u8]) -> Bind {
        let weights = &mut self.weights[buffer];
        let offset = weights.len();
        weights.extend(bytes);
        let end = weights.len().next_multiple_of(4 * ALIGN_WORDS);
        // Codes that would show if a kernel used them.
        weights.resize(end, 0x7e);
        Bind {
            slot: Slot(WEIGHTS.0 + buffer as u16),
            offset: offset as u64,
            bytes: bytes.len() as u64,
            access: Access::Read,
        }
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

pub fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Makes a buffer with this content.
pub fn upload(device: &dyn Device, bytes: &[u8]) -> BufferId {
    let id = device
        .alloc(&BufferDesc::new("test", bytes.len().max(4) as u64))
        .expect("memory");
    let span = Span {
        buffer: id,
        offset: 0,
        bytes: bytes.len() as u64,
    };
    if !bytes.is_empty() {
        device.write(span, bytes).expect("write");
    }
    id
}

pub fn download(device: &dyn Device, buffer: BufferId, bytes: usize) -> Vec<u32> {
    let mut data = vec![0; bytes];
    let span = Span {
        buffer,
        offset: 0,
        bytes: bytes as u64,
    };
    device.read(span, &mut data).expect("read");
    data.chunks_exact(4)
        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
        .collect()
}

/// Runs `case` on every row that fits it, on every device and for every kind of launch.
pub fn check(case: Case<'_>) {
    if devices().is_empty() {
        println!("{}: NOT RUN, there is no device", case.name);
        return;
    }
    for (device_name, device) in devices() {
        let problem = Problem {
            op: case.op,
            weight: case.weight,
            params: case.params,
        };
        let rows = fitting(&case, device.info());
        assert!(!rows.is_empty(), "{}: no row fits", case.name);
        for row in rows {
            // With subgroups of every size, so that their outputs are done in several turns.
            let as_gpu = DeviceInfo {
                features: device.info().features.without(Features::SOFTWARE),
                limits: Limits {
                    subgroup: (4, 64),
                    ..device.info().limits
                },
                ..device.info().clone()
            };
            for (kind, info) in [("as it is", device.info()), ("as a GPU", &as_gpu)] {
                // Each kernel with checks, each launch without.
                if kind == "as it is" && *device_name != TRUSTED {
                    continue;
                }
                let place = format!("{} [{}, {device_name}, {kind}]", case.name, row.name);
                run(&case, device.as_ref(), row, info, &problem, &place);
            }
        }
    }
}

/// All rows that can do `case` on a device.
pub fn fitting(case: &Case<'_>, info: &DeviceInfo) -> Vec<&'static KernelRow> {
    let problem = Problem {
        op: case.op,
        weight: case.weight,
        params: case.params,
    };
    let scattered = case.args.iter().any(|arg| matches!(arg, Arg::Scattered(_)));
    hadal_shaders::table()
        .iter()
        .filter(|row| row.op == case.op && !matches!(row.body, Body::Host(_)))
        .filter(|row| row.needs.without(info.features) == Features::NONE)
        .filter(|row| (row.fits)(&problem).is_none())
        .filter(|row| !scattered || row.needs.has(Features::POINTER_TABLES))
        .collect()
}

/// What `row` writes into the last operand of `case`.
#[allow(dead_code, reason = "not every backend's tests measure")]
pub fn answer(case: &Case<'_>, device: &dyn Device, row: &KernelRow) -> Vec<f32> {
    let problem = Problem {
        op: case.op,
        weight: case.weight,
        params: case.params,
    };
    let (layout, after) = execute(case, device, row, device.info(), &problem, row.name);
    let (first, length, _) = layout.placed[layout.placed.len() - 1];
    let words = after[first..first + length].iter();
    words.map(|word| f32::from_bits(*word)).collect()
}

fn run(
    case: &Case<'_>,
    device: &dyn Device,
    row: &KernelRow,
    info: &DeviceInfo,
    problem: &Problem,
    place: &str,
) {
    let (layout, after) = execute(case, device, row, info, problem, place);
    let mut guard = vec![true; after.len()];
    for (first, length, number) in layout.placed {
        guard[first..first + length].fill(false);
        let got = &after[first..first + length];
        let before = &layout.arena[first..first + length];
        compare(
            &case.args[number],
            got,
            before,
            case.tolerance,
            &format!("{place} operand {}", number + 1),
        );
    }
    for (word, _) in guard.iter().enumerate().filter(|(_, is)| **is) {
        assert_eq!(after[word], GUARD, "{place}: wrote outside its operands");
    }
}

/// Runs `row` and gives what the buffer of activations was laid out as and has become.
fn execute(
    case: &Case<'_>,
    device: &dyn Device,
    row: &KernelRow,
    info: &DeviceInfo,
    problem: &Problem,
    place: &str,
) -> (Layout, Vec<u32>) {
    let inputs = bytes_of(&case.step.words());
    let layout = Layout::of(case, inputs.len() as u64);
    let launch = (row.launch)(problem, info);
    let pipeline = device
        .pipeline(row.name, &row.body, &launch.constants)
        .unwrap_or_else(|e| panic!("{place}: {e}"));
    let program = Program {
        slots: 4,
        steps: vec![Step::Dispatch(Dispatch {
            pipeline,
            groups: launch.groups,
            operands: layout.operands.clone(),
            params: Box::new(case.params),
            label: row.name.into(),
        })],
    };
    let mut executable = device
        .prepare(&program)
        .unwrap_or_else(|e| panic!("{place}: {e}"));
    let arena = bytes_of(&layout.arena);
    let table = [
        upload(device, &inputs),
        upload(device, &arena),
        upload(device, &layout.weights[0]),
        upload(device, &layout.weights[1]),
    ];
    let ticket = executable
        .submit(&table)
        .unwrap_or_else(|e| panic!("{place}: {e}"));
    device
        .wait(ticket)
        .unwrap_or_else(|e| panic!("{place}: {e}"));
    let after = download(device, table[1], arena.len());
    for id in table {
        device.free(id);
    }
    (layout, after)
}

fn compare(arg: &Arg<'_>, got: &[u32], before: &[u32], tolerance: f64, place: &str) {
    let floats: Vec<f32> = got.iter().map(|w| f32::from_bits(*w)).collect();
    match arg {
        Arg::Out(want) => compare_floats(want, got, &floats, tolerance, place),
        Arg::Update(_, want) => {
            let want: Vec<_> = want.iter().map(|v| Some(*v)).collect();
            compare_floats(&want, got, &floats, tolerance, place);
        }
        Arg::OutU32(want) => {
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                assert_eq!(*got, want.unwrap_or(POISON), "{place}[{i}]");
            }
        }
        _ => assert_eq!(got, before, "{place}: an input was changed"),
    }
}

fn compare_floats(want: &[Option<f64>], words: &[u32], got: &[f32], tolerance: f64, place: &str) {
    // `max` passes over a NaN.
    let largest = want
        .iter()
        .flatten()
        .fold(1e-30, |m: f64, v| m.max(v.abs()));
    for (i, want) in want.iter().enumerate() {
        match want {
            None => assert_eq!(words[i], POISON, "{place}[{i}]: written, it should not be"),
            Some(want) => {
                assert_ne!(words[i], POISON, "{place}[{i}]: not written");
                if want.is_nan() {
                    assert!(got[i].is_nan(), "{place}[{i}]: {} instead of NaN", got[i]);
                    continue;
                }
                let error = (f64::from(got[i]) - want).abs();
                assert!(
                    error <= tolerance * largest,
                    "{place}[{i}]: {} instead of {want}, off by {error:e}",
                    got[i]
                );
            }
        }
    }
}
