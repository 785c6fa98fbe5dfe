//! Streams tensors into the file, so many rows at once as memory allows, and goes on where an
//! earlier run stopped.
//!
//! The file lies under `NAME.part` until it is whole and verified. Tensors are written in
//! order; whenever a good deal of them is on the disk, the state beside it says so.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hadal_blocks::{EncodeError, encode};
use hadal_device::DType;
use hadal_weights::TensorSource;
use half::{bf16, f16};

use crate::file::{ALIGNMENT, Value, header};
use crate::plan::padded;
use crate::verify::{Compared, verify};
use crate::{Importance, Plan, Planned, QuantizeError, Result, pool, state};

/// How a file is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that encode.
    pub threads: usize,
    /// Read the file back and compare every tensor with its source.
    pub verify: bool,
    /// Fault injection: the disk is full after so many bytes of data.
    pub disk_full_after: Option<u64>,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Encoding and writing.
    Writing,
    /// Reading back.
    Verifying,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'p> {
    /// What is being done.
    pub stage: Stage,
    /// The tensor.
    pub tensor: &'p str,
    /// Values that are done.
    pub done: u64,
    /// Values in all.
    pub total: u64,
}

/// Called between pieces of work; [`ControlFlow::Break`] stops, and the same call later goes on.
pub type Watch<'w> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'w;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Tensors that an earlier run had written.
    pub resumed: usize,
    /// What reading back found, tensor by tensor; empty where it was not asked for.
    pub compared: Vec<Compared>,
}

/// Where a file lies until it is whole.
pub fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Writes the file at `path`: streams it, verifies it, gives it its name.
///
/// # Errors
/// Full disks and other failures of the file system, damaged checkpoints, a file that does
/// not read back. What is written stays under [`part_path`], and the same call goes on there.
pub fn quantize(
    plan: &Plan,
    metadata: &[(String, Value)],
    source: &dyn TensorSource,
    importance: Option<&Importance>,
    path: &Path,
    options: &Options,
    watch: &mut Watch<'_>,
) -> Result<Written> {
    if let Some(importance) = importance {
        importance.check(plan)?;
    }
    let part = part_path(path);
    check_part(&part, source)?;
    let _held = hold(&part)?;
    let (mut written, sums) = write(plan, metadata, source, importance, &part, options, watch)?;
    if options.verify {
        let compared = verify(plan, &sums, source, &part, options.threads, watch);
        if matches!(compared, Err(QuantizeError::Verify(_))) {
            // What is wrong is not gone on with.
            let _ = state::save(&part, state::OF_NOTHING, &[]);
        }
        written.compared = compared?;
    }
    std::fs::rename(&part, path).map_err(QuantizeError::io(path))?;
    // The name is as lasting as the data only once its folder is.
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        // Some systems do not sync folders; the data itself is safe already.
        let _ = folder.sync_all();
    }
    let state = state::state_path(&part);
    match std::fs::remove_file(&state) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(QuantizeError::io(&state)(error)),
        _ => Ok(written),
    }
}

/// Only what an earlier run left is written over: not the model itself, and nothing of others.
fn check_part(part: &Path, source: &dyn TensorSource) -> Result<()> {
    let refuse = |why| QuantizeError::Taken {
        path: part.to_path_buf(),
        why,
    };
    let Ok(own) = part.canonicalize() else {
        return Ok(());
    };
    let paths = source
        .shards()
        .iter()
        .filter_map(|shard| shard.path.as_ref());
    if paths
        .filter_map(|path| path.canonicalize().ok())
        .any(|path| path == own)
    {
        return Err(refuse("it is a file of the model"));
    }
    let is_empty = part
        .metadata()
        .is_ok_and(|it| it.is_file() && it.len() == 0);
    match is_empty || state::state_path(part).is_file() {
        true => Ok(()),
        false => Err(refuse("no run of this program left it there")),
    }
}

/// Keeps other runs from an unfinished file as long as what is returned lives.
fn hold(part: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let file = options.open(part).map_err(QuantizeError::io(part))?;
    // Locks of Windows would keep out this run's other handles, too; some file systems have none.
    let busy = !cfg!(windows) && matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    match busy {
        true => Err(QuantizeError::Busy(part.to_path_buf())),
        false => Ok(file),
    }
}

/// Values that a thread works on at once: some megabytes as `f32`.
const UNIT_VALUES: u64 = 1 << 20;

/// Bytes after which what is written is made lasting.
const LASTING_BYTES: u64 = 1 << 28;

