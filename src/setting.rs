//! The scalars of the configuration: the kinds of values with their bounds. Each kind says how it is read, what is expected
//! in its place, how it is shown, and its JSON Schema.
//! An option names its kind next to its documentation: `#[serde_as(as = "Is<Span<1, HOUR>>")]`. Reading is strict where a
//! mistake would not be noticed: a number in quotes is text.

use std::{
    borrow::Cow,
    fmt,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::{Deserializer, Serializer, de};
use serde_with::{DeserializeAs, SerializeAs, schemars_1::JsonSchemaAs};

use crate::{
    secret::Secret,
    units::{exact_duration, exact_size, human_duration, human_size, parse_duration, parse_size},
};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

/// Durations' bounds are in milliseconds.
pub(crate) const SECOND: u64 = 1_000;
pub(crate) const HOUR: u64 = 3_600 * SECOND;
pub(crate) const DAY: u64 = 24 * HOUR;
pub(crate) const YEAR: u64 = 365 * DAY;

/// The name that tells a deserializer that messages must not contain the value.
pub(crate) const SECRET: &str = "secret";

/// The schema of a type, without references.
pub(crate) fn schema_of<T: JsonSchema>() -> serde_json::Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// How a `T` is written in a configuration.
pub trait Kind<T> {
    /// True if no message may contain it.
    const SECRET: bool = false;

    /// True if it is written as text even where it looks like a number.
    const TEXT: bool = false;

    /// What is expected in its place.
    fn expected() -> String;

    /// Reads it; the error is the second half of a sentence.
    ///
    /// # Errors
    /// When the text is not such a value.
    fn read(text: &str) -> Result<T, String>;

    /// In the form that the configuration has.
    fn write(value: &T) -> String;

    /// The part of it that a schema can express.
    fn schema() -> Schema;

    /// Reads a quoted value.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_quoted(text: &str) -> Result<T, String> {
        Self::read(text)
    }
}

/// Reads, writes and describes a field as this kind.
#[derive(Debug)]
pub struct Is<K>(PhantomData<K>);

// What does not depend on the kind is apart, so that it is compiled once and not for each kind.

impl<'de, T, K: Kind<T>> DeserializeAs<'de, T> for Is<K> {
    fn deserialize_as<D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let mut value = None;
        let mut read = |text: &str, is_quoted: bool| {
            value = Some(if is_quoted { K::read_quoted(text) } else { K::read(text) }?);
            Ok(())
        };
        let name = if K::SECRET { SECRET } else { "value" };
        deserializer.deserialize_newtype_struct(name, TextVisitor { expected: K::expected, read: &mut read })?;
        value.ok_or_else(|| de::Error::custom("no value"))
    }
}

struct TextVisitor<'a> {
    expected: fn() -> String,
    read: &'a mut dyn FnMut(&str, bool) -> Result<(), String>,
}

impl TextVisitor<'_> {
    fn read<E: de::Error>(self, text: &str, is_quoted: bool) -> Result<(), E> {
        (self.read)(text, is_quoted)
            .map_err(|reason| E::custom(format_args!("{reason}; expected {}", (self.expected)())))
    }
}

impl<'de> de::Visitor<'de> for TextVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&(self.expected)())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.read(text, false)
    }

    /// The deserializer returns quoted text as a borrowed string.
    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        self.read(text, true)
    }
}

impl<T, K: Kind<T>> SerializeAs<T> for Is<K> {
    fn serialize_as<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&K::write(value), K::TEXT, serializer)
    }
}

/// A number, if it is written as one.
fn serialize<S: Serializer>(written: &str, is_text: bool, serializer: S) -> Result<S::Ok, S::Error> {
    match written.parse::<i64>() {
        Ok(number) if !is_text && number.to_string() == written => serializer.serialize_i64(number),
        _ => serializer.serialize_str(written),
    }
}

impl<T, K: Kind<T>> JsonSchemaAs<T> for Is<K> {
    fn schema_name() -> Cow<'static, str> {
        std::any::type_name::<K>().into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        K::schema()
    }
}

