//! Which programs an engine takes, and how they are made: from a model, a device's facts and
//! options alone, so that a plan makes the very programs that a run will take.

use hadal_device::{DeviceInfo, PAGE, Problem, select};
use hadal_graph::{
    Form, Graph, Lowered, Pipelines, Request, Target, Verified, WorkLimit, optimise,
};
use hadal_models::Outputs;
use hadal_weights::Placement;

use crate::model::Kind;
use crate::{EngineOptions, Model, Result};

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProgramKey {
    pub kind: Kind,
    pub outputs: Outputs,
    pub bucket: u32,
    pub logit_rows: u32,
    pub form: Form,
    /// Sequences whose caches lie together ([`crate::seat::Seat`]).
    pub sequences: u32,
}

/// What decides the programs of an engine.
#[derive(Clone, Copy)]
pub(crate) struct Programs<'a> {
    pub model: &'a Model,
    pub info: &'a DeviceInfo,
    pub options: &'a EngineOptions,
    /// Tokens a session holds.
    pub context: u32,
}

impl Programs<'_> {
    /// Form of attention of steps of up to `bucket` tokens.
    pub fn form_for(&self, bucket: u32) -> Form {
        self.options
            .form
            .unwrap_or(match self.info.expand_from_tokens {
                Some(from) if bucket >= from => Form::Expanded,
                _ => Form::Absorbed,
            })
    }

    /// The program of steps of up to `bucket` tokens.
    pub fn key(&self, kind: Kind, bucket: u32, logit_rows: u32) -> ProgramKey {
        ProgramKey {
            kind,
            outputs: Outputs::Hidden,
            bucket,
            logit_rows,
            form: self.form_for(bucket),
            sequences: self.options.batch,
        }
    }

    /// The program of a token of each of up to `bucket` sequences. Their caches have nothing in
    /// common, so that a page expanded would serve one row.
    pub fn together(&self, bucket: u32) -> ProgramKey {
        ProgramKey {
            form: self.options.form.unwrap_or(Form::Absorbed),
            ..self.key(Kind::Main, bucket, bucket)
        }
    }

    /// Tokens a step may have if all of them are to give logits: the rows of their bucket must
    /// fit one binding.
    pub fn logit_chunk(&self) -> u32 {
        let row_bytes = 4 * u64::from(self.model.config.vocab_size);
        let rows = (self.info.limits.max_binding_bytes / row_bytes).max(1);
        (1u64 << rows.ilog2()).min(u64::from(self.options.chunk)) as u32
    }

    /// Every program that reading prompts and decoding may take; with `drafts` also those of
    /// the next-token module and of judging its drafts; of a batch those of decoding together.
    pub fn of_a_run(&self, drafts: bool) -> Vec<ProgramKey> {
        let most = self.options.step_tokens().next_power_of_two();
        let buckets = (0..=most.ilog2()).map(|power| 1u32 << power);
        let mut keys = Vec::new();
        for bucket in buckets {
            keys.push(self.key(Kind::Main, bucket, 1));
            if drafts {
                keys.push(self.key(Kind::Next(0), bucket, 1));
            }
        }
        if drafts {
            keys.push(self.key(Kind::Main, 2, 2));
        }
        let together = self
            .options
            .batch
            .min(self.logit_chunk())
            .next_power_of_two();
        keys.extend((1..=together.ilog2()).map(|power| self.together(1 << power)));
        keys
    }

    fn request(&self, key: &ProgramKey, limit: Option<WorkLimit>) -> Request {
        let cache_rows = self.context.next_multiple_of(PAGE);
        Request {
            bucket: key.bucket,
            logit_rows: key.logit_rows,
            sequences: key.sequences,
            page_stride: cache_rows / PAGE,
            cache_rows: key.sequences.saturating_mul(cache_rows),
            context: self.context,
            moe: self.options.moe,
            rough: self.options.rough_activations,
            quantised: self.options.quantise_activations,
            limit,
        }
    }

    /// The graph of a program after all passes.
    pub fn optimised(&self, key: &ProgramKey) -> Result<Verified<Graph>> {
        let graph = self.model.graph(key.kind, key.outputs)?;
        let table = hadal_shaders::table();
        let runs = |problem: &Problem| select(table, self.info, problem).is_ok();
        let quantise = self.options.quantise_activations;
        let target = Target {
            form: key.form,
            quantise: quantise.then(|| self.model.act_scale()),
            rows: key.bucket,
            runs: &runs,
        };
        Ok(optimise(graph, &target)?)
    }

    /// The program of `graph`, with the weights where `placement` puts them.
    pub fn lower(
        &self,
        graph: &Verified<Graph>,
        key: &ProgramKey,
        limit: Option<WorkLimit>,
        placement: &Placement,
        pipelines: &mut Pipelines<'_>,
    ) -> Result<Lowered> {
        Ok(hadal_graph::lower(
            graph,
            self.request(key, limit),
            hadal_shaders::table(),
            self.info,
            placement,
            pipelines,
        )?)
    }
}
