//! A model on a device.

use std::sync::Arc;

use hadal_device::DeviceInfo;
use hadal_engine::MemoryUse;

use crate::guard::guarded;
use crate::load::Losses;
use crate::{Model, Result, Session, SessionOptions};

/// A model on a device. Cloning shares it; it lives until all clones and all sessions of it are
/// gone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<hadal_engine::Engine>,
    model: Model,
    why: Arc<str>,
    losses: Arc<Losses>,
}

impl Engine {
    pub(crate) fn new(
        model: Model,
        engine: hadal_engine::Engine,
        why: String,
        losses: Arc<Losses>,
    ) -> Engine {
        Engine {
            inner: Arc::new(engine),
            model,
            why: why.into(),
            losses,
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The device it is on; another one after a loss.
    pub fn device(&self) -> DeviceInfo {
        self.inner.device().info().clone()
    }

    /// Why it was put there, as the end of a sentence.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// How often its device was lost and opened again.
    pub fn losses(&self) -> u32 {
        self.losses.count()
    }

    /// Tokens a session holds.
    pub fn context(&self) -> u32 {
        self.inner.context()
    }

    /// Bytes of weights, where they lie.
    pub fn weight_bytes(&self) -> u64 {
        self.inner.weight_bytes()
    }

    /// Bytes of weights that a token reads: what memory's speed bounds.
    pub fn bytes_per_token(&self) -> u64 {
        self.inner.bytes_per_token()
    }

    /// What it holds, and what it may.
    pub fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }

    /// Changes how many bytes of its memory it may hold; `None`: as many as there are. Nothing
    /// that exists is taken away: the answer says by how much it is over, new sessions are
    /// refused, scratch is given back until it is needed.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// ```
    /// # #[cfg(feature = "tiny")]
    /// # fn main() -> hadal::Result<()> {
    /// # use hadal::{ErrorCode, LoadOptions, Model, SessionOptions};
    /// # let engine = Model::shipped()?.load(LoadOptions::on("host").with_context(512))?;
    /// let session = engine.session(SessionOptions::default())?;
    /// // Another program needs memory: no more than there is now.
    /// let used = engine.memory().used_bytes();
    /// assert_eq!(engine.set_budget(Some(used))?.over_bytes(), 0);
    /// let refused = engine.session(SessionOptions::default()).err().expect("no room");
    /// assert_eq!(refused.code(), ErrorCode::OutOfMemory);
    /// println!("{refused}: {}", refused.cure());
    /// engine.set_budget(None)?;
    /// engine.session(SessionOptions::default())?;
    /// # drop(session);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "tiny"))]
    /// # fn main() {}
    /// ```
    pub fn set_budget(&self, bytes: Option<u64>) -> Result<MemoryUse> {
        guarded(|| Ok(self.inner.set_budget(bytes)?))
    }

    /// Gives back what the next step makes again: scratch and prepared programs. For
    /// engines that will not be used for a while.
    ///
    /// # Errors
    /// Those of the device.
    pub fn trim(&self) -> Result<()> {
        guarded(|| Ok(self.inner.trim()?))
    }

    /// Lets requests finish their step and then sleep, until [`Engine::resume`]. Returns at
    /// once; a sleeping request takes no processor time and can be cancelled.
    pub fn pause(&self) {
        self.inner.pause();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.inner.resume();
    }

    /// True from [`Engine::pause`] to [`Engine::resume`].
    pub fn is_paused(&self) -> bool {
        self.inner.is_paused()
    }

    /// Leaves room for others, or no longer: the host works with half of its threads; other
    /// devices get submits of at most 8 ms and rest after each as long as it took.
    pub fn set_low_priority(&self, low: bool) {
        self.inner.set_low_priority(low);
    }

    /// Whether room is left for others.
    pub fn is_low_priority(&self) -> bool {
        self.inner.is_low_priority()
    }

    /// An empty session. Its cache is allocated whole.
    ///
    /// # Errors
    /// [`crate::ErrorCode::OutOfMemory`] where budget or memory have no room for it.
    pub fn session(&self, options: SessionOptions) -> Result<Session> {
        guarded(|| Session::new(self, options))
    }

    /// The engine's own view, for what is not here.
    pub fn inner(&self) -> &Arc<hadal_engine::Engine> {
        &self.inner
    }
}
