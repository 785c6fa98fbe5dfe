//! Structs and numbers that C shares. Those that begin with `size` grow at their end, others
//! never change; `abi.txt` has every offset.

use std::ffi::{c_char, c_void};

use crate::call::SizedStruct;

/// What a device is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HadalDeviceKind {
    /// A backend without a device; `why` says why.
    Absent = 0,
    /// The processor.
    Cpu = 1,
    /// A GPU with memory of its own.
    DiscreteGpu = 2,
    /// A GPU that uses the processor's memory.
    IntegratedGpu = 3,
    /// A GPU of a virtual machine.
    VirtualGpu = 4,
    /// A processor that stands for a GPU.
    Software = 5,
}

/// A device, or a backend that has none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalDevice {
    /// sizeof(HadalDevice).
    pub size: usize,
    /// A HadalDeviceKind.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Name of the backend.
    pub backend: *const c_char,
    /// What hadal_load is given; NULL where there is no device.
    pub id: *const c_char,
    /// The vendor's name; NULL where there is no device.
    pub name: *const c_char,
    /// The driver; NULL where there is no device.
    pub driver: *const c_char,
    /// Bytes of memory that it tells of; 0 where it tells none.
    pub memory_bytes: u64,
    /// Why there is no device; NULL where there is one.
    pub why: *const c_char,
}

/// Called while a model is loaded with bytes done and in all; other than 0 stops the load.
pub type HadalOnProgress =
    Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// How a model is put on a device. All zeros suit nearly everyone.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalLoadOptions {
    /// sizeof(HadalLoadOptions).
    pub size: usize,
    /// Which device: "host", "wgpu:1"; several together: "cuda:0+cuda:1", "cuda:all"; NULL for
    /// the best.
    pub device: *const c_char,
    /// Tokens a session holds; 0: what fits, up to 16,384.
    pub context: u32,
    /// Threads of the host, the caller's included; 0: one a core.
    pub threads: u32,
    /// Most tokens of a step; 0: 512.
    pub chunk: u32,
    /// Other than 0: leave room for others from the beginning.
    pub low_priority: u32,
    /// Bytes of the host's memory that may be used; 0: what there is.
    pub host_budget: u64,
    /// Bytes of a device's own memory that may be used, of several together of each; 0: what there
    /// is.
    pub device_budget: u64,
    /// Longest dispatch on devices other than the host, in milliseconds; 0: 100.
    pub dispatch_budget_ms: u32,
    /// Zero.
    pub reserved: u32,
    /// Told how far the load is; may be NULL. Not used by hadal_plan.
    pub on_progress: HadalOnProgress,
    /// Given to `on_progress`.
    pub user: *mut c_void,
}

/// A model's files in memory: either `gguf`, or `config_json` and `safetensors`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalModelBytes {
    /// sizeof(HadalModelBytes).
    pub size: usize,
    /// What people call it; may be NULL.
    pub name: *const c_char,
    /// A GGUF file.
    pub gguf: *const u8,
    /// Its bytes.
    pub gguf_len: usize,
    /// Text of config.json.
    pub config_json: *const c_char,
    /// A safetensors file.
    pub safetensors: *const u8,
    /// Its bytes.
    pub safetensors_len: usize,
    /// Text of tokenizer.json; NULL: only token ids can be given.
    pub tokenizer_json: *const c_char,
    /// Text of tokenizer_config.json; may be NULL.
    pub tokenizer_config_json: *const c_char,
}

/// Whether a model fits a device, in numbers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalPlan {
    /// sizeof(HadalPlan).
    pub size: usize,
    /// 1 if all of it fits.
    pub fits: u32,
    /// Tokens a session gets.
    pub context: u32,
    /// The longest context that fits; 0: none.
    pub longest_context: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes that must be found.
    pub needed_bytes: u64,
    /// Bytes that may be used; UINT64_MAX where nobody tells.
    pub available_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of a session's cache.
    pub cache_bytes: u64,
}

/// What an engine holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalMemory {
    /// sizeof(HadalMemory).
    pub size: usize,
    /// Bytes that may be used; UINT64_MAX: as many as there are.
    pub budget_bytes: u64,
    /// Bytes of weights, tables and the temporaries of the largest step.
    pub fixed_bytes: u64,
    /// Bytes of the sessions' caches.
    pub session_bytes: u64,
    /// Bytes beyond the budget.
    pub over_bytes: u64,
    /// Sessions.
    pub sessions: u32,
    /// Zero.
    pub reserved: u32,
}

/// How a session works.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalSessionOptions {
    /// sizeof(HadalSessionOptions).
    pub size: usize,
    /// Other than 0: the next-token module does not draft.
    pub no_drafts: u32,
    /// Zero.
    pub reserved: u32,
}

/// A message of a conversation. Never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalMessage {
    /// "system", "user", "assistant" or "tool".
    pub role: *const c_char,
    /// What was said.
    pub content: *const c_char,
}

/// How tokens are chosen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalSampling {
    /// sizeof(HadalSampling).
    pub size: usize,
    /// 0 is greedy; 0 to 100.
    pub temperature: f32,
    /// Probability mass kept, up to 1; 0 means 1, all.
    pub top_p: f32,
    /// Smallest probability kept, relative to the largest; 0 keeps all.
    pub min_p: f32,
    /// Tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Up to 100; 0 means 1, none.
    pub repetition_penalty: f32,
    /// -100 to 100.
    pub presence_penalty: f32,
    /// -100 to 100.
    pub frequency_penalty: f32,
    /// Zero.
    pub reserved: u32,
}

