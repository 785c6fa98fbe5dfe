//! Machine code of both vendors: which kernels an ELF file holds, and with which arguments.

use crate::codes::*;
use crate::image::{Form, Image, ImageKernel, Refusal, Sizes};
use crate::msgpack::{self, Value};

const MACHINE_CUDA: u64 = 190;
const MACHINE_AMDGPU: u64 = 224;
const SECTION_NOTE: u64 = 7;
const SECTION_WITHOUT_BYTES: u64 = 8;
const SECTION_DYNAMIC_SYMBOLS: u64 = 11;
const NOTE_METADATA: u64 = 32;
/// Attributes of a kernel in NVIDIA's files: the most threads, the bytes of its arguments.
const MAX_THREADS: u64 = 0x05;
const PARAMETER_BYTES: u64 = 0x19;

fn bad<T>(what: &str) -> Result<T, Refusal> {
    Err((INVALID_IMAGE, format!("an ELF file with {what}")))
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64, Refusal> {
    let Some(bytes) = at.checked_add(size).and_then(|end| bytes.get(at..end)) else {
        return bad("a field behind its end");
    };
    Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// The bytes of an ELF file, as long as its headers say.
///
/// # Safety
/// A whole ELF file must begin at the address.
pub(crate) unsafe fn slice<'a>(at: *const u8) -> Result<&'a [u8], Refusal> {
    // SAFETY: the header of 64 bytes, then all section headers, then all sections, each within
    // the file.
    unsafe {
        let header = std::slice::from_raw_parts(at, 64);
        let table = number(header, 40, 8)? as usize + number(header, 60, 2)? as usize * 64;
        let mut end = table.max(64);
        for section in sections(std::slice::from_raw_parts(at, end))? {
            if section.kind != SECTION_WITHOUT_BYTES {
                end = end.max(section.offset + section.size);
            }
        }
        Ok(std::slice::from_raw_parts(at, end))
    }
}

struct Section {
    name: usize,
    kind: u64,
    offset: usize,
    size: usize,
    link: usize,
}

impl Section {
    fn bytes<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], Refusal> {
        match self
            .offset
            .checked_add(self.size)
            .and_then(|end| file.get(self.offset..end))
        {
            Some(bytes) => Ok(bytes),
            None => bad("a section behind its end"),
        }
    }
}

fn sections(file: &[u8]) -> Result<Vec<Section>, Refusal> {
    if number(file, 4, 1)? != 2 || number(file, 58, 2)? != 64 {
        return bad("another layout than that of 64 bits");
    }
    let first = number(file, 40, 8)? as usize;
    let mut found = Vec::new();
    for i in 0..number(file, 60, 2)? as usize {
        let at = first.saturating_add(i * 64);
        found.push(Section {
            name: number(file, at, 4)? as usize,
            kind: number(file, at + 4, 4)?,
            offset: number(file, at + 24, 8)? as usize,
            size: number(file, at + 32, 8)? as usize,
            link: number(file, at + 40, 4)? as usize,
        });
    }
    Ok(found)
}

/// A name in a table of strings.
fn string(table: &[u8], at: usize) -> String {
    let rest = table.get(at..).unwrap_or_default();
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

/// Reads a file of either vendor.
pub(crate) fn read(file: &[u8]) -> Result<Image, Refusal> {
    let sections = sections(file)?;
    match number(file, 18, 2)? {
        MACHINE_CUDA => cubin(file, &sections),
        MACHINE_AMDGPU => code_object(file, &sections),
        machine => bad(&format!("code for machine {machine}")),
    }
}

fn cubin(file: &[u8], sections: &[Section]) -> Result<Image, Refusal> {
    let names = match sections.get(number(file, 62, 2)? as usize) {
        Some(section) => section.bytes(file)?,
        None => return bad("no names of sections"),
    };
    // Files of CUDA 13 keep the architecture in another byte of the flags.
    let shift = if number(file, 8, 1)? >= 8 { 8 } else { 0 };
    let arch = number(file, 48, 4)? >> shift & 0xff;
    let mut kernels = Vec::new();
    for section in sections {
        let name = string(names, section.name);
        let Some(kernel) = name.strip_prefix(".text.") else {
            continue;
        };
        let wanted = format!(".nv.info.{kernel}");
        let info = sections.iter().find(|s| string(names, s.name) == wanted);
        let (mut bytes, mut threads) = (0, None);
        for (attribute, value) in attributes(info.map_or(Ok(&[][..]), |s| s.bytes(file))?)? {
            match attribute {
                PARAMETER_BYTES => bytes = value as usize,
                MAX_THREADS => threads = Some(value as u32),
                _ => {}
            }
        }
        kernels.push(ImageKernel {
            name: kernel.to_string(),
            sizes: Sizes::Sum(bytes),
            file: None,
            threads,
            wave: None,
            waits: arch >= 90,
        });
    }
    Ok(Image {
        form: Form::Binary {
            vendor: Vendor::Cuda,
            target: format!("sm_{arch}"),
        },
        kernels,
    })
}

/// Attributes with the first word of their values.
fn attributes(info: &[u8]) -> Result<Vec<(u64, u64)>, Refusal> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < info.len() {
        let (form, attribute) = (number(info, at, 1)?, number(info, at + 1, 1)?);
        let half = number(info, at + 2, 2)?;
        at += 4;
        if form == 4 {
            if half >= 4 {
                found.push((attribute, number(info, at, 4)?));
            }
            at += half as usize;
        } else {
            found.push((attribute, half));
        }
    }
    Ok(found)
}

fn code_object(file: &[u8], sections: &[Section]) -> Result<Image, Refusal> {
    let symbols = dynamic_symbols(file, sections)?;
    for section in sections.iter().filter(|s| s.kind == SECTION_NOTE) {
        let Some(metadata) = note(section.bytes(file)?)? else {
            continue;
        };
        let target = metadata.get("amdhsa.target").and_then(Value::text);
        let target = target.and_then(|t| t.rsplit("--").next());
        let kernels = metadata.get("amdhsa.kernels").map_or(&[][..], Value::items);
        let kernels: Option<Vec<ImageKernel>> = kernels.iter().map(amd_kernel).collect();
        let (Some(target), Some(kernels)) = (target, kernels) else {
            return bad("metadata of another form");
        };
        for kernel in &kernels {
            if !symbols.contains(&format!("{}.kd", kernel.name)) {
                return bad(&format!("no descriptor of {}", kernel.name));
            }
        }
        return Ok(Image {
            form: Form::Binary {
                vendor: Vendor::Hip,
                target: target.to_string(),
            },
            kernels,
        });
    }
    bad("no metadata")
}

fn dynamic_symbols(file: &[u8], sections: &[Section]) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    for section in sections
        .iter()
        .filter(|s| s.kind == SECTION_DYNAMIC_SYMBOLS)
    {
        let strings = match sections.get(section.link) {
            Some(strings) => strings.bytes(file)?,
            None => return bad("symbols without names"),
        };
        for symbol in section.bytes(file)?.chunks_exact(24) {
            names.push(string(strings, number(symbol, 0, 4)? as usize));
        }
    }
    Ok(names)
}

