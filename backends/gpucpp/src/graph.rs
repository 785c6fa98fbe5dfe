//! The launches of a program as a graph of CUDA's: a kernel node each. Every node of a level
//! waits for all nodes of the level before. Where kernels do that themselves, their blocks are sent
//! to the device ahead of that end, which hides the launch.

use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use hadal_device::{Error, Result};

use crate::driver::nodes::{Edge, Node};
use crate::driver::table::{EdgeCalls, GraphCalls, Handle};
use crate::gpu::{Gpu, Object};
use crate::launch::{Launch, Part, Work};
use crate::native::Native;

/// The graph of `works`, of which each has a level, ready to be launched.
///
/// # Safety
/// The kernels live as long as the graph, the buffers as long as one of its launches.
pub unsafe fn graph(
    gpu: &Arc<Gpu>,
    calls: &GraphCalls,
    native: Option<&Native>,
    leveled: (&[Work], &[u32]),
) -> Result<Object> {
    let edges = gpu.driver.edges.as_ref();
    // SAFETY: the caller's promise.
    let (made, ahead) = unsafe { nodes(gpu, calls, edges, native, leveled)? };
    match Object::executable(gpu, calls, &made) {
        Err(error) if ahead && !matches!(error, Error::Lost { .. }) => {
            // SAFETY: as above.
            let (made, _) = unsafe { nodes(gpu, calls, None, native, leveled)? };
            Object::executable(gpu, calls, &made)
        }
        executable => executable,
    }
}

/// The same before it is made ready, and whether kernels are sent ahead in it by `edges`.
///
/// # Safety
/// As of [`graph`].
unsafe fn nodes(
    gpu: &Arc<Gpu>,
    calls: &GraphCalls,
    edges: Option<&EdgeCalls>,
    native: Option<&Native>,
    (works, levels): (&[Work], &[u32]),
) -> Result<(Object, bool)> {
    let mut nodes = Nodes {
        gpu,
        calls,
        edges: Cell::new(edges.map(|edges| (edges, Edge::AHEAD))),
        sends_ahead: Cell::new(false),
        graph: Object::graph(gpu, calls)?,
        before: Vec::new(),
        last_product: None,
        stream: None,
    };
    let _entered = gpu.enter()?;
    let (mut level, mut at) = (Vec::new(), 0);
    for (work, of) in works.iter().zip(levels) {
        if *of != at {
            at = *of;
            nodes.before = std::mem::take(&mut level);
        }
        level.push(match (work, native) {
            (Work::Kernel(launch), _) => nodes.add(launch, &nodes.before)?,
            // SAFETY: the caller's promise.
            (Work::Product(part), Some(native)) => unsafe { nodes.product(native, part)? },
            (Work::Product(part), None) => nodes.add(&part.kernel, &nodes.before)?,
        });
    }
    let sends_ahead = nodes.sends_ahead.get();
    Ok((nodes.graph, sends_ahead))
}

/// A graph that is being made.
struct Nodes<'g> {
    gpu: &'g Arc<Gpu>,
    calls: &'g GraphCalls,
    /// Where there are such, and what they say.
    edges: Cell<Option<(&'g EdgeCalls, Edge)>>,
    /// Whether some of them let a kernel go ahead.
    sends_ahead: Cell<bool>,
    graph: Object,
    /// Nodes of the level before.
    before: Vec<Made>,
    /// The end of the last product of a library: they share their memory.
    last_product: Option<Made>,
    /// A library's launches are caught in it, and none of it ever runs.
    stream: Option<Object>,
}

/// A node, and whether it is a kernel's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Made {
    node: Handle,
    is_kernel: bool,
}

