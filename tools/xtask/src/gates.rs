//! What compiled GPU kernels may use: no spills, no stack, registers and shared memory below
//! ceilings, matrix instructions where a row promises them, arguments as Rust passes them.
//!
//! Reads PTX itself and code objects through `llvm-readelf` and `llvm-objdump`; must not know
//! what a kernel computes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use hadal_device::{Body, Params};

use crate::gpu::Arch;

/// Shared memory that every GPU gives a block without being asked for more.
const MOST_SHARED: u32 = 48 << 10;

/// Vector registers with which a block of 256 threads still runs on AMD's GPUs.
const MOST_VECTOR_REGISTERS: u32 = 256;

/// Registers with which a block of 384 threads still fits on NVIDIA's.
const MOST_REGISTERS: u32 = 168;

/// The same for attention on matrix units, whose 256 threads keep all means in registers: what
/// they may have where a block is alone on a processor. NVIDIA's, and of both kinds on AMD's
/// processors with waves of 64.
const MOST_REGISTERS_OF_ATTENTION: [u32; 2] = [248, 512];

/// The same for four lines of a weight by four rows, whose blocks have 128 threads.
const MOST_REGISTERS_OF_FOUR: u32 = 192;

/// What a code object says of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Offset and size of each argument that is not the runtime's own.
    pub arguments: Vec<(u32, u32)>,
    /// Numbers by the metadata's names: `vgpr_count`, ...
    pub numbers: BTreeMap<String, u32>,
}

/// Kernels of what `llvm-readelf --notes` prints of a code object.
pub fn of_notes(notes: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut argument = (0, 0);
    let list = notes.split("amdhsa.kernels:").nth(1).unwrap_or_default();
    for line in list.lines().take_while(|line| !line.starts_with("amdhsa.")) {
        if line.starts_with("  - ") {
            kernels.push(Kernel::default());
        }
        let Some(kernel) = kernels.last_mut() else {
            continue;
        };
        let Some((key, value)) = line.trim_start_matches([' ', '-']).split_once(':') else {
            continue;
        };
        let (key, value) = (key.trim_start_matches('.'), value.trim());
        match (key, value.parse::<u32>()) {
            ("offset", Ok(offset)) => argument.0 = offset,
            ("size", Ok(size)) => argument.1 = size,
            ("value_kind", _) if !value.starts_with("hidden") => kernel.arguments.push(argument),
            ("name", _) if line.starts_with("    .name") => kernel.name = value.to_string(),
            (key, Ok(number)) if line.starts_with("    .") || line.starts_with("  - ") => {
                kernel.numbers.insert(key.to_string(), number);
            }
            _ => {}
        }
    }
    kernels
}

/// What is wrong with the module of kernel file `file` for `arch`.
pub fn complaints(arch: &Arch, file: &str, module: &[u8]) -> io::Result<Vec<String>> {
    let mut found = match arch.ptx {
        Some(_) => of_ptx(&String::from_utf8_lossy(module)),
        None => of_code_object(arch, file, module)?,
    };
    let words = matrix_instructions(arch.name, file);
    if !words.is_empty() {
        let text = match arch.ptx {
            Some(_) => String::from_utf8_lossy(module).into_owned(),
            None => tool("llvm-objdump-22", &["-d", "-"], module)?,
        };
        found.extend(lacking(&text, words));
    }
    if HOPPER.contains(&file) {
        found.extend(lacking(&String::from_utf8_lossy(module), &RING));
    }
    // Compute capability 9.0, 10.0, 12.0.
    if arch.name.starts_with("sm_9") || arch.name.starts_with("sm_1") {
        found.extend(early(&String::from_utf8_lossy(module)));
    }
    if COPIED.contains(&file) {
        found.extend(lacking(&String::from_utf8_lossy(module), &COPIES));
    }
    Ok(found
        .into_iter()
        .map(|what| format!("{}: {what}", arch.name))
        .collect())
}

/// What every kernel of a file for matrix units and an architecture is made of.
fn matrix_instructions(arch: &str, file: &str) -> &'static [&'static str] {
    let amd = arch.starts_with("gfx");
    match (file, arch) {
        ("matrix" | "attend_units", "gfx90a" | "gfx942" | "gfx950") => &["v_mfma_f32_16x16x16"],
        ("matrix" | "attend_units", "gfx1030") => &[],
        ("matrix" | "attend_units", _) if amd => &["v_wmma_f32_16x16x16_bf16"],
        ("matrix" | "attend_units", _) => &["mma.sync.aligned.m16n8k16"],
        ("matrix8", "gfx942" | "gfx950") => &["v_mfma_f32_16x16x32_fp8_fp8"],
        ("matrix8", "gfx1200" | "gfx1201") => &["v_wmma_f32_16x16x16_fp8_fp8"],
        ("matrix8", _) if amd => &[],
        ("matrix8", "sm_80") => &[],
        ("matrix8", _) => &["mma.sync.aligned.m16n8k32"],
        ("hopper", _) => &["wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16"],
        ("hopper8", _) => &[
            "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3",
            "setmaxnreg.inc.sync.aligned.u32",
            "setmaxnreg.dec.sync.aligned.u32",
        ],
        ("hopper_attend", _) => &[
            "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16",
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16",
            "setmaxnreg.inc.sync.aligned.u32",
            "setmaxnreg.dec.sync.aligned.u32",
        ],
        _ => &[],
    }
}

