//! What a file consists of, and how near it is to the model it is made of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hadal_device::DType;
use hadal_engine::Perplexity;
use hadal_quantize::{Compared, Plan, Role, Written};
use serde_json::{Value, json};

use super::QuantizeArgs;
use crate::console::{Console, seconds};
use crate::failure::Result;
use crate::figures;

/// Tensors that are furthest from their source, as many as are shown.
const WORST: usize = 5;

/// Everything that is said of a run.
pub struct Report {
    out: String,
    recipe: &'static str,
    groups: BTreeMap<(Role, DType), Group>,
    /// Wanted format, row length and what stands in for it, with the number of tensors.
    instead: BTreeMap<(DType, u64, DType), usize>,
    bytes: u64,
    /// Bytes of the file before its tensors.
    header_bytes: u64,
    values: u64,
    source_bytes: u64,
    /// Tensors whose columns are weighed by importance, if any is given.
    pub weighed: Option<usize>,
    written: Option<(Written, Duration)>,
    /// How well the model predicts a text.
    pub before: Option<Perplexity>,
    /// How well the file predicts it.
    pub after: Option<Perplexity>,
}

/// Tensors of one kind and format.
#[derive(Clone, Copy, Default)]
struct Group {
    tensors: usize,
    values: u64,
    bytes: u64,
}

impl Group {
    fn bits(&self) -> f64 {
        8.0 * self.bytes as f64 / self.values as f64
    }
}

impl Report {
    /// What a plan is.
    pub fn new(
        args: &QuantizeArgs,
        plan: &Plan,
        recipe: &'static str,
        header_bytes: u64,
    ) -> Report {
        let mut report = Report {
            out: args.out.display().to_string(),
            recipe,
            groups: BTreeMap::new(),
            instead: BTreeMap::new(),
            bytes: plan.bytes(),
            header_bytes,
            weighed: None,
            values: plan.values(),
            source_bytes: plan.tensors.iter().map(|tensor| tensor.source_bytes).sum(),
            written: None,
            before: None,
            after: None,
        };
        for tensor in &plan.tensors {
            let key = (tensor.role, tensor.format);
            let group = report.groups.entry(key).or_default();
            group.tensors += 1;
            group.values += tensor.values();
            group.bytes += tensor.bytes();
            if tensor.format != tensor.wanted {
                let key = (tensor.wanted, tensor.columns, tensor.format);
                *report.instead.entry(key).or_default() += 1;
            }
        }
        report
    }

    /// The file is there.
    pub fn done(&mut self, written: Written, time: Duration) {
        self.written = Some((written, time));
    }

    /// Shows it.
    pub fn show(&self, console: &Console) -> Result<()> {
        console.report(|| self.json(), || self.text())
    }

    fn bits(&self) -> f64 {
        8.0 * self.bytes as f64 / self.values as f64
    }

    fn worst(&self) -> Vec<&Compared> {
        let compared = self
            .written
            .iter()
            .flat_map(|(written, _)| &written.compared);
        let mut all: Vec<&Compared> = compared.collect();
        all.sort_by(|a, b| b.error.total_cmp(&a.error));
        all.truncate(WORST);
        all
    }

    fn text(&self) -> String {
        let mut out = format!(
            "{:<18} {:<8} {:>7} {:>10} {:>12} {:>10}\n",
            "kind", "format", "tensors", "weights", "bits/weight", "size"
        );
        let mut line = |group: &Group, kind: &str, format: &str| {
            let _ = writeln!(
                out,
                "{kind:<18} {format:<8} {:>7} {:>10} {:>12.4} {:>10}",
                group.tensors,
                figures::parameters(group.values),
                group.bits(),
                figures::bytes(group.bytes)
            );
        };
        for ((role, format), group) in &self.groups {
            line(group, role.label(), format.name());
        }
        let whole = Group {
            tensors: self.groups.values().map(|group| group.tensors).sum(),
            values: self.values,
            bytes: self.bytes,
        };
        line(&whole, "all", self.recipe);
        for ((wanted, columns, format), tensors) in &self.instead {
            let _ = writeln!(
                out,
                "{format} instead of {wanted} in {tensors} tensors with rows of {columns}, which \
                 are no whole blocks"
            );
        }
        if let Some(weighed) = self.weighed {
            let tensors = whole.tensors;
            let _ = writeln!(
                out,
                "importance of columns is known of {weighed} of {tensors} tensors"
            );
        }
        match &self.written {
            None => {
                let bytes = figures::bytes(self.header_bytes + self.bytes);
                let _ = writeln!(out, "{} would have {bytes}; nothing was written", self.out);
            }
            Some((written, time)) => self.outcome(&mut out, written, *time),
        }
        if let (Some(before), Some(after)) = (&self.before, &self.after) {
            let _ = writeln!(
                out,
                "perplexity {:.4} before, {:.4} after: {:+.4} nats a token",
                before.perplexity(),
                after.perplexity(),
                after.nats_per_token() - before.nats_per_token()
            );
        }
        out
    }

    fn outcome(&self, out: &mut String, written: &Written, time: Duration) {
        let rate = self.source_bytes as f64 / 1e6 / time.as_secs_f64();
        let _ = writeln!(
            out,
            "{} written to {} in {:.1} s, {rate:.0} MB of the model a second",
            figures::bytes(written.bytes),
            self.out,
            time.as_secs_f64()
        );
        if written.resumed > 0 {
            let _ = writeln!(out, "{} tensors were there from before", written.resumed);
        }
        if written.compared.is_empty() {
            return;
        }
        let _ = writeln!(out, "read back; furthest from the model, of their size:");
        for tensor in self.worst() {
            let _ = writeln!(
                out,
                "  {:<32} {:<8} {:>7.4}",
                tensor.name,
                tensor.format.name(),
                tensor.error
            );
        }
    }

    fn json(&self) -> Value {
        let groups = self.groups.iter().map(|((role, format), group)| {
            json!({
                "kind": role.label(),
                "format": format.name(),
                "tensors": group.tensors,
                "weights": group.values,
                "bytes": group.bytes,
                "bits_per_weight": group.bits(),
            })
        });
        let instead = self
            .instead
            .iter()
            .map(|((wanted, columns, format), tensors)| {
                json!({
                    "wanted": wanted.name(),
                    "columns": columns,
                    "format": format.name(),
                    "tensors": tensors,
                })
            });
        let worst = self.worst().into_iter().map(|tensor| {
            json!({
                "tensor": tensor.name,
                "format": tensor.format.name(),
                "error": tensor.error,
                "largest_difference": tensor.most,
            })
        });
        let written = self.written.as_ref();
        json!({
            "out": self.out,
            "recipe": self.recipe,
            "groups": groups.collect::<Vec<_>>(),
            "instead": instead.collect::<Vec<_>>(),
            "weights": self.values,
            "bytes": self.header_bytes + self.bytes,
            "header_bytes": self.header_bytes,
            "tensors_with_importance": self.weighed,
            "bits_per_weight": self.bits(),
            "source_bytes": self.source_bytes,
            "written": written.is_some(),
            "resumed_tensors": written.map(|(written, _)| written.resumed),
            "seconds": written.map(|(_, time)| seconds(*time)),
            "verified": written.map(|(written, _)| !written.compared.is_empty()),
            "worst": worst.collect::<Vec<_>>(),
            "perplexity_before": self.before.as_ref().map(Perplexity::perplexity),
            "perplexity_after": self.after.as_ref().map(Perplexity::perplexity),
        })
    }
}
