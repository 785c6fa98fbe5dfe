//! The next-token-prediction module (section 2.2): one more decoder layer that reads a
//! hidden state together with the token that follows it, and predicts the token after.
//!
//! Decides the module's order and names; shares the embedding and the head of the main
//! model, whose copies in the published files are not declared here.

use hadal_graph::{Dtypes, Graph, Net, Verified, Violation};

use crate::Config;
use crate::deepseek_v3::Layer;
use crate::head::{Outputs, embed_table, head};

/// The graph of module `module`: row `i` joins the hidden state of position `i` (input
/// `Hidden`, the main model's `hidden` or the previous draft's) with token `i + 1` (input
/// `Tokens`). Out come `logits` `[R, V]`, `ids` `u32[R]` and `hidden` `[T, H]`, which a
/// further draft reads. The module's latents are in cache layer `num_hidden_layers + module`.
///
/// # Errors
/// The first weight that the checkpoint lacks, or line of the module that cannot be.
pub fn build_mtp(
    c: &Config,
    module: u32,
    dtypes: &Dtypes<'_>,
    outputs: Outputs,
) -> Result<Verified<Graph>, Violation> {
    let (index, eps) = (c.num_hidden_layers + module, c.rms_norm_eps as f32);
    let g = Net::new(dtypes, outputs.has_probes());
    let rope = g.rope_table(c.qk_rope_head_dim);
    let (tokens, previous) = (g.tokens(), g.hidden(c.hidden_size));
    let hidden = g.within("model", || {
        let embedded = tokens.embed(embed_table(&g, c)); // [T, H]
        let layer = Layer {
            g: &g,
            c,
            rope,
            index,
            probe: format!("mtp.{module}"),
            outputs,
        };
        let own = format!("layers.{index}");
        let joined = g.within(&own, || {
            // The embedding half comes first in the published eh_proj.
            let (e, h) = (embedded.norm("enorm", eps), previous.norm("hnorm", eps));
            let joined = layer.input(e.concat(h), "joined"); // [T, 2 H]
            joined.linear("eh_proj", c.hidden_size) // [T, H]
        });
        let x = layer.forward(joined).probe(layer.name("block_out")); // [T, H]
        let normed = g.within(&own, || x.norm("shared_head.norm", eps)); // [T, H]
        normed.probe(layer.name("head_norm_out"))
    });
    head(&g, c, hidden, outputs);
    g.finish()
}