/// Files for units of four warps that read a ring of tiles in shared memory, and of which copies
/// bring these tiles.
const HOPPER: [&str; 3] = ["hopper", "hopper8", "hopper_attend"];
const COPIED: [&str; 2] = ["hopper", "hopper8"];

/// What copies of boxes take: the fence of their maps, and bytes expected of them.
const COPIES: [&str; 3] = [
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
    "fence.proxy.tensormap::generic.acquire.sys",
    "mbarrier.arrive.expect_tx.shared.b64",
];

/// What every kernel with such a ring is made of: arrivals and the wait for them, the fence between
/// the two ways to shared memory, and the units' own fences and waits.
const RING: [&str; 7] = [
    "mbarrier.init.shared.b64",
    "mbarrier.arrive.shared.b64",
    "mbarrier.try_wait.parity.shared.b64",
    "fence.proxy.async.shared::cta",
    "wgmma.fence.sync.aligned",
    "wgmma.commit_group.sync.aligned",
    "wgmma.wait_group.sync.aligned",
];

/// Kernels of PTX for 9.0 and later that do more than look at their arguments before they have waited for
/// the kernels before them, as `Target::waits` of backends/gpucpp says.
pub fn early(text: &str) -> Vec<String> {
    // Nor may it end before: who follows would take those before it for done.
    const ALLOWED: [&str; 6] = ["//", ".reg ", ".shared ", "mov.", "ld.param.", "cvta."];
    let is_early = |part: &&str| {
        let body = part.split_once("\n{\n").map_or("", |(_, body)| body);
        let Some((before, _)) = body.split_once("griddepcontrol.wait;") else {
            return true;
        };
        let mut lines = before.lines().map(str::trim);
        lines.any(|line| !line.is_empty() && !ALLOWED.iter().any(|word| line.starts_with(word)))
    };
    let kernels = kernels_of(text).filter(|(_, part)| is_early(part));
    kernels
        .map(|(name, _)| format!("{name}: does not wait first"))
        .collect()
}

/// Kernels of PTX, or of a code object taken apart, that lack one of these instructions.
pub fn lacking(text: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, part) in kernels_of(text) {
        let lacking = words.iter().filter(|word| !part.contains(**word));
        found.extend(lacking.map(|word| format!("{name}: no {word}")));
    }
    if found.is_empty() && kernels_of(text).next().is_none() {
        found.push(format!("no kernels of {}", words.join(", ")));
    }
    found
}

/// Names and texts of kernels: from `.visible .entry NAME(` on in PTX, from `ADDRESS <NAME>:` on
/// in code objects.
fn kernels_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let ptx = text.split(".visible .entry ").skip(1);
    let ptx = ptx.filter_map(|part| Some((part.split_once('(')?.0, part)));
    let amd = text.split("\n\n").filter_map(|part| {
        let (_, rest) = part.trim_start().lines().next()?.split_once(" <")?;
        Some((rest.strip_suffix(">:")?, part))
    });
    ptx.chain(amd)
}

/// Files that have kernels for matrix units alone.
const UNITS: [&str; 3] = ["attend_units", "matrix", "matrix8"];

/// What is wrong with kernels of PTX, whatever the assembler makes of them.
pub fn of_ptx(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split(".visible .entry ").skip(1) {
        let name = part.split('(').next().unwrap_or_default();
        if part.contains("__local_depot") {
            found.push(format!("{name}: keeps something on a stack"));
        }
    }
    // Shared variables stand before the kernels and are called after them.
    let mut shared: BTreeMap<&str, u32> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(".shared")) {
        let variable = line.rsplit(' ').next().unwrap_or_default();
        let size = variable
            .split(['[', ']'])
            .nth(1)
            .and_then(|n| n.parse().ok());
        let of = text
            .split(".visible .entry ")
            .skip(1)
            .filter(|part| part.contains(variable.split('[').next().unwrap_or_default()));
        for part in of {
            let name = part.split('(').next().unwrap_or_default();
            *shared.entry(name).or_default() += size.unwrap_or(0);
        }
    }
    let too_large = shared.iter().filter(|(_, bytes)| **bytes > MOST_SHARED);
    found.extend(too_large.map(|(name, bytes)| format!("{name}: {bytes} bytes of shared memory")));
    found
}

fn of_code_object(arch: &Arch, file: &str, module: &[u8]) -> io::Result<Vec<String>> {
    let kernels = of_notes(&tool("llvm-readelf-22", &["--notes", "-"], module)?);
    let wave = if arch.name.starts_with("gfx9") {
        64
    } else {
        32
    };
    let has_some = !UNITS.contains(&file) || !matrix_instructions(arch.name, file).is_empty();
    match kernels.is_empty() && has_some {
        true => Ok(vec![format!("{file}: no kernels")]),
        false => Ok(beyond_limits(&kernels, wave)),
    }
}

