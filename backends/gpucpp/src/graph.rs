//! A program over a table of buffers as a graph of the driver's: a kernel node a step.
//!
//! Addresses and parameters are values in the nodes, so that a launch reads nothing of the
//! host's. Every node of a level waits for all nodes of the level before.

use std::ptr::{from_mut, null, null_mut};
use std::sync::Arc;

use hadal_device::{Bind, Dispatch, Error, Operand, Params, Program, Result, Step};

use crate::blaslt::Values;
use crate::driver::nodes::Node;
use crate::driver::table::{Address, Handle};
use crate::gpu::{Gpu, Object};
use crate::kernel::{Kernel, MEMORY_THREADS};
use crate::lists::takes_list;
use crate::native::{Native, Uses, product};

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
    /// What a library does, and memory for it.
    pub library: Option<(&'b Uses, &'b Native, Address)>,
}

/// A graph that is being made.
struct Nodes<'g> {
    gpu: &'g Arc<Gpu>,
    graph: Object,
    /// Nodes of the level before, and of this one.
    before: Vec<Handle>,
    level: Vec<Handle>,
    at: u32,
    /// The end of the last product of a library: they share their memory.
    last_product: Option<Handle>,
}

impl Nodes<'_> {
    /// A node that launches `kernel` after others.
    fn add(
        &self,
        kernel: &Kernel,
        groups: [u32; 3],
        mut arguments: Arguments,
        after: &[Handle],
    ) -> Result<Handle> {
        let entered = self.gpu.enter()?;
        let add = entered.calls().graph_add_kernel;
        let mut places = arguments.places();
        let node = Node {
            function: kernel.function,
            groups,
            threads: kernel.threads,
            shared: kernel.shared,
            arguments: places.as_mut_ptr(),
        };
        let first: *const Handle = match after.is_empty() {
            true => null(),
            false => after.as_ptr(),
        };
        let mut made = null_mut();
        // SAFETY: the kernel takes these arguments, which the driver copies now; the nodes
        // waited for are of this graph.
        let status = node.with(self.gpu.vendor(), |node| unsafe {
            add(&mut made, self.graph.handle(), first, after.len(), node)
        });
        self.gpu.done(status, "recording").map(|()| made)
    }
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
        let mut nodes = Nodes {
            gpu,
            graph: Object::graph(gpu)?,
            before: Vec::new(),
            level: Vec::new(),
            at: 0,
            last_product: None,
        };
        let _entered = gpu.enter()?;
        let mut lists = self.lists.iter().copied();
        let steps = self.program.steps.iter().zip(self.kernels);
        for (number, ((step, kernel), level)) in steps.zip(self.levels).enumerate() {
            if *level != nodes.at {
                nodes.at = *level;
                nodes.before = std::mem::take(&mut nodes.level);
            }
            // Also where a library is used, as the lists come in order.
            let (groups, arguments) = self.launch(step, kernel, &mut lists);
            let by_library = match (step, self.library) {
                (Step::Dispatch(dispatch), Some((uses, ..))) if uses.is_used[number] => {
                    // SAFETY: the caller's promise.
                    unsafe { self.product(&mut nodes, dispatch)? }
                }
                _ => None,
            };
            let made = match by_library {
                Some(made) => made,
                None => nodes.add(kernel, groups, arguments, &nodes.before)?,
            };
            nodes.level.push(made);
        }
        Object::executable(gpu, &nodes.graph)
    }

    /// The last node of a product by the library; `None` if it cannot be and the kernel may.
    ///
    /// # Safety
    /// As of [`Binding::graph`].
    unsafe fn product(&self, nodes: &mut Nodes, dispatch: &Dispatch) -> Result<Option<Handle>> {
        let Some((uses, native, scratch)) = self.library else {
            return Ok(None);
        };
        let params = &dispatch.params;
        let ranges = dispatch.operands.iter().flat_map(|operand| operand.binds());
        let operands: Vec<Address> = ranges.map(|bind| self.address(bind)).collect();
        let product = product(params, &operands, scratch);
        // SAFETY: the caller's promise.
        let part = match unsafe { native.graph(&product) } {
            Ok(part) => part,
            Err(lost @ Error::Lost { .. }) => return Err(lost),
            Err(error) if uses.must => return Err(error),
            Err(_) => return Ok(None),
        };
        let at = |place: usize| operands.get(place).copied().unwrap_or_default();
        let with = |words| Arguments {
            params: Some(**params),
            words,
            value: None,
        };
        let [scales, parts, rows] = &uses.kernels;
        let mut after = nodes.before.clone();
        let last = nodes.last_product.filter(|last| !after.contains(last));
        after.extend(last);
        let across = |values: u32, lines: u32| [values.div_ceil(MEMORY_THREADS), lines, 1];
        let (kernel, groups, made) = match product.kind {
            Values::Codes { rows, .. } => {
                (scales, across(params.rows, params.k.div_ceil(128)), rows)
            }
            Values::Parts => (parts, across(params.k, params.rows), product.values),
        };
        let node = nodes.add(kernel, groups, with(vec![at(1), made]), &after)?;
        let node = native.add(&nodes.graph, &[node], &part)?;
        // Where there is no residual its place is not read.
        let last = operands.len().saturating_sub(1);
        let (residual, written) = (at(last.saturating_sub(1)), at(last));
        let arguments = with(vec![at(0), product.sums, residual, written]);
        let groups = across(params.row_count, params.rows);
        let node = nodes.add(rows, groups, arguments, &[node])?;
        nodes.last_product = Some(node);
        Ok(Some(node))
    }
}
