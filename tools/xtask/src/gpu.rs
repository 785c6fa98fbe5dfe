//! The images of the C++ kernels: compiling `shaders/gpu` with clang for every architecture,
//! and telling whether what is stored belongs to the sources.
//!
//! Knows clang's options; must not know what a kernel does.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hadal_shaders::gpu;

/// Folder of the images, from the root of the repository.
const FOLDER: &str = "shaders/gpu/images";

/// An architecture: its name, and the PTX version for NVIDIA's (the oldest that has all
/// instructions of its kernels, so that older drivers take it).
pub struct Arch {
    /// As drivers have it.
    pub name: &'static str,
    /// `None`: AMD's.
    pub ptx: Option<u32>,
    /// Whether its images are stored; all others are compiled as a check only.
    pub stored: bool,
}

const fn nvidia(name: &'static str, ptx: u32, stored: bool) -> Arch {
    let ptx = Some(ptx);
    Arch { name, ptx, stored }
}

const fn amd(name: &'static str) -> Arch {
    Arch {
        name,
        ptx: None,
        stored: true,
    }
}

/// Every architecture that the kernels are compiled for. NVIDIA's later ones run the PTX of
/// sm_89, which has the same kernels.
pub const ARCHS: &[Arch] = &[
    nvidia("sm_80", 75, true),
    nvidia("sm_89", 84, true),
    nvidia("sm_90a", 84, true),
    nvidia("sm_100a", 86, false),
    nvidia("sm_120a", 87, false),
    amd("gfx90a"),
    amd("gfx942"),
    amd("gfx950"),
    amd("gfx1030"),
    amd("gfx1100"),
    amd("gfx1151"),
    amd("gfx1200"),
    amd("gfx1201"),
];

/// clang with its GPU targets.
pub struct Compiler {
    program: String,
    /// Its first line of `--version`, without the distribution's words.
    pub version: String,
}

impl Compiler {
    /// The program in `HADAL_CLANG`, else `clang-22`; `None` if it does not start.
    pub fn find() -> Option<Compiler> {
        let program = std::env::var("HADAL_CLANG").unwrap_or_else(|_| "clang-22".to_string());
        let output = Command::new(&program).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split("version ").nth(1)?.split_whitespace().next()?;
        Some(Compiler {
            program,
            version: format!("clang {number}"),
        })
    }

    /// Whether it is the one that the stored images were made with.
    pub fn made_the_images(&self) -> bool {
        self.version == gpu::IMAGE_COMPILER
    }

    /// The module of kernel file `file` for `arch`.
    pub fn compile(&self, arch: &Arch, file: &str) -> io::Result<Vec<u8>> {
        let source = gpu::source(file)
            .ok_or_else(|| io::Error::other(format!("there is no file {file}.cu")))?;
        let mut command = Command::new(&self.program);
        command.args([
            "-O3",
            "-std=c++17",
            "-Wall",
            "-Werror",
            "-Wno-unused-const-variable",
        ]);
        command.args(["-Wno-unused-function", "-fno-ident", "-o", "-"]);
        match arch.ptx {
            Some(ptx) => command
                .args([
                    "-x",
                    "cuda",
                    "--cuda-device-only",
                    "-nocudainc",
                    "-nocudalib",
                    "-S",
                ])
                .args(["-Xclang", "-target-feature", "-Xclang"])
                .arg(format!("+ptx{ptx}"))
                .arg(format!("--cuda-gpu-arch={}", arch.name)),
            None => command
                .args(["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output"])
                .args(["-nogpuinc", "-nogpulib", "-mcode-object-version=5"])
                .arg(format!("--offload-arch={}", arch.name)),
        };
        let mut child = command
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(source.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!(
                "{file} for {}: {text}",
                arch.name
            )));
        }
        let mut module = output.stdout;
        if arch.ptx.is_some() {
            // Drivers take text that is ended by a zero.
            module.push(0);
        }
        Ok(module)
    }
}

/// The modules of an architecture, by file.
pub struct Modules {
    /// Of what they are.
    pub arch: &'static Arch,
    /// Name of the file and its module.
    pub modules: Vec<(String, Vec<u8>)>,
}

/// Every kernel file compiled for every architecture that it is for, on all processors, where each
/// module is handed to `look` as well: what looks at it takes as long as the compiler.
pub fn compile_all(
    compiler: &Compiler,
    look: impl Fn(&Arch, &str, &[u8]) -> io::Result<()> + Sync,
) -> io::Result<Vec<Modules>> {
    let mut jobs: Vec<(usize, &str)> = Vec::new();
    for (at, arch) in ARCHS.iter().enumerate() {
        let files = gpu::KERNELS.iter();
        let files = files.filter_map(|(name, _)| name.strip_suffix(".cu"));
        jobs.extend(
            files
                .filter(|file| gpu::is_for(file, arch.name))
                .map(|file| (at, file)),
        );
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some((at, file)) = jobs.get(job) else {
                        break;
                    };
                    let made = compiler.compile(&ARCHS[*at], file);
                    let made = made.and_then(|module| {
                        look(&ARCHS[*at], file, &module)?;
                        Ok(module)
                    });
                    let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                    done.push((job, made));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(job, _)| *job);
    let mut all: Vec<Modules> = ARCHS
        .iter()
        .map(|arch| Modules {
            arch,
            modules: Vec::new(),
        })
        .collect();
    for (job, made) in done {
        let (at, file) = jobs[job];
        all[at].modules.push((file.to_string(), made?));
    }
    Ok(all)
}

/// Compiles everything and writes the images that are stored below `root`.
pub fn build(root: &Path, compiler: &Compiler) -> io::Result<()> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for Modules { arch, modules } in compile_all(compiler, |_, _, _| Ok(()))? {
        if arch.stored {
            std::fs::write(folder.join(format!("{}.z", arch.name)), gpu::pack(&modules))?;
        }
    }
    Ok(())
}
