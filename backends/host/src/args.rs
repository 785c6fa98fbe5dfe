//! What a kernel is given, and the only way kernels touch buffers.
//!
//! Every access is checked against the operand's range, so a program whose parameters do
//! not fit its operands ends in a [`Fault`]. Read-only ranges are plain slices. Written
//! ranges, and ranges that overlap them, are only reachable word by word through [`Words`],
//! so that threads that share a row never race. Kernels hold no `unsafe`. Read [`Args`]
//! first.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use hadal_device::{COUNT_ALL, DType, Inputs, PAGE, Params, flags};

/// Why a kernel gave up. All but `Memory` mean that the program is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("operand {operand} is missing or of the other kind")]
    Missing { operand: usize },
    #[error("operand {operand} has {bytes} bytes and {first}+{count} were needed")]
    Short {
        operand: usize,
        bytes: usize,
        first: usize,
        count: usize,
    },
    #[error("operand {operand} is not aligned to 4 bytes")]
    Misaligned { operand: usize },
    #[error("operand {operand} is read while the same bytes are written")]
    Overlap { operand: usize },
    #[error("operand {operand} is written and was bound to be read")]
    ReadOnly { operand: usize },
    #[error("{what} {value} is not below {limit}")]
    Index {
        what: &'static str,
        value: usize,
        limit: usize,
    },
    #[error("{operands} operands, {used} used")]
    Operands { operands: usize, used: usize },
    #[error("{0}")]
    Shape(&'static str),
    #[error("a kernel panicked")]
    Panic,
    #[error("no memory for {bytes} bytes of scratch")]
    Memory { bytes: usize },
}

/// A resolved range of one operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mem {
    pub ptr: *mut u8,
    pub bytes: usize,
    /// Bound for writing.
    pub write: bool,
    /// Overlaps a range that the same dispatch writes.
    pub shared: bool,
}

// SAFETY: a `Mem` is only dereferenced through `Region`, whose lifetime is that of a submit;
// its accesses are plain reads of bytes nobody writes, or atomic.
unsafe impl Send for Mem {}
// SAFETY: as above.
unsafe impl Sync for Mem {}

/// A resolved operand.
#[derive(Clone, Debug)]
pub(crate) enum Bound {
    Range(Mem),
    Table(Vec<Mem>),
}

/// The arguments of one workgroup.
pub(crate) struct Args<'a> {
    /// Parameters of the dispatch.
    pub params: &'a Params,
    bound: &'a [Bound],
    /// Outputs of a row that one group computes (constant `outputs` of the launch).
    outputs: usize,
    /// Rows that one group computes (constant `rows` of the launch).
    rows: usize,
}

impl<'a> Args<'a> {
    /// # Safety
    /// For `'a`, every range of `bound` is valid memory; ranges with `write` or `shared` are
    /// accessed by others only atomically or not at all, and nobody writes the rest.
    pub unsafe fn new(
        params: &'a Params,
        bound: &'a [Bound],
        outputs: usize,
        rows: usize,
    ) -> Args<'a> {
        Args {
            params,
            bound,
            outputs,
            rows,
        }
    }

    /// The operands after `inputs`, to be taken in order.
    pub fn operands(&self) -> Operands<'a> {
        Operands {
            bound: self.bound,
            next: 1,
            format: flags::format_of(self.params.flags),
            rough: self.params.flags & flags::ROUGH != 0,
        }
    }

    /// The `inputs` buffer.
    pub fn inputs(&self) -> Result<Steps<'a>, Fault> {
        let region = range(self.bound, 0)?;
        let words = region.u32s(0, region.bytes / 4)?;
        let bucket = *words.get(Inputs::BUCKET as usize).ok_or(Fault::Short {
            operand: 0,
            bytes: region.bytes,
            first: 0,
            count: Inputs::HEADER as usize,
        })?;
        // Below this bound the word numbers of the lists cannot overflow.
        if bucket as usize > words.len() {
            return Err(Fault::Index {
                what: "bucket",
                value: bucket as usize,
                limit: words.len(),
            });
        }
        Ok(Steps {
            words,
            layout: Inputs { bucket },
        })
    }

    /// Rows that are real in this step.
    pub fn real_rows(&self) -> Result<usize, Fault> {
        let rows = self.params.rows as usize;
        if self.params.count_word == COUNT_ALL {
            return Ok(rows);
        }
        let counted = self.inputs()?.word(self.params.count_word as usize)?;
        Ok(rows.min((counted as usize).saturating_mul(self.params.count_scale as usize)))
    }

    /// The real rows of block `group` of rows; empty beyond the real ones.
    pub fn row_block(&self, group: u32) -> Result<Range<usize>, Fault> {
        Ok(block(group, self.rows, self.real_rows()?))
    }

    /// Rows that a kernel takes at once.
    pub fn block_rows(&self) -> usize {
        self.rows
    }

    /// The outputs of block `group`, out of `count`.
    pub fn output_block(&self, group: u32, count: u32) -> Range<usize> {
        block(group, self.outputs, count as usize)
    }
}

