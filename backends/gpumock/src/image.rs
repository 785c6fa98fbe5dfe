//! Images of compiled kernels, read as far as it takes to know which kernels they hold for
//! which device: PTX text, the two vendors' ELF files, and what the mock compilers make.

use std::ffi::CStr;

use crate::codes::*;
use crate::elf;

/// How the image of the mock compilers begins; the length of its text follows as eight bytes.
pub(crate) const MAGIC: &[u8; 8] = b"HADALIMG";

/// Why an image is refused.
pub(crate) type Refusal = (u32, String);

/// What an image says about a kernel's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// Bytes of each.
    Each(Vec<usize>),
    /// Bytes of the block.
    Sum(usize),
}

/// A kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageKernel {
    pub name: String,
    pub sizes: Sizes,
    /// The file it comes from, where the image says so.
    pub file: Option<String>,
    /// Threads of a block, where the image says so.
    pub threads: Option<u32>,
    /// Threads of a wave, where the image says so.
    pub wave: Option<u32>,
    /// Whether it waits itself for kernels before it, where the image says so.
    pub waits: bool,
}

/// What kind of image it is, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// PTX of a version (9.0 is 90) for at least this architecture.
    Ptx { version: u32, target: String },
    /// Machine code for exactly this one.
    Binary { vendor: Vendor, target: String },
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub form: Form,
    pub kernels: Vec<ImageKernel>,
}

impl Image {
    /// Reads an image of any kind.
    ///
    /// # Safety
    /// An image of one of these kinds must begin at the address.
    pub unsafe fn read(at: *const u8) -> Result<Image, Refusal> {
        // SAFETY: no kind of image is shorter than a magic of four bytes.
        let magic = unsafe { std::slice::from_raw_parts(at, 4) };
        if magic == b"\x7fELF" {
            // SAFETY: it is an ELF file, whose headers say how long it is.
            return elf::read(unsafe { elf::slice(at) }?);
        }
        if magic == &MAGIC[..4] {
            // SAFETY: the mock compilers write the magic, a length and as many bytes.
            let text = unsafe {
                let mut length = [0u8; 8];
                length.copy_from_slice(std::slice::from_raw_parts(at.add(8), 8));
                std::slice::from_raw_parts(at.add(16), u64::from_le_bytes(length) as usize)
            };
            return mock(&String::from_utf8_lossy(text));
        }
        // SAFETY: what is left is text that ends with a zero.
        ptx(&unsafe { CStr::from_ptr(at.cast()) }.to_string_lossy())
    }

    pub fn entry(&self, name: &str) -> Option<&ImageKernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// Whether a device and its driver take the image.
    pub fn check(&self, vendor: Vendor, arch: &str, wave: u32, driver: i32) -> Result<(), Refusal> {
        match &self.form {
            Form::Ptx { version, target } => {
                if vendor == Vendor::Hip {
                    return Err((INVALID_IMAGE, "PTX for an AMD device".to_string()));
                }
                if *version > ptx_version(driver) {
                    let why = format!("PTX {version} for a driver {driver}");
                    return Err((UNSUPPORTED_PTX, why));
                }
                let fits = match target.ends_with('a') {
                    true => target == arch,
                    false => sm(target) > 0 && sm(target) <= sm(arch),
                };
                if !fits {
                    return Err((INVALID_PTX, format!("PTX for {target} on {arch}")));
                }
            }
            Form::Binary { vendor: of, target } => {
                let fits = match vendor {
                    Vendor::Cuda => sm(target) == sm(arch) || runs_on(target, arch),
                    Vendor::Hip => matches_gfx(target, arch),
                };
                if *of != vendor || !fits {
                    return Err((NO_BINARY, format!("code for {target} on {arch}")));
                }
            }
        }
        let of_other_waves = |k: &&ImageKernel| k.wave.is_some_and(|w| w != wave);
        match self.kernels.iter().find(of_other_waves) {
            Some(kernel) => Err((
                INVALID_IMAGE,
                format!("{}: waves of {:?} on {arch}", kernel.name, kernel.wave),
            )),
            None => Ok(()),
        }
    }
}

/// `sm_90a` is 90.
pub(crate) fn sm(arch: &str) -> u32 {
    let digits = arch.trim_start_matches("sm_").trim_end_matches(['a', 'f']);
    digits.parse().unwrap_or(0)
}

/// Machine code runs on later devices of its generation.
fn runs_on(target: &str, arch: &str) -> bool {
    !target.ends_with('a') && sm(target) / 10 == sm(arch) / 10 && sm(target) <= sm(arch)
}

/// The processor must be the device's, and each feature that the code names as the device has
/// it.
fn matches_gfx(target: &str, arch: &str) -> bool {
    let mut target = target.split(':');
    let mut device = arch.split(':');
    let same = target.next() == device.next();
    let device: Vec<&str> = device.collect();
    same && target.all(|feature| device.contains(&feature))
}

/// The PTX that a driver reads.
fn ptx_version(driver: i32) -> u32 {
    let (major, minor) = (driver / 1000, driver % 1000 / 10);
    let ptx = match (major, minor) {
        (..=11, minor) => 70 + minor,
        (12, 0..=5) => 80 + minor,
        (12, minor) => 79 + minor,
        (major, minor) => (major - 4) * 10 + minor,
    };
    ptx.max(0) as u32
}

