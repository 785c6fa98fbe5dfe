//! The small model that ships, as bytes of the program that links this crate.
//!
//! Decides nothing: the folder beside this file is a checkpoint like any published one, and
//! these are its files. Must not know how they are read.
#![forbid(unsafe_code)]

/// What people see as its name.
pub const NAME: &str = "hadal-tiny";

/// Licence of the weights.
pub const LICENCE: &str = "MIT OR Apache-2.0";

/// config.json.
pub const CONFIG: &str = include_str!("../config.json");

/// tokenizer.json.
pub const TOKENIZER: &[u8] = include_bytes!("../tokenizer.json");

/// tokenizer_config.json.
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../tokenizer_config.json");

/// generation_config.json.
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../generation_config.json");

/// model.safetensors. Begins a page, so that devices can use it where it lies.
pub const WEIGHTS: &[u8] = &PAGES.0;

const PAGES: &Pages<[u8; include_bytes!("../model.safetensors").len()]> =
    &Pages(*include_bytes!("../model.safetensors"));

#[repr(C, align(4096))]
struct Pages<T>(T);
