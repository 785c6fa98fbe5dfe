//! The passes, in order, each from a proved graph to a proved graph.
//!
//! Decides the order: `fold` first, so that rules see one node for one value; `absorb`
//! while attention is still one operation; `quantise` before `fuse`, which hides linears;
//! `fold` again, because both leave values that are the same. Knows no device: a [`Target`]
//! says what a device wants.

mod absorb;
mod fold;
mod fuse;
mod quantise;

pub(crate) use absorb::unpacking;
pub use absorb::{Form, absorb};
pub use fold::fold;
pub use fuse::fuse;
pub use quantise::quantise;

use hadal_device::Problem;

use crate::{ActScale, Graph, Verified, Violation};

/// What the graph is optimised for.
pub struct Target<'t> {
    /// How attention reads the latent cache.
    pub form: Form,
    /// Round the inputs of FP8 linears to FP8 as well (W8A8).
    pub quantise: Option<ActScale>,
    /// Tokens of the program: the `rows` of problems asked about.
    pub rows: u32,
    /// Whether the device has a kernel for a fused problem.
    pub runs: &'t dyn Fn(&Problem) -> bool,
}

/// All passes in order.
///
/// # Errors
/// A rule that a pass broke, named with the pass: a bug, not a property of the model.
pub fn optimise(graph: Verified<Graph>, target: &Target<'_>) -> Result<Verified<Graph>, Violation> {
    optimise_with(graph, target, &mut |_, _| ())
}

/// As [`optimise`], showing the graph after each pass to `watch`.
pub fn optimise_with(
    mut graph: Verified<Graph>,
    target: &Target<'_>,
    watch: &mut dyn FnMut(&'static str, &Graph),
) -> Result<Verified<Graph>, Violation> {
    type Pass = fn(Verified<Graph>, &Target<'_>) -> Result<Verified<Graph>, Violation>;
    let passes: [(&'static str, Pass); 5] = [
        ("fold", |graph, _| fold(graph)),
        ("absorb", absorb),
        ("quantise", |graph, target| quantise(graph, target.quantise)),
        ("fold_again", |graph, _| fold(graph)),
        ("fuse", fuse),
    ];
    for (name, pass) in passes {
        graph = pass(graph, target).map_err(|violation| Violation {
            text: format!("{} (in the rewrite `{}`)", violation.text, violation.phase),
            phase: name,
            ..violation
        })?;
        watch(name, &graph);
    }
    Ok(graph)
}
