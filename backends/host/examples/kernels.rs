//! Times host kernels: `cargo run --release -p hadal-host --example kernels [ISA] [FILTER]
//! [THREADS]`.
//!
//! For each kernel the best of several runs, its weight bytes a second beside what plain
//! reading reaches, and its multiplications. Shapes are DeepSeek-V3's. With one thread the
//! time is what that thread had a core for, where the system tells (Linux): on a busy machine
//! nothing else can be compared.

use std::time::Instant;

use hadal_device::{
    Access, Backend, Bind, BufferDesc, BufferId, DType, Device, Dispatch, Inputs, OpKind, Operand,
    Params, Problem, Program, Result, Slot, Span, Step, flags, select,
};
use hadal_host::{HostBackend, Isa};

const RUNS: usize = 15;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next();
    let isa = Isa::ALL
        .into_iter()
        .find(|isa| Some(isa.name()) == name.as_deref())
        .unwrap_or_else(Isa::best);
    let filter = args.next().unwrap_or_default();
    let mut backend = HostBackend::new().with_isa(isa);
    if let Some(threads) = args.next() {
        backend = backend.with_threads(threads.parse()?);
    }
    let device = backend.open(0)?;
    println!("{} ({})", device.info().name, device.info().driver);
    println!("reading: {:.1} GB/s", read_bandwidth());
    for dtype in [DType::F8E4M3, DType::Bf16, DType::F16, DType::F32] {
        for rows in [1, 2, 4, 8, 16, 64, 512] {
            linear(&*device, ("linear", &filter), dtype, [rows, 8192, 7168])?;
        }
        linear(&*device, ("short", &filter), dtype, [1, 65536, 1536])?;
        if matches!(dtype, DType::F8E4M3 | DType::Bf16) {
            for rows in [1, 2, 4, 8, 16, 128, 512] {
                linear(
                    &*device,
                    (&format!("rough {dtype}"), &filter),
                    dtype,
                    [rows, 8192, 7168],
                )?;
            }
        }
        for rows in [1, 512] {
            head(&*device, &filter, dtype, rows, true)?;
            head(&*device, &filter, dtype, rows, false)?;
        }
    }
    for dtype in DType::BLOCKS {
        let name = format!("short {dtype}.");
        linear(&*device, (&name, &filter), dtype, [1, 65536, 1536])?;
        for rows in [1, 2, 4, 8, 16, 128, 512] {
            // More than caches hold where weights are read once; and a shape of a small model.
            let n = if rows <= 4 { 16384 } else { 8192 };
            let name = format!("blocks {dtype} {rows}.");
            linear(&*device, (&name, &filter), dtype, [rows, n, 7168])?;
            let name = format!("rough {dtype} {rows}.");
            linear(&*device, (&name, &filter), dtype, [rows, n, 7168])?;
            let name = format!("small {dtype} {rows}.");
            linear(&*device, (&name, &filter), dtype, [rows, 1024, 1536])?;
        }
    }
    attention(&*device, &filter)?;
    steps(&*device, &filter)?;
    Ok(())
}

fn attention(device: &dyn Device, filter: &str) -> Result<()> {
    for (rows, cached) in [
        (1, 4096),
        (1, 65536),
        (4, 4096),
        (32, 32),
        (32, 1024),
        (128, 1024),
        (512, 512),
        (512, 2048),
    ] {
        for what in ["attend", "rough attend"] {
            let attend = |op, heads| attend(device, (what, filter), op, [rows, cached, heads]);
            attend(OpKind::AttendLatent, 16)?;
            attend(OpKind::AttendExpanded, 16)?;
            if rows <= 4 {
                attend(OpKind::AttendPart, 16)?;
                attend(OpKind::AttendPart, 128)?;
            }
        }
    }
    Ok(())
}

/// Bytes a second that all cores together read.
fn read_bandwidth() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let data = vec![1u64; 32 << 20];
    let best = (0..7)
        .map(|_| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for part in data.chunks(data.len() / cores) {
                    scope.spawn(move || std::hint::black_box(part.iter().fold(0, |a, b| a ^ b)));
                }
            });
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    size_of_val(data.as_slice()) as f64 / best / 1e9
}

/// Seconds: of this thread on a core if it is the only one, else of the clock.
fn now(start: Instant) -> f64 {
    let alone = std::env::args().nth(3).as_deref() == Some("1");
    // Being put aside brings the account up to date.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_core = text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    match on_core {
        Some(ns) if alone => ns / 1e9,
        _ => start.elapsed().as_secs_f64(),
    }
}

struct Bench<'d> {
    device: &'d dyn Device,
    table: Vec<BufferId>,
    operands: Vec<Operand>,
}

