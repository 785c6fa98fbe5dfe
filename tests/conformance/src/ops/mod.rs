//! Cases of single operations: which shapes, what goes in and what must come out.
//!
//! [`shapes`] is the list of awkward sizes (`v3`: DeepSeek-V3's), [`build`] makes the data of
//! one. None knows a kernel, a device or a vendor: every row of the table that fits a problem is
//! run on it.

mod attention;
mod blocks;
mod coded;
mod deep;
mod dense;
mod experts;
mod layout;
mod parts;
mod route;
mod rows;
mod shapes;
mod v3;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use hadal_device::{DType, OpKind, Params, Problem, flags};
use serde::{Deserialize, Serialize};

pub use shapes::{formats, shapes};

use crate::Profile;
use crate::random::Random;
use crate::shape::Shape;

/// One case of an operation: enough to make its data again.
#[derive(Clone, Debug, PartialEq)]
pub struct OpCase {
    /// The operation.
    pub op: OpKind,
    /// Format of the weight; `F32` where there is none.
    pub weight: DType,
    /// Sizes.
    pub shape: Shape,
    /// What is special about it.
    pub twist: Twist,
}

/// What a case looks at besides numbers in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Twist {
    /// Nothing.
    #[default]
    Plain,
    /// Equal values: the lower index wins.
    Ties,
    /// NaN among the inputs.
    Nan,
    /// FP8 weights are NaN codes and subnormals.
    Codes,
    /// Choices that leave most experts without a row.
    Crowded,
}

impl OpCase {
    /// Its name in reports, without the row's.
    pub fn name(&self) -> String {
        let twist = match self.twist {
            Twist::Plain => "",
            Twist::Ties => ".ties",
            Twist::Nan => ".nan",
            Twist::Codes => ".codes",
            Twist::Crowded => ".crowded",
        };
        let weight = match formats(self.op) {
            [DType::F32] => "",
            _ => self.weight.name(),
        };
        let dot = if weight.is_empty() { "" } else { "." };
        format!("{}{dot}{weight}.{}{twist}", self.op.name(), self.shape)
    }

    /// The stream of numbers that its data come from: the same for every row and device.
    pub fn random(&self, seed: u64) -> Random {
        Random::new(seed, &self.name())
    }
}

/// What a word of an output must be afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    /// What it was before.
    Untouched,
    /// A number, and how far off it may be.
    Near(f64, f64),
    /// One of two numbers between which rounding decides, and how far off it may be.
    Either(f64, f64, f64),
    /// Exactly this word.
    Word(u32),
    /// Any NaN but the poison.
    Nan,
}

