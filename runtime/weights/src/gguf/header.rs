//! The header of a GGUF file: counts, metadata, descriptions of tensors.
//!
//! Decides whether a file is whole and what each tensor in it is; trusts no number of it: a
//! count is only as good as the bytes that are there for it.

use hadal_device::DType;

use super::{GgufValue, Metadata, damaged};
use crate::{FileType, Result, TensorInfo, WeightsError};

/// Most values of all lists together; the largest vocabularies have 200,000 tokens.
const MAX_VALUES: u64 = 1 << 24;
/// Most bytes of all texts together; the largest tokenizer.json has 33 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;
/// Most tensors of a file: the largest models have 140,000 where experts are apart.
const MAX_TENSORS: u64 = 1 << 18;
/// Most keys.
const MAX_KEYS: u64 = 1 << 16;
/// Lists within lists.
const MAX_DEPTH: u32 = 3;
/// Most dimensions of a tensor that the format allows.
const MAX_RANK: u32 = 4;
/// Where data begins unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// What a header says.
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<(String, TensorInfo)>,
}

/// Reads the header of a file of `length` bytes, of which `bytes` are here; `shard` is written
/// into each tensor.
pub(super) fn read(file: &str, bytes: &[u8], shard: usize, length: u64) -> Result<Header> {
    let mut cursor = Cursor {
        bytes,
        at: 0,
        values: 0,
        text_bytes: 0,
    };
    header(&mut cursor, file, shard, length).map_err(|wrong| match wrong {
        Wrong::File(why) => damaged(file, why),
        Wrong::Whole(error) => error,
    })
}

/// Why a header cannot be read.
enum Wrong {
    File(String),
    Whole(WeightsError),
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong::File(why)
    }
}

fn header(
    from: &mut Cursor<'_>,
    file: &str,
    shard: usize,
    length: u64,
) -> std::result::Result<Header, Wrong> {
    if from.take(4)? != b"GGUF" {
        return Err(Wrong::File("it does not begin with GGUF".into()));
    }
    match from.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            let why = "its numbers are big-endian, and little-endian is supported";
            return Err(Wrong::File(why.into()));
        }
        version => {
            let why = format!("it is GGUF version {version}, and 2 and 3 are supported");
            return Err(Wrong::File(why));
        }
    }
    let (tensors, pairs) = (from.u64()?, from.u64()?);
    // The shortest description of a tensor and the shortest pair.
    from.room_for(tensors, 8 + 4 + 8 + 4 + 8, "tensors")?;
    from.room_for(pairs, 8 + 4 + 1, "keys")?;
    at_most(tensors, MAX_TENSORS, "tensors")?;
    at_most(pairs, MAX_KEYS, "keys")?;
    let mut metadata = Metadata::default();
    for _ in 0..pairs {
        let key = from.text()?;
        let kind = from.u32()?;
        let value = from.value(kind, 0)?;
        if metadata.0.insert(key.clone(), value).is_some() {
            return Err(Wrong::File(format!("its key {key} comes twice")));
        }
    }
    let described = (0..tensors).map(|_| Described::read(from));
    let described = described.collect::<std::result::Result<Vec<_>, String>>()?;
    let alignment = metadata.whole("general.alignment").unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Wrong::File(format!("its alignment is {alignment}")));
    }
    let first = (from.at as u64).next_multiple_of(alignment);
    let place = |tensor: Described| {
        let refuse = |why| WeightsError::Tensor {
            file: file.to_string(),
            tensor: tensor.name.clone(),
            why,
        };
        let info = tensor.place(first, length, alignment, shard);
        Ok((tensor.name.clone(), info.map_err(refuse)?))
    };
    let tensors = described.into_iter().map(place).collect::<Result<_>>();
    Ok(Header {
        metadata,
        tensors: tensors.map_err(Wrong::Whole)?,
    })
}

/// A tensor as the header describes it.
struct Described {
    name: String,
    /// The length of rows first.
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Described {
    fn read(from: &mut Cursor<'_>) -> std::result::Result<Described, String> {
        let name = from.text()?;
        let rank = from.u32()?;
        if rank > MAX_RANK {
            let name: String = name.chars().take(80).collect();
            return Err(format!("tensor {name} has {rank} dimensions"));
        }
        let dims = (0..rank).map(|_| from.u64());
        Ok(Described {
            dims: dims.collect::<std::result::Result<_, _>>()?,
            kind: from.u32()?,
            offset: from.u64()?,
            name,
        })
    }

    fn place(
        &self,
        first: u64,
        length: u64,
        alignment: u64,
        shard: usize,
    ) -> std::result::Result<TensorInfo, String> {
        let (dtype, values, bytes) = format(self.kind)
            .ok_or_else(|| format!("its number format {} is not one of GGUF", self.kind))?;
        let row = self.dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(values) {
            return Err(format!("{row} values a row are no whole blocks of {dtype}"));
        }
        let mut rows = self.dims.iter().skip(1).copied();
        let total = (row / values)
            .checked_mul(bytes)
            .and_then(|bytes| rows.try_fold(bytes, u64::checked_mul))
            .ok_or_else(|| format!("its shape {:?} is not possible", self.dims))?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!("its offset {} is not aligned", self.offset));
        }
        let offset = first.checked_add(self.offset);
        let end = offset.and_then(|offset| offset.checked_add(total));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= length => Ok(TensorInfo {
                dtype,
                shape: self.dims.iter().rev().copied().collect(),
                shard,
                offset,
                bytes: total,
            }),
            _ => Err(format!(
                "its {total} bytes at {} lie beyond the end of the file, which has {length}; the \
                 file is cut short",
                self.offset
            )),
        }
    }
}

