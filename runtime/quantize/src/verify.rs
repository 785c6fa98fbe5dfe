//! Reads a written file back and compares it with its sources, tensor by tensor.

use std::ops::ControlFlow;
use std::path::Path;

use hadal_blocks::decode;
use hadal_device::DType;
use hadal_weights::{FileType, Gguf, TensorSource};

use crate::rows::Matrix;
use crate::write::{Progress, Stage, Unit, Watch, units};
use crate::{Plan, Planned, QuantizeError, Result, pool};

/// How far a tensor is from its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// GGUF name.
    pub name: String,
    /// Its format.
    pub format: DType,
    /// Root of the mean square of the difference, as a part of that of the source.
    pub error: f64,
    /// The largest difference.
    pub most: f32,
}

/// No format of so many bits does worse on numbers of any distribution that weights have; what does is
/// damaged, another tensor's, or misplaced. Of Q8_0, whose steps are 1/127 of the largest of 32, all 32
/// can be half a step off: 0.022.
fn garbage(format: DType) -> f64 {
    let bits = 8.0 * format.row_bytes(256) as f64 / 256.0;
    match bits {
        16.0.. => 0.02,
        8.0.. => 0.05,
        6.0.. => 0.2,
        5.0.. => 0.35,
        4.0.. => 0.5,
        _ => 0.9,
    }
}

/// Sums over a unit.
#[derive(Clone, Copy, Default)]
struct Sums {
    off: f64,
    all: f64,
    most: f32,
    finite: bool,
}

/// Compares every tensor of the file at `path` with what it was made from, and its bytes with the
/// sum of those that were written.
///
/// # Errors
/// A file that cannot be read, whose tensors are not those of the plan or are other bytes than
/// were written, or whose numbers are not near their sources.
pub(crate) fn verify(
    plan: &Plan,
    sums: &[u32],
    source: &dyn TensorSource,
    path: &Path,
    threads: usize,
    watch: &mut Watch<'_>,
) -> Result<Vec<Compared>> {
    let file = Gguf::open(path)?;
    let count = file.names().count();
    if count != plan.tensors.len() {
        let why = format!("it has {count} tensors instead of {}", plan.tensors.len());
        return Err(QuantizeError::Verify(why));
    }
    let (mut done, total) = (0, plan.values());
    let mut compared = Vec::with_capacity(plan.tensors.len());
    for (tensor, sum) in plan.tensors.iter().zip(sums) {
        check_info(&file, tensor)?;
        let mut tell = |done| {
            watch(Progress {
                stage: Stage::Verifying,
                tensor: &tensor.name,
                done,
                total,
            })
        };
        let (whole, read) = read_back(&file, tensor, source, threads, &mut |own| tell(done + own))?;
        if read != *sum {
            let why = format!("{} is not read as it was written", tensor.name);
            return Err(QuantizeError::Verify(why));
        }
        compared.push(judged(tensor, &whole)?);
        done += tensor.values();
    }
    Ok(compared)
}