/// Rows of a slice that are encoded in one go.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    pub slice: u64,
    pub first: u64,
    pub count: u64,
}

/// The units of a tensor, in the order of its rows.
pub(crate) fn units(tensor: &Planned) -> impl Iterator<Item = Unit> {
    let rows = tensor.rows;
    let count = (UNIT_VALUES / tensor.columns.max(1)).clamp(1, rows.max(1));
    let slices = 0..tensor.slices.unwrap_or(1);
    slices.flat_map(move |slice| {
        let firsts = (0..rows).step_by(count as usize);
        firsts.map(move |first| Unit {
            slice,
            first,
            count: count.min(rows - first),
        })
    })
}

/// Streams all tensors into `part`; the file is whole and lasting afterwards. The sums are those of
/// each tensor's bytes.
///
/// # Errors
/// Those of [`quantize`].
fn write(
    plan: &Plan,
    metadata: &[(String, Value)],
    source: &dyn TensorSource,
    importance: Option<&Importance>,
    part: &Path,
    options: &Options,
    watch: &mut Watch<'_>,
) -> Result<(Written, Vec<u32>)> {
    let header = header(metadata, &plan.described());
    let fingerprint = state::fingerprint(&header, source, importance);
    let opened = open(plan, &header, part, fingerprint);
    let (file, sums) = opened.map_err(|error| explained(error, plan, part, 0))?;
    let resumed = sums.len();
    let mut writer = Writer {
        file,
        part,
        fingerprint,
        sums,
        sum: crc32fast::Hasher::new(),
        lasting: resumed,
        since: 0,
        room: options.disk_full_after,
    };
    let outcome = stream(plan, source, importance, options, &mut writer, watch);
    let outcome = outcome.and_then(|()| writer.keep());
    match outcome {
        Ok(()) => {
            let written = Written {
                bytes: header.len() as u64 + plan.bytes(),
                resumed,
                compared: Vec::new(),
            };
            Ok((written, writer.sums))
        }
        Err(error) => {
            // As much as can be kept; the first error is the one to tell. What was begun goes, so
            // that a full disk has room for the state.
            let end = header.len() as u64 + end_of(plan, writer.sums.len());
            let _ = writer.file.set_len(end);
            let _ = writer.keep();
            Err(explained(error, plan, part, writer.lasting))
        }
    }
}

/// The error, and of a full disk what is kept and what is missing.
fn explained(error: QuantizeError, plan: &Plan, part: &Path, whole: usize) -> QuantizeError {
    match error {
        QuantizeError::Io { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ) =>
        {
            let from = plan.tensors.get(whole).map_or(0, |tensor| tensor.offset);
            QuantizeError::DiskFull {
                path: part.to_path_buf(),
                tensors: whole,
                of: plan.tensors.len(),
                needed: plan.bytes() - from,
                source,
            }
        }
        other => other,
    }
}

/// The unfinished file, cut behind the tensors that are whole, and their sums.
fn open(plan: &Plan, header: &[u8], part: &Path, fingerprint: u64) -> Result<(File, Vec<u32>)> {
    let io = QuantizeError::io(part);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(part)
        .map_err(&io)?;
    let mut sums = state::done(part, fingerprint);
    sums.truncate(plan.tensors.len());
    let end = header.len() as u64 + end_of(plan, sums.len());
    let length = file.metadata().map_err(&io)?.len();
    let mut there = vec![0; header.len()];
    let is_same =
        !sums.is_empty() && length >= end && file.read_exact(&mut there).is_ok() && there == header;
    if is_same {
        file.set_len(end).map_err(&io)?;
        file.seek(SeekFrom::Start(end)).map_err(&io)?;
        return Ok((file, sums));
    }
    // From here on it is known as a file of this program's.
    state::save(part, fingerprint, &[])?;
    file.set_len(0).map_err(&io)?;
    file.rewind().map_err(&io)?;
    file.write_all(header).map_err(&io)?;
    Ok((file, Vec::new()))
}

/// Bytes of the first `whole` tensors.
fn end_of(plan: &Plan, whole: usize) -> u64 {
    let last = plan.tensors[..whole].last();
    last.map_or(0, |last| padded(last.offset + last.bytes()))
}