/// The numbers of formats that weights may have.
const NUMBERS: [(u32, DType); 24] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (10, DType::Q2K),
    (11, DType::Q3K),
    (12, DType::Q4K),
    (13, DType::Q5K),
    (14, DType::Q6K),
    (16, DType::Iq2Xxs),
    (17, DType::Iq2Xs),
    (18, DType::Iq3Xxs),
    (19, DType::Iq1S),
    (20, DType::Iq4Nl),
    (21, DType::Iq3S),
    (22, DType::Iq2S),
    (23, DType::Iq4Xs),
    (29, DType::Iq1M),
    (30, DType::Bf16),
    (34, DType::Tq1_0),
    (35, DType::Tq2_0),
];

/// The number of a format in GGUF files, which have no FP8.
pub fn gguf_number(dtype: DType) -> Option<u32> {
    let found = NUMBERS.iter().find(|(_, known)| *known == dtype);
    found.map(|(number, _)| *number)
}

/// A number format of the files, values of a block, and its bytes.
fn format(kind: u32) -> Option<(FileType, u64, u64)> {
    let Some((_, dtype)) = NUMBERS.iter().find(|(number, _)| *number == kind) else {
        return other(kind);
    };
    let (values, bytes) = (dtype.block_values(), dtype.block_bytes());
    Some((FileType::Weight(*dtype), values, bytes))
}

/// Formats that no weight here may have, so that they can be named.
fn other(kind: u32) -> Option<(FileType, u64, u64)> {
    let (name, values, bytes) = match kind {
        9 => ("q8_1", 32, 36),
        15 => ("q8_k", 256, 292),
        24 => ("i8", 1, 1),
        25 => ("i16", 1, 2),
        26 => ("i32", 1, 4),
        27 => ("i64", 1, 8),
        28 => ("f64", 1, 8),
        39 => ("mxfp4", 32, 17),
        _ => return None,
    };
    Some((FileType::Other(name), values, bytes))
}

/// A place in the file.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
    /// Values of lists so far.
    values: u64,
    /// Bytes of texts so far.
    text_bytes: u64,
}

/// Refuses more than any model has: a large file has room for claims that would fill the memory.
fn at_most(count: u64, most: u64, what: &str) -> Read<()> {
    match count <= most {
        true => Ok(()),
        false => Err(format!(
            "it claims {count} {what}, and {most} are read at most"
        )),
    }
}

type Read<T> = std::result::Result<T, String>;

impl<'b> Cursor<'b> {
    fn take(&mut self, count: usize) -> Read<&'b [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            let length = self.bytes.len();
            format!("its header goes beyond its end at byte {length}; the file is cut short")
        })?;
        self.at += count;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut number = [0; N];
        number.copy_from_slice(self.take(N)?);
        Ok(number)
    }

    fn u32(&mut self) -> Read<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.number().map(u64::from_le_bytes)
    }

    /// Refuses a count of things for which the rest of the file is too short.
    fn room_for(&self, count: u64, each: u64, what: &str) -> Read<()> {
        let rest = (self.bytes.len() - self.at) as u64;
        match count.checked_mul(each) {
            Some(needed) if needed <= rest => Ok(()),
            _ => Err(format!(
                "it claims {count} {what}, but only {rest} bytes follow; the file is cut short"
            )),
        }
    }

    fn text(&mut self) -> Read<String> {
        let length = self.u64()?;
        self.room_for(length, 1, "bytes of a text")?;
        self.text_bytes = self.text_bytes.saturating_add(length);
        at_most(self.text_bytes, MAX_TEXT_BYTES, "bytes of texts")?;
        let text = self.take(length as usize)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Read<GgufValue> {
        Ok(match kind {
            0 => GgufValue::Unsigned(self.number::<1>()?[0].into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.number()?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.number()?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.number()?).into()),
            4 => GgufValue::Unsigned(self.u32()?.into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.number()?).into()),
            6 => GgufValue::Float(f32::from_le_bytes(self.number()?).into()),
            7 => GgufValue::Flag(self.number::<1>()?[0] != 0),
            8 => GgufValue::Text(self.text()?),
            9 => GgufValue::List(self.list(depth)?),
            10 => GgufValue::Unsigned(self.u64()?),
            11 => GgufValue::Signed(i64::from_le_bytes(self.number()?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.number()?)),
            _ => return Err(format!("a value of its metadata has the type {kind}")),
        })
    }

    fn list(&mut self, depth: u32) -> Read<Vec<GgufValue>> {
        let kind = self.u32()?;
        let count = self.u64()?;
        self.room_for(count, 1, "values of a list")?;
        self.values = self.values.saturating_add(count);
        if self.values > MAX_VALUES || depth == MAX_DEPTH {
            return Err(format!(
                "its metadata has lists of more than {MAX_VALUES} values, or {MAX_DEPTH} within each other"
            ));
        }
        (0..count).map(|_| self.value(kind, depth + 1)).collect()
    }
}
