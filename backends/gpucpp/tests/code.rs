//! How drivers and code are found, and what is said where they are not.
#![cfg(unix)]

mod mock;

use std::path::Path;

use hadal_device::{Body, Device, Error, Features, Result};
use hadal_gpucpp::{Code, GpuBackend, GpuOptions, ShaderCode, Vendor};

use mock::{Mock, VENDORS};

/// Kernels whose images are not for any device.
struct Damaged;

impl Code for Damaged {
    fn source(&self, file: &str) -> Option<String> {
        ShaderCode.source(file)
    }

    fn image(&self, _: &str, _: &str) -> Option<Vec<u8>> {
        Some(b"this is no image\0".to_vec())
    }

    fn image_archs(&self) -> Vec<&'static str> {
        vec!["sm_80", "sm_90a", "gfx942"]
    }

    fn image_compiler(&self) -> &str {
        "nobody"
    }
}

/// Images for AMD's devices as compilers made them for ROCm 6.0: code objects of version 4.
struct Older;

impl Code for Older {
    fn source(&self, file: &str) -> Option<String> {
        ShaderCode.source(file)
    }

    fn image(&self, arch: &str, file: &str) -> Option<Vec<u8>> {
        const ABI_VERSION: usize = 8;
        let mut image = ShaderCode.image(arch, file)?;
        assert_eq!(image[ABI_VERSION], 3, "that of version 5");
        image[ABI_VERSION] = 2;
        Some(image)
    }

    fn image_archs(&self) -> Vec<&'static str> {
        ShaderCode.image_archs()
    }

    fn image_compiler(&self) -> &str {
        "an old compiler"
    }
}

fn compile(backend: &GpuBackend) -> Result<()> {
    let body = Body::Gpu {
        file: "values",
        entry: "add",
        operands: "rrrw",
    };
    let device = backend.open(0)?;
    device
        .pipeline("add", &body, &[("THREADS", 256)])
        .map(|_| ())
}

