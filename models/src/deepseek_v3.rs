//! DeepSeek-V3 and its family as a graph, in the order of the report (arXiv 2412.19437).
//!
//! Decides which operation follows which and under which name each weight is published;
//! knows no device and no checkpoint, only the dtypes of its tensors. Letters as in
//! `hadal_graph::Op`: T tokens, A heads, H hidden, dn/dr/dv head widths, dc latent width.

use hadal_graph::{Dtypes, Graph, Net, RouteRule, Val, Verified, Violation};

use crate::config::{Config, ScoringFunc, TopkMethod};
use crate::head::{Outputs, embed_table, head};

/// The graph of the main model: token ids in, `logits` `[R, V]`, greedy `ids` `u32[R]` and
/// `hidden` `[T, H]` out. Layer `i` keeps its latents in cache layer `i`.
///
/// # Errors
/// The first weight that the checkpoint lacks, or line of the model that cannot be.
pub fn build(
    c: &Config,
    dtypes: &Dtypes<'_>,
    outputs: Outputs,
) -> Result<Verified<Graph>, Violation> {
    let g = Net::new(dtypes, outputs.has_probes());
    let rope = g.rope_table(c.qk_rope_head_dim);
    let hidden = g.within("model", || {
        let mut x = g.tokens().embed(embed_table(&g, c)).probe("embed"); // [T, H]
        for index in 0..c.num_hidden_layers {
            let probe = format!("layer.{index}");
            let layer = Layer {
                g: &g,
                c,
                rope,
                index,
                probe,
                outputs,
            };
            x = layer.forward(x).probe(layer.name("out")); // [T, H]
        }
        x.norm("norm", c.rms_norm_eps as f32).probe("final_hidden") // [T, H]
    });
    head(&g, c, hidden, outputs);
    g.finish()
}

/// One layer, and what its lines refer to.
pub(crate) struct Layer<'g> {
    pub(crate) g: &'g Net<'g>,
    pub(crate) c: &'g Config,
    pub(crate) rope: Val<'g>,
    /// Index in the names of weights, and of the cache.
    pub(crate) index: u32,
    /// Begins the names of values for inspection.
    pub(crate) probe: String,
    /// What is wanted beside the logits.
    pub(crate) outputs: Outputs,
}

impl<'g> Layer<'g> {
    /// Attention and feed-forward, each behind a norm and added to the stream `[T, H]`.
    pub(crate) fn forward(&self, x: Val<'g>) -> Val<'g> {
        let (g, c, eps) = (self.g, self.c, self.c.rms_norm_eps as f32);
        g.within(format!("layers.{}", self.index), || {
            let normed = self.input(x.norm("input_layernorm", eps), "attn");
            let x = x.add(g.within("self_attn", || self.latent_attention(normed)));
            let normed = self.input(x.norm("post_attention_layernorm", eps), "ffn");
            g.within("mlp", || match c.is_moe(self.index) {
                true => self.mixture_of_experts(normed, x),
                false => x.add(self.mlp(normed, c.intermediate_size, "down")),
            })
        })
    }

    /// Multi-head latent attention (section 2.1.1): keys and values of all heads come from
    /// one cached vector a token, `[normalised latent, rotated key]`.
    fn latent_attention(&self, x: Val<'g>) -> Val<'g> {
        let (c, rope, eps) = (self.c, self.rope, Config::LATENT_EPS as f32);
        let (heads, nope, rotated) = (
            c.num_attention_heads,
            c.qk_nope_head_dim,
            c.qk_rope_head_dim,
        );
        let q_width = heads * (nope + rotated);
        let q = match c.q_lora_rank {
            Some(rank) => {
                let latent = x.linear("q_a_proj", rank).norm("q_a_layernorm", eps);
                self.input(latent, "q_latent").linear("q_b_proj", q_width)
            }
            None => x.linear("q_proj", q_width),
        };
        let q = self.input(q, "q"); // [T, A (dn + dr)]
        let (q_nope, q_rope) = q.heads(heads).split(nope); // [T, A, dn] [T, A, dr]
        let query = q_nope.concat(q_rope.rope(rope)); // [T, A, dn + dr]

        let compressed = x.linear("kv_a_proj_with_mqa", c.kv_lora_rank + rotated); // [T, dc + dr]
        let (latent, k_rope) = compressed.split(c.kv_lora_rank); // [T, dc] [T, dr]
        let latent = latent
            .norm("kv_a_layernorm", eps)
            .probe(self.name("kv_latent"));
        let k_rope = k_rope.rope(rope).probe(self.name("k_pe"));
        let cache = latent.concat(k_rope).cache_append(self.index); // [K, dc + dr]

        let scale = c.softmax_scale() as f32;
        let mixed = match c.split_kv_b {
            true => query.attend_split(cache, ["k_b_proj", "v_b_proj"], scale, nope, c.v_head_dim),
            false => query.attend_expanded(cache, "kv_b_proj", scale, nope, c.v_head_dim),
        }; // [T, A, dv]
        self.input(mixed.flat(), "o")
            .linear("o_proj", c.hidden_size)
            .probe(self.name("attn_out")) // [T, H]
    }

    /// DeepSeekMoE (section 2.1.2): the stream, plus the shared expert, plus the routed.
    fn mixture_of_experts(&self, x: Val<'g>, stream: Val<'g>) -> Val<'g> {
        let (g, c) = (self.g, self.c);
        let rule = RouteRule {
            experts: c.n_routed_experts,
            top_k: c.num_experts_per_tok,
            groups: c.groups(),
            kept_groups: c.kept_groups(),
            softmax: c.scoring_func == ScoringFunc::Softmax,
            group_max: c.topk_method != TopkMethod::NoauxTc,
            normalise: c.normalises(),
            scale: c.routing_scale() as f32,
        };
        let bias = (c.topk_method == TopkMethod::NoauxTc)
            .then(|| g.weight("gate.e_score_correction_bias", &[c.n_routed_experts]));
        let logits = x
            .linear("gate", c.n_routed_experts)
            .probe(self.name("router_logits")); // [T, E]
        let mut route = logits.route(rule, bias).probe(self.name("router")); // [T, k]
        if self.outputs == Outputs::Routes {
            route = route.output(self.name("router"));
        }
        let base = match c.shared_intermediate_size() {
            0 => stream,
            width => stream.add(g.within("shared_experts", || self.mlp(x, width, "shared_down"))),
        };
        x.experts(route, c.n_routed_experts, c.moe_intermediate_size, base) // [T, H]
    }

    /// The gated feed-forward: `down(silu(gate(x)) * up(x))`.
    fn mlp(&self, x: Val<'g>, width: u32, input: &str) -> Val<'g> {
        let gated = x
            .linear("gate_proj", width)
            .swiglu(x.linear("up_proj", width));
        self.input(gated, input).linear("down_proj", x.width())
    }

    /// A value that a product reads.
    pub(crate) fn input(&self, value: Val<'g>, name: &str) -> Val<'g> {
        match self.outputs {
            Outputs::Inputs => value.output(self.name(&format!("in.{name}"))),
            _ => value,
        }
    }

    /// Name of a value for inspection.
    pub(crate) fn name(&self, value: &str) -> String {
        format!("{}.{value}", self.probe)
    }
}
