//! Numbers as people read them.

/// Bytes with a decimal unit: `10.7 MB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1e3;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{} {}", three(value), units[unit]),
    }
}

/// A rate: three figures, and none after the point from 100 on.
pub fn rate(value: f64) -> String {
    match value < 100.0 {
        true => three(value),
        false => count(value.round() as u64),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A count with a comma every three figures.
pub fn count(value: u64) -> String {
    let figures = value.to_string();
    let mut out = String::new();
    for (index, figure) in figures.chars().enumerate() {
        if index > 0 && (figures.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(figure);
    }
    out
}

fn three(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(10_700_000), "10.7 MB");
        assert_eq!(bytes(999_600), "1.00 MB");
        assert_eq!(bytes(685_000_000_000), "685 GB");
        assert_eq!(rate(4.237), "4.24");
        assert_eq!(rate(1728.2), "1,728");
        assert_eq!(count(16_384), "16,384");
        assert_eq!(count(7), "7");
        assert_eq!(percent(0.547), "55 %");
    }
}