/// How far a tensor is from its source, and the sum of its bytes. `tell` gets the values that are
/// done.
fn read_back(
    file: &Gguf,
    tensor: &Planned,
    source: &dyn TensorSource,
    threads: usize,
    tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(Sums, u32)> {
    let bytes = file.bytes(&tensor.name)?;
    let row_bytes = tensor.format.row_bytes(tensor.columns);
    let mut whole = Sums {
        finite: true,
        ..Sums::default()
    };
    let (mut read, mut rest, mut done) = (crc32fast::Hasher::new(), bytes, 0);
    let units: Vec<Unit> = units(tensor).collect();
    for wave in units.chunks(4 * threads.max(1)) {
        if tell(done).is_break() {
            return Err(QuantizeError::Cancelled);
        }
        let work = |index: usize| compare(file, bytes, tensor, source, wave[index]);
        for sums in pool::each(wave.len(), threads, &work)? {
            whole.off += sums.off;
            whole.all += sums.all;
            whole.most = whole.most.max(sums.most);
            whole.finite &= sums.finite;
        }
        source.check_pages()?;
        file.check_pages()?;
        let rows = wave.iter().map(|unit| unit.count).sum::<u64>();
        let (these, later) = rest.split_at((rows * row_bytes) as usize);
        read.update(these);
        rest = later;
        done += rows * tensor.columns;
    }
    Ok((whole, read.finalize()))
}

/// What is said of a tensor, unless it is damaged.
fn judged(tensor: &Planned, whole: &Sums) -> Result<Compared> {
    if !whole.finite {
        let why = format!("{} holds numbers that are not finite", tensor.name);
        return Err(QuantizeError::Verify(why));
    }
    let error = match whole.all > 0.0 {
        true => (whole.off / whole.all).sqrt(),
        false => whole.off.sqrt(),
    };
    let most = garbage(tensor.format);
    if error > most {
        let why = format!(
            "{} differs from its source by {error:.3} of it, where {} loses {most} at most",
            tensor.name, tensor.format
        );
        return Err(QuantizeError::Verify(why));
    }
    Ok(Compared {
        name: tensor.name.clone(),
        format: tensor.format,
        error,
        most: whole.most,
    })
}

fn check_info(file: &Gguf, tensor: &Planned) -> Result<()> {
    let info = file.get(&tensor.name);
    let wanted: Vec<u64> = tensor.described().dims.into_iter().rev().collect();
    let fits = info.is_some_and(|info| {
        info.dtype == FileType::Weight(tensor.format)
            && info.shape == wanted
            && info.bytes == tensor.bytes()
    });
    match fits {
        true => Ok(()),
        false => Err(QuantizeError::Verify(format!(
            "{} is not {} {wanted:?}",
            tensor.name, tensor.format
        ))),
    }
}

fn compare(
    file: &Gguf,
    bytes: &[u8],
    tensor: &Planned,
    source: &dyn TensorSource,
    unit: Unit,
) -> Result<Sums> {
    let values = tensor.read(source, unit.slice, unit.first, unit.count)?;
    let first = unit.slice * tensor.rows + unit.first;
    let mut back = vec![0f32; values.len()];
    if tensor.format.is_blocks() {
        let row = tensor.format.row_bytes(tensor.columns) as usize;
        let from = &bytes[first as usize * row..][..unit.count as usize * row];
        decode(tensor.format, from, &mut back);
    } else {
        let matrix = Matrix::open(file, &tensor.name)?;
        let rows = back.chunks_mut(tensor.columns.max(1) as usize);
        for (row, to) in (first as usize..).zip(rows) {
            matrix.row(row, to);
        }
    }
    let mut sums = Sums {
        finite: true,
        ..Sums::default()
    };
    for (value, back) in values.iter().zip(&back) {
        let off = value - back;
        sums.off += f64::from(off) * f64::from(off);
        sums.all += f64::from(*value) * f64::from(*value);
        sums.most = sums.most.max(off.abs());
        sums.finite &= back.is_finite();
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use hadal_models::Config;
    use hadal_weights::Checkpoint;

    use super::*;
    use crate::{Choice, Options, metadata, quantize};

    /// Blocks that were written as they are read, and are those of other numbers.
    #[test]
    fn numbers_far_from_their_source_are_found() {
        let config = Config::from_json(hadal_tiny::CONFIG).unwrap();
        let config = config.cut(Some(2), None).unwrap();
        let source = Checkpoint::from_static(&[("m", hadal_tiny::WEIGHTS)]).unwrap();
        let plan = Plan::new(&config, &source, &Choice::new("Q8_0").unwrap()).unwrap();
        let metadata = metadata(&config, "m", Vec::new(), &plan).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let options = Options {
            threads: 1,
            verify: false,
            disk_full_after: None,
        };
        let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
        quantize(&plan, &metadata, &source, None, &path, &options, &mut go_on).unwrap();
        let mut sums_and_verify = || {
            let file = Gguf::open(&path).unwrap();
            let sum = |tensor: &Planned| crc32fast::hash(file.bytes(&tensor.name).unwrap());
            let sums: Vec<u32> = plan.tensors.iter().map(sum).collect();
            verify(&plan, &sums, &source, &path, 2, &mut go_on)
        };
        assert_eq!(sums_and_verify().unwrap().len(), plan.tensors.len());
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 50_000..].fill(0x11);
        std::fs::write(&path, bytes).unwrap();
        let error = sums_and_verify().unwrap_err().to_string();
        assert!(error.contains("differs from its source"), "{error}");
    }
}
