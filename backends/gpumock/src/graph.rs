//! Graphs of kernel launches: built, made executable, launched. The nodes of a launch run in
//! any order that their dependencies allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::codes::*;
use crate::module::{Launch, Request};
use crate::product::Product;
use crate::queue::Op;
use crate::state::{State, object};

/// What a node does.
#[derive(Clone)]
pub(crate) enum Work {
    Launch(Launch),
    Product(Product),
}

impl Work {
    /// The module that it needs.
    pub fn module(&self) -> Option<u64> {
        match self {
            Work::Launch(launch) => Some(launch.module),
            Work::Product(_) => None,
        }
    }
}

/// A node and the nodes that it comes after, by index.
#[derive(Clone)]
pub(crate) struct Node {
    pub work: Work,
    after: Vec<usize>,
    /// How many of them it may be sent ahead of.
    ahead: u64,
    /// Nodes that come after this one; known once the graph is executable.
    then: Vec<usize>,
}

/// A graph under construction, with its nodes' handles.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    handles: Vec<u64>,
}

/// An executable graph.
pub(crate) struct Exec {
    nodes: Arc<Vec<Node>>,
    launched: u64,
    /// Launches that have ended.
    finished: Arc<AtomicU64>,
}

/// A launch of an executable graph, which need not be there any more.
pub(crate) struct Run {
    pub nodes: Arc<Vec<Node>>,
    /// Nodes that may run.
    ready: Vec<usize>,
    /// By node: how many it still comes after.
    waits_for: Vec<usize>,
    /// Launches before this one, and how many have ended.
    before: u64,
    finished: Arc<AtomicU64>,
}

impl Exec {
    /// Edges by which a kernel is sent ahead.
    pub fn edges_ahead(&self) -> u64 {
        self.nodes.iter().map(|node| node.ahead).sum()
    }
}

impl Run {
    /// One launch of a graph begins when the one before it has ended.
    pub fn may_go_on(&self) -> bool {
        self.finished.load(Ordering::Relaxed) >= self.before
    }
}

impl State {
    pub fn add_graph(&mut self, flags: u32) -> Result<u64> {
        let device = self.device()?;
        if flags != 0 {
            return self.refuse(INVALID_VALUE, format!("graph flags {flags}"));
        }
        Ok(self.graphs.add(device, Graph::default()))
    }

    /// A kernel node after others of the same graph.
    pub fn add_node(&mut self, graph: u64, after: &[u64], request: &Request) -> Result<u64> {
        let launch = self.launch(request)?;
        self.add_work(graph, after, Work::Launch(launch))
    }

    /// Begins to make a graph of what is put into a stream.
    pub fn begin_recording(&mut self, stream: u64, mode: i32) -> Result {
        let device = self.device()?;
        if object!(self.streams[stream], device).recorded.is_some() {
            return self.refuse(INVALID_VALUE, "the stream is being recorded");
        }
        if !(0..3).contains(&mode) {
            return self.refuse(INVALID_VALUE, format!("a recording of mode {mode}"));
        }
        let graph = self.add_graph(0)?;
        object!(self.streams[stream], device).recorded = Some(graph);
        Ok(())
    }

    /// The graph made since.
    pub fn end_recording(&mut self, stream: u64) -> Result<u64> {
        let device = self.device()?;
        match object!(self.streams[stream], device).recorded.take() {
            Some(graph) => Ok(graph),
            None => self.refuse(INVALID_VALUE, "the stream is not being recorded"),
        }
    }

    /// Adds recorded work to a graph, behind all that was recorded before.
    pub fn add_recorded(&mut self, graph: u64, work: Work) -> Result {
        let device = self.device()?;
        let last = object!(self.graphs[graph], device).handles.last().copied();
        let after: Vec<u64> = last.into_iter().collect();
        self.add_work(graph, &after, work).map(|_| ())
    }

    /// Adds the nodes of another graph, which was recorded and so is one behind the other, after
    /// others of this graph. The last one stands for all.
    pub fn add_part(&mut self, graph: u64, after: &[u64], part: u64) -> Result<u64> {
        let device = self.device()?;
        let nodes = object!(self.graphs[part], device).nodes.clone();
        let mut last = None;
        for node in nodes {
            let after = last.as_ref().map_or(after, std::slice::from_ref);
            last = Some(self.add_work(graph, after, node.work)?);
        }
        match last {
            Some(last) => Ok(last),
            None => self.refuse(INVALID_VALUE, "a part without nodes"),
        }
    }

