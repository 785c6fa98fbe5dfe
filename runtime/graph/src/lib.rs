//! The graph runtime: models written as graphs, proved legal, rewritten by passes, lowered
//! to programs. Pure: no I/O, no device handles.
#![forbid(unsafe_code)]

mod dot;
mod graph;
mod lower;
mod net;
mod op;
mod passes;
mod patch;
mod plan;
pub mod reference;
mod rules;
mod shape;
mod text;
mod verify;

pub use graph::{Declared, Graph, Node, ValueId};
pub use lower::{
    Amount, Explained, Lowered, MoeForm, OutputPlace, Pipelines, Request, SlotUse, Temporary, Work,
    WorkLimit, lower,
};
pub use net::{Dtypes, Net, Val};
pub use op::{ActScale, Op, RouteRule};
pub use passes::{Form, Target, absorb, fold, fuse, optimise, optimise_with, quantise};
pub use patch::{Draft, Patch, Rule, Site, apply, remove_dead, rewrite};
pub use plan::{Life, Plan, plan};
pub use rules::{Refusal, infer};
pub use shape::{Dim, Fact, Kind};
pub use text::ParseError;
pub use verify::{Verified, Violation, verify};