/// A prompt, one of the first four kinds, and how to continue it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalRequest {
    /// sizeof(HadalRequest).
    pub size: usize,
    /// Text after what the session has.
    pub text: *const c_char,
    /// Token ids after what the session has.
    pub ids: *const u32,
    /// How many.
    pub ids_len: usize,
    /// A whole conversation, through the model's chat template.
    pub messages: *const HadalMessage,
    /// How many.
    pub messages_len: usize,
    /// The same as JSON: a list of objects.
    pub messages_json: *const c_char,
    /// Most tokens of output; 0: as many as the context holds.
    pub max_tokens: u64,
    /// How tokens are chosen; NULL: as the model's publisher recommends.
    pub sampling: *const HadalSampling,
    /// Seed.
    pub seed: u64,
    /// Strings that end the output; they are not part of it.
    pub stop: *const *const c_char,
    /// How many.
    pub stop_len: usize,
    /// Other than 0: go on after an end-of-text token.
    pub ignore_end: u32,
    /// Whether the model reasons first, where its template lets one choose: 0 as it likes, 1
    /// yes, 2 no.
    pub thinking: u32,
    /// Other than 0: log probabilities with each token.
    pub logprobs: u32,
    /// How many of the likeliest tokens come with them.
    pub top_logprobs: u32,
    /// Other than 0: tell which experts each layer asked.
    pub watch_experts: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a HadalEvent tells.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HadalEventKind {
    /// Prompt tokens read: `done`, `total`.
    Prompt = 1,
    /// More text: `text`, `tokens`, `reasoning`.
    Text = 2,
    /// Drafts so far: `drafted`, `accepted`.
    Drafts = 3,
    /// Experts asked in a step: `routes`.
    Routes = 4,
}

/// A token and its log probability. Never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalLogprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// An output token. Never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalToken {
    /// Its id.
    pub id: u32,
    /// Its log probability; NaN if not asked for.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first.
    pub top: *const HadalLogprob,
    /// How many.
    pub top_len: usize,
}

/// The experts that a layer asked for a token. Never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalRoute {
    /// The layer, dense ones counted.
    pub layer: u32,
    /// Position of the token in the sequence.
    pub position: u32,
    /// The token.
    pub token: u32,
    /// How many experts.
    pub experts_len: u32,
    /// The experts.
    pub experts: *const u32,
    /// The weight of each.
    pub weights: *const f32,
}

/// Something to show. It and all it points to live until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalEvent {
    /// Bytes of it that this library fills.
    pub size: usize,
    /// A HadalEventKind; others are to be ignored.
    pub kind: u32,
    /// 1 for text that is reasoning and not answer.
    pub reasoning: u32,
    /// Prompt tokens read.
    pub done: u64,
    /// Prompt tokens in all.
    pub total: u64,
    /// Whole characters; ends in a zero byte.
    pub text: *const c_char,
    /// Its bytes without that.
    pub text_len: usize,
    /// Tokens that completed it.
    pub tokens: *const HadalToken,
    /// How many.
    pub tokens_len: usize,
    /// Drafts so far.
    pub drafted: u64,
    /// Those that became output.
    pub accepted: u64,
    /// Experts asked, by token and layer.
    pub routes: *const HadalRoute,
    /// How many.
    pub routes_len: usize,
}

/// Called for each event; other than 0 ends the answer as cancelled.
pub type HadalOnEvent =
    Option<unsafe extern "C" fn(user: *mut c_void, event: *const HadalEvent) -> i32>;

/// Why an answer ended.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HadalFinish {
    /// The model ended its text.
    End = 1,
    /// A stop string.
    Stop = 2,
    /// `max_tokens`.
    Length = 3,
    /// The context is full.
    Context = 4,
    /// The callback or hadal_session_cancel.
    Cancelled = 5,
}

/// Figures of an answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HadalGenerated {
    /// sizeof(HadalGenerated).
    pub size: usize,
    /// A HadalFinish.
    pub finish: u32,
    /// Zero.
    pub reserved: u32,
    /// Tokens of the prompt that were read.
    pub prompt_tokens: u64,
    /// Tokens of output, an end-of-text token included.
    pub output_tokens: u64,
    /// Nanoseconds to the first token.
    pub first_token_ns: u64,
    /// Nanoseconds from the first token to the last.
    pub decode_ns: u64,
    /// Steps of the main model after the first token.
    pub steps: u64,
    /// Drafts.
    pub drafted: u64,
    /// Those that became output.
    pub accepted: u64,
}

/// All of these are plain numbers and pointers after a size.
macro_rules! sized_structs {
    ($($name:ident)*) => {
        $(
            // SAFETY: `repr(C)`, the size first, numbers and nullable pointers after it.
            unsafe impl SizedStruct for $name {}
        )*
    };
}

sized_structs! {
    HadalDevice HadalLoadOptions HadalModelBytes HadalPlan HadalMemory HadalSessionOptions
    HadalSampling HadalRequest HadalGenerated
}