/// An operand of a case.
#[derive(Clone, Debug)]
pub enum Operand {
    /// Words to be read.
    Words(Vec<u32>),
    /// A stored weight, or its scales.
    Stored(Vec<u8>),
    /// A table with an entry for each expert.
    Table(Vec<Vec<u8>>),
    /// Words to be written, and what they are for.
    Output(&'static str, Vec<Want>),
}

impl Operand {
    /// Bytes that are bound at once: a table without pointers from its first entry to its
    /// last, without what lies between them.
    pub fn bytes(&self) -> u64 {
        match self {
            Operand::Words(words) => 4 * words.len() as u64,
            Operand::Stored(bytes) => bytes.len() as u64,
            Operand::Table(entries) => entries.iter().map(|e| e.len() as u64 + 512).sum(),
            Operand::Output(_, want) => 4 * want.len() as u64,
        }
    }
}

/// The data of a case.
#[derive(Debug)]
pub struct Built {
    /// What a row is chosen for.
    pub problem: Problem,
    /// Operands in the order of the operation's sentence.
    pub operands: Vec<Operand>,
}

/// What a row is chosen for. Sizes and strides hang neither on the seed nor on the weight's format, so
/// data are made for one of the cases that differ in these.
pub fn problem(case: &OpCase) -> Problem {
    type Known = HashMap<(OpKind, Shape, Twist), Params>;
    thread_local!(static KNOWN: RefCell<Known> = RefCell::default());
    let key = (case.op, case.shape, case.twist);
    let known = KNOWN.with_borrow(|known| known.get(&key).copied());
    let params = known.unwrap_or_else(|| {
        let (params, _) = make(case, &mut case.random(0));
        KNOWN.with_borrow_mut(|known| known.insert(key, params));
        params
    });
    of_format(case, params)
}

fn of_format(case: &OpCase, params: Params) -> Problem {
    let flags = params.flags | flags::format_bits(case.weight);
    Problem {
        op: case.op,
        weight: case.weight,
        params: Params { flags, ..params },
    }
}

/// The data of a case, made once for all rows that are run on it one after another.
pub fn built(case: &OpCase, seed: u64) -> Rc<Built> {
    type Last = Option<(OpCase, u64, Rc<Built>)>;
    thread_local!(static LAST: RefCell<Last> = const { RefCell::new(None) });
    LAST.with_borrow_mut(|last| match last {
        Some((of, with, built)) if of == case && *with == seed => built.clone(),
        _ => {
            // Two of them at once would be gigabytes.
            *last = None;
            let built = Rc::new(build(case, seed));
            debug_assert_eq!(sizes(&built.problem), sizes(&problem(case)));
            *last = Some((case.clone(), seed, built.clone()));
            built
        }
    })
}

/// Parameters but for what hangs on the data.
fn sizes(problem: &Problem) -> Params {
    Params {
        eps: 0.0,
        ..problem.params
    }
}

/// Makes the data of a case.
pub fn build(case: &OpCase, seed: u64) -> Built {
    let (params, operands) = make(case, &mut case.random(seed));
    let problem = of_format(case, params);
    Built { problem, operands }
}

/// The parameters, but for the weight's format, and the operands.
fn make(case: &OpCase, random: &mut Random) -> (Params, Vec<Operand>) {
    match case.op {
        OpKind::Embed => dense::embed(case, random),
        OpKind::Norm => dense::norm(case, random),
        OpKind::Linear => dense::linear(case, random),
        OpKind::NormLinear => dense::norm_linear(case, random),
        OpKind::GateUp => dense::gate_up(case, random),
        OpKind::HeadLinear => dense::head_linear(case, random),
        OpKind::UnpackHeads => dense::unpack_heads(case, random),
        OpKind::Rope => attention::rope(case, random),
        OpKind::CacheAppend => attention::cache_append(case, random),
        OpKind::LatentAppend => attention::latent_append(case, random),
        OpKind::AttendLatent => attention::attend_latent(case, random),
        OpKind::AttendPart => parts::attend_part(case, random),
        OpKind::AttendMerge => parts::attend_merge(case, random),
        OpKind::AttendExpanded => attention::attend_expanded(case, random),
        OpKind::Route => route::route(case, random),
        OpKind::ExpertOffsets => experts::offsets(case, random),
        OpKind::Permute => experts::permute(case, random),
        OpKind::GroupedLinear | OpKind::GroupedGateUp => experts::grouped(case, random),
        OpKind::ExpertLinear | OpKind::ExpertGateUp => experts::direct(case, random),
        OpKind::Combine => experts::combine(case, random),
        OpKind::SwiGlu | OpKind::Add => rows::pairwise(case, random),
        OpKind::Copy => rows::copy(case, random),
        OpKind::Gather => rows::gather(case, random),
        OpKind::Argmax => rows::argmax(case, random),
        OpKind::ActQuant if case.shape.flags & flags::CODED != 0 => coded::act_quant(case, random),
        OpKind::ActQuant => rows::act_quant(case, random),
        OpKind::NormQuant => coded::norm_quant(case, random),
    }
}

/// Every case of a profile for one operation.
pub fn cases(op: OpKind, profile: Profile) -> Vec<OpCase> {
    let mut cases = Vec::new();
    for &weight in formats(op) {
        for (shape, twist) in shapes(op, profile) {
            let case = OpCase {
                op,
                weight,
                shape,
                twist,
            };
            let codes = twist != Twist::Codes || weight == DType::F8E4M3;
            let fp8 = shape.flags & flags::CODED == 0
                || weight == DType::F8E4M3
                || matches!(op, OpKind::ActQuant | OpKind::NormQuant);
            let bias = op != OpKind::Route || shape.flags & flags::BIAS != 0;
            if codes && fp8 && (bias || weight == DType::F32) {
                debug_assert!(is_legal(&case), "{}", case.name());
                cases.push(case);
            }
        }
    }
    cases.extend(blocks::cases(op, profile));
    cases
}

/// False for sizes that make no sense together: where shrinking must stop.
pub fn is_legal(case: &OpCase) -> bool {
    let s = &case.shape;
    let every_expert = s.first + s.experts + s.after;
    let has_experts = s.top_k > 0;
    let routes = case.op == OpKind::Route;
    let choices = match routes {
        true => {
            let groups = s.groups > 0 && s.experts.is_multiple_of(s.groups);
            // Two members at least, so that a NaN is never among a group's best.
            let members = s.experts / s.groups.max(1);
            groups
                && s.kept <= s.groups
                && s.top_k <= s.kept * members
                && (members > 2 || case.twist != Twist::Nan)
        }
        false => !has_experts || s.top_k <= every_expert,
    };
    let bias = !routes || s.flags & flags::BIAS != 0 || case.weight == DType::F32;
    s.real >= 1
        && s.rope.is_multiple_of(2)
        && (s.context == 0 || s.real <= 2 * s.context)
        && choices
        && bias
        && blocks::are_whole(case)
        && coded::fits_its_rows(case)
}
