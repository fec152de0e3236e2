//! Durations and sizes as people write them: `500ms`, `1h30m`, `1.5h`, `2 days`; `8GiB`, `500MB`, `65536`.

use std::time::Duration;

/// Go's units, in nanoseconds; the longer of two with the same beginning comes first.
const GO_UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3_600e9)];

const SIZE_UNITS: [(&str, f64); 13] = [
    ("", 1.0),
    ("B", 1.0),
    ("KiB", 1_024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("k", 1e3),
    ("M", 1e6),
];

/// Reads a duration in Go's forms (`1.5h`, `1h30m`, `100us`) or humantime's (`2 days`, `1h 30m`).
///
/// # Errors
/// What is wrong with the text, as the second half of a sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("is negative".to_owned());
    }
    if text.parse::<f64>().is_ok() {
        return Err(format!("has no unit: write {text}s for seconds"));
    }
    go_duration(text)
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "is not a duration: write 500ms, 30s, 1h30m, 1.5h or \"2 days\"".to_owned())
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = Some(text).filter(|text| !text.is_empty())?;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = GO_UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        nanos += number * unit;
        rest = &rest[end..];
    }
    // Go, too, refuses more than 2^63 ns (292 years).
    (nanos < 9.2e18).then(|| Duration::from_nanos(nanos.round() as u64))
}

/// Reads a size in bytes: `8GiB`, `1.5 GiB`, `500MB`, `65536`.
///
/// # Errors
/// What is wrong with the text, as the second half of a sentence.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("is negative".to_owned());
    }
    let wrong = || "is not a size: write 65536, 512KiB, 64MiB, 8GiB or 500MB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim();
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let bytes = number * factor;
    // 2^53: the largest size that a double holds exactly, 8 PiB.
    if bytes > 9_007_199_254_740_992.0 { Err("is more than 8 PiB".to_owned()) } else { Ok(bytes.round() as u64) }
}

/// A size for people: `8GiB` if that is exact, else two digits after the point.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// A size in the form of the config, exact to the byte: `8GiB`, `65537`.
pub(crate) fn exact_size(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// A duration in the form of the config, exact to the nanosecond: `768h`, `75s`, `1500ms`.
pub(crate) fn exact_duration(duration: Duration) -> String {
    let units =
        [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
    let nanos = duration.as_nanos();
    let unit = units.iter().find(|(_, unit)| nanos > 0 && nanos.is_multiple_of(*unit));
    match unit {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{nanos}ns"),
    }
}

/// A duration for people, two units at most: `850ms`, `12s`, `3m 20s`, `2h 5m`, `4d 3h`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 10 && duration.subsec_millis() > 0 {
        return if seconds == 0 {
            format!("{}ms", duration.subsec_millis())
        } else {
            format!("{:.1}s", duration.as_secs_f64())
        };
    }
    let two = |first: u64, unit: &str, second: u64, smaller: &str| {
        if second == 0 { format!("{first}{unit}") } else { format!("{first}{unit} {second}{smaller}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// A count for people: `1,234,567`.
#[must_use]
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_gos_and_in_humantimes_forms() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("1h30m0s", 5_400_000),
            ("768h0m0s", 2_764_800_000),
            ("1h 30m", 5_400_000),
            ("2 days", 172_800_000),
            ("1w", 604_800_000),
            (".5s", 500),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("1µs"), Ok(Duration::from_micros(1)));
        assert_eq!(parse_duration("1500ns"), Ok(Duration::from_nanos(1_500)));
    }

    #[test]
    fn a_bad_duration_says_what_is_wrong() {
        assert_eq!(parse_duration("-1s").unwrap_err(), "is negative");
        assert_eq!(parse_duration("10").unwrap_err(), "has no unit: write 10s for seconds");
        for text in ["", "fast", "1x", "1h30", "h", "1..5h"] {
            assert!(parse_duration(text).unwrap_err().starts_with("is not a duration"), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("1B", 1),
            ("512KiB", 524_288),
            ("8GiB", 8_589_934_592),
            ("1.5 GiB", 1_610_612_736),
            ("500MB", 500_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "8gib", "8 GiBs", "-1", "1e9", "99999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_durations_and_counts_are_shown_briefly() {
        assert_eq!(
            [0, 1_023, 1_024, 67_108_864, 8_589_934_592, 1_610_612_736].map(human_size),
            ["0B", "1023B", "1KiB", "64MiB", "8GiB", "1.5GiB"]
        );
        assert_eq!(
            [0, 850, 1_500, 12_000, 200_000, 7_500_000, 356_400_000]
                .map(|ms| human_duration(Duration::from_millis(ms))),
            ["0s", "850ms", "1.5s", "12s", "3m 20s", "2h 5m", "4d 3h"]
        );
        assert_eq!([0, 999, 1_000, 1_234_567].map(human_count), ["0", "999", "1,000", "1,234,567"]);
    }
}
