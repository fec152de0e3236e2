//! Texts for every message of the schema, and for messages with every type of protobuf: what is written, and what is
//! refused where, is compared with a slow model. prost-reflect reads the text into a dynamic message, which is encoded
//! field by field.

use std::{collections::BTreeSet, sync::LazyLock};

use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    super::{JsonError, Schema, UnknownFields, message_from_json, schema::Form},
    model,
    text::Texts,
};
use crate::{record::schema::pool, testing::cases};

/// Messages that the JSON mapping treats on their own, and that are not implemented.
const LEFT_OUT: [&str; 4] =
    ["google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue", "google.protobuf.FieldMask"];

static TYPES: LazyLock<(DescriptorPool, Schema)> = LazyLock::new(|| {
    struct Files;
    impl protox::file::FileResolver for Files {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            let source = match name {
                "types.proto" => include_str!("../../../document/tests/types.proto"),
                "known.proto" => include_str!("known.proto"),
                _ => return protox::file::GoogleFileResolver::new().open_file(name),
            };
            protox::file::File::from_source(name, source)
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(Files);
    compiler.include_imports(true).open_file("known.proto").unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(compiler.file_descriptor_set()).unwrap();
    let schema = Schema::new(&pool);
    (pool, schema)
});

static LIVEKIT: LazyLock<Schema> = LazyLock::new(|| Schema::new(pool()));

/// The bytes, or the line and the path.
fn expected(message: &MessageDescriptor, unknown: UnknownFields, text: &[u8]) -> Result<Vec<u8>, (usize, String)> {
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == UnknownFields::Refuse);
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = DynamicMessage::deserialize_with_options(message.clone(), tracked, &options)
        .and_then(|message| json.end().map(|()| message));
    let message = read.map_err(|error| {
        let path = if error.is_data() { track.path().to_string() } else { String::new() };
        (error.line(), if path == "." { String::new() } else { path })
    })?;
    let mut out = Vec::new();
    model::encode(&message, &mut out);
    Ok(out)
}

/// A path whose map keys are numbers as they are written, not as the text has them (`007`).
fn plain(path: &str) -> Vec<String> {
    let plain = |step: &str| step.parse::<i128>().map_or_else(|_| step.to_owned(), |number| number.to_string());
    path.split('.').map(plain).collect()
}

/// Compares the two on a text; tells whether it was written.
fn compare(schema: &'static Schema, message: &MessageDescriptor, unknown: UnknownFields, text: &[u8]) -> bool {
    let shown = String::from_utf8_lossy(text);
    let full_name = message.full_name();
    let written = message_from_json(schema, schema.message_named(full_name).unwrap(), unknown, text);
    let expected = expected(message, unknown, text);
    match (&written, &expected) {
        // In an `Any` the model makes -0.0 as a map's value to 0.0.
        (Ok(_), Ok(_)) if shown.contains("any") && shown.contains("-0") => {}
        (Ok(written), Ok(expected)) => assert_eq!(written, expected, "{full_name} {shown}"),
        // That the text is not UTF-8 is reported first, and also of what is ignored.
        (Err(_), _) if str::from_utf8(text).is_err() => {}
        // The model makes infinity of a number in a string that is too large.
        (Err(JsonError { problem, .. }), _) if problem.starts_with("out of range: infinity") => {}
        // The model has another place for what is wrong in an `Any`, before its `@type`.
        (Err(_), Err(_)) if ["any", "callContext", "call_context"].iter().any(|any| shown.contains(any)) => {}
        (Err(JsonError { line, path, problem, .. }), Err((expected_line, expected_path))) => {
            assert_eq!(plain(path), plain(expected_path), "{full_name} {shown}: {problem}");
            // An object or an array in the wrong place is reported after its bracket, and the lines after it.
            let may_be_later =
                problem.starts_with("invalid type: map") || problem.starts_with("invalid type: sequence");
            assert!(
                line == expected_line || may_be_later,
                "{full_name} {shown}: {line}, not {expected_line}: {problem}"
            );
        }
        _ => panic!("{full_name} {shown}: {written:?}, expected {expected:?}"),
    }
    written.is_ok()
}

/// The messages that are objects with their fields: a record is one.
fn objects(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    pool.all_messages().filter(|message| Form::of(message.full_name()) == Form::Object).collect()
}

