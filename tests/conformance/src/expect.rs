//! What a backend says beforehand about cases that will not pass, with reasons.

use hadal_device::DeviceInfo;

/// Why a case will not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It never will on this device.
    Unsupported,
    /// It should, but does not today. A pass is an error: the line must go then.
    FailsToday,
}

/// A line of a backend's expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Beginning of the case's id: `op.linear/`, or a whole id.
    pub case: &'static str,
    /// What the device's name or driver contains; empty for every device.
    pub device: &'static str,
    /// Never or not yet.
    pub kind: Kind,
    /// The reason, for the report.
    pub why: &'static str,
}

impl Expectation {
    /// True if the line speaks of this case on this device.
    pub fn is_about(&self, case: &str, info: &DeviceInfo) -> bool {
        let names = [&info.name, &info.driver];
        case.starts_with(self.case) && names.iter().any(|name| name.contains(self.device))
    }
}
