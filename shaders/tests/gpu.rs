//! The C++ kernels agree with the table of rows, with the contract and with their images. No
//! device and no compiler is needed: images are read as they are stored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hadal_blocks::grids;
use hadal_device::{
    Body, DType, DeviceInfo, DeviceKind, Features, KernelRow, Limits, Params, Problem,
};
use hadal_shaders::gpu;

/// Bytes of the parameter block, which every kernel takes first.
const PARAMS_BYTES: usize = size_of::<Params>();

/// What a row's kernel is: file, entry, operands.
type Entry = (&'static str, &'static str, &'static str);

fn rows() -> Vec<(&'static KernelRow, Entry)> {
    let rows = hadal_shaders::table().iter();
    rows.filter_map(|row| match row.body {
        Body::Gpu {
            file,
            entry,
            operands,
        }
        | Body::Native {
            file,
            entry,
            operands,
        } => Some((row, (file, entry, operands))),
        _ => None,
    })
    .collect()
}

/// Whether the row can run on an architecture at all.
fn is_for(row: &KernelRow, arch: &str) -> bool {
    let needed = [
        (Features::MMA_SYNC, ["sm_80", "sm_89", "sm_90a"]),
        (Features::FP8_MMA, ["-", "sm_89", "sm_90a"]),
        (Features::HOPPER, ["-", "-", "sm_90a"]),
        (Features::MFMA, ["gfx90a", "gfx942", "gfx950"]),
        (Features::FP8_MFMA_FNUZ, ["-", "gfx942", "-"]),
        (Features::FP8_MFMA, ["-", "-", "gfx950"]),
        (Features::WMMA, ["gfx1100", "gfx1151", "-"]),
        (Features::WMMA_12, ["gfx1200", "gfx1201", "-"]),
        (Features::FP8_WMMA, ["gfx1200", "gfx1201", "-"]),
    ];
    needed
        .iter()
        .all(|(feature, archs)| !row.needs.has(*feature) || archs.contains(&arch))
}

/// A kernel as PTX declares it: the bytes of its arguments and the threads of its block.
#[derive(Debug, PartialEq, Eq)]
struct Declared {
    arguments: Vec<usize>,
    threads: u32,
}

/// Kernels of PTX text.
fn kernels(text: &str) -> BTreeMap<&str, Declared> {
    let mut found = BTreeMap::new();
    for part in text.split(".visible .entry ").skip(1) {
        let (name, rest) = part.split_once('(').expect("a list of arguments");
        let (list, rest) = rest.split_once(')').expect("an end of it");
        let argument = |line: &str| match line.split_once('[') {
            Some((_, bytes)) => bytes.trim_end_matches([']', ',']).parse().expect("bytes"),
            None if line.contains(".u64") || line.contains(".b64") => 8,
            None => 4,
        };
        let arguments = list.lines().map(str::trim);
        let arguments = arguments
            .filter(|line| !line.is_empty())
            .map(argument)
            .collect();
        let threads = rest.split_once(".maxntid ").expect("a bound").1;
        let threads = threads.split([' ', '\t', '\n', ',']).next();
        let threads = threads.and_then(|count| count.parse().ok());
        let threads = threads.expect("a number of threads");
        found.insert(name, Declared { arguments, threads });
    }
    found
}

fn ptx(arch: &str, file: &str) -> String {
    let image = gpu::image(arch, file).expect("an image");
    assert_eq!(image.last(), Some(&0), "PTX is ended by a zero");
    String::from_utf8(image[..image.len() - 1].to_vec()).expect("text")
}

fn info(wave: u32) -> DeviceInfo {
    DeviceInfo {
        backend: "test",
        ordinal: 0,
        name: String::new(),
        driver: String::new(),
        kind: DeviceKind::DiscreteGpu,
        features: Features::GPU_CPP,
        limits: Limits {
            max_binding_bytes: 1 << 32,
            max_buffer_bytes: 1 << 32,
            offset_align: 16,
            max_operands: 16,
            max_workgroup: 1024,
            max_grid: 65_535,
            shared_bytes: 48 << 10,
            subgroup: (wave, wave),
            matrix: None,
        },
        memory_bytes: None,
        expand_from_tokens: None,
        members: Vec::new(),
    }
}

#[test]
fn every_row_has_its_kernel_in_ptx_with_its_operands_and_threads() {
    for arch in ["sm_80", "sm_89", "sm_90a"] {
        let mut modules = BTreeMap::new();
        for (row, (file, entry, operands)) in rows() {
            if !is_for(row, arch) {
                continue;
            }
            let text = modules.entry(file).or_insert_with(|| ptx(arch, file));
            let declared = kernels(text);
            let kernel = declared.get(entry);
            let kernel = kernel.unwrap_or_else(|| panic!("{arch}: {file} has no {entry}"));
            let mut arguments = vec![PARAMS_BYTES];
            // Of `x` a kernel takes two.
            arguments.extend(operands.replace('x', "xx").chars().map(|_| 8));
            assert_eq!(kernel.arguments, arguments, "{arch}: arguments of {entry}");
            let problem = Problem {
                op: row.op,
                weight: DType::F32,
                params: Params::default(),
            };
            let launch = (row.launch)(&problem, &info(32));
            let threads = ("THREADS", kernel.threads);
            assert!(launch.constants.contains(&threads), "{arch}: {entry}");
            assert!(launch.groups.iter().all(|count| *count > 0), "{entry}");
        }
    }
}

#[test]
fn every_row_has_its_kernel_in_code_objects() {
    let archs = gpu::image_archs();
    for arch in archs.iter().filter(|arch| arch.starts_with("gfx")) {
        for (file, _) in gpu::KERNELS {
            let file = file.trim_end_matches(".cu");
            if !gpu::is_for(file, arch) {
                assert_eq!(gpu::image(arch, file), None, "{arch}: {file}");
                continue;
            }
            let image = gpu::image(arch, file).expect("an image");
            assert!(image.starts_with(b"\x7fELF"), "{arch}: {file}");
            // Names stand between zeros.
            let words = image.split(|byte| *byte == 0);
            let symbols: BTreeSet<&[u8]> = words.filter(|word| word.ends_with(b".kd")).collect();
            for (row, (of, entry, _)) in rows() {
                let there = symbols.contains(format!("{entry}.kd").as_bytes());
                let wanted = of == file && is_for(row, arch);
                assert_eq!(there, wanted, "{arch}: {entry} in {file}");
            }
        }
    }
}

#[test]
fn every_kernel_is_some_rows() {
    let used: BTreeSet<&str> = rows().iter().map(|(_, (_, entry, _))| *entry).collect();
    for (file, _) in gpu::KERNELS {
        let text = ptx("sm_90a", file.trim_end_matches(".cu"));
        for name in kernels(&text).keys() {
            // A backend's own, for copies and fills.
            let own = *file == "memory.cu";
            assert!(own || used.contains(name), "{file}: {name} is of no row");
        }
    }
}

#[test]
fn operands_are_letters_and_the_last_one_is_written() {
    for (row, (_, _, operands)) in rows() {
        let known = operands.chars().all(|letter| "rwtmMx".contains(letter));
        assert!(known && operands.ends_with('w'), "{}", row.name);
        let table = operands.contains(['t', 'M']);
        let experts = row.op.name().starts_with("expert_l")
            || row.op.name().starts_with("expert_g")
            || row.op.name().starts_with("grouped");
        assert_eq!(table, experts, "{}", row.name);
    }
}

#[test]
fn all_files_of_the_folder_are_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu");
    let files = std::fs::read_dir(folder).expect("the folder is part of the crate");
    let files: BTreeSet<String> = files
        .map(|file| file.expect("readable").file_name())
        .map(|name| name.into_string().expect("a name"))
        .filter(|name| name != "images")
        .collect();
    let listed = gpu::KERNELS.iter().chain(gpu::HEADERS);
    let listed: BTreeSet<String> = listed.map(|(name, _)| name.to_string()).collect();
    assert_eq!(files, listed);
}

