//! Sums the squares of what products read, column by column, and of tables of experts by
//! expert.
//!
//! Decides which tensors a value is an input of. What experts read on the way back to the
//! stream no device gives: it is computed here, from the rows that were routed to each.

use std::collections::BTreeMap;

use hadal_models::Config;
use hadal_weights::TensorSource;

use crate::importance::Summed;
use crate::rows::Matrix;
use crate::{Result, pool};

/// Sums over a text.
pub struct Collector<'m> {
    config: &'m Config,
    source: &'m dyn TensorSource,
    threads: usize,
    /// By value: several tensors may read one.
    sums: BTreeMap<String, Sums>,
}

/// Sums of squares of each slice, and the rows that each saw.
struct Sums {
    columns: usize,
    sums: Vec<f32>,
    counts: Vec<f32>,
    /// The GGUF tensors that read the value.
    readers: Vec<String>,
}

/// A value of a step: rows of `width` numbers.
#[derive(Clone, Copy)]
struct Rows<'v> {
    values: &'v [f32],
    width: usize,
}

impl<'m> Collector<'m> {
    /// Nothing summed yet.
    pub fn new(config: &'m Config, source: &'m dyn TensorSource, threads: usize) -> Self {
        Collector {
            config,
            source,
            threads,
            sums: BTreeMap::new(),
        }
    }

    /// Adds a step: its values by name, `[rows, width]`, and the experts of each row by the
    /// name of its layer.
    ///
    /// # Errors
    /// Experts that cannot be read.
    pub fn step(
        &mut self,
        values: &BTreeMap<&str, (usize, &[f32])>,
        routes: &BTreeMap<&str, (usize, Vec<u32>)>,
    ) -> Result<()> {
        for (name, (width, numbers)) in values {
            let rows = Rows {
                values: numbers,
                width: *width,
            };
            if *name == "final_hidden" || name.ends_with(".head_norm_out") {
                // The head reads what both of them give.
                self.add("output", rows, &["output.weight"], "");
                continue;
            }
            let Some((prefix, layer, value)) = self.place(name) else {
                continue;
            };
            let block = format!("blk.{layer}.");
            match value {
                "in.q" => self.heads(name, rows, format!("{block}attn_k_b.weight")),
                "in.ffn" if self.config.is_moe(layer) => {
                    let shared = ["ffn_gate_shexp.weight", "ffn_up_shexp.weight"];
                    if self.config.n_shared_experts > 0 {
                        self.add(name, rows, &shared, &block);
                    }
                    if let Some((top, experts)) = routes.get(prefix) {
                        self.experts(layer, rows, *top, experts)?;
                    }
                }
                _ => self.add(name, rows, readers(value), &block),
            }
        }
        // Zeros in the place of experts that could not be read.
        Ok(self.source.check_pages()?)
    }