impl Nodes<'_> {
    /// A node that launches a kernel after others.
    fn add(&self, launch: &Launch, after: &[Made]) -> Result<Made> {
        let kernel = launch.kernel();
        let ahead = self.edges.get().filter(|_| {
            kernel.waits && !after.is_empty() && after.iter().all(|made| made.is_kernel)
        });
        let waited_for: Vec<Handle> = after.iter().map(|made| made.node).collect();
        let after = match ahead {
            Some(_) => &[],
            None => waited_for.as_slice(),
        };
        let mut places = launch.places();
        let node = Node {
            function: kernel.function,
            groups: launch.groups(),
            block: [kernel.threads, 1, 1],
            shared: kernel.shared,
            arguments: places.as_mut_ptr(),
            extra: null_mut(),
        };
        let first: *const Handle = match after.is_empty() {
            true => null(),
            false => after.as_ptr(),
        };
        let mut made = null_mut();
        // SAFETY: the kernel takes these arguments, which the driver copies now; the nodes
        // waited for are of this graph.
        let status = unsafe {
            let node = (&raw const node).cast();
            (self.calls.add_kernel)(&mut made, self.graph.handle(), first, after.len(), node)
        };
        self.gpu.done(status, "recording")?;
        if let Some((edges, says)) = ahead {
            match self.connect(edges, &waited_for, made, says) {
                Ok(()) if says == Edge::AHEAD => self.sends_ahead.set(true),
                Ok(()) => {}
                Err(error) if matches!(error, Error::Lost { .. }) || says == Edge::AFTER => {
                    return Err(error);
                }
                Err(_) => {
                    self.edges.set(Some((edges, Edge::AFTER)));
                    self.connect(edges, &waited_for, made, Edge::AFTER)?;
                }
            }
        }
        Ok(Made {
            node: made,
            is_kernel: true,
        })
    }

    /// Edges from each of some nodes to another.
    fn connect(&self, edges: &EdgeCalls, from: &[Handle], to: Handle, says: Edge) -> Result<()> {
        let (to, says) = (vec![to; from.len()], vec![says; from.len()]);
        // SAFETY: all are nodes of this graph, and the lists are as long as is said.
        let status = unsafe {
            let (count, graph) = (from.len(), self.graph.handle());
            (edges.add)(
                graph,
                from.as_ptr(),
                to.as_ptr(),
                says.as_ptr().cast(),
                count,
            )
        };
        self.gpu.done(status, "recording")
    }

    /// The last node of a product by the library, or by its kernel if that may and the other
    /// cannot.
    ///
    /// # Safety
    /// As of [`graph`].
    unsafe fn product(&mut self, native: &Native, part: &Part) -> Result<Made> {
        // SAFETY: the caller's promise.
        let caught = match unsafe { self.caught(native, part) } {
            Ok(caught) => caught,
            Err(lost @ Error::Lost { .. }) => return Err(lost),
            Err(error) if part.must => return Err(error),
            Err(error) => {
                native.note(&error);
                return self.add(&part.kernel, &self.before);
            }
        };
        let mut after = self.before.clone();
        let last = self.last_product.filter(|last| !after.contains(last));
        after.extend(last);
        let before = self.add(&part.before, &after)?;
        let mut made = null_mut();
        // SAFETY: both graphs live, the node waited for is of the one, and the other is copied
        // now.
        let status = unsafe {
            let (to, from) = (self.graph.handle(), caught.handle());
            (self.calls.add_graph)(&mut made, to, &before.node, 1, from)
        };
        self.gpu.done(status, "recording a product")?;
        let made = Made {
            node: made,
            is_kernel: false,
        };
        let behind = self.add(&part.behind, &[made])?;
        self.last_product = Some(behind);
        Ok(behind)
    }

    /// What the library launches for a product, as a graph.
    ///
    /// # Safety
    /// As of [`graph`].
    unsafe fn caught(&mut self, native: &Native, part: &Part) -> Result<Object> {
        /// Other threads may call whatever they like meanwhile.
        const RELAXED: i32 = 2;
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => Object::stream(self.gpu)?,
        };
        let stream = self.stream.insert(stream).handle();
        // SAFETY: the stream lives, and nothing is in it.
        let status = unsafe { (self.calls.capture_begin)(stream, RELAXED) };
        self.gpu.done(status, "recording a product")?;
        // SAFETY: the caller's promise.
        let multiplied = unsafe { native.multiply(&part.product, stream) };
        let mut graph = null_mut();
        // SAFETY: what was begun is ended, whatever came between.
        let status = unsafe { (self.calls.capture_end)(stream, &mut graph) };
        let graph = (!graph.is_null()).then(|| Object::graph_of(self.gpu, self.calls, graph));
        // Why the library failed says more than what that did to the recording.
        let ended = self.gpu.done(status, "recording a product");
        multiplied.and(ended)?;
        graph.ok_or_else(|| Error::Unsupported {
            what: "a product".into(),
            why: "nothing was recorded".into(),
        })
    }
}
