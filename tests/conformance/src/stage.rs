//! One operation on one device through the device contract alone: operands in guarded
//! buffers, outputs poisoned, a program of one step submitted twice.
//!
//! Knows no operation; every failure is a sentence.

use hadal_device::{
    Access, Bind, BufferDesc, BufferId, Device, Dispatch, KernelRow, Operand as Bound, Program,
    Slot, Span, Step,
};

use crate::ops::{Built, Operand, Want};

/// What outputs hold before: a NaN that no kernel makes, and no index.
pub const POISON: u32 = 0x7fc0_beef;
/// What lies around every operand.
const GUARD: u8 = 0xa5;
/// Bytes of guard on either side, at least.
const MARGIN: u64 = 64;

/// How a result compares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fit {
    /// Squared error over squared values, of all numbers.
    pub normalised: f64,
    /// Largest error as a share of its tolerance; 0 if only exact words were compared.
    pub worst: f64,
}

/// A buffer of the device with what it must hold.
struct Placed {
    id: BufferId,
    /// All of its bytes before the first submit.
    bytes: Vec<u8>,
    /// First byte of the operand, and its length; what the words must become if it is
    /// written.
    ranges: Vec<(u64, u64)>,
    output: Option<(&'static str, Vec<Want>)>,
}

struct Stage<'d> {
    device: &'d dyn Device,
    /// Entries of tables may lie anywhere.
    scatters: bool,
    buffers: Vec<Placed>,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        self.buffers.iter().for_each(|b| self.device.free(b.id));
    }
}

impl Stage<'_> {
    /// A buffer with these ranges in it, each `step` bytes after the one before.
    fn put(&mut self, ranges: &[&[u8]], access: Access) -> Result<Vec<Bind>, String> {
        let limits = &self.device.info().limits;
        let align = limits.offset_align.max(1);
        let words = ranges.iter().all(|range| range.len().is_multiple_of(4));
        // Where any byte will do, an odd one is taken for what is read byte by byte.
        let odd = u64::from(align == 1 && access == Access::Read && !words);
        let margin = MARGIN.next_multiple_of(align.max(4)) + odd;
        let longest = ranges
            .iter()
            .map(|range| range.len() as u64)
            .max()
            .unwrap_or(0);
        let step = (longest + MARGIN).next_multiple_of(align.max(4));
        let size = margin + step * ranges.len() as u64 + MARGIN;
        let mut bytes = vec![GUARD; size.next_multiple_of(4) as usize];
        let mut placed = Vec::new();
        for (range, start) in ranges.iter().zip((margin..).step_by(step as usize)) {
            bytes[start as usize..][..range.len()].copy_from_slice(range);
            placed.push((start, range.len() as u64));
        }
        let desc = BufferDesc::new("conformance operand", bytes.len() as u64);
        let id = self.device.alloc(&desc).map_err(|e| e.to_string())?;
        let slot = Slot(self.buffers.len() as u16);
        let binds = placed.iter().map(|&(offset, bytes)| Bind {
            slot,
            offset,
            bytes,
            access,
        });
        let binds = binds.collect();
        self.buffers.push(Placed {
            id,
            bytes,
            ranges: placed,
            output: None,
        });
        Ok(binds)
    }

    fn bind(&mut self, operand: &Operand) -> Result<Bound, String> {
        let words = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let one = |binds: Vec<Bind>| Bound::Range(binds[0]);
        Ok(match operand {
            Operand::Words(list) => one(self.put(&[&words(list)], Access::Read)?),
            Operand::Stored(bytes) => one(self.put(&[bytes], Access::Read)?),
            Operand::Table(entries) => Bound::Table(self.table(entries)?),
            Operand::Output(about, want) => {
                let poison = POISON.to_le_bytes().repeat(want.len());
                let binds = self.put(&[&poison], Access::Write)?;
                if let Some(last) = self.buffers.last_mut() {
                    last.output = Some((about, want.clone()));
                }
                one(binds)
            }
        })
    }

    /// Entries in one range at a constant stride; scattered and backwards where device and
    /// row take that.
    fn table(&mut self, entries: &[Vec<u8>]) -> Result<Vec<Bind>, String> {
        if !self.scatters {
            let all: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
            return self.put(&all, Access::Read);
        }
        let mut binds = Vec::new();
        for entry in entries.iter().rev() {
            binds.extend(self.put(&[entry], Access::Read)?);
        }
        binds.reverse();
        Ok(binds)
    }

    /// Writes what every buffer must hold before a submit.
    fn fill(&self) -> Result<(), String> {
        for buffer in &self.buffers {
            let span = whole(buffer);
            let written = self.device.write(span, &buffer.bytes);
            written.map_err(|e| format!("writing an operand: {e}"))?;
        }
        Ok(())
    }

    fn read(&self, buffer: &Placed) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; buffer.bytes.len()];
        let read = self.device.read(whole(buffer), &mut bytes);
        read.map_err(|e| format!("reading an operand: {e}"))?;
        Ok(bytes)
    }

    /// The words of every output, after checking that nothing else was written.
    fn results(&self) -> Result<Vec<Vec<u32>>, String> {
        let mut outputs = Vec::new();
        for (number, buffer) in self.buffers.iter().enumerate() {
            let found = self.read(buffer)?;
            let is_output = buffer.output.is_some();
            let pairs = found.iter().zip(&buffer.bytes).enumerate();
            for (at, _) in pairs.filter(|(_, (now, before))| now != before) {
                let at = at as u64;
                let mut ranges = buffer.ranges.iter();
                let inside = ranges.any(|(s, len)| (*s..s + len).contains(&at));
                if !inside || !is_output {
                    return Err(overwritten(number, buffer, at, inside));
                }
            }
            if is_output && let Some((start, length)) = buffer.ranges.first() {
                let words = found[*start as usize..][..*length as usize].chunks_exact(4);
                let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                outputs.push(words.map(word).collect());
            }
        }
        Ok(outputs)
    }
}