    /// `layer.3.in.attn` as `layer.3`, 3 and `in.attn`; modules follow the layers.
    fn place<'n>(&self, name: &'n str) -> Option<(&'n str, u32, &'n str)> {
        let (kind, rest) = name.split_once('.')?;
        let (index, value) = rest.split_once('.')?;
        let number: u32 = index.parse().ok()?;
        let prefix = &name[..kind.len() + 1 + index.len()];
        match kind {
            "layer" => Some((prefix, number, value)),
            "mtp" => Some((prefix, self.config.num_hidden_layers + number, value)),
            _ => None,
        }
    }

    /// The sums of a value, made the first time.
    fn sums(
        &mut self,
        value: &str,
        slices: usize,
        columns: usize,
        readers: &[String],
    ) -> &mut Sums {
        self.sums.entry(value.to_string()).or_insert_with(|| Sums {
            columns,
            sums: vec![0.0; slices * columns],
            counts: vec![0.0; slices],
            readers: readers.to_vec(),
        })
    }

    fn add(&mut self, value: &str, rows: Rows<'_>, readers: &[&str], block: &str) {
        if readers.is_empty() || rows.width == 0 {
            return;
        }
        let absent = match self.config.q_lora_rank {
            Some(_) => "attn_q.weight",
            None => "attn_q_a.weight",
        };
        let readers = readers.iter().filter(|it| **it != absent);
        let readers: Vec<String> = readers.map(|it| format!("{block}{it}")).collect();
        let sums = self.sums(value, 1, rows.width, &readers);
        for row in rows.values.chunks_exact(rows.width) {
            sums.add(0, row);
        }
    }

    /// Queries: each head's unrotated part is what its keys are multiplied by.
    fn heads(&mut self, value: &str, rows: Rows<'_>, reader: String) {
        let heads = self.config.num_attention_heads as usize;
        let nope = self.config.qk_nope_head_dim as usize;
        let width = rows.width / heads;
        if width < nope || width == 0 {
            return;
        }
        let sums = self.sums(value, heads, nope, &[reader]);
        for row in rows.values.chunks_exact(rows.width) {
            for (head, values) in row.chunks_exact(width).enumerate() {
                sums.add(head, &values[..nope]);
            }
        }
    }

    /// What the tables of experts of a layer read, each expert from its own rows.
    fn experts(&mut self, layer: u32, rows: Rows<'_>, top: usize, chosen: &[u32]) -> Result<()> {
        let experts = self.config.n_routed_experts as usize;
        let hidden: Vec<&[f32]> = rows.values.chunks_exact(rows.width).collect();
        let mut routed: Vec<Vec<&[f32]>> = vec![Vec::new(); experts];
        for (row, chosen) in hidden.iter().zip(chosen.chunks_exact(top.max(1))) {
            for expert in chosen {
                if let Some(routed) = routed.get_mut(*expert as usize) {
                    routed.push(row);
                }
            }
        }
        let block = format!("blk.{layer}.");
        let (into, back) = (
            ["ffn_gate_exps.weight", "ffn_up_exps.weight"].map(|name| format!("{block}{name}")),
            [format!("{block}ffn_down_exps.weight")],
        );
        let sums = self.sums(&into[0], experts, rows.width, &into);
        for (expert, rows) in routed.iter().enumerate() {
            rows.iter().for_each(|row| sums.add(expert, row));
        }
        let width = self.config.moe_intermediate_size as usize;
        let source = self.source;
        let work = |expert: usize| gated(source, layer, expert, &routed[expert], width);
        let squares = pool::each(experts, self.threads, &work)?;
        let sums = self.sums(&back[0], experts, width, &back);
        for (expert, squares) in squares.iter().enumerate() {
            let own = &mut sums.sums[expert * width..][..width];
            own.iter_mut()
                .zip(squares)
                .for_each(|(sum, square)| *sum += square);
            sums.counts[expert] += routed[expert].len() as f32;
        }
        Ok(())
    }

    /// What was summed, for each tensor.
    pub fn summed(&self) -> Vec<Summed<'_>> {
        let tensors = self.sums.values().flat_map(|sums| {
            sums.readers.iter().map(|name| Summed {
                name: name.clone(),
                sums: &sums.sums,
                counts: &sums.counts,
            })
        });
        tensors.collect()
    }

    /// Experts of all layers, and those that no row went to.
    pub fn experts_seen(&self) -> (usize, usize) {
        let tables = self.sums.values().filter(|sums| {
            let down = |name: &String| name.ends_with("ffn_down_exps.weight");
            sums.readers.iter().any(down)
        });
        let counts = tables.flat_map(|sums| &sums.counts);
        counts.fold((0, 0), |(all, none), count| {
            (all + 1, none + usize::from(*count == 0.0))
        })
    }
}

impl Sums {
    fn add(&mut self, slice: usize, row: &[f32]) {
        let own = &mut self.sums[slice * self.columns..][..self.columns];
        own.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value * value);
        self.counts[slice] += 1.0;
    }
}

/// The tensors of a block that read a value.
fn readers(value: &str) -> &'static [&'static str] {
    match value {
        "in.attn" => &["attn_q_a.weight", "attn_q.weight", "attn_kv_a_mqa.weight"],
        "in.q_latent" => &["attn_q_b.weight"],
        // In the form that expands values; a mixture of such rows is what the other reads.
        "kv_latent" => &["attn_v_b.weight"],
        "in.o" => &["attn_output.weight"],
        "in.ffn" => &["ffn_gate.weight", "ffn_up.weight"],
        "in.down" => &["ffn_down.weight"],
        "in.shared_down" => &["ffn_down_shexp.weight"],
        "in.joined" => &["nextn.eh_proj.weight"],
        _ => &[],
    }
}

/// Sums of squares of `silu(gate(x)) * up(x)` of an expert over its rows.
fn gated(
    source: &dyn TensorSource,
    layer: u32,
    expert: usize,
    rows: &[&[f32]],
    width: usize,
) -> Result<Vec<f32>> {
    let mut squares = vec![0f32; width];
    if rows.is_empty() {
        return Ok(squares);
    }
    let name = |part: &str| format!("model.layers.{layer}.mlp.experts.{expert}.{part}.weight");
    let (gate, up) = (
        Matrix::open(source, &name("gate_proj"))?,
        Matrix::open(source, &name("up_proj"))?,
    );
    let mut weights = [vec![0f32; gate.columns], vec![0f32; up.columns]];
    for (column, square) in squares.iter_mut().enumerate() {
        gate.row(column, &mut weights[0]);
        up.row(column, &mut weights[1]);
        for row in rows {
            let (gate, up) = (dot(&weights[0], row), dot(&weights[1], row));
            let value = gate / (1.0 + (-gate).exp()) * up;
            *square += value * value;
        }
    }
    Ok(squares)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (eights, rest) = a.as_chunks::<16>();
    for (a, b) in eights.iter().zip(b.as_chunks::<16>().0) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let tail = b.len() - rest.len();
    let last: f32 = rest.iter().zip(&b[tail..]).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + last
}
