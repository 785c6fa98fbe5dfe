//! A model on a device: weights in place, programs prepared on demand, one step at a time.
//!
//! Decides which program a step takes (token bucket, form of attention) and owns what all
//! sessions share: weights, rotary table, scratch. The only file that submits. Read
//! [`Engine::step`] first.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use hadal_device::{
    BufferDesc, BufferId, Device, Executable, Inputs, PAGE, Problem, Span, Ticket, select,
};
use hadal_graph::{Form, Graph, Lowered, MoeForm, Request, SlotUse, Target, Verified};
use hadal_models::Outputs;
use hadal_weights::{Placement, Progress};

use crate::model::Kind;
use crate::step::{Done, SessionBuffers, Step, fill_inputs, input_words};
use crate::{EngineError, Model, Result};

/// How a model is put on a device. The default suits nearly everyone.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Tokens a session holds; `None`: 4,096, or what the model allows if that is less.
    pub context: Option<u32>,
    /// Most tokens a step works on: prompts are fed in pieces of this size.
    pub chunk: u32,
    /// Form of attention; `None`: by token count, as the device prefers.
    pub form: Option<Form>,
    /// How experts read their tokens.
    pub moe: MoeForm,
    /// Round activations to FP8 before FP8 products, as the training did (W8A8).
    pub quantise_activations: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            context: None,
            chunk: 256,
            form: None,
            moe: MoeForm::Auto,
            quantise_activations: false,
        }
    }
}

/// Context of a session where nothing else is asked for. Small on purpose: the cache is
/// allocated whole, and most conversations are short.
const DEFAULT_CONTEXT: u32 = 4096;

/// A model on a device.
pub struct Engine {
    model: Arc<Model>,
    device: Arc<dyn Device>,
    options: EngineOptions,
    context: u32,
    placement: Placement,
    weights: Vec<BufferId>,
    rope_table: BufferId,
    state: Mutex<State>,
}