fn block(group: u32, size: usize, count: usize) -> Range<usize> {
    let first = (group as usize).saturating_mul(size).min(count);
    first..first.saturating_add(size).min(count)
}

fn range(bound: &[Bound], operand: usize) -> Result<Region<'_>, Fault> {
    match bound.get(operand) {
        Some(Bound::Range(mem)) => Ok(Region::new(mem, operand)),
        _ => Err(Fault::Missing { operand }),
    }
}

/// Takes the operands of a dispatch in the order of the operation's sentence.
pub(crate) struct Operands<'a> {
    bound: &'a [Bound],
    next: usize,
    format: Option<DType>,
    rough: bool,
}

impl<'a> Operands<'a> {
    /// The block format of the weights, if they are in one.
    pub fn format(&self) -> Option<DType> {
        self.format
    }

    /// Activations may be rounded (`flags::ROUGH`).
    pub fn rough(&self) -> bool {
        self.rough
    }

    /// The next operand, a range.
    pub fn range(&mut self) -> Result<Region<'a>, Fault> {
        let operand = self.next;
        self.next += 1;
        range(self.bound, operand)
    }

    /// The next operand, a table with an entry an expert.
    pub fn table(&mut self) -> Result<Table<'a>, Fault> {
        let operand = self.next;
        self.next += 1;
        match self.bound.get(operand) {
            Some(Bound::Table(entries)) => Ok(Table { entries, operand }),
            _ => Err(Fault::Missing { operand }),
        }
    }

    /// Refuses operands that the operation does not have.
    pub fn end(self) -> Result<(), Fault> {
        if self.next == self.bound.len() {
            Ok(())
        } else {
            Err(Fault::Operands {
                operands: self.bound.len(),
                used: self.next,
            })
        }
    }
}

/// An expert table.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    entries: &'a [Mem],
    operand: usize,
}

impl<'a> Table<'a> {
    /// Entry `index`.
    pub fn entry(&self, index: usize) -> Result<Region<'a>, Fault> {
        match self.entries.get(index) {
            Some(mem) => Ok(Region::new(mem, self.operand)),
            None => Err(Fault::Index {
                what: "table entry",
                value: index,
                limit: self.entries.len(),
            }),
        }
    }
}

/// The range of an operand, for the length of a dispatch.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    mem: &'a Mem,
    pub bytes: usize,
    operand: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Region<'a> {
    fn new(mem: &'a Mem, operand: usize) -> Region<'a> {
        Region {
            mem,
            bytes: mem.bytes,
            operand,
            life: PhantomData,
        }
    }

    fn at(&self, first: usize, count: usize, size: usize) -> Result<*mut u8, Fault> {
        let end = first
            .checked_add(count)
            .and_then(|end| end.checked_mul(size));
        match end {
            // SAFETY: first * size <= end <= bytes, so the address lies in the range.
            Some(end) if end <= self.bytes => Ok(unsafe { self.mem.ptr.add(first * size) }),
            _ => Err(Fault::Short {
                operand: self.operand,
                bytes: self.bytes,
                first: first.saturating_mul(size),
                count: count.saturating_mul(size),
            }),
        }
    }

    fn aligned(&self, ptr: *mut u8) -> Result<*mut u8, Fault> {
        if (ptr as usize).is_multiple_of(4) {
            Ok(ptr)
        } else {
            Err(Fault::Misaligned {
                operand: self.operand,
            })
        }
    }

    fn unshared(&self) -> Result<(), Fault> {
        if self.mem.shared || self.mem.write {
            Err(Fault::Overlap {
                operand: self.operand,
            })
        } else {
            Ok(())
        }
    }

    /// Bytes, of any alignment, that nobody writes meanwhile.
    pub fn bytes(&self, first: usize, count: usize) -> Result<&'a [u8], Fault> {
        self.unshared()?;
        let ptr = self.at(first, count, 1)?;
        // SAFETY: `at` checked the range; `Args::new` promises that it is valid and, as it is
        // not shared, unwritten for 'a.
        Ok(unsafe { std::slice::from_raw_parts(ptr, count) })
    }

    /// Floats that nobody writes meanwhile.
    pub fn f32s(&self, first: usize, count: usize) -> Result<&'a [f32], Fault> {
        self.unshared()?;
        let ptr = self.aligned(self.at(first, count, 4)?)?;
        // SAFETY: as in `bytes`; aligned, and every bit pattern is an f32.
        Ok(unsafe { std::slice::from_raw_parts(ptr.cast::<f32>(), count) })
    }

    /// Words that nobody writes meanwhile.
    pub fn u32s(&self, first: usize, count: usize) -> Result<&'a [u32], Fault> {
        self.unshared()?;
        let ptr = self.aligned(self.at(first, count, 4)?)?;
        // SAFETY: as in `f32s`.
        Ok(unsafe { std::slice::from_raw_parts(ptr.cast::<u32>(), count) })
    }

    /// Words that may be the ones that are written: for operations that work in place.
    pub fn words(&self, first: usize, count: usize) -> Result<Words<'a>, Fault> {
        let ptr = self.aligned(self.at(first, count, 4)?)?;
        // SAFETY: checked, valid, aligned; `Args::new` promises that others access shared and
        // written ranges atomically, and nobody writes the rest: `out` alone gives leave to
        // store, and only for ranges bound for writing.
        Ok(Words(unsafe {
            std::slice::from_raw_parts(ptr.cast::<AtomicU32>(), count)
        }))
    }

    /// Words to be written.
    pub fn out(&self, first: usize, count: usize) -> Result<Out<'a>, Fault> {
        if !self.mem.write {
            return Err(Fault::ReadOnly {
                operand: self.operand,
            });
        }
        self.words(first, count).map(Out)
    }
}