/// Implements a kind: what is expected, how it is read and written, its schema.
macro_rules! kind {
    ([$($bound:tt)*] $kind:ty => $value:ty, $(@$flag:ident,)? $expected:expr, |$text:ident| $read:expr,
     |$this:ident| $write:expr, $schema:expr $(, $quoted:ident)?) => {
        impl<$($bound)*> $crate::setting::Kind<$value> for $kind {
            $(const $flag: bool = true;)?
            fn expected() -> String { $expected.to_string() }
            fn read($text: &str) -> Result<$value, String> { $read }
            fn write($this: &$value) -> String { $write.to_string() }
            fn schema() -> schemars::Schema { $schema }
            $(fn read_quoted(text: &str) -> Result<$value, String> { $quoted(text) })?
        }
    };
}
pub(crate) use kind;

/// The messages for a value outside its bounds.
fn within<T: PartialOrd>(value: T, (min, low): (T, &str), (max, high): (T, &str)) -> Result<T, String> {
    match () {
        () if value < min => Err(low.to_owned()),
        () if value > max => Err(high.to_owned()),
        () => Ok(value),
    }
}

fn number<T: TryFrom<U>, U>(value: U) -> Result<T, String> {
    T::try_from(value).map_err(|_| "is too large".to_owned())
}

/// A duration; the bounds are in milliseconds.
pub struct Span<const MIN: u64, const MAX: u64>;

kind!([const MIN: u64, const MAX: u64] Span<MIN, MAX> => Duration,
    a_duration(MIN, MAX),
    |text| read_duration(text, MIN, MAX),
    |value| exact_duration(*value),
    duration_schema());

fn a_duration(min: u64, max: u64) -> String {
    let [min, max] = [min, max].map(|bound| human_duration(Duration::from_millis(bound)));
    format!("a duration from {min} to {max}, such as 500ms or 1h30m")
}

fn read_duration(text: &str, min: u64, max: u64) -> Result<Duration, String> {
    let [min, max] = [min, max].map(Duration::from_millis);
    within(parse_duration(text)?, (min, "is too short"), (max, "is too long"))
}

fn duration_schema() -> Schema {
    json_schema!({ "anyOf": [{ "type": "string", "pattern": r"^ *([0-9.]+ *[a-zµμ]+ *)+$|^ *0 *$" }, { "const": 0 }] })
}

/// A size in bytes.
pub struct Size<const MIN: u64, const MAX: u64>;

kind!([T: TryFrom<u64> + TryInto<u64> + Copy, const MIN: u64, const MAX: u64] Size<MIN, MAX> => T,
format!("a size from {} to {}, such as 64MiB or 8GiB", human_size(MIN), human_size(MAX)),
|text| number(within(parse_size(text)?, (MIN, "is too small"), (MAX, "is too large"))?),
|value| exact_size((*value).try_into().unwrap_or(MAX)),
size_schema(MIN, MAX));

fn size_schema(min: u64, max: u64) -> Schema {
    json_schema!({
        "type": ["string", "number"], "minimum": min, "maximum": max,
        "pattern": r"^ *[0-9.]+ *(|B|[KMGT]iB|[kKMGT]B|[kM]) *$"
    })
}

/// A whole number, in plain digits with `_` between them.
pub struct Count<const MIN: u64, const MAX: u64>;

kind!([T: TryFrom<u64> + fmt::Display, const MIN: u64, const MAX: u64] Count<MIN, MAX> => T,
    format!("a whole number from {MIN} to {MAX}"),
    |text| number(read_count(text, MIN, MAX)?),
    |value| value,
    count_schema(MIN, MAX),
    not_quoted);

fn not_quoted<T>(_: &str) -> Result<T, String> {
    Err("is a text in quotes".to_owned())
}

fn read_count(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let value: i128 = text.replace('_', "").parse().map_err(|_| "is not a whole number".to_owned())?;
    let low = if value < 0 { "is negative" } else { "is too small" };
    Ok(within(value, (min.into(), low), (max.into(), "is too large"))? as u64)
}