struct Writer<'p> {
    file: File,
    part: &'p Path,
    fingerprint: u64,
    /// Sums of the tensors that are written, and of the bytes of the next so far.
    sums: Vec<u32>,
    sum: crc32fast::Hasher,
    /// Tensors that the state counts.
    lasting: usize,
    /// Bytes since the state was saved.
    since: u64,
    /// Bytes until the disk is said to be full.
    room: Option<u64>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let bytes_left = self.room.unwrap_or(u64::MAX);
        let fits = bytes.get(..bytes_left.min(bytes.len() as u64) as usize);
        let fits = fits.unwrap_or(bytes);
        let mut outcome = self.file.write_all(fits);
        if let Some(room) = &mut self.room {
            *room -= fits.len() as u64;
            if fits.len() < bytes.len() {
                outcome = outcome.and(Err(io::Error::from(ErrorKind::StorageFull)));
            }
        }
        self.since += bytes.len() as u64;
        self.sum.update(bytes);
        outcome.map_err(QuantizeError::io(self.part))
    }

    /// Makes what is written lasting, then says so.
    fn keep(&mut self) -> Result<()> {
        self.file.sync_all().map_err(QuantizeError::io(self.part))?;
        state::save(self.part, self.fingerprint, &self.sums)?;
        (self.lasting, self.since) = (self.sums.len(), 0);
        Ok(())
    }

    /// Ends a tensor of `bytes` bytes.
    fn end(&mut self, bytes: u64) -> Result<()> {
        let sum = std::mem::take(&mut self.sum);
        self.sums.push(sum.finalize());
        self.put(&[0; ALIGNMENT as usize][..(padded(bytes) - bytes) as usize])?;
        self.sum.reset();
        Ok(())
    }
}

fn stream(
    plan: &Plan,
    source: &dyn TensorSource,
    importance: Option<&Importance>,
    options: &Options,
    writer: &mut Writer<'_>,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let total = plan.values();
    let (before, rest) = plan.tensors.split_at(writer.sums.len());
    let mut done: u64 = before.iter().map(Planned::values).sum();
    for tensor in rest {
        let units: Vec<Unit> = units(tensor).collect();
        for wave in units.chunks(4 * options.threads.max(1)) {
            let progress = Progress {
                stage: Stage::Writing,
                tensor: &tensor.name,
                done,
                total,
            };
            if watch(progress).is_break() {
                return Err(QuantizeError::Cancelled);
            }
            let work = |index: usize| encoded(tensor, source, importance, wave[index]);
            let encoded = pool::each(wave.len(), options.threads, &work)?;
            // Zeros in the place of what could not be read.
            source.check_pages()?;
            encoded.iter().try_for_each(|bytes| writer.put(bytes))?;
            let rows: u64 = wave.iter().map(|unit| unit.count).sum();
            done += rows * tensor.columns;
        }
        writer.end(tensor.bytes())?;
        if writer.since >= LASTING_BYTES {
            writer.keep()?;
        }
    }
    Ok(())
}

/// The bytes of a unit.
fn encoded(
    tensor: &Planned,
    source: &dyn TensorSource,
    importance: Option<&Importance>,
    unit: Unit,
) -> Result<Vec<u8>> {
    if let Some(blocks) = tensor.blocks(source, unit.slice, unit.first, unit.count)? {
        return Ok(blocks.to_vec());
    }
    let values = tensor.read(source, unit.slice, unit.first, unit.count)?;
    let weights = importance.and_then(|all| all.of(&tensor.name, unit.slice));
    let mut bytes = vec![0; (unit.count * tensor.format.row_bytes(tensor.columns)) as usize];
    plain_or_blocks(tensor.format, &values, weights, &mut bytes).map_err(|source| {
        QuantizeError::Values {
            tensor: tensor.name.clone(),
            row: unit.slice * tensor.rows + unit.first,
            source,
        }
    })?;
    Ok(bytes)
}

fn plain_or_blocks(
    format: DType,
    values: &[f32],
    weights: Option<&[f32]>,
    to: &mut [u8],
) -> std::result::Result<(), EncodeError> {
    if format.is_blocks() {
        return encode(format, values, weights, to);
    }
    let size = format.block_bytes() as usize;
    for (at, (&value, to)) in values.iter().zip(to.chunks_exact_mut(size)).enumerate() {
        let fits = match format {
            DType::F16 => f16::from_f32(value).is_finite(),
            _ => bf16::from_f32(value).is_finite(),
        };
        if !value.is_finite() {
            return Err(EncodeError::NotFinite { at, value });
        }
        if !fits && format != DType::F32 {
            return Err(EncodeError::TooLarge { at, value, format });
        }
        match format {
            DType::F16 => to.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            DType::Bf16 => to.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            _ => to.copy_from_slice(&value.to_le_bytes()),
        }
    }
    Ok(())
}