/// Words that other threads may write: each is loaded and stored whole.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(&'a [AtomicU32]);

impl Words<'_> {
    /// Word `index` as a float.
    #[inline]
    pub fn f32(&self, index: usize) -> f32 {
        f32::from_bits(self.0[index].load(Ordering::Relaxed))
    }

    /// Copies all words to `to`, which is as long.
    pub fn read(&self, to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(self.0) {
            *to = f32::from_bits(from.load(Ordering::Relaxed));
        }
    }
}

/// Words of an output row.
#[derive(Clone, Copy)]
pub(crate) struct Out<'a>(Words<'a>);

impl Out<'_> {
    /// Stores a float.
    #[inline]
    pub fn set(&self, index: usize, value: f32) {
        self.set_u32(index, value.to_bits());
    }

    /// Stores a word.
    #[inline]
    pub fn set_u32(&self, index: usize, value: u32) {
        self.0.0[index].store(value, Ordering::Relaxed);
    }

    /// The word that was stored.
    #[inline]
    pub fn get_u32(&self, index: usize) -> u32 {
        self.0.0[index].load(Ordering::Relaxed)
    }

    /// Stores `values` from word 0.
    pub fn write(&self, values: &[f32]) {
        for (to, value) in self.0.0.iter().zip(values) {
            to.store(value.to_bits(), Ordering::Relaxed);
        }
    }
}

/// The `inputs` buffer: what changes from step to step.
#[derive(Clone, Copy)]
pub(crate) struct Steps<'a> {
    words: &'a [u32],
    layout: Inputs,
}

impl Steps<'_> {
    fn word(&self, index: usize) -> Result<u32, Fault> {
        self.words.get(index).copied().ok_or(Fault::Index {
            what: "word of inputs",
            value: index,
            limit: self.words.len(),
        })
    }

    fn listed(&self, first: u32, row: usize) -> Result<usize, Fault> {
        Ok(self.word((first as usize).saturating_add(row))? as usize)
    }

    /// Token id of row `row`.
    pub fn id(&self, row: usize) -> Result<usize, Fault> {
        self.listed(self.layout.ids(), row)
    }

    /// Position of row `row` in its sequence.
    pub fn position(&self, row: usize) -> Result<usize, Fault> {
        self.listed(self.layout.positions(), row)
    }

    /// Sequence of row `row`.
    pub fn sequence(&self, row: usize) -> Result<usize, Fault> {
        self.listed(self.layout.sequences(), row)
    }

    /// The row whose logits row `row` of the gathered rows is.
    pub fn logit_row(&self, row: usize) -> Result<usize, Fault> {
        self.listed(self.layout.logit_rows(), row)
    }

    /// Cache row of the first position of page `page` of `sequence`.
    pub fn page(&self, sequence: usize, page: usize, page_stride: u32) -> Result<usize, Fault> {
        if page >= page_stride as usize {
            return Err(Fault::Index {
                what: "page of a sequence",
                value: page,
                limit: page_stride as usize,
            });
        }
        let entry = sequence
            .saturating_mul(page_stride as usize)
            .saturating_add(page);
        let number = self.listed(self.layout.pages(), entry)?;
        Ok(number.saturating_mul(PAGE as usize))
    }
}