fn ptx(text: &str) -> Result<Image, Refusal> {
    let lines = || text.lines().map(str::trim);
    let directive = |name: &str| {
        let found = lines().find_map(|line| line.strip_prefix(name));
        let value = found.and_then(|rest| rest.trim().split([',', ' ']).next());
        value
            .map(str::to_string)
            .ok_or((INVALID_IMAGE, format!("no {name} in the image's text")))
    };
    let version = directive(".version")?;
    let Some((Ok(major), Ok(minor))) = version
        .split_once('.')
        .map(|(major, minor)| (major.parse::<u32>(), minor.parse::<u32>()))
    else {
        return Err((INVALID_PTX, format!("PTX of version {version}")));
    };
    let mut kernels = Vec::new();
    for entry in text.split(".entry").skip(1) {
        kernels.push(ptx_kernel(entry)?);
    }
    Ok(Image {
        form: Form::Ptx {
            version: major * 10 + minor,
            target: directive(".target")?,
        },
        kernels,
    })
}

/// `NAME( .param .u64 a, .param .align 4 .b8 p[128] ) .maxntid 128, 1, 1 {`
fn ptx_kernel(text: &str) -> Result<ImageKernel, Refusal> {
    let bad = || (INVALID_PTX, "a PTX entry of another form".to_string());
    let head = text.split('{').next().ok_or_else(bad)?;
    let (name, rest) = head.split_once('(').unwrap_or((head, ")"));
    let (parameters, after) = rest.rsplit_once(')').ok_or_else(bad)?;
    let mut sizes = Vec::new();
    for parameter in parameters
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
    {
        let words: Vec<&str> = parameter.split_whitespace().collect();
        let width = words.iter().find_map(|word| {
            let digits = word.strip_prefix('.')?.strip_prefix(['b', 'u', 's', 'f'])?;
            digits.parse::<usize>().ok()
        });
        let count = match parameter.split_once('[') {
            Some((_, rest)) => rest
                .trim_end_matches([']', ' '])
                .parse()
                .map_err(|_| bad())?,
            None => 1,
        };
        sizes.push(width.ok_or_else(bad)? / 8 * count);
    }
    let threads = ["reqntid", "maxntid"].iter().find_map(|directive| {
        let value = after.split_once(directive)?.1.trim();
        value.split([',', ' ', '\n']).next()?.parse().ok()
    });
    Ok(ImageKernel {
        name: name.trim().to_string(),
        sizes: Sizes::Each(sizes),
        file: None,
        threads,
        wave: None,
        waits: text.contains("griddepcontrol.wait"),
    })
}

/// The text of a mock image: the architecture, and a line for each kernel with its file.
fn mock(text: &str) -> Result<Image, Refusal> {
    let bad = || {
        (
            INVALID_IMAGE,
            "a cut image of the mock compiler".to_string(),
        )
    };
    let mut lines = text.lines();
    let target = lines.next().ok_or_else(bad)?.to_string();
    let vendor = match target.starts_with("gfx") {
        true => Vendor::Hip,
        false => Vendor::Cuda,
    };
    let mut kernels = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [file, name, bytes] = words[..] else {
            return Err(bad());
        };
        kernels.push(ImageKernel {
            name: name.to_string(),
            sizes: Sizes::Sum(bytes.parse().map_err(|_| bad())?),
            file: Some(file.to_string()),
            threads: None,
            wave: None,
            // What NVRTC is told to compile for later devices has the instruction.
            waits: sm(&target) >= 90,
        });
    }
    Ok(Image {
        form: Form::Binary { vendor, target },
        kernels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_names_its_kernels_and_their_arguments() {
        let text = "//\n.version 8.0\n.target sm_90a\n.address_size 64\n\
            .visible .entry one(\n .param .align 4 .b8 one_param_0[128],\n\
            .param .u64 .ptr .align 1 one_param_1,\n\t.param .u32 p\n)\n.reqntid 64, 1, 1\n{\nret;\n}\n\
            .entry two()\n{\n ret;\n}\n";
        let image = ptx(text).unwrap();
        assert_eq!(image.kernels.len(), 2);
        assert_eq!(image.kernels[0].sizes, Sizes::Each(vec![128, 8, 4]));
        assert_eq!(image.kernels[0].threads, Some(64));
        assert_eq!(image.entry("two").unwrap().sizes, Sizes::Each(vec![]));
        let check = |arch, driver| image.check(Vendor::Cuda, arch, 32, driver).map_err(|e| e.0);
        assert_eq!(check("sm_90a", 13000), Ok(()));
        assert_eq!(check("sm_100a", 13000), Err(INVALID_PTX));
        assert_eq!(check("sm_90a", 11080), Err(UNSUPPORTED_PTX));
        assert!(image.check(Vendor::Hip, "gfx942", 64, 7).is_err());
        assert!(ptx(".version 8").is_err() && ptx("").is_err());
    }

    #[test]
    fn code_is_taken_by_its_own_device_alone() {
        let image = mock("gfx942:sramecc+\nsums test_axpy 32\n").unwrap();
        let check = |arch| image.check(Vendor::Hip, arch, 64, 7).map_err(|e| e.0);
        assert_eq!(check("gfx942:sramecc+:xnack-"), Ok(()));
        assert_eq!(check("gfx942:sramecc-:xnack-"), Err(NO_BINARY));
        assert_eq!(check("gfx90a:sramecc+:xnack-"), Err(NO_BINARY));
        assert!(mock("gfx942\nsums").is_err());
        assert_eq!(
            [ptx_version(11080), ptx_version(12020), ptx_version(12080)],
            [78, 82, 87]
        );
        assert_eq!(ptx_version(13010), 91);
    }
}
