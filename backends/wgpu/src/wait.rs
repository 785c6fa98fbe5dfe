//! Waiting for the device without standing in the way of an application that uses it too.
//!
//! Decides how; for what is the caller's.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use hadal_device::{Error, Result};

use crate::core::Core;

/// Pauses between two looks at a shared device: the first, which the next ones double, and the
/// longest.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_micros(500);

impl Core {
    /// Waits for the submission of `index`, or for what is due where there is none; on a shared
    /// device until `is_done`, which a callback makes true.
    ///
    /// A wait of wgpu's holds a lock to its end that presenting a frame and destroying a texture
    /// need alone. With a timeout it would hold it for less, but then panics where another thread
    /// polls as the time runs out (an assertion of wgpu-core 30). So a shared device is looked at
    /// from time to time.
    pub fn wait_until(
        &self,
        index: Option<wgpu::SubmissionIndex>,
        what: &str,
        mut is_done: impl FnMut() -> bool,
    ) -> Result<()> {
        if self.shared {
            return self.look_until(what, is_done);
        }
        let poll = match index {
            None => wgpu::PollType::Poll,
            index => wgpu::PollType::Wait {
                submission_index: index,
                timeout: None,
            },
        };
        let waited = self.poll(poll, what);
        is_done();
        // What the driver said is worth more than that the waiting failed.
        self.check(what)?;
        waited
    }

    fn look_until(&self, what: &str, mut is_done: impl FnMut() -> bool) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            self.poll(wgpu::PollType::Poll, what)?;
            let done = is_done();
            // Another thread may have met a loss.
            self.check(what)?;
            if done {
                return Ok(());
            }
            std::thread::sleep(pause);
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    /// Lets wgpu free and call back what is due; an error is one of the device and shows in the
    /// next call.
    pub fn tend(&self) {
        let _ = self.poll(wgpu::PollType::Poll, "polling");
    }

    fn poll(&self, poll: wgpu::PollType, what: &str) -> Result<()> {
        // wgpu panics where the driver loses the device meanwhile.
        match catch_unwind(AssertUnwindSafe(|| self.wgpu.poll(poll))) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let error = Error::Invalid(format!("waiting for the device: {error}"));
                Err(self.blamed(error, what))
            }
            Err(panic) => match self.probe(what) {
                Err(lost @ Error::Lost { .. }) => Err(lost),
                // A callback of the application's.
                _ => resume_unwind(panic),
            },
        }
    }
}