    fn add_work(&mut self, graph: u64, after: &[u64], work: Work) -> Result<u64> {
        let device = self.device()?;
        let of = object!(self.graphs[graph], device);
        let mut indices = Vec::new();
        for handle in after {
            match of.handles.iter().position(|known| known == handle) {
                Some(index) if indices.contains(&index) => {
                    return self.refuse(INVALID_VALUE, "a node is waited for twice");
                }
                Some(index) => indices.push(index),
                None => {
                    let why = format!("{handle:#x} is no node of the graph");
                    return self.refuse(INVALID_VALUE, why);
                }
            }
        }
        let handle = self.nodes.add(device, graph);
        let of = object!(self.graphs[graph], device);
        of.handles.push(handle);
        of.nodes.push(Node {
            work,
            after: indices,
            ahead: 0,
            then: Vec::new(),
        });
        Ok(handle)
    }

    /// Lets a node come after another, or a kernel's blocks go to the device ahead of the end of a
    /// kernel before it, for whose end it waits itself.
    pub fn add_edge(&mut self, graph: u64, (from, to, says): (u64, u64, [u8; 8])) -> Result {
        let device = self.device()?;
        let of = object!(self.graphs[graph], device);
        let index = |node: u64| of.handles.iter().position(|known| *known == node);
        let (Some(from), Some(to)) = (index(from), index(to)) else {
            return self.refuse(INVALID_VALUE, "an edge to no node of the graph");
        };
        let waits = matches!(&of.nodes[to].work, Work::Launch(launch) if launch.waits);
        let is_kernel = matches!(of.nodes[from].work, Work::Launch(_));
        let ahead = says == [1, 0, 1, 0, 0, 0, 0, 0];
        if says != [0; 8] && !(ahead && is_kernel && waits) {
            let why = format!("an edge that says {says:?} to what does not wait by itself");
            return self.refuse(INVALID_VALUE, why);
        }
        if of.nodes[to].after.contains(&from) || from >= to {
            return self.refuse(INVALID_VALUE, "an edge twice, or back");
        }
        of.nodes[to].after.push(from);
        of.nodes[to].ahead += u64::from(ahead);
        Ok(())
    }

    pub fn instantiate(&mut self, graph: u64, flags: u64) -> Result<u64> {
        let device = self.device()?;
        let mut nodes = object!(self.graphs[graph], device).nodes.clone();
        for node in 0..nodes.len() {
            for before in nodes[node].after.clone() {
                nodes[before].then.push(node);
            }
        }
        if flags != 0 {
            return self.refuse(INVALID_VALUE, format!("instantiation flags {flags}"));
        }
        let exec = Exec {
            nodes: Arc::new(nodes),
            launched: 0,
            finished: Arc::default(),
        };
        Ok(self.execs.add(device, exec))
    }

    pub fn launch_graph(&mut self, handle: u64, stream: u64) -> Result {
        let device = self.device()?;
        object!(self.streams[stream], device);
        let exec = object!(self.execs[handle], device);
        let waits_for: Vec<usize> = exec.nodes.iter().map(|node| node.after.len()).collect();
        let run = Run {
            nodes: exec.nodes.clone(),
            ready: (0..waits_for.len())
                .filter(|i| waits_for[*i] == 0)
                .collect(),
            waits_for,
            before: exec.launched,
            finished: exec.finished.clone(),
        };
        exec.launched += 1;
        self.enqueue(stream, Op::Graph(run))
    }

    pub fn destroy_graph(&mut self, handle: u64) -> Result {
        let device = self.device_or_lost()?;
        object!(self.graphs[handle], device);
        self.graphs.items.remove(&handle);
        self.nodes.items.retain(|_, (_, graph)| *graph != handle);
        self.recover(device);
        self.devices[device].sticky.map_or(Ok(()), Err)
    }

    /// Launches under way keep what they need.
    pub fn destroy_exec(&mut self, handle: u64) -> Result {
        let device = self.device_or_lost()?;
        object!(self.execs[handle], device);
        self.execs.items.remove(&handle);
        self.recover(device);
        self.devices[device].sticky.map_or(Ok(()), Err)
    }

    /// Runs one node of a launch, and gives back what is left of it.
    pub fn execute_graph(&mut self, device: usize, lost: bool, mut run: Run) -> Option<Op> {
        if lost {
            run.ready.clear();
        } else if let Some(node) = self.random.take(&mut run.ready) {
            match &run.nodes[node].work {
                Work::Launch(launch) => self.execute_launch(device, launch),
                Work::Product(product) => self.execute_product(device, product),
            }
            for after in &run.nodes[node].then {
                run.waits_for[*after] -= 1;
                if run.waits_for[*after] == 0 {
                    run.ready.push(*after);
                }
            }
        }
        if !run.ready.is_empty() {
            return Some(Op::Graph(run));
        }
        run.finished.fetch_add(1, Ordering::Relaxed);
        None
    }
}
