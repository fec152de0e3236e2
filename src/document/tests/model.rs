//! Random messages, their fields in any order, repeated, in pieces: the document equals the model's.

use base64::{Engine, engine::general_purpose::STANDARD};
use bson::{Bson, Document};
use proptest::prelude::*;
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, Value};

use super::{document, encoder, everything};
use crate::{document::fork::go_name, record::wire::write_varint, testing::cases};

/// The rules, without optimisation.
pub(super) fn model(message: &DynamicMessage) -> Document {
    let mut document = Document::new();
    for (field, value) in message.fields() {
        let value = match value {
            Value::List(values) => Bson::Array(values.iter().map(scalar).collect()),
            Value::Map(entries) => {
                Bson::Document(entries.iter().map(|(key, value)| (map_key(key), scalar(value))).collect())
            }
            value => scalar(value),
        };
        match field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
            Some(oneof) => {
                document.insert(go_name(oneof.name()), Document::from_iter([(go_name(field.name()), value)]))
            }
            None => document.insert(field.name(), value),
        };
    }
    document
}

fn scalar(value: &Value) -> Bson {
    match value {
        Value::Bool(value) => Bson::Boolean(*value),
        Value::I32(value) | Value::EnumNumber(value) => Bson::Int32(*value),
        Value::U32(value) => Bson::Int64((*value).into()),
        Value::I64(value) => Bson::Int64(*value),
        Value::U64(value) => i64::try_from(*value).map_or(Bson::Double(*value as f64), Bson::Int64),
        Value::F32(value) => Bson::Double(value.to_string().parse().unwrap()),
        Value::F64(value) => Bson::Double(*value),
        Value::String(value) => Bson::String(value.clone()),
        Value::Bytes(value) => Bson::String(STANDARD.encode(value)),
        Value::Message(message) => Bson::Document(model(message)),
        Value::List(_) | Value::Map(_) => panic!("no scalar"),
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Same content, whatever the order of fields; NaN equals NaN.
pub(super) fn sorted(value: &Bson) -> String {
    match value {
        Bson::Document(document) => {
            let mut fields: Vec<_> = document.iter().map(|(key, value)| format!("{key:?}:{}", sorted(value))).collect();
            fields.sort();
            format!("{{{}}}", fields.join(","))
        }
        Bson::Array(values) => format!("[{}]", values.iter().map(sorted).collect::<Vec<_>>().join(",")),
        value => format!("{value:?}"),
    }
}

/// One field on the wire, as an encoder may write it.
fn field(descriptor: FieldDescriptor, depth: u32) -> BoxedStrategy<Vec<u8>> {
    let number = descriptor.number();
    let packable = descriptor.is_list();
    let kind = descriptor.kind();
    let tagged = move |wire: u32, value: Vec<u8>| {
        let mut out = Vec::new();
        write_varint(&mut out, u64::from(number << 3 | wire));
        out.extend(value);
        out
    };
    let delimited = |bytes: Vec<u8>| {
        let mut out = Vec::new();
        write_varint(&mut out, bytes.len() as u64);
        out.extend(bytes);
        out
    };
    use prost_reflect::Kind;
    let (wire, value): (u32, BoxedStrategy<Vec<u8>>) = match kind {
        Kind::String => {
            (2, prop_oneof!["[a-c.$]{0,3}", "\\PC{0,9}"].prop_map(move |s| delimited(s.into_bytes())).boxed())
        }
        Kind::Bytes => (2, prop::collection::vec(any::<u8>(), 0..5).prop_map(delimited).boxed()),
        Kind::Message(inner) => (2, message(&inner, depth + 1).prop_map(delimited).boxed()),
        Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => {
            (5, prop_oneof![Just(0), 0..9_u32, any::<u32>()].prop_map(|v| v.to_le_bytes().to_vec()).boxed())
        }
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
            (1, prop_oneof![Just(0), 0..9_u64, any::<u64>()].prop_map(|v| v.to_le_bytes().to_vec()).boxed())
        }
        _ => {
            let varint = |value: u64| {
                let mut out = Vec::new();
                write_varint(&mut out, value);
                out
            };
            (
                0,
                prop_oneof![Just(0), 0..3_u64, any::<u64>(), any::<i32>().prop_map(|v| i64::from(v) as u64)]
                    .prop_map(varint)
                    .boxed(),
            )
        }
    };
    if packable && wire != 2 {
        let packed = prop::collection::vec(value.clone(), 0..4).prop_map(move |values| delimited(values.concat()));
        return prop_oneof![
            value.prop_map(move |value| tagged(wire, value)),
            packed.prop_map(move |packed| tagged(2, packed)),
        ]
        .boxed();
    }
    value.prop_map(move |value| tagged(wire, value)).boxed()
}

/// Fields of a message: any of them, any number of times, in any order, including unknown ones.
pub(super) fn message(descriptor: &MessageDescriptor, depth: u32) -> BoxedStrategy<Vec<u8>> {
    let fields: Vec<_> = descriptor
        .fields()
        .filter(|field| depth < 3 || field.kind().as_message().is_none())
        .map(|descriptor| field(descriptor, depth))
        .collect();
    let unknown = prop_oneof![
        Just(vec![0xF8, 0x3F, 7]),
        Just(vec![0xFA, 0x3F, 2, 8, 1]),
        Just(vec![0xFB, 0x3F, 8, 1, 0xFC, 0x3F]),
        Just(vec![0xFD, 0x3F, 1, 2, 3, 4]),
    ];
    let any_field = prop::strategy::Union::new_weighted(
        fields.into_iter().map(|field| (2, field)).chain([(3, unknown.boxed())]).collect(),
    );
    prop::collection::vec(any_field, 0..if depth == 0 { 24 } else { 5 }).prop_map(|fields| fields.concat()).boxed()
}

#[test]
fn documents_are_those_of_the_model_whatever_the_order_of_fields() {
    let encoder = encoder();
    let everything = everything();
    proptest!(cases(256), |(record in message(&everything, 0))| {
        let decoded = DynamicMessage::decode(everything.clone(), &*record).unwrap();
        let ours = document(&encoder, &record).unwrap();
        prop_assert_eq!(sorted(&Bson::Document(ours)), sorted(&Bson::Document(model(&decoded))));
    });
}
