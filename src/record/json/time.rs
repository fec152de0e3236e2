//! `google.protobuf.Timestamp` and `Duration`, which are texts in JSON.

use prost_types::Duration;

use super::scalar::Problem;

const MAX_DURATION_SECONDS: u64 = 315_576_000_000;
/// The years 1 to 9999.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Seconds since 1970 and nanoseconds of an RFC 3339 time, with the upper-case letters that protobuf asks for. Most records
/// have one: a library that accepts more forms takes three times as long.
pub(super) fn timestamp(text: &str) -> Result<(i64, i32), Problem> {
    let (seconds, nanos) =
        rfc3339(text.as_bytes()).ok_or(Problem::from("not an RFC 3339 time, such as \"2026-11-22T00:00:01.5Z\""))?;
    if !TIMESTAMP_SECONDS.contains(&seconds) {
        return Err("a time has to be in the years 1 to 9999".into());
    }
    Ok((seconds, nanos))
}

/// Reads `0000-00-00T00:00:00[.0…](Z|±00:00)`.
fn rfc3339(text: &[u8]) -> Option<(i64, i32)> {
    let (&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2], mut rest) =
        text.split_first_chunk::<19>()?
    else {
        return None;
    };
    let (year, month, day) = (two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut nanos = 0;
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        // Digits beyond nanoseconds are cut off.
        let nine = fraction[..digits].iter().copied().chain(std::iter::repeat(b'0')).take(9);
        nanos = nine.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0'));
        rest = &fraction[digits..];
    }
    let offset = match *rest {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', n1, n2] => {
            let (hours, minutes) = (two(h1, h2)?, two(n1, n2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    // A leap second counts as the one before.
    let of_day = hour * 3600 + minute * 60 + second.min(59);
    Some((days_since_1970(year, month, day)? * 86_400 + of_day - offset, nanos))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

/// Days of the Gregorian calendar, none for a day that does not exist.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years from March on, so that a leap day is the last day of one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_month = (153 * month + 2) / 5;
    Some(
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + before_month + day
            - 1
            - 719_468,
    )
}

/// Seconds and nanoseconds of a text such as `1.5s`.
pub(super) fn duration(text: &str) -> Result<(i64, i32), Problem> {
    let Duration { seconds, nanos } =
        text.parse().map_err(|_| Problem::from("not a duration in seconds, such as \"1.5s\""))?;
    if seconds.unsigned_abs() > MAX_DURATION_SECONDS {
        return Err("a duration has to be within 10,000 years".into());
    }
    Ok((seconds, nanos))
}
