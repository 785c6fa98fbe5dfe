//! The C++ sources of this crate, for CUDA and ROCm, and what was compiled from them ahead.
//!
//! One source serves both vendors and the CPU (`shaders/gpu/portable.h`). `cargo run -p xtask
//! -- gpu` compiles it with clang, without any vendor's toolkit, into one file for each
//! architecture, which this crate holds; a test compares these with the sources.

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

macro_rules! images {
    ($($arch:literal)*) => {
        &[$(($arch, include_bytes!(concat!("../gpu/images/", $arch, ".z"))),)*]
    };
}

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../gpu/", $name))),)*]
    };
}

/// Files of kernels: a module each.
pub const KERNELS: &[(&str, &str)] = files!(
    "attend.cu" "attend_units.cu" "blocks.cu" "experts.cu" "head_linear.cu" "hopper.cu" "hopper8.cu" "hopper_attend.cu" "linear.cu" "matrix.cu" "matrix8.cu"
    "memory.cu" "route.cu" "tile.cu"
    "values.cu"
);

/// What they include.
pub const HEADERS: &[(&str, &str)] = files!(
    "blocks.h" "dots.h" "formats.h" "hopper.h" "params.h" "parts.h" "patterns.h" "portable.h" "ranges.h" "reduce.h" "ring.h"
    "units.h" "units8.h" "weights.h"
);

/// Files that are for one architecture alone; all others have no module of theirs.
const OF_ONE: &[(&str, &str)] = &[
    ("hopper", "sm_90a"),
    ("hopper8", "sm_90a"),
    ("hopper_attend", "sm_90a"),
];

/// Whether kernel file `file` (without its extension) is compiled for the architecture.
pub fn is_for(file: &str, arch: &str) -> bool {
    OF_ONE
        .iter()
        .all(|(name, only)| *name != file || *only == arch)
}

/// What the images were compiled with: a change makes all of them anew.
pub const IMAGE_COMPILER: &str = "clang 22.1.8";

/// The architectures that images are made for, and how: a name as the drivers have it.
pub const IMAGES: &[(&str, &[u8])] = images!(
    "sm_80" "sm_89" "sm_90a" "gfx90a" "gfx942" "gfx950" "gfx1030" "gfx1100" "gfx1151" "gfx1200" "gfx1201"
);

/// Most bytes of all modules for an architecture together.
const MOST_BYTES: usize = 64 << 20;

/// The text of kernel file `file` (without its extension) with everything it includes: what a
/// compiler of the driver's gets.
pub fn source(file: &str) -> Option<String> {
    let name = format!("{file}.cu");
    let (_, text) = KERNELS.iter().find(|(known, _)| *known == name)?;
    let mut whole = String::new();
    for line in text.lines() {
        let header = line
            .strip_prefix("#include \"")
            .and_then(|rest| rest.strip_suffix('"'))
            .and_then(|name| HEADERS.iter().find(|(known, _)| *known == name));
        whole.push_str(header.map_or(line, |(_, text)| text));
        whole.push('\n');
    }
    Some(whole)
}

/// The module of kernel file `file` for the architecture: PTX for NVIDIA, ended by a zero, or
/// a code object for AMD.
pub fn image(arch: &str, file: &str) -> Option<Vec<u8>> {
    let (_, packed) = IMAGES.iter().find(|(known, _)| *known == arch)?;
    unpack(packed, file)
}

/// Module `file` of a file of images: compressed, a line `NAME BYTES` for each module, an
/// empty line, then their bytes in that order.
pub fn unpack(packed: &[u8], file: &str) -> Option<Vec<u8>> {
    let all = decompress_to_vec_zlib_with_limit(packed, MOST_BYTES).ok()?;
    let head = all.windows(2).position(|pair| pair == b"\n\n")?;
    let list = std::str::from_utf8(&all[..head]).ok()?;
    let mut start = head + 2;
    for line in list.lines() {
        let (name, bytes) = line.split_once(' ')?;
        let end = start.checked_add(bytes.parse().ok()?)?;
        if name == file {
            return all.get(start..end).map(<[u8]>::to_vec);
        }
        start = end;
    }
    None
}

/// A file of images of `modules`: what [`image`] reads.
pub fn pack(modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let lines = modules
        .iter()
        .map(|(name, bytes)| format!("{name} {}\n", bytes.len()));
    let mut all = lines.collect::<String>().into_bytes();
    all.push(b'\n');
    all.extend(modules.iter().flat_map(|(_, bytes)| bytes));
    miniz_oxide::deflate::compress_to_vec_zlib(&all, 9)
}

/// The architectures that there are images for.
pub fn image_archs() -> Vec<&'static str> {
    IMAGES.iter().map(|(arch, _)| *arch).collect()
}
