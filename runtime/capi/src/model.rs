//! The library itself, models and plans.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::Arc;

use hadal::{Error, ErrorCode, Model, ModelBytes, PartKind, Result};

use crate::call::{
    ask, call, free, handle, invalid, list, needed, owned_string, put, put_sized, quietly, sized,
    text,
};
use crate::engine::load_options;
use crate::{HadalError, HadalLoadOptions, HadalModelBytes, HadalPlan, HadalStatus};

/// An opened model.
pub struct HadalModel {
    pub(crate) model: Model,
    name: CString,
}

impl HadalModel {
    /// A handle for a model that was opened in Rust.
    pub fn of(model: Model) -> HadalModel {
        let name = owned_string(model.name());
        HadalModel { model, name }
    }
}

/// Version of the library: "1.2.3". Lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn hadal_version() -> *const c_char {
    const VERSION: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
        concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
    ) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

/// Version of this interface. A library of a greater one does everything that is described
/// here; 1 is the first.
#[unsafe(no_mangle)]
pub extern "C" fn hadal_abi_version() -> u32 {
    1
}

/// 1 if the library has the feature, else 0: "tiny" (a model inside), or the name of a backend
/// ("host", "wgpu").
///
/// # Safety
/// `name` is NULL or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_has_feature(name: *const c_char) -> i32 {
    let has = || {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, "name") }.ok().flatten()?;
        let backend = hadal::BACKENDS.contains(&name);
        Some(backend || name == "tiny" && cfg!(feature = "tiny"))
    };
    quietly(0, || i32::from(has().unwrap_or(false)))
}

/// From now on a model's file that is cut short, or lies on a disk that fails, is
/// HADAL_STATUS_DAMAGED_MODEL of the call that needed it, and no longer the end of the process.
/// Installs a handler of SIGBUS for the whole process; signals that are not about models go to the
/// handler that was there before. Does nothing where there is no such signal.
///
/// # Safety
/// `error` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_survive_lost_pages(error: *mut *mut HadalError) -> HadalStatus {
    let install = || {
        let refused = |why| {
            let why = format!("the system refuses a handler of SIGBUS: {why}");
            Error::new(ErrorCode::Internal, why)
        };
        hadal::survive_lost_pages().map_err(refused)
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, install) }
}

/// Frees a text that was given out as `char *`; NULL is allowed.
///
/// # Safety
/// `text` is NULL or was given out as `char *` and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise.
        quietly((), || drop(unsafe { CString::from_raw(text) }));
    }
}

/// Opens the folder of a model (config.json, tokenizer.json, safetensors files) or a GGUF
/// file. Its files must not change while the model is used. To be freed by hadal_model_free.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_open(
    path: *const c_char,
    model: *mut *mut HadalModel,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let open = || {
        // SAFETY: the caller's promise.
        let path = unsafe { text(path, "path") }?.ok_or_else(|| invalid("path is NULL"))?;
        Model::open(path)
    };
    // SAFETY: the caller's promise.
    unsafe { give(model, error, open) }
}

/// Opens the small model that is part of the library. To be freed by hadal_model_free.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_shipped(
    model: *mut *mut HadalModel,
    error: *mut *mut HadalError,
) -> HadalStatus {
    // SAFETY: the caller's promise.
    unsafe { give(model, error, Model::shipped) }
}

/// Opens a model whose files are in memory. They are copied; large ones are better opened by
/// path. To be freed by hadal_model_free.
///
/// # Safety
/// Pointers are NULL or valid; `bytes->size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_from_bytes(
    bytes: *const HadalModelBytes,
    model: *mut *mut HadalModel,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let open = || {
        // SAFETY: the caller's promise, of all pointers inside too.
        let (name, bytes) = unsafe { model_bytes(bytes) }?;
        Model::from_bytes(&name, bytes)
    };
    // SAFETY: the caller's promise.
    unsafe { give(model, error, open) }
}

/// # Safety
/// As [`hadal_model_from_bytes`].
unsafe fn model_bytes(bytes: *const HadalModelBytes) -> Result<(String, ModelBytes)> {
    // SAFETY: the caller's promise, here and below.
    unsafe {
        let given = sized(bytes, "bytes")?.ok_or_else(|| invalid("bytes is NULL"))?;
        let name = text(given.name, "bytes.name")?.unwrap_or("model");
        let gguf = list(given.gguf, given.gguf_len, "bytes.gguf")?;
        let weights = list(
            given.safetensors,
            given.safetensors_len,
            "bytes.safetensors",
        )?;
        let config = text(given.config_json, "bytes.config_json")?;
        let owned = |text: &str| text.as_bytes().to_vec();
        let bytes = match (gguf.is_empty(), config) {
            (false, _) => ModelBytes::Gguf(vec![(name.to_string(), Arc::new(copied(gguf)?))]),
            (true, Some(config)) => ModelBytes::Safetensors {
                config: config.to_string(),
                weights: vec![(name.to_string(), Arc::new(copied(weights)?))],
                tokenizer: text(given.tokenizer_json, "bytes.tokenizer_json")?.map(owned),
                tokenizer_config: text(given.tokenizer_config_json, "bytes.tokenizer_config_json")?
                    .map(owned),
                generation_config: None,
            },
            (true, None) => return Err(invalid("bytes has neither gguf nor config_json")),
        };
        Ok((name.to_string(), bytes))
    }
}

