//! The header of a safetensors file: eight bytes of length, then JSON, then the data.
//!
//! Decides whether a file is whole and what each tensor in it is; trusts no number of it.
//! Must not know which tensors a model needs. The format wants the data to be covered by
//! tensors without gaps and overlaps, which is what makes a damaged header show.

use std::borrow::Cow;
use std::fmt;

use hadal_device::DType;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::index::Text;
use crate::{FileType, Result, TensorInfo, WeightsError};

/// A tensor of a header; its name is part of the header's text.
pub(crate) type Named<'b> = (Cow<'b, str>, TensorInfo);

/// Longest header the format allows. The largest published shard's has 0.2 MB.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most dimensions of a tensor; weights have one or two.
const MAX_RANK: usize = 8;

/// Every number format of the safetensors format with the bits an element takes.
const TYPES: &[(&str, u64)] = &[
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
    ("I16", 16),
    ("U16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
    ("C64", 64),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
];

/// The tensors of a file, in the order of its header. `shard` is written into each. That names
/// are unique is for the caller to see, who has those of other files too.
pub(crate) fn read<'b>(file: &str, bytes: &'b [u8], shard: usize) -> Result<Vec<Named<'b>>> {
    let (header, data_first) = split(file, bytes)?;
    let entries: Entries<'b> = serde_json::from_slice(header).map_err(|error| {
        damaged(
            file,
            format!("its header is not what the format says ({error})"),
        )
    })?;
    let data_bytes = bytes.len() as u64 - data_first;
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in entries.0 {
        let info =
            check(entry, shard, data_first, data_bytes).map_err(|why| WeightsError::Tensor {
                file: file.into(),
                tensor: name.to_string(),
                why,
            })?;
        tensors.push((name, info));
    }
    check_together(file, &tensors, bytes.len() as u64, data_first)?;
    Ok(tensors)
}

fn damaged(file: &str, why: String) -> WeightsError {
    WeightsError::File {
        file: file.to_string(),
        why,
    }
}

/// Header text and the offset of the data.
fn split<'b>(file: &str, bytes: &'b [u8]) -> Result<(&'b [u8], u64)> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let why = format!(
            "it has {} bytes, too few for a safetensors file",
            bytes.len()
        );
        return Err(damaged(file, why));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        let why = format!(
            "it claims a header of {length} bytes, and the format allows {MAX_HEADER_BYTES}"
        );
        return Err(damaged(file, why));
    }
    // At most 10^8, so it fits every usize.
    match rest.get(..length as usize) {
        Some(header) => Ok((header, 8 + length)),
        None => Err(damaged(
            file,
            format!(
                "it claims a header of {length} bytes, but only {} follow",
                rest.len()
            ),
        )),
    }
}

#[derive(Deserialize)]
struct Entry<'b> {
    #[serde(borrow)]
    dtype: Cow<'b, str>,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Header entries in order, repetitions included: a map would hide a name that comes twice.
struct Entries<'b>(Vec<(Cow<'b, str>, Entry<'b>)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let entry = map.next_value()?;
                        entries.push((name, entry));
                    }
                }
                Ok(Entries(entries))
            }
        }
        from.deserialize_map(Reader)
    }
}

/// One entry alone; the error is the reason.
fn check(
    entry: Entry<'_>,
    shard: usize,
    data_first: u64,
    data_bytes: u64,
) -> std::result::Result<TensorInfo, String> {
    let (dtype, bits) = file_type(&entry.dtype)
        .ok_or_else(|| format!("its number format `{}` is unknown", shorten(&entry.dtype)))?;
    if entry.shape.len() > MAX_RANK {
        return Err(format!(
            "it has {} dimensions, and {MAX_RANK} are allowed",
            entry.shape.len()
        ));
    }
    let (first, end) = entry.data_offsets;
    if first > end || end > data_bytes {
        return Err(format!(
            "its data lies at {first}..{end} of {data_bytes} bytes: the file is cut short or its header is damaged"
        ));
    }
    let elements = entry
        .shape
        .iter()
        .try_fold(1u64, |product, edge| product.checked_mul(*edge));
    let needed = elements
        .and_then(|count| count.checked_mul(bits))
        .filter(|bits| bits % 8 == 0);
    match needed.map(|bits| bits / 8) {
        Some(needed) if needed == end - first => Ok(TensorInfo {
            dtype,
            shape: entry.shape,
            shard,
            offset: data_first + first,
            bytes: needed,
        }),
        Some(needed) => Err(format!(
            "shape {:?} of {dtype} takes {needed} bytes, but {} are given",
            entry.shape,
            end - first
        )),
        None => Err(format!(
            "shape {:?} of {dtype} is not possible",
            entry.shape
        )),
    }
}

fn file_type(name: &str) -> Option<(FileType, u64)> {
    let dtype = match name {
        "F8_E4M3" => DType::F8E4M3,
        "BF16" => DType::Bf16,
        "F16" => DType::F16,
        "F32" => DType::F32,
        _ => {
            let (known, bits) = TYPES.iter().find(|(known, _)| *known == name)?;
            return Some((FileType::Other(known), *bits));
        }
    };
    Some((FileType::Weight(dtype), 8 * dtype.block_bytes()))
}

/// The data is covered from first to last byte, once.
fn check_together(
    file: &str,
    tensors: &[Named<'_>],
    file_bytes: u64,
    data_first: u64,
) -> Result<()> {
    let tensor_error = |tensor: &str, why: String| {
        Err(WeightsError::Tensor {
            file: file.into(),
            tensor: tensor.into(),
            why,
        })
    };
    let mut order: Vec<&Named<'_>> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.offset, info.bytes));
    let (mut end, mut before) = (data_first, "the header");
    for (name, info) in order {
        if info.offset < end {
            return tensor_error(name, format!("its data overlaps that of {before}"));
        }
        if info.offset > end {
            let gap = info.offset - end;
            return tensor_error(
                name,
                format!("{gap} bytes before its data belong to no tensor"),
            );
        }
        (end, before) = (info.offset + info.bytes, name);
    }
    if end != file_bytes {
        return Err(damaged(
            file,
            format!("its last {} bytes belong to no tensor", file_bytes - end),
        ));
    }
    Ok(())
}

/// The beginning of a text of the file, for a message.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
