//! The query part of a request for sessions: names that may repeat, times, numbers, words. Names that nobody asks for are
//! ignored.

use std::{fmt::Display, str::FromStr, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use crate::{admin::problem::Problem, record::now_millis, session::Time};

/// The range if none is given.
const RANGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Relative times end on multiples of this, so that requests shortly after one another are the same.
const STEP: i64 = 5_000_000_000;

/// The pairs of a query, decoded, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts.uri.query().unwrap_or_default()))
    }
}

impl Parameters {
    pub(super) fn of(query: &str) -> Self {
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The value of a name that is there once and not empty.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(bad(name, "is given twice")),
            (value, None) => Ok(value),
        }
    }

    /// The values of a name, without empty ones. A name in camel case may be given as protobuf has it too (`page_size`).
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let is_asked_for = move |key: &str| key == name || key == snake_case(name);
        self.0
            .iter()
            .filter(move |(key, value)| is_asked_for(key) && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// A number, at least `least`; what is above `most` is taken as `most`.
    pub(super) fn number(&self, name: &str, default: usize, least: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.one(name)? else { return Ok(default) };
        let number = parsed::<usize>(name, text)?;
        if number < least { Err(bad(name, format!("has to be at least {least}"))) } else { Ok(number.min(most)) }
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        self.one(name)?.map(|text| word(name, text, words)).transpose()
    }

    /// All of these words that are given.
    pub(super) fn words<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Vec<T>, Problem> {
        self.all(name).map(|text| word(name, text, words)).collect()
    }

    /// `true` or `false`; false if it is not given.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        Ok(self.word(name, &[("true", true), ("false", false)])?.unwrap_or(false))
    }

    /// A time: RFC 3339, the beginning of a day (`2026-11-22`, UTC), or a duration before now (`24h`).
    pub(super) fn time(&self, name: &str) -> Result<Option<Time>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let ago = || humantime::parse_duration(text).ok().map(|span| before(now(), span));
        day(text).or_else(|| rfc3339(text)).or_else(ago).map(Some).ok_or_else(|| {
            bad(
                name,
                format!(
                    "{text:?} is not a time: expected 2026-11-22T10:00:00Z, 2026-11-22, or a duration before now (24h)"
                ),
            )
        })
    }
}

impl Parameters {
    /// A range: `since` (24 hours before its end if it is not given) and `until` (now).
    pub(super) fn range(&self) -> Result<(Time, Time), Problem> {
        let to = self.time("until")?.unwrap_or_else(now);
        let from = self.time("since")?.unwrap_or_else(|| before(to, RANGE));
        if from < to { Ok((from, to)) } else { Err(bad("since", "has to be before until")) }
    }
}

/// Now, rounded up a little.
pub(super) fn now() -> Time {
    let now = now_millis().saturating_mul(1_000_000);
    Time(now.saturating_add(STEP - now.rem_euclid(STEP)))
}

pub(super) fn before(time: Time, span: Duration) -> Time {
    Time(time.0.saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
}

/// The beginning of a day: `2026-11-22`, UTC.
pub(super) fn day(text: &str) -> Option<Time> {
    let is_day = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_day.then(|| rfc3339(&format!("{text}T00:00:00Z"))).flatten()
}

/// RFC 3339, to the millisecond; the last time that can be counted for one beyond it.
pub(super) fn rfc3339(text: &str) -> Option<Time> {
    let millis = bson::DateTime::parse_rfc3339_str(text).ok()?.timestamp_millis();
    Some(Time(millis.saturating_mul(1_000_000)))
}

fn snake_case(name: &str) -> String {
    let part = |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() };
    name.chars().map(part).collect()
}

pub(super) fn bad(name: &str, why: impl Display) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("{name}: {why}"))
}

fn word<T: Copy>(name: &str, text: &str, words: &[(&str, T)]) -> Result<T, Problem> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        bad(name, format!("{text:?} is not one of {}", words.join(", ")))
    })
}

fn parsed<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| bad(name, format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_repeat_and_unknown_ones_are_ignored() {
        let parameters = Parameters::of("a=1&b=x%20y&a=2&c=&unknown=1");
        assert_eq!(parameters.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(parameters.one("b").unwrap(), Some("x y"));
        assert_eq!((parameters.one("c").unwrap(), parameters.one("d").unwrap()), (None, None));
        assert_eq!(parameters.one("a").unwrap_err().message, "a: is given twice");
    }

    #[test]
    fn numbers_have_bounds_and_words_a_list() {
        let parameters = Parameters::of("n=7&zero=0&minus=-1&text=x&word=up&flag=true");
        assert_eq!(parameters.number("n", 1, 1, 5).unwrap(), 5);
        assert_eq!(parameters.number("absent", 3, 1, 5).unwrap(), 3);
        for name in ["zero", "minus", "text"] {
            assert_eq!(parameters.number(name, 1, 1, 5).unwrap_err().status, StatusCode::BAD_REQUEST, "{name}");
        }
        assert_eq!(parameters.word("word", &[("up", 1), ("down", 2)]).unwrap(), Some(1));
        assert!(parameters.word("text", &[("up", 1)]).unwrap_err().message.contains("is not one of up"));
        assert!(parameters.flag("flag").unwrap());
        assert!(!parameters.flag("absent").unwrap());
    }

    #[test]
    fn times_are_rfc_3339_days_or_spans_before_now() {
        let time = |text: &str| Parameters::of(&format!("t={text}")).time("t");
        assert_eq!(time("1970-01-01T00:00:01.5Z").unwrap(), Some(Time(1_500_000_000)));
        assert_eq!(time("1970-01-01T02:00:01%2B02:00").unwrap(), Some(Time(1_000_000_000)));
        assert_eq!(time("1970-01-02").unwrap(), Some(Time(86_400_000_000_000)));
        // Beyond what nanoseconds can count.
        assert_eq!(time("9999-12-31T23:59:59Z").unwrap(), Some(Time(i64::MAX)));
        assert_eq!(time("1500-01-01").unwrap(), Some(Time(i64::MIN)));
        let hour = time("1h").unwrap().unwrap();
        assert!((3590.0..=3600.0).contains(&now().since(hour)), "{hour:?}");
        for text in ["yesterday", "1970-13-01", "12", "0000-00-00", "99999999999999999999y"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
