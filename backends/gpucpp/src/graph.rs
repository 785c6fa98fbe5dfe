//! A program over a table of buffers as a graph of the driver's: a kernel node a step.
//!
//! Addresses and parameters are values in the nodes, so that a launch reads nothing of the
//! host's. Every node of a level waits for all nodes of the level before.

use std::ptr::{from_mut, null, null_mut};
use std::sync::Arc;

use hadal_device::{Bind, Dispatch, Operand, Params, Program, Result, Step};

use crate::driver::nodes::Node;
use crate::driver::table::{Address, Handle};
use crate::gpu::{Gpu, Object};
use crate::kernel::Kernel;
use crate::lists::takes_list;

/// Bytes that a block of the copying and filling kernels has, about.
const BLOCK_BYTES: u64 = 4096;

/// Blocks along an axis that every device takes.
const MOST_BLOCKS: u64 = 65535;

/// A program and what a table gives it.
pub struct Binding<'b> {
    /// The steps.
    pub program: &'b Program,
    /// The kernel of each step.
    pub kernels: &'b [Arc<Kernel>],
    /// The level of each step.
    pub levels: &'b [u32],
    /// Where the buffer of each slot begins.
    pub slots: &'b [Address],
    /// Where the lists that the kernels take begin, in order.
    pub lists: &'b [Address],
}

/// The arguments of a kernel, as long as a node is made of them.
#[derive(Default)]
struct Arguments {
    params: Option<Params>,
    words: Vec<u64>,
    value: Option<u32>,
}

impl Arguments {
    /// Where each of them lies, in order.
    fn places(&mut self) -> Vec<Handle> {
        let params = self.params.iter_mut().map(|params| from_mut(params).cast());
        let words = self.words.iter_mut().map(|word| from_mut(word).cast());
        let value = self.value.iter_mut().map(|value| from_mut(value).cast());
        params.chain(words).chain(value).collect()
    }
}

impl Binding<'_> {
    fn address(&self, bind: &Bind) -> Address {
        let base = self.slots.get(usize::from(bind.slot.0));
        // Slots were checked: none is beyond the table.
        base.copied().unwrap_or_default() + bind.offset
    }

    /// Blocks and arguments of a step. `lists` are those that are left.
    fn launch(
        &self,
        step: &Step,
        kernel: &Kernel,
        lists: &mut impl Iterator<Item = Address>,
    ) -> ([u32; 3], Arguments) {
        let spread = |bytes: u64| {
            let blocks = bytes.div_ceil(BLOCK_BYTES).clamp(1, MOST_BLOCKS);
            [blocks as u32, 1, 1]
        };
        match step {
            Step::Dispatch(dispatch) => (
                dispatch.groups,
                self.arguments(dispatch, kernel.operands, lists),
            ),
            Step::Copy { from, to } => (
                spread(to.bytes),
                Arguments {
                    words: vec![self.address(to), self.address(from), to.bytes],
                    ..Arguments::default()
                },
            ),
            Step::Fill { to, byte } => (
                spread(to.bytes),
                Arguments {
                    words: vec![self.address(to), to.bytes],
                    value: Some(u32::from(*byte)),
                    ..Arguments::default()
                },
            ),
        }
    }

    fn arguments(
        &self,
        dispatch: &Dispatch,
        letters: &str,
        lists: &mut impl Iterator<Item = Address>,
    ) -> Arguments {
        let mut words = Vec::new();
        for (letter, operand) in letters.chars().zip(&dispatch.operands) {
            match operand {
                Operand::Range(bind) if letter != 'm' => words.push(self.address(bind)),
                _ => {}
            }
            // There is one for each such operand of the program.
            words.extend(takes_list(letter).then(|| lists.next().unwrap_or_default()));
        }
        Arguments {
            params: Some(*dispatch.params),
            words,
            value: None,
        }
    }

    /// The graph, ready to be launched.
    ///
    /// # Safety
    /// The kernels live as long as the graph, the buffers as long as one of its launches.
    pub unsafe fn graph(&self, gpu: &Arc<Gpu>) -> Result<Object> {
        let graph = Object::graph(gpu)?;
        let entered = gpu.enter()?;
        let add = entered.calls().graph_add_kernel;
        let mut lists = self.lists.iter().copied();
        let (mut before, mut level, mut at) = (Vec::new(), Vec::new(), 0);
        let steps = self.program.steps.iter().zip(self.kernels);
        for ((step, kernel), step_level) in steps.zip(self.levels) {
            if *step_level != at {
                at = *step_level;
                before = std::mem::take(&mut level);
            }
            let (groups, mut arguments) = self.launch(step, kernel, &mut lists);
            let mut places = arguments.places();
            let node = Node {
                function: kernel.function,
                groups,
                threads: kernel.threads,
                shared: kernel.shared,
                arguments: places.as_mut_ptr(),
            };
            let after: *const Handle = match before.is_empty() {
                true => null(),
                false => before.as_ptr(),
            };
            let mut made = null_mut();
            // SAFETY: the kernel takes these arguments, which the driver copies now; the
            // nodes waited for are of this graph.
            let status = node.with(gpu.vendor(), |node| unsafe {
                add(&mut made, graph.handle(), after, before.len(), node)
            });
            gpu.done(status, "recording")?;
            level.push(made);
        }
        Object::executable(gpu, &graph)
    }
}
