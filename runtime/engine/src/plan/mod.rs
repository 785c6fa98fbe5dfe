//! Where everything of a model would lie on a device, before anything is read or allocated.
//!
//! Decides whether a model fits and which context it gets. Nothing here is a formula of its
//! own: weights lie where `Placement` puts them, temporaries take what lowering says for the
//! very programs that a run prepares, caches what `seat.rs` allocates. So a plan is what
//! happens, and `tests/tests/plan.rs` counts it.

mod forecast;
mod nearest;
mod parts;
mod types;

use hadal_device::{DeviceInfo, Inputs, Member, PAGE};
use hadal_graph::{Graph, Verified};
use hadal_models::counts::Counts;
use hadal_weights::Placement;

pub use parts::stored;
pub use types::{
    Budget, Decoding, Memory, Nearest, PartKind, Plan, PlannedDevice, PlannedModel, Tier,
};

use crate::bandwidth::Measured;
use crate::home::rope_table_bytes;
use crate::programs::{ProgramKey, Programs};
use crate::seat::{context_within, hidden_bytes, layer_cache_bytes};
use crate::{EngineError, EngineOptions, Model, Result};

/// Bytes of weights that decoding a token reads.
pub(crate) fn bytes_per_token(model: &Model, placement: &Placement, info: &DeviceInfo) -> u64 {
    let weights = parts::weights(model, placement, info);
    weights.read_by(&model.config, 1).0
}

/// The context of a session where nothing else is asked for and there is room: the cache is
/// allocated whole, and most conversations are short.
pub const USUAL_CONTEXT: u32 = 16_384;

/// Sequences of a batch at most.
pub const MOST_SEQUENCES: u32 = 4096;

/// Left for the driver, the program itself and everything else, where no budget is given: a
/// twentieth, and no more than this.
const MOST_RESERVE: u64 = 1 << 30;

/// What a plan is asked beside the engine's options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Let the next-token module draft, if the model has one; sessions of a batch do without.
    pub drafts: bool,
    /// Make forecasts from this bandwidth.
    pub bandwidth: Option<Measured>,
    /// Threads of the host; `None`: one a core.
    pub threads: Option<usize>,
}

impl Default for Ask {
    fn default() -> Ask {
        Ask {
            drafts: true,
            bandwidth: None,
            threads: None,
        }
    }
}

impl Plan {
    /// The plan of `model` on the device of `info`.
    ///
    /// # Errors
    /// Options that are not possible; weights that do not fit the config, or of which the
    /// device cannot bind one. That memory is too small is no error: [`Plan::fits`] says it.
    pub fn of(
        model: &Model,
        info: &DeviceInfo,
        options: &EngineOptions,
        ask: &Ask,
    ) -> Result<Plan> {
        Ok(Planned::of(model, info, options, ask)?.plan)
    }
}

/// A plan, and the placement that it counted.
pub(crate) struct Planned {
    pub plan: Plan,
    placement: Placement,
}

impl Planned {
    pub fn of(
        model: &Model,
        info: &DeviceInfo,
        options: &EngineOptions,
        ask: &Ask,
    ) -> Result<Planned> {
        check(model, options)?;
        let placement = Placement::of(model.bound.clone(), model.source.as_ref(), info)?;
        let planner = Planner::new(model, info, options, ask, &placement);
        let plan = planner.plan()?;
        Ok(Planned { plan, placement })
    }

    /// The placement, if all of it fits.
    pub fn fitting(self) -> Result<Placement> {
        match self.plan.fits {
            true => Ok(self.placement),
            false => Err(EngineError::WouldNotFit {
                plan: Box::new(self.plan),
            }),
        }
    }
}

fn check(model: &Model, options: &EngineOptions) -> Result<()> {
    let max = model.config.max_position_embeddings;
    if let Some(context) = options.context
        && !(1..=max).contains(&context)
    {
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
    if options.batch == 0 || options.batch > MOST_SEQUENCES {
        return Err(EngineError::Option(format!(
            "a batch of {} sequences is not possible; choose 1 to {MOST_SEQUENCES}",
            options.batch
        )));
    }
    Ok(())
}

/// What a plan is made from.
struct Planner<'a> {
    model: &'a Model,
    info: &'a DeviceInfo,
    options: &'a EngineOptions,
    ask: &'a Ask,
    placement: &'a Placement,
    drafts: bool,
    /// Every program of a run and its graph, which does not depend on the context.
    graphs: Vec<(ProgramKey, Verified<Graph>)>,
    weights: parts::Weights,
    memory: Memory,
    /// Bytes that may be used of the memory of each member.
    available: Vec<Option<u64>>,
    /// The longest context that the model and the device's bindings allow.
    most_context: u32,
}