/// The metadata of a section of notes, if they are there.
fn note(bytes: &[u8]) -> Result<Option<Value>, Refusal> {
    let mut at = 0;
    while at + 12 <= bytes.len() {
        let name = number(bytes, at, 4)? as usize;
        let size = number(bytes, at + 4, 4)? as usize;
        let kind = number(bytes, at + 8, 4)?;
        let begin = at + 12 + name.next_multiple_of(4);
        if kind == NOTE_METADATA {
            let found = bytes
                .get(begin..begin.saturating_add(size))
                .and_then(msgpack::read);
            return found.map_or_else(|| bad("unreadable metadata"), |value| Ok(Some(value)));
        }
        at = begin + size.next_multiple_of(4);
    }
    Ok(None)
}

fn amd_kernel(kernel: &Value) -> Option<ImageKernel> {
    let mut sizes = Vec::new();
    for argument in kernel.get(".args").map_or(&[][..], Value::items) {
        let kind = argument.get(".value_kind")?.text()?;
        if !kind.starts_with("hidden_") {
            sizes.push(argument.get(".size")?.number()? as usize);
        }
    }
    let count = |key| kernel.get(key).and_then(Value::number).map(|n| n as u32);
    Some(ImageKernel {
        name: kernel.get(".name")?.text()?.to_string(),
        sizes: Sizes::Each(sizes),
        file: None,
        threads: count(".max_flat_workgroup_size"),
        wave: count(".wavefront_size"),
        waits: false,
    })
}
