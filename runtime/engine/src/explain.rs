//! What a step would run, without running it: for `explain` and reports.

use hadal_graph::{Graph, Lowered};
use hadal_models::Outputs;

use crate::programs::ProgramKey;
use crate::{Engine, EngineError, Kind, Result};

impl Engine {
    /// What a step of `tokens` tokens would run, before long work is cut to the dispatch budget:
    /// for `explain` and reports.
    ///
    /// # Errors
    /// [`EngineError::Option`] for more tokens than a step has.
    pub fn explain(&self, kind: Kind, tokens: u32) -> Result<Lowered> {
        self.lower(&self.explained_key(kind, tokens)?, None)
    }

    /// The graph that [`Engine::explain`] shows the program of, after all passes.
    pub fn explain_graph(&self, kind: Kind, tokens: u32) -> Result<Graph> {
        let graph = self.optimised(&self.explained_key(kind, tokens)?)?;
        Ok(graph.into_inner())
    }

    pub(crate) fn explained_key(&self, kind: Kind, tokens: u32) -> Result<ProgramKey> {
        let most = self.step_tokens();
        if tokens == 0 || tokens > most {
            return Err(EngineError::Option(format!(
                "a step has 1 to {most} tokens, not {tokens}"
            )));
        }
        let bucket = tokens.next_power_of_two();
        Ok(ProgramKey {
            kind,
            outputs: Outputs::Hidden,
            bucket,
            logit_rows: 1,
            form: self.form_for(bucket),
            sequences: 1,
        })
    }
}
