//! Both ends of a graph, which the main model and its next-token modules share: the
//! embedding below, the head and the outputs above.

use hadal_graph::{Net, Val};

use crate::Config;

/// Which values of a step outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outputs {
    /// `logits` and `ids` of the wanted rows.
    Logits,
    /// These, and `hidden` of all rows: what a next-token module reads.
    Hidden,
    /// These, and what every router chose: `layer.{i}.router_idx`, `layer.{i}.router_weight`.
    Routes,
    /// As `Hidden`, and the values of every layer by the names of the golden files.
    All,
    /// All of that, and what every product reads: `layer.{i}.in.*`, `mtp.{i}.in.*`.
    Inputs,
}

impl Outputs {
    /// Whether values for inspection are among them.
    pub(crate) fn has_probes(self) -> bool {
        matches!(self, Outputs::All | Outputs::Inputs)
    }
}

/// The embedding, `[V, H]`; called inside the scope `model`.
pub(crate) fn embed_table<'g>(g: &'g Net<'g>, c: &Config) -> Val<'g> {
    g.weight("embed_tokens.weight", &[c.vocab_size, c.hidden_size])
}

/// Logits and the greedy choice of the wanted rows of the last norm's `hidden`.
pub(crate) fn head<'g>(g: &'g Net<'g>, c: &Config, hidden: Val<'g>, outputs: Outputs) {
    if outputs != Outputs::Logits {
        hidden.output("hidden");
    }
    let table = match c.tie_word_embeddings {
        true => g.within("model", || embed_table(g, c)),
        false => g.weight("lm_head.weight", &[c.vocab_size, c.hidden_size]),
    };
    let logits = hidden.gather().linear_with(table, "lm_head"); // [R, V]
    logits.output("logits").argmax().output("ids");
}
