//! The DeepSeek-V3 family: configurations, sizes, tensor names and the model itself.
#![forbid(unsafe_code)]

pub mod config;
pub mod counts;
pub mod deepseek_v3;
pub mod gguf;
mod head;
pub mod manifest;
pub mod mtp;

pub use config::Config;
pub use deepseek_v3::build;
pub use head::Outputs;
pub use mtp::build_mtp;
