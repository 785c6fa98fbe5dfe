//! Which part of a model each weight is, and how much of it lies where.

use std::collections::BTreeMap;

use hadal_device::{DType, DeviceInfo, Features};
use hadal_models::Config;
use hadal_weights::{Piece, Placement, layer_of};

use super::PartKind;
use crate::Model;

/// The weights of a model as a device holds them.
pub(super) struct Weights {
    /// Those on each member of the device.
    pub members: Vec<OnMember>,
    /// Every weight.
    pub each: Vec<Weight>,
}

/// The weights on a member.
#[derive(Default)]
pub(super) struct OnMember {
    /// Bytes of each kind; together those of all its buffers.
    pub bytes: BTreeMap<PartKind, u64>,
    /// Bytes of them for which no memory has to be found.
    pub held_bytes: u64,
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
    let places = placement.members();
    let mut each = Vec::new();
    let mut members: Vec<OnMember> = (0..places.count()).map(|_| OnMember::default()).collect();
    // Of buffers that each member has, one has what nobody reads.
    let home = |buffer: usize| usize::from(placement.member_of(buffer).unwrap_or(0));
    let mut unused = vec![0u64; members.len()];
    for (number, bytes) in placement.buffer_bytes().into_iter().enumerate() {
        unused[home(number)] += bytes;
    }
    for declared in model.declared.iter().filter(|it| it.alias_of.is_none()) {
        let pieces = pieces(placement, &declared.name);
        if pieces.is_empty() {
            continue;
        }
        for piece in &pieces {
            let rest = &mut unused[home(piece.buffer)];
            *rest = rest.saturating_sub(piece.bytes);
        }
        let stored: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        let kind = kind_of(&model.config, &declared.name);
        let member = usize::from(places.of_name(&declared.name));
        *members[member].bytes.entry(kind).or_default() += stored;
        let shape: u64 = declared.shape.iter().map(|edge| u64::from(*edge)).product();
        each.push(Weight {
            kind,
            bytes: stored,
            elements: shape * u64::from(declared.experts.unwrap_or(1)),
            is_matrix: declared.shape.len() == 2,
            rows: declared.shape.first().copied().unwrap_or(1),
        });
    }
    for (member, unused) in members.iter_mut().zip(unused) {
        let read = member.bytes.values().sum();
        member.bytes.insert(PartKind::Unused, unused);
        member.held_bytes = held(model, info, read, unused);
    }
    Weights { members, each }
}

/// All pieces of a weight, or of a table of them, with their scales; none where it is not placed.
fn pieces<'p>(placement: &'p Placement, name: &str) -> Vec<&'p Piece> {
    match (placement.matrix(name), placement.table(name)) {
        (Some(placed), _) => placed.pieces.iter().chain(&placed.scale).collect(),
        (None, Some(table)) => {
            let chunks = table.chunks.iter();
            let pieces = chunks.flat_map(|chunk| chunk.entries.iter().chain(&chunk.scales));
            pieces.collect()
        }
        (None, None) => Vec::new(),
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