#[test]
fn sources_are_whole() {
    for (name, _) in gpu::KERNELS {
        let text = gpu::source(name.trim_end_matches(".cu")).expect("a source");
        assert!(!text.contains("#include"), "{name}");
        assert!(text.contains("KERNEL("), "{name}");
    }
    assert_eq!(gpu::source("no such file"), None);
}

#[test]
fn the_parameter_block_has_the_words_of_the_contract() {
    let (_, text) = gpu::HEADERS
        .iter()
        .find(|(name, _)| *name == "params.h")
        .expect("the header");
    let (_, rest) = text.split_once("struct Params {").expect("the struct");
    let (body, _) = rest.split_once('}').expect("its end");
    let words: Vec<&str> = body
        .split([';', ','])
        .map(|word| {
            word.trim()
                .trim_start_matches("u32 ")
                .trim_start_matches("float ")
        })
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(words, Params::FIELDS);
}

#[test]
fn images_are_found_by_name_and_damage_is_no_panic() {
    let modules = [("a".to_string(), vec![1, 2]), ("b".to_string(), vec![3])];
    let packed = gpu::pack(&modules);
    assert_eq!(gpu::unpack(&packed, "a"), Some(vec![1, 2]));
    assert_eq!(gpu::unpack(&packed, "b"), Some(vec![3]));
    assert_eq!(gpu::unpack(&packed, "c"), None);
    assert_eq!(gpu::image("sm_1", "linear"), None);
    for end in 0..packed.len() {
        let _ = gpu::unpack(&packed[..end], "a");
    }
}

/// `patterns.h` repeats `hadal_blocks::grids`, since a compiler of a driver's has no other text.
#[test]
fn patterns_are_those_of_the_block_formats() {
    let (_, text) = gpu::HEADERS
        .iter()
        .find(|(name, _)| *name == "patterns.h")
        .expect("the header is part of the crate");
    let tables: [(&str, &[u16]); 6] = [
        ("IQ2XXS", &grids::IQ2XXS),
        ("IQ2XS", &grids::IQ2XS),
        ("IQ2S", &grids::IQ2S),
        ("IQ3XXS", &grids::IQ3XXS),
        ("IQ3S", &grids::IQ3S),
        ("IQ1S", &grids::IQ1S),
    ];
    for (name, patterns) in tables {
        let start = format!("CONSTANT u16 {name}[{}] = {{", patterns.len());
        let (_, rest) = text.split_once(&start).expect(name);
        let (list, _) = rest.split_once("};").expect("the list ends");
        let written = list.split(',').map(str::trim).filter(|it| !it.is_empty());
        let written: Vec<u16> = written
            .map(|word| u16::from_str_radix(&word[2..], 16).expect("a word"))
            .collect();
        assert_eq!(written, patterns, "{name}");
    }
}
