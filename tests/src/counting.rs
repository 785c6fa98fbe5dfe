//! A device that notes what is allocated and adopted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hadal_conformance::pass_on;
use hadal_device::{BufferDesc, BufferId, Device, Pages, Result};

/// The device behind it, and what lives there.
pub struct Counting {
    inner: Arc<dyn Device>,
    live: Mutex<BTreeMap<u64, (String, u64)>>,
}

impl Counting {
    /// Notes what is asked of `inner` from now on.
    pub fn new(inner: Arc<dyn Device>) -> Arc<Counting> {
        Arc::new(Counting {
            inner,
            live: Mutex::default(),
        })
    }

    fn note(&self, buffer: BufferId, label: &str, bytes: u64) {
        let mut live = self.live.lock().expect("no test panics inside");
        live.insert(buffer.0, (label.to_string(), bytes));
    }

    /// Bytes that are held under labels of which `is` is true.
    ///
    /// # Panics
    /// After a panic inside.
    pub fn bytes(&self, is: impl Fn(&str) -> bool) -> u64 {
        let live = self.live.lock().expect("no test panics inside");
        let wanted = live.values().filter(|(label, _)| is(label));
        wanted.map(|(_, bytes)| bytes).sum()
    }
}

impl Device for Counting {
    pass_on!(inner: info write read pipeline prepare wait completed setup_counts gpu_time);

    fn alloc(&self, desc: &BufferDesc) -> Result<BufferId> {
        let buffer = self.inner.alloc(desc)?;
        self.note(buffer, &desc.label, desc.bytes);
        Ok(buffer)
    }
    fn free(&self, buffer: BufferId) {
        let mut live = self.live.lock().expect("no test panics inside");
        live.remove(&buffer.0);
        self.inner.free(buffer);
    }
    fn adopt(&self, pages: Pages) -> Option<BufferId> {
        let bytes = (*pages).as_ref().len() as u64;
        let buffer = self.inner.adopt(pages)?;
        self.note(buffer, "weights", bytes);
        Some(buffer)
    }
}