/// Temporaries of the largest step.
struct Scratch {
    bytes: u64,
    /// The program that takes them; `None` where the device does none.
    largest: Option<ProgramKey>,
    obstacle: Option<String>,
}

impl<'a> Planner<'a> {
    fn new(
        model: &'a Model,
        info: &'a DeviceInfo,
        options: &'a EngineOptions,
        ask: &'a Ask,
        placement: &'a Placement,
    ) -> Planner<'a> {
        let config = &model.config;
        let limit = info.limits.max_binding_bytes;
        let cached = context_within(config, limit / u64::from(options.batch));
        let rotated = limit / rope_table_bytes(config, 1).max(1);
        let bound = u32::try_from(cached.min(rotated)).unwrap_or(u32::MAX);
        let (memory, available) = available(info, &options.budget);
        Planner {
            model,
            info,
            options,
            ask,
            placement,
            drafts: ask.drafts && options.batch == 1 && config.num_nextn_predict_layers > 0,
            graphs: Vec::new(),
            weights: parts::weights(model, placement, info),
            memory,
            available,
            most_context: config.max_position_embeddings.min(bound),
        }
    }

    fn programs(&self, context: u32) -> Programs<'a> {
        Programs {
            model: self.model,
            info: self.info,
            options: self.options,
            context,
        }
    }

    fn plan(mut self) -> Result<Plan> {
        let programs = self.programs(1);
        for key in programs.of_a_run(self.drafts) {
            self.graphs.push((key, programs.optimised(&key)?));
        }
        // The context that is likely, so that all programs are lowered once.
        let likely = self.context(self.most_context);
        let mut scratch = self.scratch(likely);
        // Temporaries do not shrink with a longer context, nor do others become the largest.
        let most = self.scratch_of(&scratch.largest, self.most_context.max(1));
        let longest = self.longest(most.max(scratch.bytes));
        let context = self.context(longest);
        if context != likely {
            scratch = self.scratch(context);
        }
        let tiers = self.tiers(context, self.options.batch, scratch.bytes);
        let counts = Counts::of(&self.model.config);
        let mut plan = Plan {
            model: PlannedModel {
                family: self.model.config.model_type.clone(),
                parameters: counts.total(),
                active_parameters: counts.active(),
                max_context: self.model.config.max_position_embeddings,
            },
            device: PlannedDevice {
                id: self.info.id(),
                name: self.info.name.clone(),
            },
            context,
            batch: self.options.batch,
            chunk: self.options.chunk,
            drafts: self.drafts,
            fits: fit(&tiers) && context <= self.most_context,
            tiers,
            longest_context: longest,
            bandwidth: self.ask.bandwidth,
            decoding: Vec::new(),
            nearest: Vec::new(),
            obstacle: scratch.obstacle,
        };
        if let Some(bandwidth) = self.ask.bandwidth {
            plan.decoding = self.forecasts(bandwidth, context);
        }
        if !plan.fits {
            plan.nearest = self.nearest(context, scratch.bytes, longest);
        }
        Ok(plan)
    }

    /// What the largest step takes. A step that the device cannot do is told and not counted:
    /// shorter ones may do.
    fn scratch(&self, context: u32) -> Scratch {
        let programs = self.programs(context);
        let mut scratch = Scratch {
            bytes: 0,
            largest: None,
            obstacle: None,
        };
        for (key, graph) in &self.graphs {
            match self.lower(&programs, key, graph) {
                Ok(lowered) if lowered.scratch_bytes > scratch.bytes => {
                    scratch.bytes = lowered.scratch_bytes;
                    scratch.largest = Some(*key);
                }
                Ok(_) => {}
                Err(error) => {
                    scratch.obstacle.get_or_insert(error.to_string());
                }
            }
        }
        scratch
    }

    /// What one of the programs takes; 0 where the device cannot do it.
    fn scratch_of(&self, wanted: &Option<ProgramKey>, context: u32) -> u64 {
        let found = self.graphs.iter().find(|(key, _)| Some(*key) == *wanted);
        let lowered = found.map(|(key, graph)| self.lower(&self.programs(context), key, graph));
        lowered.map_or(0, |lowered| lowered.map_or(0, |it| it.scratch_bytes))
    }

    /// A program without its kernels, which nothing is compiled for.
    fn lower(
        &self,
        programs: &Programs<'_>,
        key: &ProgramKey,
        graph: &Verified<Graph>,
    ) -> Result<hadal_graph::Lowered> {
        let mut none = |_: &hadal_device::KernelRow, _: &[(&'static str, u32)]| {
            Ok(hadal_device::PipelineId(0))
        };
        programs.lower(graph, key, None, self.placement, &mut none)
    }

    /// What lies in the memory of each member with sessions of `context` tokens.
    fn tiers(&self, context: u32, batch: u32, scratch: u64) -> Vec<Tier> {
        let config = &self.model.config;
        let members = self.placement.members();
        let layers = config.num_hidden_layers + u32::from(self.drafts);
        let pages = context.div_ceil(PAGE);
        let inputs = |(key, _): &(ProgramKey, _)| Inputs { bucket: key.bucket }.bytes(batch, pages);
        let inputs: u64 = self.graphs.iter().map(inputs).sum();
        let rows = 2 * hidden_bytes(config, self.options);
        let weights = self.weights.members.iter().zip(&self.available);
        let tier = |((weights, available), number): ((&parts::OnMember, &Option<u64>), u16)| {
            let own = (0..layers).filter(|layer| members.of_layer(*layer) == number);
            let caches = u64::from(batch) * own.count() as u64;
            let mut parts = weights.bytes.clone();
            parts.insert(PartKind::Cache, caches * layer_cache_bytes(config, context));
            parts.insert(PartKind::Scratch, scratch);
            parts.insert(PartKind::RotaryTable, rope_table_bytes(config, context));
            parts.insert(PartKind::Rows, inputs + rows);
            let id = |member: &Member| member.id.clone();
            let ids = &self.info.members;
            Tier {
                memory: self.memory,
                member: ids.get(usize::from(number)).map(id),
                available_bytes: *available,
                parts,
                held_bytes: weights.held_bytes,
            }
        };
        weights.zip(0..).map(tier).collect()
    }

    /// The longest context that fits; whole pages, unless the model ends before.
    fn longest(&self, scratch: u64) -> u32 {
        let fits = |context| fit(&self.tiers(context, self.options.batch, scratch));
        let (mut fitting, mut beyond) = (0, self.most_context.div_ceil(PAGE) + 1);
        while fitting + 1 < beyond {
            let pages = fitting + (beyond - fitting) / 2;
            match fits(pages.saturating_mul(PAGE)) {
                true => fitting = pages,
                false => beyond = pages,
            }
        }
        fitting.saturating_mul(PAGE).min(self.most_context)
    }

    /// The context that sessions get. Where none fits, the one that was wanted.
    fn context(&self, longest: u32) -> u32 {
        let max = self.model.config.max_position_embeddings;
        let least = self.options.least_context.clamp(1, max);
        match self.options.context {
            Some(context) => context,
            None if longest < least => least.max(USUAL_CONTEXT.min(max)),
            None => longest.min(USUAL_CONTEXT.max(least)),
        }
    }
}

fn fit(tiers: &[Tier]) -> bool {
    tiers.iter().all(Tier::fits)
}

/// Memory of the device of `info`, and how much of it may be used: of each member.
fn available(info: &DeviceInfo, budget: &Budget) -> (Memory, Vec<Option<u64>>) {
    let reserve = |free: u64| free - (free / 20).min(MOST_RESERVE);
    let allowed = budget.of(info.kind);
    let told = info.memories();
    let told = told.iter().map(|told| told.filter(|bytes| *bytes > 0));
    match info.kind.has_own_memory() {
        true => {
            let usable = told.map(|free| allowed.or(free.map(reserve)));
            (Memory::Device, usable.collect())
        }
        // Where a device shares the host's memory, both can end first. So do members of one.
        false => {
            let count = told.len();
            let free = told
                .flatten()
                .chain(hadal_weights::available_memory())
                .min();
            let usable = allowed.or(free.map(reserve));
            let each = usable.map(|bytes| bytes / count.max(1) as u64);
            (Memory::Host, vec![each; count])
        }
    }
}