fn differ(schema: &'static Schema, pool: &DescriptorPool, of: &[MessageDescriptor], seed: u64) -> bool {
    let random = &mut StdRng::seed_from_u64(seed);
    let message = &of[random.random_range(0..of.len())];
    let unknown = if random.random() { UnknownFields::Refuse } else { UnknownFields::Ignore };
    let mut names: Vec<_> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
    names.push("no.Message".to_owned());
    let odd = [4, 30, 1000][random.random_range(0..3)];
    let mut texts = Texts { random, names: &names, odd };
    let text = texts.message(message, 5);
    let written = compare(schema, message, unknown, text.as_bytes());
    let mutated = texts.mutated(&text);
    compare(schema, message, unknown, &mutated);
    written
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn messages_of_livekit_are_what_the_model_makes_of_them(seed: u64) {
        let all = objects(pool());
        differ(&LIVEKIT, pool(), &all, seed);
    }

    #[test]
    fn messages_of_every_type_are_what_the_model_makes_of_them(seed: u64) {
        let (pool, schema) = &*TYPES;
        let all: Vec<_> = ["types.Everything", "types.Known"].map(|name| pool.get_message_by_name(name).unwrap()).into();
        differ(schema, pool, &all, seed);
    }
}

#[test]
fn many_texts_are_written_and_many_refused() {
    let all = objects(pool());
    let written = (0..1000).filter(|&seed| differ(&LIVEKIT, pool(), &all, seed)).count();
    assert!((200..900).contains(&written), "{written} of 1000");
}

#[test]
fn every_message_of_livekit_is_written_whole() {
    for message in objects(pool()) {
        for seed in 0..20 {
            let random = &mut StdRng::seed_from_u64(seed);
            let names = ["livekit.Room".to_owned()];
            let text = Texts { random, names: &names, odd: 1_000_000 }.message(&message, 4);
            compare(&LIVEKIT, &message, UnknownFields::Refuse, text.as_bytes());
        }
    }
}

#[test]
fn livekits_schema_has_no_message_that_is_left_out() {
    let used: BTreeSet<_> = pool().all_messages().map(|message| message.full_name().to_owned()).collect();
    assert!(LEFT_OUT.iter().all(|name| !used.contains(*name)));
}

