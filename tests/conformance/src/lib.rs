//! Does a backend do what the device contract says? One list of cases for all backends.
//!
//! A third party's whole test program is three lines:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     # type MyBackend = hadal_host::HostBackend;
//!     hadal_conformance::main(hadal_conformance::Suite::new(Box::new(MyBackend::new())))
//! }
//! ```
//!
//! [`ops`] makes the cases of single operations, `contract` those of buffers, programs,
//! replay and limits, `models` whole blocks and models. [`plan`] lists all cases for a device,
//! [`execute`] runs one, `children` runs groups of them in processes of their own, [`Report`]
//! says what came out. No case knows a vendor; what a backend cannot do yet stands in its
//! [`Expectation`]s.
#![forbid(unsafe_code)]

mod children;
mod contract;
pub mod execute;
mod expect;
mod failure;
mod file;
mod lacking;
pub mod models;
pub mod ops;
mod pass_on;
pub mod plan;
mod random;
mod report;
mod run;
mod shape;
mod stage;
mod suite;
pub mod tolerance;
mod weights;

use serde::{Deserialize, Serialize};

pub use children::Progress;
pub use expect::{Expectation, Kind};
pub use failure::{Failure, ReplayError, Smallest};
pub use lacking::Lacking;
pub use random::Random;
pub use report::{DeviceReport, Report, ReportError, Summary};
pub use run::{Outcome, RunError, main, run};
pub use shape::Shape;
pub use stage::{Fit, POISON};
pub use suite::{Options, Suite};

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Small awkward sizes: everything that can be wrong, in a minute or two.
    #[default]
    Core,
    /// Also kernels at DeepSeek-V3's true inputs a row, heads and latents, for one token and one
    /// with its draft; of outputs and experts a part.
    V3Decode,
    /// Also for its prompts.
    V3Full,
}

impl Profile {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Core => "core",
            Profile::V3Decode => "v3-decode",
            Profile::V3Full => "v3-full",
        }
    }
}