impl<'d> Bench<'d> {
    fn new(device: &'d dyn Device) -> Bench<'d> {
        Bench {
            device,
            table: vec![],
            operands: vec![],
        }
    }

    /// An operand of bytes that are small numbers in every format.
    /// Numbers that are small in every format.
    fn operand(&mut self, bytes: u64, access: Access) -> Result<BufferId> {
        self.filled(bytes, access, [0x21, 0x3C])
    }

    fn filled(&mut self, bytes: u64, access: Access, pair: [u8; 2]) -> Result<BufferId> {
        let id = self.device.alloc(&BufferDesc::new("bench", bytes))?;
        let fill: Vec<u8> = (0..bytes as usize).map(|i| pair[i % 2]).collect();
        self.device.write(
            Span {
                buffer: id,
                offset: 0,
                bytes,
            },
            &fill,
        )?;
        let slot = Slot(self.table.len() as u16);
        self.table.push(id);
        self.operands.push(Operand::Range(Bind {
            slot,
            offset: 0,
            bytes,
            access,
        }));
        Ok(id)
    }

    fn weight(&mut self, dtype: DType, rows: u64, k: u64) -> Result<()> {
        let bytes = rows * dtype.row_bytes(k);
        if !dtype.has_block_scales() {
            self.operand(bytes, Access::Read)?;
        } else {
            // Large codes, as scales make them: of small ones nothing is rounded.
            self.filled(bytes, Access::Read, [0x21, 0x5C])?;
            self.operand(rows.div_ceil(128) * k.div_ceil(128) * 4, Access::Read)?;
        }
        Ok(())
    }

    fn inputs(&mut self, words: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let id = self.operand(bytes.len() as u64, Access::Read)?;
        self.device.write(
            Span {
                buffer: id,
                offset: 0,
                bytes: bytes.len() as u64,
            },
            &bytes,
        )
    }

    /// Seconds of the best run, and the kernel's name.
    fn time(self, problem: &Problem, repeats: usize) -> Result<(f64, &'static str)> {
        let choice = select(hadal_shaders::table(), self.device.info(), problem)
            .map_err(|_| hadal_device::Error::Invalid("no row".to_string()))?;
        let row = choice.row;
        let launch = (row.launch)(problem, self.device.info());
        let step = Step::Dispatch(Dispatch {
            pipeline: self
                .device
                .pipeline(row.name, &row.body, &launch.constants)?,
            groups: launch.groups,
            operands: self.operands,
            params: Box::new(problem.params),
            label: row.name.to_string(),
        });
        let program = Program {
            slots: self.table.len() as u16,
            steps: vec![step; repeats],
        };
        let mut executable = self.device.prepare(&program)?;
        let warm = Instant::now();
        executable.submit(&self.table)?;
        // The clock of a thread's own time is coarse.
        let submits = (0.01 / warm.elapsed().as_secs_f64()).ceil().max(1.0);
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let clock = Instant::now();
            let start = now(clock);
            for _ in 0..submits as usize {
                executable.submit(&self.table)?;
            }
            best = best.min((now(clock) - start) / submits);
        }
        self.table.iter().for_each(|id| self.device.free(*id));
        Ok((best, row.name))
    }
}

fn report(name: &str, shape: String, seconds: f64, bytes: f64, products: f64) {
    println!(
        "{name:32} {shape:28} {:10.1} us {:7.2} GB/s {:8.1} GFLOP/s",
        seconds * 1e6,
        bytes / seconds / 1e9,
        2.0 * products / seconds / 1e9
    );
}

/// The flag of products that may be rounded, for a name that says so.
fn rough(what: &str) -> u32 {
    if what.starts_with("rough") {
        flags::ROUGH
    } else {
        0
    }
}

fn linear(
    device: &dyn Device,
    (what, filter): (&str, &str),
    dtype: DType,
    [rows, n, k]: [u32; 3],
) -> Result<()> {
    if !what.contains(filter) {
        return Ok(());
    }
    let mut bench = Bench::new(device);
    bench.inputs(&vec![rows; 8 + 4 * rows as usize])?;
    bench.operand(u64::from(rows * k) * 4, Access::Read)?;
    bench.weight(dtype, n.into(), k.into())?;
    bench.operand(u64::from(rows * n) * 4, Access::Write)?;
    let params = Params {
        rows,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n,
        k,
        x_stride: k,
        y_stride: n,
        row_count: n,
        flags: flags::format_bits(dtype) | rough(what),
        ..Params::default()
    };
    let (seconds, name) = bench.time(
        &Problem {
            op: OpKind::Linear,
            weight: dtype,
            params,
        },
        1,
    )?;
    let weights = f64::from(n) * f64::from(k);
    let bytes = f64::from(n) * dtype.row_bytes(k.into()) as f64;
    report(
        name,
        match dtype.is_blocks() {
            true => format!("{dtype} {rows} x {k} x {n}"),
            false => format!("{rows} x {k} x {n}"),
        },
        seconds,
        bytes,
        weights * f64::from(rows),
    );
    Ok(())
}

