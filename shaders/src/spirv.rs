//! The SPIR-V modules of this crate: binaries, what they bind, and the numbers of their
//! constants. Compiled from `shaders/spirv/*.comp` by `cargo run -p xtask -- spirv`; tests
//! compare everything here with the binaries and the sources.

use crate::wgsl::Binding::{self, Params, Read, ReadWrite};

/// A module; its entry point is `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name of the binary without extension.
    pub name: &'static str,
    /// Little-endian words.
    pub bytes: &'static [u8],
    /// The parameters, then the operands in order, numbered from 0.
    pub bindings: &'static [Binding],
}

impl Module {
    /// The words of the module.
    pub fn words(&self) -> Vec<u32> {
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.bytes.chunks_exact(4).map(word).collect()
    }
}

/// Specialization constants of all modules: name and number. A module has some of them.
pub const CONSTANTS: &[(&str, u32)] = &[
    ("WG", 0),
    ("FORMAT", 1),
    (HALF_SUBNORMALS, 2),
    ("M", 3),
    ("N", 4),
    ("K", 5),
    ("ROWS", 6),
    ("COLUMNS", 7),
    ("ROW_PARTS", 8),
    ("COLUMN_PARTS", 9),
    ("SUBGROUPS", 10),
    ("LANES", 11),
    ("WIDE", 12),
    ("DIGITS", 13),
];

/// The constant that no launch sets but the backend: 1 if the device keeps subnormal halves
/// ([`crate::wgsl::Target::half_subnormals`]).
pub const HALF_SUBNORMALS: &str = "HALF_SUBNORMALS";

/// A table of weights, which are read sixteen bytes at a time.
#[expect(non_upper_case_globals, reason = "stands among the names of bindings")]
const Table: Binding = Binding::Addresses { align: 16 };

/// A table of block scales.
#[expect(non_upper_case_globals, reason = "stands among the names of bindings")]
const Scales: Binding = Binding::Addresses { align: 4 };

macro_rules! modules {
    ($($name:literal [$($binding:ident)*])*) => {
        &[$(Module {
            name: $name,
            bytes: include_bytes!(concat!("../spirv/", $name, ".spv")),
            // What every kernel begins and ends with: parameters, `inputs`, `x`; `y`.
            bindings: &[Params, Read, ReadWrite, $($binding,)* ReadWrite],
        }),*]
    };
}

/// All modules.
pub const MODULES: &[Module] = modules! {
    "matrix_linear" [Read]
    "matrix_linear_f8e4m3" [Read Read]
    "matrix_linear_residual" [Read ReadWrite]
    "matrix_linear_residual_f8e4m3" [Read Read ReadWrite]
    "matrix_gate_up" [Read Read]
    "matrix_gate_up_f8e4m3" [Read Read Read Read]
    "matrix_grouped_linear" [ReadWrite Table]
    "matrix_grouped_linear_f8e4m3" [ReadWrite Table Scales]
    "matrix_grouped_gate_up" [ReadWrite Table Table]
    "matrix_grouped_gate_up_f8e4m3" [ReadWrite Table Scales Table Scales]
    "matrix_linear_bf16" [Read]
    "matrix_linear_residual_bf16" [Read ReadWrite]
    "matrix_gate_up_bf16" [Read Read]
    "matrix_grouped_linear_bf16" [ReadWrite Table]
    "matrix_grouped_gate_up_bf16" [ReadWrite Table Table]
    "matrix_linear_coded" [Read Read]
    "matrix_linear_residual_coded" [Read Read ReadWrite]
    "matrix_gate_up_coded" [Read Read Read Read]
    "matrix_grouped_linear_coded" [ReadWrite Table Scales]
    "matrix_grouped_gate_up_coded" [ReadWrite Table Scales Table Scales]
    "matrix_linear_coded_e4m3" [Read Read]
    "matrix_linear_residual_coded_e4m3" [Read Read ReadWrite]
    "matrix_gate_up_coded_e4m3" [Read Read Read Read]
    "matrix_grouped_linear_coded_e4m3" [ReadWrite Table Scales]
    "matrix_grouped_gate_up_coded_e4m3" [ReadWrite Table Scales Table Scales]
    "matrix_linear_q8_0" [Read]
    "matrix_linear_residual_q8_0" [Read ReadWrite]
    "matrix_gate_up_q8_0" [Read Read]
    "act_quant" []
    "grouped_linear" [ReadWrite Table]
    "grouped_linear_f8e4m3" [ReadWrite Table Scales]
    "grouped_gate_up" [ReadWrite Table Table]
    "grouped_gate_up_f8e4m3" [ReadWrite Table Scales Table Scales]
    "expert_linear" [ReadWrite Table]
    "expert_linear_f8e4m3" [ReadWrite Table Scales]
    "expert_gate_up" [ReadWrite Table Table]
    "expert_gate_up_f8e4m3" [ReadWrite Table Scales Table Scales]
};

/// The module with this name.
pub fn module(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}
