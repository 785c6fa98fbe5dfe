//! Amounts of memory as people type them: `20GiB`, `device=20GiB,host=64GiB`.

use hadal_engine::Budget;

/// Units and their bytes; those of powers of two carry an i.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads a budget.
///
/// # Errors
/// Says what would do.
pub fn parse(text: &str) -> Result<Budget, String> {
    let mut budget = Budget::default();
    for entry in text.split(',') {
        let (name, size) = entry
            .split_once('=')
            .ok_or("write device=SIZE, host=SIZE or both with a comma")?;
        let place = match name.trim() {
            "device" => &mut budget.device,
            "host" => &mut budget.host,
            other => {
                return Err(format!(
                    "there is no memory {other:?}; there are device and host"
                ));
            }
        };
        *place = Some(bytes(size.trim())?);
    }
    Ok(budget)
}

fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size; write it as 20GiB, 1.5GB or in bytes");
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let (number, unit) = match unit {
        Some((unit, bytes)) => (text.trim_end_matches(unit).trim_end(), *bytes),
        None => (text, 1),
    };
    let value: f64 = number.parse().map_err(|_| bad())?;
    let bytes = value * unit as f64;
    match (0.0..=1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_others_refused_with_what_would_do() {
        let both = parse("device=20GiB,host=1.5GB").unwrap();
        assert_eq!(
            (both.device, both.host),
            (Some(20 << 30), Some(1_500_000_000))
        );
        assert_eq!(parse("host=4096").unwrap().host, Some(4096));
        for wrong in [
            "",
            "20GiB",
            "disk=1GB",
            "host=",
            "host=x",
            "host=-1",
            "host=NaN",
            "host=1e40",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
