//! The least that a dispatch can take on a device: its bytes as fast as the device's memory
//! gives them, or its multiply-adds as fast as the device multiplies, whichever is longer.
//!
//! Both rates are measured on the device itself. Work without weights is in f32 and bounded
//! by the rate of f32 weights.

use std::collections::BTreeSet;
use std::fmt::Write;

use hadal_device::{DType, Device, Result};
use hadal_engine::Traced;
use serde_json::{Value, json};

use super::arithmetic::{self, Product, Rate};
use hadal_engine::bandwidth::{self, Bandwidth, Effort};

/// What a device can do at best.
pub struct Floors {
    /// Bytes a second that memory gave, reading or copying.
    memory: f64,
    /// Bytes a second, read and written, of a copy.
    copy: f64,
    rates: Vec<Rate>,
}

/// What bounds a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Memory,
    Arithmetic,
}

/// The least time, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// The time.
    pub seconds: f64,
    /// The reason; `None` where there is nothing to do.
    pub bound: Option<Bound>,
}

impl Bound {
    /// `memory`, `arithmetic`.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        }
    }
}

impl Floor {
    /// How many times the floor `seconds` is.
    pub fn times(&self, seconds: f64) -> Option<f64> {
        (self.seconds > 0.0).then(|| seconds / self.seconds)
    }

    /// `3.1`, as the tables have it.
    pub fn times_text(&self, seconds: f64) -> String {
        match self.times(seconds) {
            Some(times) if times < 99.95 => format!("{times:.1}"),
            Some(times) => format!("{times:.0}"),
            None => "-".to_string(),
        }
    }

    /// The reason, as the tables have it.
    pub fn bound_text(&self) -> &'static str {
        self.bound.map_or("-", Bound::name)
    }
}

/// The product whose rate bounds a dispatch.
fn product(traced: &Traced) -> Product {
    Product {
        weight: traced.weight,
        // What makes or moves codes is no product.
        coded: traced.coded && traced.weight == DType::F8E4M3,
    }
}

impl Floors {
    /// Measures what bounds `traced`, with the memory's figure at hand.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure<'t>(
        device: &dyn Device,
        memory: &Bandwidth,
        traced: impl Iterator<Item = &'t Traced>,
    ) -> Result<Floors> {
        let copy = match memory.threads {
            None => memory.bytes_per_second,
            Some(_) => bandwidth::copying(device, Effort::THOROUGH)?,
        };
        let products: BTreeSet<Product> = traced.map(product).collect();
        let rates = products
            .into_iter()
            .filter_map(|product| arithmetic::measure(device, product).transpose());
        Ok(Floors {
            memory: memory.bytes_per_second.max(copy),
            copy,
            rates: rates.collect::<Result<_>>()?,
        })
    }

    /// The floor of `macs` multiply-adds and `bytes` bytes of the kind of `traced`.
    pub fn of(&self, traced: &Traced, macs: u64, bytes: u64) -> Floor {
        let wanted = product(traced);
        let rate = self.rates.iter().find(|rate| rate.product == wanted);
        let memory = bytes as f64 / self.memory;
        let arithmetic = rate.map_or(0.0, |rate| 2.0 * macs as f64 / rate.flop_per_second);
        Floor {
            seconds: memory.max(arithmetic),
            bound: match () {
                () if memory.max(arithmetic) <= 0.0 => None,
                () if memory >= arithmetic => Some(Bound::Memory),
                () => Some(Bound::Arithmetic),
            },
        }
    }

    /// A line for the memory, and one for each rate.
    pub fn text(&self, device: &str) -> String {
        let mut out = format!(
            "\nfloors of {device}: bytes at {:.1} GB/s (copying: {:.1}), multiply-adds at\n",
            self.memory / 1e9,
            self.copy / 1e9,
        );
        for rate in &self.rates {
            let codes = if rate.product.coded { " codes" } else { "" };
            // Writing to a String does not fail.
            let _ = writeln!(
                out,
                "{:>14} {:>10.1} GFLOP/s  {}, {side} x {side} x {side}",
                format!("{}{codes}", rate.product.weight.name()),
                rate.flop_per_second / 1e9,
                rate.kernel,
                side = rate.side,
            );
        }
        out
    }

    /// The same for scripts.
    pub fn json(&self) -> Value {
        let rate = |rate: &Rate| {
            json!({
                "weight": rate.product.weight.name(),
                "activations_are_codes": rate.product.coded,
                "kernel": rate.kernel,
                "shape": [rate.side, rate.side, rate.side],
                "flop_per_second": rate.flop_per_second,
            })
        };
        json!({
            "memory_bytes_per_second": self.memory,
            "copy_bytes_per_second": self.copy,
            "arithmetic": self.rates.iter().map(rate).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use hadal_device::OpKind;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longer_of_both_times_bounds() {
        let weight = DType::Bf16;
        let traced = Traced {
            scope: String::new(),
            op: OpKind::Linear,
            weight,
            coded: false,
            row: "linear",
            macs: 0,
            bytes: 0,
            time: Duration::ZERO,
            others: Vec::new(),
        };
        let floors = Floors {
            memory: 100.0,
            copy: 80.0,
            rates: vec![Rate {
                product: product(&traced),
                kernel: "linear",
                side: 256,
                flop_per_second: 1000.0,
            }],
        };
        let bound = |traced: &Traced, macs, bytes| {
            let floor = floors.of(traced, macs, bytes);
            (floor.seconds, floor.bound)
        };
        assert_eq!(bound(&traced, 500, 50), (1.0, Some(Bound::Arithmetic)));
        assert_eq!(bound(&traced, 500, 200), (2.0, Some(Bound::Memory)));
        assert_eq!(bound(&traced, 0, 0), (0.0, None));
        assert_eq!(floors.of(&traced, 500, 50).times(3.0), Some(3.0));
        assert_eq!(floors.of(&traced, 0, 0).times(3.0), None);
        let unknown = Traced {
            weight: DType::F16,
            ..traced
        };
        assert_eq!(bound(&unknown, 500, 50), (0.5, Some(Bound::Memory)));
    }
}