/// What is wrong with kernels of a code object for waves of `wave`.
pub fn beyond_limits(kernels: &[Kernel], wave: u32) -> Vec<String> {
    let mut found = Vec::new();
    for kernel in kernels {
        let number = |name: &str| kernel.numbers.get(name).copied().unwrap_or(u32::MAX);
        let most_registers = match kernel.name.as_str() {
            "attend_latent_mfma" | "attend_part_mfma" => MOST_REGISTERS_OF_ATTENTION[1],
            _ => MOST_VECTOR_REGISTERS,
        };
        let limits = [
            ("vgpr_spill_count", 0),
            ("sgpr_spill_count", 0),
            ("private_segment_fixed_size", 0),
            ("group_segment_fixed_size", MOST_SHARED),
            ("vgpr_count", most_registers),
        ];
        for (name, most) in limits {
            if number(name) > most {
                found.push(format!("{}: {name} is {}", kernel.name, number(name)));
            }
        }
        if number("wavefront_size") != wave {
            found.push(format!("{}: is not for waves of {wave}", kernel.name));
        }
        if let Some(wanted) = arguments_of(&kernel.name)
            && kernel.arguments != wanted
        {
            found.push(format!("{}: arguments {:?}", kernel.name, kernel.arguments));
        }
    }
    found
}

/// Offsets and sizes of the arguments that Rust passes to the kernel `entry` of a row.
fn arguments_of(entry: &str) -> Option<Vec<(u32, u32)>> {
    let operands = hadal_shaders::table()
        .iter()
        .find_map(|row| match row.body {
            Body::Gpu {
                entry: of,
                operands,
                ..
            } if of == entry => Some(operands),
            _ => None,
        })?;
    let first = size_of::<Params>() as u32;
    let rest = (0..operands.len() as u32).map(|number| (first + 8 * number, 8));
    Some([(0, first)].into_iter().chain(rest).collect())
}

/// NVIDIA's assembler: the program in `HADAL_PTXAS`, else `ptxas`; `None` if it does not start.
pub fn ptxas() -> Option<String> {
    let program = std::env::var("HADAL_PTXAS").unwrap_or_else(|_| "ptxas".to_string());
    let output = Command::new(&program).arg("--version").output().ok()?;
    output.status.success().then_some(program)
}

/// What NVIDIA's assembler says against PTX: spills, stack, too many registers or too few.
pub fn assembled(ptxas: &str, arch: &Arch, module: &[u8]) -> io::Result<Vec<String>> {
    let folder = std::env::temp_dir();
    let id = format!(
        "hadal-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let (from, to) = (
        folder.join(format!("{id}.ptx")),
        folder.join(format!("{id}.cubin")),
    );
    std::fs::write(&from, module.strip_suffix(&[0]).unwrap_or(module))?;
    let output = Command::new(ptxas)
        .args(["-v", "-arch", arch.name, "-o"])
        .args([&to, &from])
        .output();
    for file in [&from, &to] {
        let _ = std::fs::remove_file(file);
    }
    let output = output?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Ok(vec![format!("{}: {text}", arch.name)]);
    }
    let hands_over = String::from_utf8_lossy(module).contains("setmaxnreg");
    let found = of_assembly(&text, hands_over).into_iter();
    Ok(found.map(|what| format!("{}: {what}", arch.name)).collect())
}

/// What is wrong with kernels by what NVIDIA's assembler says of them. Groups that hand registers over
/// wait for ever where a block begins with fewer.
pub fn of_assembly(text: &str, hands_over: bool) -> Vec<String> {
    let (mut found, mut kernel) = (Vec::new(), "");
    for line in text.lines() {
        // What it says where it cannot let the units run beside the threads, nor registers go over.
        if line.contains("serialized") || line.contains("setmaxnreg") {
            found.push(line.trim().to_string());
        }
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default();
        }
        let uses_stack = line.contains("bytes stack frame")
            && !line.contains(" 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads");
        let registers = line
            .split_once("Used ")
            .and_then(|(_, rest)| rest.split_once(" reg"));
        let registers = registers.and_then(|(count, _)| count.parse::<u32>().ok());
        let most = match kernel {
            "attend_latent_mma" | "attend_part_mma" => MOST_REGISTERS_OF_ATTENTION[0],
            _ if kernel.ends_with("_wide_4") => MOST_REGISTERS_OF_FOUR,
            _ => MOST_REGISTERS,
        };
        let least = if hands_over { most } else { 0 };
        if uses_stack || registers.is_some_and(|count| count > most || count < least) {
            found.push(format!("{kernel}: {}", line.trim()));
        }
    }
    found
}

/// What `program` prints when it reads `input`.
fn tool(program: &str, arguments: &[&str], input: &[u8]) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Written beside reading: a long answer would fill the pipe.
        scope.spawn(move || stdin.map(|mut to| to.write_all(input)));
        child.wait_with_output()
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