/// Values of every kind, with what is just outside of it.
fn all_values() -> Vec<String> {
    let numbers = [
        "0",
        "-0",
        "1",
        "-1",
        "0.0",
        "-0.0",
        "1.0",
        "1.5",
        "1e3",
        "1E3",
        "1e+3",
        "1e-3",
        "10e-1",
        "0.1e1",
        "1e0",
        "2147483647",
        "2147483648",
        "-2147483648",
        "-2147483649",
        "2147483647.0",
        "2147483648.0",
        "4294967295",
        "4294967296",
        "4294967295.0",
        "4294967295.5",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "9.223372036854775807e18",
        "18446744073709551615",
        "18446744073709551616",
        "1.8446744073709552e19",
        "1e19",
        "1e20",
        "1e38",
        "3e38",
        "4e38",
        "1e308",
        "1e309",
        "-1e309",
        "5e-324",
        "1e-400",
        "00",
        "01",
        "-01",
        "+1",
        "1.",
        ".5",
        "1e",
        "0x10",
        "1_000",
        "NaN",
        "Infinity",
        "-Infinity",
        "-",
    ];
    let texts = [
        "",
        " ",
        " 1",
        "1 ",
        "\\t1",
        "\\n",
        "+1",
        "+0",
        "--1",
        "1e400",
        "inf",
        "nan",
        "+Infinity",
        "infinity",
        "INFINITY",
        "true",
        "True",
        "false",
        "null",
        "RED",
        "red",
        "BLUE",
        "NONE",
        "NOPE",
        "\\u0030",
        "\\u0000",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\ude00",
        "\\ud83dx",
        "\\ud83d\\u0041",
        "\\x",
        "\\u12",
        "é",
        "\u{FEFF}1",
        "AA==",
        "AA",
        "AA=",
        "A",
        "A===",
        "AAA",
        "AAAA",
        "AAAA=",
        "AB",
        "-_-_",
        "+/+/",
        "+_",
        "-/",
        "_w",
        "/w==",
        "AA==AA==",
        "A\\nA",
        "A A A A",
        "=",
        "====",
    ];
    let times = [
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00.0Z",
        "1970-01-01T00:00:00.000000001Z",
        "1970-01-01T00:00:00.0000000019Z",
        "1969-12-31T23:59:59.999999999Z",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00-00:01",
        "9999-12-31T23:59:59.999999999Z",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:60Z",
        "9999-12-31T24:00:00Z",
        "10000-01-01T00:00:00Z",
        "2026-02-28T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2024-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2000-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-01-32T00:00:00Z",
        "2026-01-01T23:59:59Z",
        "2026-01-01T23:60:00Z",
        "2026-01-01T23:59:61Z",
        "2026-01-01T00:00:00+23:59",
        "2026-01-01T00:00:00-23:59",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+00:60",
        "2026-01-01T00:00:00+0000",
        "2026-01-01T00:00:00+00",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01 00:00:00Z",
        "2026-01-01t00:00:00z",
        "2026-01-01T00:00:00z",
        "2026-1-1T00:00:00Z",
        "+2026-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00ZZ",
        " 2026-01-01T00:00:00Z",
        "2026-01-01",
        "20260101T000000Z",
        "2026-01-01T00:00:00\u{2212}01:00",
        "1s",
        "0s",
        "-0s",
        "-1s",
        "+1s",
        "1.5s",
        "-1.5s",
        "-0.5s",
        "0.000000001s",
        "1.0000000009s",
        "315576000000s",
        "-315576000000s",
        "315576000000.999999999s",
        "315576000001s",
        "-315576000001s",
        "9223372036854775807s",
        "-9223372036854775808s",
        "9223372036854775808s",
        "1",
        "1S",
        "1 s",
        " 1s",
        "1s ",
        "1m",
        "1.s",
        ".5s",
        "1e3s",
        "s",
        "-s",
        "--1s",
        "1.-5s",
        "01s",
        "1.5.5s",
        "\u{661}s",
    ];
    let other = [
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[null]",
        "[[]]",
        "[{}]",
        "{\"\":null}",
        "[1,]",
        "{\"a\":1,}",
        "[1 2]",
        "",
        " ",
        "\u{b}1",
        "\u{c}1",
        "\u{a0}1",
        "\r\n1",
        "\u{0}",
        "1\u{0}",
        "'a'",
        "// 1",
        "tru",
        "nul",
        "True",
    ];
    let quoted = numbers.iter().chain(&texts).chain(&times).map(|text| format!("\"{text}\""));
    numbers.iter().chain(&other).map(|&value| value.to_owned()).chain(quoted).collect()
}

/// In every kind of field, alone, in a list, as a value and as a key of a map, twice, under both names, and beside nothing.
#[test]
fn every_value_in_every_kind_of_field_is_what_the_model_makes_of_it() {
    let (pool, schema) = &*TYPES;
    let (values, mut written) = (all_values(), 0);
    for message in ["types.Everything", "types.Known"].map(|name| pool.get_message_by_name(name).unwrap()) {
        for field in message.fields() {
            let (json, proto) = (field.json_name(), field.name());
            for value in &values {
                let mut texts = vec![
                    format!("{{\"{json}\":{value}}}"),
                    format!("{{\"{json}\":[{value}]}}"),
                    format!("{{\"{json}\":{{\"1\":{value}}}}}"),
                    format!("{{\"{json}\":{{\"true\":{value},\"false\":{value}}}}}"),
                    format!("{{\"{proto}\":null,\n\"{json}\":{value}}}"),
                    format!("{{\"{proto}\":{value},\n\"{json}\":null}}"),
                    format!("{{\"{proto}\":{value},\n\"{json}\":{value}}}"),
                ];
                if field.is_map() && value.starts_with('"') {
                    texts.extend(["null", "1", "\"1\"", "{}"].map(|of| format!("{{\"{json}\":{{{value}:{of}}}}}")));
                }
                for text in texts {
                    for unknown in [UnknownFields::Refuse, UnknownFields::Ignore] {
                        written += usize::from(compare(schema, &message, unknown, text.as_bytes()));
                    }
                }
            }
        }
    }
    assert!(written > 10_000, "{written}");
}