fn why(backend: &GpuBackend) -> String {
    match backend.devices() {
        Err(error @ Error::Unavailable { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_driver_that_is_not_there_is_named_with_its_cure() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        let of = |library: &Path| {
            why(&mock.backend(
                vendor,
                GpuOptions {
                    library: Some(library.to_path_buf()),
                    ..GpuOptions::default()
                },
            ))
        };
        let missing = of(Path::new("/nowhere/libdriver.so"));
        assert!(
            missing.contains("/nowhere/libdriver.so was not found"),
            "{missing}"
        );
        assert!(missing.contains("install"), "{missing}");
        // A library of something else.
        if cfg!(target_os = "linux") {
            let lacks = of(Path::new("libm.so.6"));
            let symbol = match vendor {
                Vendor::Cuda => "cuInit",
                Vendor::Hip => "hipInit",
            };
            assert!(
                lacks.contains(symbol) && lacks.contains("install"),
                "{lacks}"
            );
        }
    }
}

#[test]
fn a_driver_that_is_too_old_or_has_no_device_is_no_panic() {
    let mock = Mock::new("driver=11080,hip-driver=50221153");
    for (vendor, version) in VENDORS.into_iter().zip(["CUDA 11.8", "HIP 5.2"]) {
        let why = why(&mock.backend(vendor, GpuOptions::default()));
        assert!(why.contains("too old") && why.contains(version), "{why}");
    }
    mock.configure("");
    mock.fail_calls("cuInit", 1, 802);
    let unready = why(&mock.backend(Vendor::Cuda, GpuOptions::default()));
    assert!(unready.contains("start nvidia-fabricmanager"), "{unready}");
    mock.configure("devices=0");
    for vendor in VENDORS {
        let why = why(&mock.backend(vendor, GpuOptions::default()));
        assert!(why.contains("knows no device"), "{why}");
    }
    mock.configure("");
    for vendor in VENDORS {
        let backend = mock.backend(vendor, GpuOptions::default());
        assert!(matches!(backend.open(1), Err(Error::Unavailable { .. })));
    }
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn images_made_ahead_need_no_compiler() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        mock.configure("");
        let create = match vendor {
            Vendor::Cuda => "nvrtcCreateProgram",
            Vendor::Hip => "hiprtcCreateProgram",
        };
        mock.fail_calls(create, 9, 1);
        let backend = mock.backend(vendor, GpuOptions::default());
        let driver = &backend.devices().expect("devices")[0].driver;
        assert!(driver.ends_with("kernels made ahead"), "{driver}");
        compile(&backend).expect("it is made ahead");
    }
}

#[test]
fn what_the_driver_refuses_is_compiled_and_kept() {
    let mock = Mock::new("");
    let folder = tempfile::tempdir().expect("a folder");
    for vendor in VENDORS {
        let compiler = match vendor {
            Vendor::Cuda => "nvrtcCompileProgram",
            Vendor::Hip => "hiprtcCompileProgram",
        };
        let cache_folder = Some(folder.path().join(vendor.backend()));
        let kept = || {
            let kernels = folder.path().join(vendor.backend()).join("kernels");
            let files = std::fs::read_dir(kernels).expect("a folder of modules");
            files
                .map(|file| file.expect("a file").path())
                .collect::<Vec<_>>()
        };
        let options = || GpuOptions {
            cache_folder: cache_folder.clone(),
            ..GpuOptions::default()
        };
        mock.configure("");
        let backend = || mock.backend_of(vendor, &Damaged, options());
        compile(&backend()).expect("it is compiled");
        assert_eq!(kept().len(), 1);
        // The second time there is no need to.
        mock.fail_calls(compiler, 9, 6);
        compile(&backend()).expect("it was kept");
        // A damaged file is no way any more; the error has all that was tried.
        std::fs::write(&kept()[0], b"damage").expect("a file");
        let all = compile(&backend())
            .expect_err("nothing is left")
            .to_string();
        for part in ["made ahead by nobody", "200", "compiling with", "code 6"] {
            assert!(all.contains(part), "{part} in {all}");
        }
        if vendor == Vendor::Cuda {
            assert!(all.contains("made ahead for sm_80"), "{all}");
            // The log of the driver's translator.
            let log = "CUDA_ERROR_INVALID_IMAGE (200): no .version in the image's text;";
            assert!(all.contains(log), "{all}");
        }
        mock.configure("");
        compile(&backend()).expect("it is compiled again");
        mock.fail_calls(compiler, 9, 6);
        compile(&backend()).expect("and kept again");
        // Without images nobody tries them.
        let no_images = mock.backend_of(
            vendor,
            &Damaged,
            GpuOptions {
                no_images: true,
                ..options()
            },
        );
        let driver = &no_images.devices().expect("devices")[0].driver;
        assert!(driver.contains("kernels compiled by"), "{driver}");
        assert_eq!(mock.live(), 0);
    }
}

#[test]
fn an_older_code_object_is_not_loaded() {
    let mock = Mock::new("");
    let backend = || mock.backend_of(Vendor::Hip, &Older, GpuOptions::default());
    compile(&backend()).expect("it is compiled");
    mock.fail_calls("hiprtcCompileProgram", 9, 6);
    let why = compile(&backend())
        .expect_err("nothing is left")
        .to_string();
    let said = "made ahead by an old compiler: its code object version 4";
    assert!(why.contains(said), "{why}");
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn an_old_nvrtc_is_not_offered_the_kernels_that_it_cannot_compile() {
    let mock = Mock::new("");
    for (nvrtc, no_images, is_offered) in [
        (12030, true, false),
        (12040, true, true),
        // It compiles nothing.
        (12030, false, true),
    ] {
        mock.configure(&format!("nvrtc={nvrtc}"));
        let options = GpuOptions {
            no_images,
            ..GpuOptions::default()
        };
        let info = mock.backend(Vendor::Cuda, options).devices();
        let features = info.expect("devices")[0].features;
        assert_eq!(features.has(Features::HOPPER), is_offered, "{nvrtc}");
    }
}

#[test]
fn an_nvrtc_that_is_newer_than_the_driver_is_not_taken() {
    let mock = Mock::new("driver=12040");
    for (nvrtc, is_taken) in [(12080, true), (13000, false)] {
        mock.configure(&format!("driver=12040,nvrtc={nvrtc}"));
        let options = GpuOptions {
            no_images: true,
            ..GpuOptions::default()
        };
        let info = mock.backend(Vendor::Cuda, options).devices();
        let driver = info.map_or(String::new(), |info| info[0].driver.clone());
        let version = format!("NVRTC {}.{}", nvrtc / 1000, nvrtc % 1000 / 10);
        assert_eq!(driver.contains(&version), is_taken, "{nvrtc}: {driver}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn what_nvrtc_needs_is_taken_from_its_own_folder() {
    let mock = Mock::new("");
    let folder = mock.path().parent().expect("a folder").to_path_buf();
    // A library that was not loaded before; any one will do.
    let builtins = folder.join("libnvrtc-builtins.so.13.0");
    std::fs::copy(hadal_gpumock::library(), &builtins).expect("a copy");
    let options = GpuOptions {
        no_images: true,
        ..GpuOptions::default()
    };
    compile(&mock.backend(Vendor::Cuda, options)).expect("it is compiled");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("what is loaded");
    assert!(maps.contains(&builtins.display().to_string()));
}

#[test]
fn what_was_compiled_outlives_its_compiler() {
    let mock = Mock::new("");
    for vendor in VENDORS {
        let folder = tempfile::tempdir().expect("a folder");
        let backend = || {
            let options = GpuOptions {
                cache_folder: Some(folder.path().to_path_buf()),
                no_images: true,
                ..GpuOptions::default()
            };
            mock.backend(vendor, options)
        };
        let [compiler, version] = match vendor {
            Vendor::Cuda => ["nvrtcCompileProgram", "nvrtcVersion"],
            Vendor::Hip => ["hiprtcCompileProgram", "hiprtcVersion"],
        };
        mock.configure("");
        compile(&backend()).expect("it is compiled");
        // Another compiler makes its own.
        mock.configure("nvrtc=12040,hiprtc=60000000");
        mock.fail_calls(compiler, 1, 6);
        let stale = compile(&backend()).expect_err("it is compiled again");
        assert!(stale.to_string().contains("compiling with"), "{stale}");
        // Without one there is only what was kept.
        mock.configure("");
        mock.fail_calls(version, 9, 1);
        let driver = backend().devices().expect("devices")[0].driver.clone();
        if driver.contains("compiled by") {
            eprintln!("NOT RUN: what_was_compiled_outlives_its_compiler, there is another one");
            return;
        }
        assert!(driver.contains("only kernels compiled before"), "{driver}");
        compile(&backend()).expect("it was kept");
        std::fs::remove_dir_all(folder.path().join("kernels")).expect("a folder");
        compile(&backend()).expect_err("nothing is left");
    }
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn a_device_that_no_kernel_gets_to_is_not_offered() {
    for (vendor, arch, version) in [
        (Vendor::Cuda, "sm_75", "nvrtcVersion"),
        (Vendor::Hip, "gfx906", "hiprtcVersion"),
    ] {
        let mock = Mock::new(&format!("arch={arch}"));
        let folder = tempfile::tempdir().expect("a folder");
        let options = GpuOptions {
            cache_folder: Some(folder.path().to_path_buf()),
            ..GpuOptions::default()
        };
        let backend = mock.backend(vendor, options);
        // Before it is found for the first time, after which it stays.
        mock.fail_calls(version, 9, 1);
        if backend.devices().is_ok() {
            eprintln!(
                "NOT RUN: a_device_that_no_kernel_gets_to_is_not_offered, there is another compiler"
            );
            continue;
        }
        let why = why(&backend);
        let none = format!("no kernels were made ahead for {arch}");
        assert!(why.contains(&none) && why.contains("vulkan"), "{why}");
        // What others keep there is no way.
        let kernels = folder.path().join("kernels");
        std::fs::create_dir(&kernels).expect("a folder");
        std::fs::write(kernels.join("some.module"), b"a module").expect("a file");
        assert_eq!(self::why(&backend), why);
    }
}

#[test]
fn an_image_that_the_driver_is_too_old_for_is_not_spoken_of() {
    let mock = Mock::new("driver=12010,nvrtc=12000");
    let info = mock.backend(Vendor::Cuda, GpuOptions::default()).devices();
    let driver = info.expect("devices").swap_remove(0).driver;
    assert!(!driver.ends_with("kernels made ahead"), "{driver}");
    mock.configure("driver=12040");
    let info = mock.backend(Vendor::Cuda, GpuOptions::default()).devices();
    let driver = info.expect("devices").swap_remove(0).driver;
    assert!(driver.ends_with("kernels made ahead"), "{driver}");
}

#[test]
fn an_older_image_serves_where_there_is_no_other_way() {
    let mock = Mock::new("arch=sm_89");
    mock.fail_calls("nvrtcCompileProgram", 9, 6);
    compile(&mock.backend(Vendor::Cuda, GpuOptions::default())).expect("that of sm_80");
    assert_eq!((mock.complaints().as_str(), mock.live()), ("", 0));
}

#[test]
fn kernels_of_other_kinds_are_refused() {
    let mock = Mock::new("");
    let device = mock.device(Vendor::Cuda);
    let of = |file, entry, operands| Body::Gpu {
        file,
        entry,
        operands,
    };
    let threads = [("THREADS", 256)];
    let good = of("values", "add", "rrrw");
    let refused: [(Body, &[(&'static str, u32)]); 8] = [
        (Body::Host("add"), &threads),
        (of("nothing", "add", "rrrw"), &threads),
        (of("values", "nothing", "rrrw"), &threads),
        (of("values", "a\0b", "rrrw"), &threads),
        (of("values", "add", "rzrw"), &threads),
        (good, &[]),
        (good, &[("THREADS", 2048)]),
        (good, &[("THREADS", 256), ("ROWS", 2)]),
    ];
    for (body, constants) in refused {
        assert!(
            device.pipeline("it", &body, constants).is_err(),
            "{body:?} {constants:?}"
        );
    }
    assert_eq!(device.setup_counts().pipelines, 0);
    let one = device.pipeline("it", &good, &threads).expect("a kernel");
    assert_eq!(device.pipeline("other name", &good, &threads), Ok(one));
    assert_eq!(device.setup_counts().pipelines, 1);
}