fn head(
    device: &dyn Device,
    filter: &str,
    dtype: DType,
    rows: u32,
    transposed: bool,
) -> Result<()> {
    if !"head".contains(filter) {
        return Ok(());
    }
    let (heads, latent, used) = (128u32, 512u32, 128u32);
    let (k, n) = if transposed {
        (used, latent)
    } else {
        (latent, used)
    };
    let mut bench = Bench::new(device);
    bench.inputs(&vec![rows; 8 + 4 * rows as usize])?;
    bench.operand(u64::from(rows * heads * k) * 4, Access::Read)?;
    bench.weight(dtype, u64::from(heads) * 256, latent.into())?;
    bench.operand(u64::from(rows * heads * n) * 4, Access::Write)?;
    let params = Params {
        rows,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n,
        k,
        x_stride: heads * k,
        x_head_stride: k,
        y_stride: heads * n,
        y_head_stride: n,
        heads,
        latent,
        head_rows: 256,
        flags: if transposed { flags::TRANSPOSED } else { 0 },
        ..Params::default()
    };
    let (seconds, name) = bench.time(
        &Problem {
            op: OpKind::HeadLinear,
            weight: dtype,
            params,
        },
        1,
    )?;
    let weights = f64::from(heads * used * latent);
    let shape = format!(
        "{rows} rows{}",
        if transposed { ", transposed" } else { "" }
    );
    report(
        name,
        shape,
        seconds,
        weights * dtype.block_bytes() as f64,
        weights * f64::from(rows),
    );
    Ok(())
}

/// Inputs of `rows` rows, the last of `cached` positions of one sequence.
fn last_rows(rows: u32, cached: u32, pages: u32) -> Vec<u32> {
    let mut words = vec![rows; 8];
    words.extend(vec![0; rows as usize]);
    words.extend(cached - rows..cached);
    words.extend(vec![0; 2 * rows as usize]);
    words.extend(0..pages);
    words
}

fn attend(
    device: &dyn Device,
    (what, filter): (&str, &str),
    op: OpKind,
    [rows, cached, heads]: [u32; 3],
) -> Result<()> {
    if !what.contains(filter) {
        return Ok(());
    }
    let (nope, rope, value, latent) = (128u32, 64u32, 128u32, 512u32);
    let parts = if op == OpKind::AttendPart {
        32 / rows
    } else {
        1
    };
    let pages = cached.div_ceil(64);
    let expanded = op == OpKind::AttendExpanded;
    let mut bench = Bench::new(device);
    bench.inputs(&last_rows(rows, cached, pages))?;
    let width = if expanded { nope + rope } else { latent + rope };
    bench.operand(u64::from(rows * heads * width) * 4, Access::Read)?;
    bench.operand(u64::from(pages * 64 * (latent + rope)) * 4, Access::Read)?;
    if expanded {
        bench.weight(
            DType::Bf16,
            u64::from(heads * (nope + value)),
            latent.into(),
        )?;
    }
    let out = if expanded { value } else { latent };
    bench.operand(u64::from(rows * heads * parts * out) * 4, Access::Write)?;
    if op == OpKind::AttendPart {
        bench.operand(u64::from(rows * heads * parts * 2) * 4, Access::Write)?;
    }
    let params = Params {
        rows,
        count_word: Inputs::TOKENS,
        count_scale: 1,
        n: parts,
        k: 64,
        row_count: parts,
        x_stride: heads * width,
        x_head_stride: width,
        y_stride: heads * parts * out,
        y_head_stride: parts * out,
        b_stride: heads * parts * 2,
        heads,
        nope,
        rope,
        value,
        latent,
        scale: 0.1,
        page_stride: pages,
        flags: rough(what),
        ..Params::default()
    };
    let weight = if expanded { DType::Bf16 } else { DType::F32 };
    let (seconds, name) = bench.time(&Problem { op, weight, params }, 1)?;
    let pairs = f64::from(rows * heads) * f64::from(cached - rows / 2);
    let bytes = f64::from(cached * (latent + rope)) * 4.0;
    report(
        name,
        format!("{rows} of {cached}, {heads} heads"),
        seconds,
        bytes,
        pairs * f64::from(width + out),
    );
    Ok(())
}

/// What a step costs that does nothing worth mentioning.
fn steps(device: &dyn Device, filter: &str) -> Result<()> {
    if !"steps".contains(filter) {
        return Ok(());
    }
    let mut bench = Bench::new(device);
    bench.inputs(&[1; 12])?;
    for access in [Access::Read, Access::Read, Access::Write] {
        bench.operand(256, access)?;
    }
    let params = Params {
        rows: 1,
        count_word: u32::MAX,
        n: 64,
        ..Params::default()
    };
    let problem = Problem {
        op: OpKind::Add,
        weight: DType::F32,
        params,
    };
    let repeats = 1000;
    let (seconds, name) = bench.time(&problem, repeats)?;
    report(
        name,
        "64 values, one step".to_string(),
        seconds / repeats as f64,
        768.0,
        64.0,
    );
    Ok(())
}