/// A copy of a model's file, for which there may be no memory.
fn copied(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| {
        let why = format!(
            "there is no memory to copy {} bytes of weights",
            bytes.len()
        );
        Error::new(ErrorCode::OutOfMemory, why)
    })?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Gives out what `open` opens.
///
/// # Safety
/// Pointers are NULL or valid.
unsafe fn give(
    model: *mut *mut HadalModel,
    error: *mut *mut HadalError,
    open: impl FnOnce() -> Result<Model>,
) -> HadalStatus {
    let body = || {
        if model.is_null() {
            return Err(invalid("model is NULL"));
        }
        let opened = handle(HadalModel::of(open()?));
        // SAFETY: the caller's promise.
        unsafe { put(model, "model", opened) }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// Frees a model; NULL is allowed. Engines of it go on.
///
/// # Safety
/// `model` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_free(model: *mut HadalModel) {
    // SAFETY: the caller's promise.
    unsafe { free(model) };
}

/// What people call a model; lives as long as the handle. NULL for NULL.
///
/// # Safety
/// `model` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_name(model: *const HadalModel) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { ask(model, ptr::null(), |model| model.name.as_ptr()) }
}

/// The longest context that a model allows, in tokens; 0 for NULL.
///
/// # Safety
/// `model` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_max_context(model: *const HadalModel) -> u32 {
    let longest = |model: &HadalModel| model.model.config().max_position_embeddings;
    // SAFETY: the caller's promise.
    unsafe { ask(model, 0, longest) }
}

/// 1 if messages can be given: there is a tokenizer and a chat template. Else 0.
///
/// # Safety
/// `model` is NULL or was given out and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_can_chat(model: *const HadalModel) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { ask(model, 0, |model| i32::from(model.model.can_chat())) }
}

/// The token ids of a text, without the one that begins texts. Writes the first `capacity` of
/// them to `ids`, which may be NULL if that is 0, and their number to `len`.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_model_tokenize(
    model: *const HadalModel,
    text: *const c_char,
    ids: *mut u32,
    capacity: usize,
    len: *mut usize,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let model = needed(model, "model")?;
            let text = crate::call::text(text, "text")?.ok_or_else(|| invalid("text is NULL"))?;
            let made = model.model.text()?.tokenizer().encode(text);
            crate::session::put_ids(&made.map_err(hadal::Error::from)?, ids, capacity, len)
        }
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// Where everything of a model would lie and whether it fits, before anything is allocated.
/// That it does not fit is no failure: `plan->fits` says it. `json`, if not NULL, gets all of
/// it, what would fit instead too, to be freed by hadal_string_free. `plan` may be NULL, and so
/// may `options`.
///
/// # Safety
/// Pointers are NULL or valid; sizes are set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hadal_plan(
    model: *const HadalModel,
    options: *const HadalLoadOptions,
    plan: *mut HadalPlan,
    json: *mut *mut c_char,
    error: *mut *mut HadalError,
) -> HadalStatus {
    let body = || {
        // SAFETY: the caller's promise.
        let model = unsafe { needed(model, "model") }?;
        // SAFETY: the caller's promise.
        let options = unsafe { load_options(options) }?.0;
        let made = model.model.plan(&options)?;
        let told = HadalPlan {
            size: size_of::<HadalPlan>(),
            fits: u32::from(made.fits),
            context: made.context,
            longest_context: made.longest_context,
            reserved: 0,
            needed_bytes: made.needed_bytes(),
            available_bytes: made.available_bytes().unwrap_or(u64::MAX),
            weight_bytes: made.weight_bytes(),
            cache_bytes: made.part(PartKind::Cache),
        };
        let whole = whole(&made)?;
        if !plan.is_null() {
            // SAFETY: the caller's promise.
            unsafe { put_sized(plan, "plan", told) }?;
        }
        if !json.is_null() {
            // SAFETY: the caller's promise.
            unsafe { json.write(owned_string(&whole).into_raw()) };
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { call(error, body) }
}

/// A plan as JSON, with its verdict in words.
fn whole(plan: &hadal::Plan) -> Result<String> {
    let failed = |error: serde_json::Error| {
        hadal::Error::new(ErrorCode::Internal, format!("a plan is no JSON: {error}"))
    };
    let mut value = serde_json::to_value(plan).map_err(failed)?;
    value["verdict"] = plan.verdict().into();
    Ok(value.to_string())
}