/// What steps share, one at a time.
#[derive(Default)]
pub(crate) struct State {
    pub programs: HashMap<ProgramKey, Prepared>,
    pub scratch: Option<(BufferId, u64)>,
    /// The newest submit. A step waits for it before its own, so that a cancelled request
    /// stops soon.
    pub newest: Ticket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProgramKey {
    pub kind: Kind,
    pub outputs: Outputs,
    pub bucket: u32,
    pub logit_rows: u32,
    pub form: Form,
}

/// A program ready to submit, with its own inputs.
pub(crate) struct Prepared {
    executable: Box<dyn Executable>,
    pub lowered: Lowered,
    inputs: BufferId,
    words: Vec<u32>,
}

impl Engine {
    /// Puts the model on the device. `progress` sees bytes as they are uploaded and may stop
    /// the load (`EngineError::Cancelled`); nothing stays allocated then.
    pub fn load(
        model: Arc<Model>,
        device: Arc<dyn Device>,
        options: EngineOptions,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Engine> {
        let max = model.config.max_position_embeddings;
        let context = options.context.unwrap_or(DEFAULT_CONTEXT.min(max));
        if context == 0 || context > max {
            return Err(EngineError::Option(format!(
                "a context of {context} tokens is not possible; the model allows 1 to {max}"
            )));
        }
        if options.chunk == 0 || options.chunk > 4096 {
            return Err(EngineError::Option(format!(
                "a chunk of {} tokens is not possible; choose 1 to 4096",
                options.chunk
            )));
        }
        let placement = Placement::plan(&model.declared, model.source.as_ref(), device.info())?;
        let rope_table = upload_rope_table(&model, device.as_ref(), context)?;
        let weights = placement
            .load(device.as_ref(), model.source.as_ref(), progress)
            .inspect_err(|_| device.free(rope_table))?;
        Ok(Engine {
            model,
            device,
            options,
            context,
            placement,
            weights,
            rope_table,
            state: Mutex::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The options it was loaded with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Tokens a session holds.
    pub fn context(&self) -> u32 {
        self.context
    }

    /// Bytes of weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.placement.total_bytes()
    }

    /// `Err` if a session cannot hold `wanted` tokens.
    pub(crate) fn check_room(&self, wanted: usize) -> Result<()> {
        if wanted <= self.context as usize {
            return Ok(());
        }
        Err(EngineError::ContextFull {
            wanted,
            context: self.context,
            max: self.model.config.max_position_embeddings,
        })
    }

    /// Rows of a layer's cache: whole pages.
    pub(crate) fn cache_rows(&self) -> u32 {
        self.context.next_multiple_of(PAGE)
    }

    /// Most tokens of any step: a chunk, and at least a token with its draft.
    pub(crate) fn step_tokens(&self) -> u32 {
        self.options.chunk.max(2)
    }

    /// Tokens a step may have if all of them are to give logits on this device: the rows of
    /// their bucket must fit one binding.
    pub(crate) fn logit_chunk(&self) -> usize {
        let row_bytes = 4 * u64::from(self.model.config.vocab_size);
        let rows = (self.device.info().limits.max_binding_bytes / row_bytes).max(1);
        (1u64 << rows.ilog2()).min(u64::from(self.options.chunk)) as usize
    }

    pub(crate) fn form_for(&self, bucket: u32) -> Form {
        self.options
            .form
            .unwrap_or(match self.device.info().expand_from_tokens {
                Some(from) if bucket >= from => Form::Expanded,
                _ => Form::Absorbed,
            })
    }

    fn key(&self, step: &Step<'_>) -> ProgramKey {
        let bucket = (step.ids.len() as u32).next_power_of_two();
        let rows = (step.logit_rows.len() as u32).max(1).next_power_of_two();
        ProgramKey {
            kind: step.kind,
            outputs: step.outputs,
            bucket,
            logit_rows: rows.min(bucket),
            form: self.form_for(bucket),
        }
    }

    fn request(&self, key: &ProgramKey) -> Request {
        Request {
            bucket: key.bucket,
            logit_rows: key.logit_rows,
            sequences: 1,
            page_stride: self.cache_rows() / PAGE,
            cache_rows: self.cache_rows(),
            context: self.context,
            moe: self.options.moe,
        }
    }

    /// The graph of a program after all passes.
    pub(crate) fn optimised(&self, key: &ProgramKey) -> Result<Verified<Graph>> {
        let graph = self.model.graph(key.kind, key.outputs)?;
        let table = hadal_shaders::table();
        let device = &self.device;
        let runs = |problem: &Problem| select(table, device.info(), problem).is_ok();
        let quantise = self.options.quantise_activations;
        let target = Target {
            form: key.form,
            quantise: quantise.then(|| self.model.act_scale()),
            rows: key.bucket,
            runs: &runs,
        };
        Ok(hadal_graph::optimise(graph, &target)?)
    }

    pub(crate) fn lower(&self, key: &ProgramKey) -> Result<Lowered> {
        let graph = self.optimised(key)?;
        let table = hadal_shaders::table();
        let device = &self.device;
        let mut pipelines = |row: &hadal_device::KernelRow, constants: &[(&'static str, u32)]| {
            device.pipeline(row.name, &row.body, constants)
        };
        Ok(hadal_graph::lower(
            &graph,
            self.request(key),
            table,
            device.info(),
            &self.placement,
            &mut pipelines,
        )?)
    }

    /// Scratch memory of at least `bytes` bytes. The old one goes first, so that growing
    /// needs no room for both.
    fn scratch(&self, state: &mut State, bytes: u64) -> Result<BufferId> {
        match state.scratch {
            Some((buffer, has)) if has >= bytes => return Ok(buffer),
            Some((old, _)) => {
                self.device.wait(state.newest)?;
                self.device.free(old);
                state.scratch = None;
            }
            None => {}
        }
        let buffer = self.device.alloc(&BufferDesc::new("scratch", bytes))?;
        state.scratch = Some((buffer, bytes));
        Ok(buffer)
    }

    fn prepare(&self, state: &mut State, key: &ProgramKey) -> Result<()> {
        if state.programs.contains_key(key) {
            return Ok(());
        }
        let lowered = self.lower(key)?;
        let request = self.request(key);
        let layout = Inputs { bucket: key.bucket };
        let bytes = layout.bytes(request.sequences, request.page_stride);
        let inputs = self.device.alloc(&BufferDesc::new("inputs", bytes))?;
        let words = input_words(layout, request.page_stride);
        let span = Span {
            buffer: inputs,
            offset: 0,
            bytes,
        };
        let ready = self
            .device
            .write(span, bytemuck::cast_slice(&words))
            .and_then(|()| self.device.prepare(&lowered.program));
        let executable = ready.inspect_err(|_| self.device.free(inputs))?;
        let prepared = Prepared {
            executable,
            lowered,
            inputs,
            words,
        };
        state.programs.insert(*key, prepared);
        Ok(())
    }

    /// Starts one step; reading its outputs waits for its end.
    ///
    /// # Errors
    /// Those of the device, also of the step before: the session's cache rows from
    /// `step.position` on are undefined then, earlier rows are untouched.
    /// [`EngineError::ContextFull`] before anything runs.
    pub(crate) fn step(&self, step: &Step<'_>, buffers: &SessionBuffers<'_>) -> Result<Done<'_>> {
        debug_assert!(!step.ids.is_empty() && step.ids.len() <= self.step_tokens() as usize);
        self.check_room(step.position as usize + step.ids.len())?;
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = self.key(step);
        self.prepare(&mut state, &key)?;
        let needs = state
            .programs
            .get(&key)
            .map_or(0, |program| program.lowered.scratch_bytes);
        let scratch = self.scratch(&mut state, needs)?;
        self.device.wait(state.newest)?;
        if let Some(prepared) = state.programs.get_mut(&key) {
            state.newest = self.submit(prepared, step, buffers, scratch, &key)?;
        }
        Ok(Done {
            device: self.device.as_ref(),
            vocab: self.model.config.vocab_size as usize,
            state,
            key,
            tokens: step.ids.len() as u32,
            logit_rows: step.logit_rows.len() as u32,
            hidden_out: buffers.hidden_out,
        })
    }

    /// Waits for the newest step, so that buffers can be freed. An error means the device is
    /// gone, and its memory with it.
    pub(crate) fn finish(&self) {
        let newest = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .newest;
        let _ = self.device.wait(newest);
    }

    fn submit(
        &self,
        prepared: &mut Prepared,
        step: &Step<'_>,
        buffers: &SessionBuffers<'_>,
        scratch: BufferId,
        key: &ProgramKey,
    ) -> Result<Ticket> {
        let layout = Inputs { bucket: key.bucket };
        fill_inputs(&mut prepared.words, layout, step);
        let lists = &prepared.words[..layout.pages() as usize];
        let span = Span {
            buffer: prepared.inputs,
            offset: 0,
            bytes: 4 * lists.len() as u64,
        };
        self.device.write(span, bytemuck::cast_slice(lists))?;
        let missing = || hadal_device::Error::Invalid("a slot has no buffer".to_string());
        let table = prepared
            .lowered
            .slots
            .iter()
            .map(|slot| match *slot {
                SlotUse::Inputs => Some(prepared.inputs),
                SlotUse::Scratch => Some(scratch),
                SlotUse::RopeTable => Some(self.rope_table),
                SlotUse::HiddenIn => buffers.hidden_in,
                SlotUse::HiddenOut => Some(buffers.hidden_out),
                SlotUse::Cache(layer) => buffers.caches.get(layer as usize).copied(),
                SlotUse::Weights(index) => self.weights.get(index as usize).copied(),
            })
            .collect::<Option<Vec<BufferId>>>()
            .ok_or_else(missing)?;
        Ok(prepared.executable.submit(&table)?)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.finish();
        let state = self
            .state
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let inputs = state.programs.values().map(|prepared| prepared.inputs);
        let scratch = state.scratch.map(|(buffer, _)| buffer);
        for buffer in inputs.chain(scratch).chain([self.rope_table]) {
            self.device.free(buffer);
        }
        for &buffer in &self.weights {
            self.device.free(buffer);
        }
    }
}

/// Positions of the rotary table that are made at a time.
const ROPE_BLOCK: usize = 4096;

/// Cosine and sine of every position and pair, computed in `f64`: `[context, rope]`,
/// interleaved, times the YaRN multiplier.
fn upload_rope_table(model: &Model, device: &dyn Device, context: u32) -> Result<BufferId> {
    let frequencies = model.config.inv_freq();
    let multiplier = model.config.rope_multiplier();
    let row_bytes = 8 * frequencies.len() as u64;
    let bytes = u64::from(context) * row_bytes;
    let buffer = device.alloc(&BufferDesc::new("rope table", bytes))?;
    for first in (0..context).step_by(ROPE_BLOCK) {
        let positions = first..context.min(first.saturating_add(ROPE_BLOCK as u32));
        let rows = positions.len() as u64;
        let angles = positions.flat_map(|p| frequencies.iter().map(move |f| f64::from(p) * f));
        let block: Vec<f32> = angles
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .map(|value| (value * multiplier) as f32)
            .collect();
        let span = Span {
            buffer,
            offset: u64::from(first) * row_bytes,
            bytes: rows * row_bytes,
        };
        let written = device.write(span, bytemuck::cast_slice(&block));
        written.inspect_err(|_| device.free(buffer))?;
    }
    Ok(buffer)
}