fn whole(buffer: &Placed) -> Span {
    Span {
        buffer: buffer.id,
        offset: 0,
        bytes: buffer.bytes.len() as u64,
    }
}

fn overwritten(number: usize, buffer: &Placed, at: u64, inside: bool) -> String {
    if inside {
        return format!("operand buffer {number} is only read, but its byte {at} was changed");
    }
    let (start, length) = buffer.ranges[0];
    let place = match at < start {
        true => format!("{} bytes before its beginning", start - at),
        false => format!("{} bytes past its end", at.saturating_sub(start + length)),
    };
    format!("operand buffer {number} was written {place}")
}

/// Runs `row` on the case's data, twice through one prepared program, and compares.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn run(device: &dyn Device, row: &KernelRow, built: &Built) -> Result<Fit, String> {
    let launch = (row.launch)(&built.problem, device.info());
    let pipeline = device
        .pipeline(row.name, &row.body, &launch.constants)
        .map_err(|e| format!("compiling: {e}"))?;
    let pointers = device.info().features.scatters(built.problem.weight);
    let mut stage = Stage {
        device,
        scatters: pointers && row.takes_scattered(),
        buffers: Vec::new(),
    };
    let operands = built.operands.iter().map(|operand| stage.bind(operand));
    let operands = operands.collect::<Result<Vec<_>, _>>()?;
    let program = Program {
        slots: stage.buffers.len() as u16,
        steps: vec![Step::Dispatch(Dispatch {
            pipeline,
            groups: launch.groups,
            operands,
            params: Box::new(built.problem.params),
            label: row.name.to_string(),
        })],
    };
    let mut executable = device
        .prepare(&program)
        .map_err(|e| format!("preparing: {e}"))?;
    let table: Vec<BufferId> = stage.buffers.iter().map(|b| b.id).collect();
    let mut submit = || -> Result<Vec<Vec<u32>>, String> {
        stage.fill()?;
        let ticket = executable
            .submit(&table)
            .map_err(|e| format!("submitting: {e}"))?;
        device.wait(ticket).map_err(|e| format!("waiting: {e}"))?;
        stage.results()
    };
    let first = submit()?;
    let mut fit = Fit::default();
    let (mut error, mut energy) = (0.0, 0.0);
    let outputs = stage.buffers.iter().filter_map(|b| b.output.as_ref());
    for (found, (about, want)) in first.iter().zip(outputs) {
        let compared = compare(found, want).map_err(|e| format!("{about}: {e}"))?;
        fit.worst = fit.worst.max(compared.worst);
        error += compared.error;
        energy += compared.energy;
    }
    fit.normalised = if energy > 0.0 { error / energy } else { 0.0 };
    match submit()? == first {
        true => Ok(fit),
        false => Err("a second submit gave another result".to_string()),
    }
}

#[derive(Default)]
struct Compared {
    worst: f64,
    error: f64,
    energy: f64,
}

fn compare(found: &[u32], want: &[Want]) -> Result<Compared, String> {
    let mut all = Compared::default();
    let mut wrong = Vec::new();
    for (index, (found, want)) in found.iter().zip(want).enumerate() {
        let value = f64::from(f32::from_bits(*found));
        let good = match *want {
            Want::Untouched => *found == POISON,
            Want::Word(word) => *found == word,
            Want::Nan => value.is_nan() && *found != POISON,
            Want::Near(want, tolerance) => all.near(value, want, tolerance),
            Want::Either(low, high, tolerance) => {
                let nearer = if (value - low).abs() <= (value - high).abs() {
                    low
                } else {
                    high
                };
                all.near(value, nearer, tolerance)
            }
        };
        if !good {
            wrong.push((index, *found, value, *want));
        }
    }
    match wrong.first() {
        None => Ok(all),
        Some((index, word, value, want)) => Err(format!(
            "{} of {} words are wrong, the first is word {index}: {}, {}",
            wrong.len(),
            found.len(),
            describe(*word, *value),
            wanted(want)
        )),
    }
}

fn describe(word: u32, value: f64) -> String {
    match word {
        POISON => "not written".to_string(),
        _ => format!("{word:#010x} = {value:e}"),
    }
}

fn wanted(want: &Want) -> String {
    match want {
        Want::Untouched => "must stay as it was".to_string(),
        Want::Word(word) => format!("must be {word:#010x} = {word}"),
        Want::Nan => "must be a NaN".to_string(),
        Want::Near(value, tolerance) => format!("must be {value:e} within {tolerance:.1e}"),
        Want::Either(low, high, tolerance) => {
            format!("must be {low:e} or {high:e} within {tolerance:.1e}")
        }
    }
}

impl Compared {
    fn near(&mut self, value: f64, want: f64, tolerance: f64) -> bool {
        let off = (value - want).abs();
        // A NaN is no number and never near.
        let share = match (off == 0.0, off / tolerance) {
            (true, _) => 0.0,
            (false, share) if share.is_nan() => f64::INFINITY,
            (false, share) => share,
        };
        self.worst = self.worst.max(share);
        if share.is_finite() {
            self.error += off * off;
            self.energy += want * want;
        }
        share <= 1.0
    }
}
