//! Kernels at subgroup sizes that no driver here has: their subgroups are made out of
//! workgroup memory, everything else is as on a GPU of that size. 4, 8 and 16 are also run as
//! they are, on the drivers that have them (`tests/matrix.sh`).
//!
//! Needs a device that wgpu reaches (lavapipe will do) and says so by name where there is
//! none.

use std::sync::Arc;

use hadal_conformance::execute::execute;
use hadal_conformance::{Lacking, Profile, plan};
use hadal_device::{Backend, Body, Device, Features};
use hadal_shaders::wgsl::{Target, assemble};
use hadal_wgpu::{WgpuBackend, WgpuOptions};

fn device(size: u32) -> Option<Arc<dyn Device>> {
    let options = WgpuOptions {
        subgroup_size: Some(size),
        ..WgpuOptions::default()
    };
    match WgpuBackend::new(options).open(0) {
        // Software adapters are spared subgroups.
        Ok(device) => Some(Arc::new(Lacking::new(device, Features::SOFTWARE))),
        Err(error) => {
            println!("NOT RUN: subgroups of {size}: {error}");
            None
        }
    }
}

#[test]
fn kernels_are_right_at_every_subgroup_size() {
    for size in [4, 8, 16, 32, 64] {
        let Some(device) = device(size) else { return };
        assert_eq!(device.info().limits.subgroup, (size, size));
        let cases = plan::cases(hadal_shaders::table(), device.info(), Profile::Core);
        let mut run = 0;
        for case in cases.iter().filter(|case| case.id.contains("_subgroups_")) {
            let result = execute(case, &device, &[], 1);
            assert!(result.status.is_good(), "subgroups of {size}: {result:?}");
            run += 1;
        }
        println!("subgroups of {size}: {run} cases passed");
        assert!(run > 100, "only {run} cases");
    }
}

#[test]
fn nothing_is_left_of_the_devices_own_subgroups() {
    let target = Target {
        subgroup_size: Some(32),
        ..Target::default()
    };
    let rows = hadal_shaders::table().iter();
    let texts = rows.filter_map(|row| match row.body {
        Body::Wgsl { file, defines } if defines.contains(&"SUBGROUPS") => Some(
            assemble(file, defines, target)
                .expect("it assembles")
                .source,
        ),
        _ => None,
    });
    let mut seen = 0;
    for text in texts {
        assert!(!text.contains("subgroupAdd") && !text.contains("subgroupExclusive"));
        assert!(!text.contains("subgroup_id") && text.contains("emulated_add"));
        seen += 1;
    }
    assert!(seen > 20, "only {seen} rows use subgroups");
}
