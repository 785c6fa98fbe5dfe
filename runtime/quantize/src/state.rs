//! How far an interrupted run came: a small file beside the unfinished one.
//!
//! Names what the file is made from, and of every tensor that is whole the sum of its bytes, by
//! which reading back finds what is no longer as it was written. It is replaced only after the
//! tensors that it counts are on the disk, so it never claims too much.

use std::path::{Path, PathBuf};

use hadal_weights::TensorSource;
use serde_json::{Value, json};

use crate::{Importance, QuantizeError, Result};

/// Largest state file; it has a dozen bytes a tensor, of which the largest models have a thousand.
const MAX_BYTES: u64 = 1 << 20;

/// What no file is made from.
pub(crate) const OF_NOTHING: u64 = 0;

/// Where the state of an unfinished file lies.
pub(crate) fn state_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}

/// Sums of the tensors that are whole in an unfinished file of the same header and sources; none
/// where there is no such file.
pub(crate) fn done(part: &Path, fingerprint: u64) -> Vec<u32> {
    let text = hadal_weights::read_text(&state_path(part), MAX_BYTES);
    let state: Option<Value> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    let Some(state) = state else {
        return Vec::new();
    };
    let same = state["made_from"].as_str() == Some(&format!("{fingerprint:016x}"));
    let sums = state["sums"].as_array().filter(|_| same);
    let sum = |it: &Value| it.as_u64().and_then(|sum| sum.try_into().ok());
    let sums = sums.and_then(|sums| sums.iter().map(sum).collect());
    sums.unwrap_or_default()
}

/// Says that the tensors of these sums are whole.
pub(crate) fn save(part: &Path, fingerprint: u64, sums: &[u32]) -> Result<()> {
    let path = state_path(part);
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let state = json!({"made_from": format!("{fingerprint:016x}"), "sums": sums});
    std::fs::write(&fresh, state.to_string())
        .and_then(|()| std::fs::rename(&fresh, &path))
        .map_err(QuantizeError::io(&path))
}

/// What a file is made from, as a number: its header, its sources by name, length and date,
/// and the importance of columns.
pub(crate) fn fingerprint(
    header: &[u8],
    source: &dyn TensorSource,
    importance: Option<&Importance>,
) -> u64 {
    // FNV-1a, by bytes.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    add(header);
    for shard in source.shards() {
        add(shard.name.as_bytes());
        add(&(shard.bytes().len() as u64).to_le_bytes());
        let meta = shard.path.as_ref().and_then(|path| path.metadata().ok());
        let changed = meta.and_then(|meta| meta.modified().ok());
        let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        add(&since.map_or(0, |since| since.as_nanos()).to_le_bytes());
    }
    for (name, numbers) in importance.into_iter().flat_map(Importance::numbers) {
        add(name.as_bytes());
        numbers.iter().for_each(|number| add(&number.to_le_bytes()));
    }
    hash
}
