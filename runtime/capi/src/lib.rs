//! The C interface: handles, sized structs, status codes. `include/hadal.h` is made of it and
//! opens with the rules that hold for all of it.
//!
//! Decides what C sees; what happens is `hadal`'s. Every function catches panics.

mod call;
mod devices;
mod engine;
mod error;
mod generate;
mod model;
mod session;
mod types;

pub use devices::{
    HadalDevices, hadal_devices, hadal_devices_free, hadal_devices_get, hadal_devices_len,
};
pub use engine::{
    HadalEngine, hadal_engine_context, hadal_engine_device, hadal_engine_free,
    hadal_engine_is_paused, hadal_engine_losses, hadal_engine_memory, hadal_engine_pause,
    hadal_engine_resume, hadal_engine_set_budget, hadal_engine_set_low_priority, hadal_engine_trim,
    hadal_load,
};
pub use error::{
    HadalError, HadalStatus, hadal_error_cure, hadal_error_free, hadal_error_message,
    hadal_error_plan, hadal_error_status, hadal_status_name,
};
pub use generate::hadal_generate;
pub use model::{
    HadalModel, hadal_abi_version, hadal_has_feature, hadal_model_can_chat, hadal_model_free,
    hadal_model_from_bytes, hadal_model_max_context, hadal_model_name, hadal_model_open,
    hadal_model_shipped, hadal_model_tokenize, hadal_plan, hadal_string_free, hadal_version,
};
pub use session::{
    HadalSession, hadal_session_cancel, hadal_session_clear, hadal_session_fork,
    hadal_session_free, hadal_session_new, hadal_session_tokens, hadal_session_truncate,
};
pub use types::*;