fn count_schema(min: u64, max: u64) -> Schema {
    json_schema!({ "type": ["integer", "string"], "pattern": r"^[-+]?[0-9_]+$", "minimum": min, "maximum": max })
}

/// A whole number of either sign, also in quotes.
pub struct Integer<const MIN: i64, const MAX: i64>;

kind!([T: TryFrom<i64> + fmt::Display, const MIN: i64, const MAX: i64] Integer<MIN, MAX> => T,
    format!("a whole number from {MIN} to {MAX}"),
    |text| {
        let value = text.parse().map_err(|_| "is not a whole number".to_owned())?;
        number(within(value, (MIN, "is out of range"), (MAX, "is out of range"))?)
    },
    |value| value,
    json_schema!({ "type": ["integer", "string"], "pattern": "^[-+0-9]+$", "minimum": MIN, "maximum": MAX }));

/// The word for no value.
const NONE: &str = "none";

/// A value, or `none`.
pub struct OrNone<K>(PhantomData<K>);

impl<T, K: Kind<T>> Kind<Option<T>> for OrNone<K> {
    fn expected() -> String {
        format!("{} or {}", K::expected(), NONE)
    }

    fn read(text: &str) -> Result<Option<T>, String> {
        if text == NONE { Ok(None) } else { K::read(text).map(Some) }
    }

    fn write(value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| NONE.to_owned(), K::write)
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": NONE }, K::schema()] })
    }
}

type Lifetime = Span<SECOND, { 100 * YEAR }>;

/// How long something is kept; `None` is `never`.
pub struct Age;

kind!([] Age => Option<Duration>,
    format!("{} or never", <Lifetime as Kind<Duration>>::expected()),
    |text| if text == "never" { Ok(None) } else { Lifetime::read(text).map(Some) },
    |value| value.map_or_else(|| "never".to_owned(), |value| Lifetime::write(&value)),
    json_schema!({ "anyOf": [{ "const": "never" }, Lifetime::schema()] }));

/// How long documents live: as [`Age`], `0` is `never` too.
pub struct Expiration;

kind!([] Expiration => Option<Duration>,
    format!("{} or 0", Age::expected()),
    |text| if matches!(text, "0" | "0s") { Ok(None) } else { Age::read(text) },
    |value| Age::write(value),
    Age::schema());

fn any_text() -> Schema {
    json_schema!({ "type": ["string", "number", "boolean", "null"], "minLength": 1 })
}

/// A text that is not empty: also a path, or a secret.
pub struct Text;

fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// The operating system takes no path with a NUL character.
pub(crate) fn path(path: &str) -> Result<PathBuf, String> {
    if path.contains('\0') { Err("has a NUL character".to_owned()) } else { text(path).map(PathBuf::from) }
}

/// Spaces around a secret usually come from the tool that wrote it; in quotes they are kept.
fn quoted_secret(quoted: &str) -> Result<Secret, String> {
    text(quoted.trim_end_matches(['\n', '\r'])).map(Secret::new)
}

kind!([] Text => String, @TEXT, "a text", |written| text(written), |value| value, any_text());
kind!([] Text => PathBuf, @TEXT, "a path", |written| path(written), |value| value.display(), any_text());
kind!([] Text => Secret, @SECRET, "a text (it is never shown)", |written| text(written.trim()).map(Secret::new),
    |value| value, any_text(), quoted_secret);

/// `127.0.0.1:7890`, `[::1]:7890`, `localhost:7890`, `:7890` (every interface, as in Go).
pub struct Address;

kind!([] Address => SocketAddr,
    "an address and port such as 127.0.0.1:7890 or [::1]:7890",
    |text| {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| "has no port".to_owned())?;
        let port = port.parse().map_err(|_| "has no port from 0 to 65535".to_owned())?;
        let ip: IpAddr = match host {
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            "" => Ipv6Addr::UNSPECIFIED.into(),
            _ => return Err("is not an IP address and port".to_owned()),
        };
        Ok(SocketAddr::new(ip, port))
    },
    |value| value,
    json_schema!({ "type": "string", "pattern": ":[+0-9]+$" }));
