//! Which part of a model each weight is, and how much of it lies where.

use std::collections::BTreeMap;

use hadal_device::{DType, DeviceInfo, Features};
use hadal_models::Config;
use hadal_weights::{Piece, Placement, layer_of};

use super::PartKind;
use crate::Model;

/// The weights of a model as a device holds them.
pub(super) struct Weights {
    /// Bytes of each kind; together those of all buffers.
    pub bytes: BTreeMap<PartKind, u64>,
    /// Bytes of them for which no memory has to be found.
    pub held_bytes: u64,
    /// Every weight.
    pub each: Vec<Weight>,
}

/// A weight, or a table of them.
pub(super) struct Weight {
    pub kind: PartKind,
    /// Bytes as stored, scales included.
    pub bytes: u64,
    /// Numbers, scales not counted.
    pub elements: u64,
    pub is_matrix: bool,
    /// Rows of the whole matrix.
    pub rows: u32,
}

impl Weights {
    /// Bits of a weight, over all matrices: 16 for BF16, scales and all for others.
    pub fn bits(&self) -> f64 {
        let matrices = self.each.iter().filter(|weight| weight.is_matrix);
        let (bytes, elements) = matrices.fold((0, 0), |(bytes, elements), weight| {
            (bytes + weight.bytes, elements + weight.elements)
        });
        8.0 * bytes as f64 / elements.max(1) as f64
    }

    /// Bytes of weights that a step of one token of each of `batch` sequences reads, and the
    /// experts of a layer that independent tokens touch.
    pub fn read_by(&self, config: &Config, batch: u32) -> (u64, f64) {
        let all = f64::from(config.n_routed_experts.max(1));
        let missed = (1.0 - f64::from(config.num_experts_per_tok) / all).powf(batch.into());
        let experts = all * (1.0 - missed);
        let read = self.each.iter().map(|weight| match weight.kind {
            PartKind::NextToken => 0,
            PartKind::Embedding if !config.tie_word_embeddings => {
                weight.bytes / u64::from(weight.rows.max(1)) * u64::from(batch)
            }
            PartKind::RoutedExperts => (weight.bytes as f64 * experts / all) as u64,
            _ => weight.bytes,
        });
        (read.sum(), experts)
    }
}

/// The weights of `model`, where `placement` puts them.
pub(super) fn weights(model: &Model, placement: &Placement, info: &DeviceInfo) -> Weights {
    let mut each = Vec::new();
    let mut bytes: BTreeMap<PartKind, u64> = BTreeMap::new();
    for declared in model.declared.iter().filter(|it| it.alias_of.is_none()) {
        let sum = |pieces: &mut dyn Iterator<Item = &Piece>| pieces.map(|piece| piece.bytes).sum();
        let stored: u64 = match (
            placement.matrix(&declared.name),
            placement.table(&declared.name),
        ) {
            (Some(placed), _) => sum(&mut placed.pieces.iter().chain(&placed.scale)),
            (None, Some(table)) => {
                let chunks = table.chunks.iter();
                sum(&mut chunks.flat_map(|chunk| chunk.entries.iter().chain(&chunk.scales)))
            }
            (None, None) => continue,
        };
        let kind = kind_of(&model.config, &declared.name);
        *bytes.entry(kind).or_default() += stored;
        let shape: u64 = declared.shape.iter().map(|edge| u64::from(*edge)).product();
        each.push(Weight {
            kind,
            bytes: stored,
            elements: shape * u64::from(declared.experts.unwrap_or(1)),
            is_matrix: declared.shape.len() == 2,
            rows: declared.shape.first().copied().unwrap_or(1),
        });
    }
    let read: u64 = bytes.values().sum();
    let unused = placement.total_bytes().saturating_sub(read);
    bytes.insert(PartKind::Unused, unused);
    Weights {
        held_bytes: held(model, info, read, unused),
        bytes,
        each,
    }
}

/// Bytes of the weights of `model` as its files have them, block scales included.
pub fn stored(model: &Model) -> BTreeMap<(PartKind, DType), u64> {
    let mut bytes = BTreeMap::new();
    for weight in &model.bound.weights {
        let own: u64 = weight
            .data
            .iter()
            .chain(&weight.scales)
            .map(|it| it.bytes)
            .sum();
        let kind = kind_of(&model.config, &weight.name);
        *bytes.entry((kind, weight.dtype)).or_default() += own;
    }
    bytes
}

/// Bytes that take no memory of what is free now, where weights are used as they lie.
fn held(model: &Model, info: &DeviceInfo, read: u64, unused: u64) -> u64 {
    let in_place = info.features.has(Features::HOST) || info.features.has(Features::IN_PLACE);
    // Made up, or part of the program: in memory since before the plan.
    let here = |shard: &hadal_weights::Shard| shard.path.is_none() && !shard.bytes().is_empty();
    match in_place {
        true if model.source.shards().iter().all(here) => read + unused,
        true => unused,
        false => 0,
    }
}

/// The part that a published name belongs to.
fn kind_of(config: &Config, name: &str) -> PartKind {
    let parts = [
        (".self_attn.", PartKind::Attention),
        (".mlp.gate.", PartKind::Router),
        (".mlp.experts.", PartKind::RoutedExperts),
        (".mlp.shared_experts.", PartKind::SharedExperts),
        (".mlp.", PartKind::Dense),
        ("embed_tokens", PartKind::Embedding),
        ("lm_head", PartKind::Head),
    ];
    if layer_of(name).is_some_and(|layer| layer >= config.num_hidden_layers) {
        return PartKind::NextToken;
    }
    if name.contains("norm") {
        return PartKind::Norms;
    }
    let found = parts.iter().find(|(mark, _)| name.contains(mark));
    found.map_or(PartKind::Norms, |(_, kind)| *kind)
}
