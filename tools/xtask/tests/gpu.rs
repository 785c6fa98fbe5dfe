//! The C++ kernels compiled for every architecture: the stored images are theirs, and nothing
//! spills.

use std::sync::Mutex;

use hadal_shaders::gpu as stored;
use xtask::{gates, gpu};

#[test]
fn every_kernel_compiles_for_every_architecture_within_its_means() {
    let Some(compiler) = gpu::Compiler::find() else {
        eprintln!("compiling the C++ kernels: not run, there is no clang-22");
        return;
    };
    let ptxas = gates::ptxas();
    if ptxas.is_none() {
        eprintln!("assembling PTX: not run, there is no ptxas (HADAL_PTXAS)");
    }
    let exact = compiler.made_the_images();
    if !exact {
        eprintln!(
            "comparing images with their sources: not run, they were made with {}, and here is {}",
            stored::IMAGE_COMPILER,
            compiler.version
        );
    }
    let complaints = Mutex::new(Vec::new());
    let look = |arch: &gpu::Arch, file: &str, module: &[u8]| {
        let mut found = gates::complaints(arch, file, module)?;
        if let (Some(ptxas), Some(_)) = (&ptxas, arch.ptx) {
            found.extend(gates::assembled(ptxas, arch, module)?);
        }
        complaints.lock().expect("no panic").extend(found);
        Ok(())
    };
    for made in gpu::compile_all(&compiler, look).expect("everything compiles and is read") {
        let name = made.arch.name;
        assert_eq!(
            made.arch.stored,
            stored::image_archs().contains(&name),
            "{name}"
        );
        for (file, module) in &made.modules {
            if exact && made.arch.stored {
                let same = stored::image(name, file).as_ref() == Some(module);
                assert!(
                    same,
                    "{name}: {file} is old; run `cargo run -p xtask -- gpu`"
                );
            }
        }
    }
    let complaints = complaints.into_inner().expect("no panic");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn each_kernel_must_have_its_instructions() {
    let ptx = ".version 8.0\n.visible .entry one(\n.param .u64 a\n)\n{ wgmma.x; ret; }\n\
               .visible .entry two(\n)\n{ ret; }\n";
    assert_eq!(gates::lacking(ptx, &["wgmma.x"]), ["two: no wgmma.x"]);
    let disassembled = "\nx.co:\tfile format elf64-amdgpu\n\nDisassembly of section .text:\n\n\
                        0000000000001700 <one>:\n\ts_load\n\n\
                        0000000000001900 <two>:\n\tv_mfma_x v[0:3]\n";
    assert_eq!(
        gates::lacking(disassembled, &["v_mfma_x"]),
        ["one: no v_mfma_x"]
    );
    assert_eq!(gates::lacking("", &["v_mfma_x"]).len(), 1);
}

#[test]
fn a_kernel_must_wait_before_it_touches_memory() {
    let ptx = |body: &str| format!(".visible .entry one(\n.param .u64 a\n)\n{{\n{body}}}\n");
    let wait = "\tld.param.u64 %rd1, [a];\n\t// begin inline asm\n\tgriddepcontrol.wait; \n";
    let load = "\tld.global.u32 %r1, [%rd1];\n";
    assert_eq!(gates::early(&ptx(&format!("{wait}{load}"))), [""; 0]);
    for wrong in [
        load.to_string(),
        format!("{load}{wait}"),
        format!("\tst.shared.u32 [%r1], 0;\n{wait}{load}"),
        format!("\t@%p1 ld.global.u32 %r1, [%rd1];\n{wait}"),
        format!("\t@%p1 bra $L_end;\n{wait}"),
    ] {
        assert_eq!(gates::early(&ptx(&wrong)), ["one: does not wait first"]);
    }
}

#[test]
fn notes_of_a_code_object_are_read() {
    let notes = "amdhsa.kernels:
  - .agpr_count:     0
    .args:
      - .offset:         0
        .size:           128
        .value_kind:     by_value
      - .address_space:  global
        .offset:         128
        .size:           8
        .value_kind:     global_buffer
      - .offset:         136
        .size:           4
        .value_kind:     hidden_block_count_x
    .name:           rope
    .vgpr_count:     24
  - .args:
    .name:           add
    .vgpr_count:     4
amdhsa.version:
  - 1
  - 2
";
    let kernels = gates::of_notes(notes);
    assert_eq!(kernels.len(), 2);
    assert_eq!(kernels[0].name, "rope");
    assert_eq!(kernels[0].arguments, [(0, 128), (128, 8)]);
    assert_eq!(kernels[0].numbers["vgpr_count"], 24);
    assert_eq!(kernels[1].numbers["vgpr_count"], 4);
}

#[test]
fn a_kernel_of_a_code_object_that_goes_beyond_its_means_is_named() {
    let kernel = |entry: &str, change: (&str, u32)| {
        let mut kernel = gates::Kernel {
            name: entry.into(),
            arguments: vec![],
            ..gates::Kernel::default()
        };
        let within = [
            ("vgpr_spill_count", 0),
            ("sgpr_spill_count", 0),
            ("private_segment_fixed_size", 0),
            ("group_segment_fixed_size", 48 << 10),
            ("vgpr_count", 256),
            ("wavefront_size", 64),
        ];
        for (name, number) in within.into_iter().chain([change]) {
            kernel.numbers.insert(name.into(), number);
        }
        gates::beyond_limits(&[kernel], 64)
    };
    assert_eq!(kernel("memory_only", ("vgpr_count", 8)), [""; 0]);
    for (name, number) in [
        ("vgpr_spill_count", 1),
        ("sgpr_spill_count", 1),
        ("private_segment_fixed_size", 16),
        ("group_segment_fixed_size", (48 << 10) + 1),
        ("vgpr_count", 257),
        ("wavefront_size", 32),
    ] {
        let found = kernel("memory_only", (name, number));
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
    // A row's kernel without its arguments.
    let found = kernel("add", ("vgpr_count", 8));
    assert!(
        found.len() == 1 && found[0].contains("arguments"),
        "{found:?}"
    );
}

#[test]
fn what_the_assembler_says_against_a_kernel_is_heard() {
    let said = |kernel: &str, stack: u32, spilled: u32, registers: u32| {
        format!(
            "ptxas info    : Compiling entry function '{kernel}' for 'sm_90a'\n\
             ptxas info    : Function properties for {kernel}\n    \
             {stack} bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads\n\
             ptxas info    : Used {registers} registers, used 1 barriers\n"
        )
    };
    let complaints = |text: &str| gates::of_assembly(text, false).len();
    assert_eq!(complaints(&said("one", 0, 0, 168)), 0);
    assert_eq!(complaints(&said("one", 0, 0, 169)), 1);
    assert_eq!(complaints(&said("one", 8, 0, 90)), 1);
    assert_eq!(complaints(&said("one", 8, 4, 90)), 1);
    assert_eq!(complaints(&said("linear_f8_wide_4", 0, 0, 192)), 0);
    assert_eq!(complaints("'setmaxnreg' ignored to maintain ..."), 1);
    assert_eq!(
        complaints("wgmma.mma_async instructions are serialized due to ..."),
        1
    );
    // Who takes registers of others needs them to be there.
    let exactly = |registers| gates::of_assembly(&said("one", 0, 0, registers), true).len();
    assert_eq!([exactly(168), exactly(160)], [0, 1]);
    let stack = ".visible .entry one(\n)\n{\n.local .b8 __local_depot0[96];\n}\n";
    assert_eq!(gates::of_ptx(stack).len(), 1);
    let shared =
        ".shared .align 16 .b8 tile[50000];\n.visible .entry one(\n)\n{\nmov.u32 %r1, tile;\n}\n";
    assert_eq!(
        gates::of_ptx(shared).len(),
        1,
        "{:?}",
        gates::of_ptx(shared)
    );
}
