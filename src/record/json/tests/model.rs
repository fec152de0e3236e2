//! Protobuf bytes of a dynamic message, always the same for the same content: fields in the order of their numbers, map
//! entries in the order of their keys. (Protobuf's own encoders write maps in random order.)

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use crate::record::{
    schema::wire_type,
    wire::{WireType, write_length_delimited, write_tag, write_varint, zigzag},
};

/// Field numbers of a map's entry.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// Appends the message.
pub(super) fn encode(message: &DynamicMessage, out: &mut Vec<u8>) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return any(message, out);
    }
    // In ascending order of field number, present fields only.
    for (field, value) in message.fields() {
        match value {
            Value::List(values) => list(&field, values, out),
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else { continue };
                let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    let mut entry = Vec::new();
                    element(KEY, &key_kind, &map_key(key), &mut entry);
                    element(VALUE, &value_kind, value, &mut entry);
                    write_length_delimited(out, field.number(), &entry);
                }
            }
            value => element(field.number(), &field.kind(), value, out),
        }
    }
}

/// An `Any`, whose payload prost-reflect has encoded in another way.
fn any(any: &DynamicMessage, out: &mut Vec<u8>) {
    let [url, payload] = [1, 2].map(|number| any.get_field_by_number(number).expect("a field of Any"));
    let url = url.as_str().expect("a text");
    let name = url.rsplit_once('/').expect("a URL").1;
    let message = any.descriptor().parent_pool().get_message_by_name(name).expect("a message");
    let payload = payload.as_bytes().expect("bytes").clone();
    let mut inner = Vec::new();
    encode(&DynamicMessage::decode(message, payload).expect("protobuf"), &mut inner);
    write_length_delimited(out, 1, url.as_bytes());
    if !inner.is_empty() {
        write_length_delimited(out, 2, &inner);
    }
}

fn list(field: &FieldDescriptor, values: &[Value], out: &mut Vec<u8>) {
    let kind = field.kind();
    if field.is_packed() {
        let mut packed = Vec::new();
        values.iter().for_each(|value| scalar(&kind, value, &mut packed));
        write_length_delimited(out, field.number(), &packed);
    } else {
        values.iter().for_each(|value| element(field.number(), &kind, value, out));
    }
}

fn map_key(key: &MapKey) -> Value {
    match key {
        MapKey::Bool(key) => Value::Bool(*key),
        MapKey::I32(key) => Value::I32(*key),
        MapKey::I64(key) => Value::I64(*key),
        MapKey::U32(key) => Value::U32(*key),
        MapKey::U64(key) => Value::U64(*key),
        MapKey::String(key) => Value::String(key.clone()),
    }
}

/// A field with its tag.
fn element(number: u32, kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => write_length_delimited(out, number, text.as_bytes()),
        Value::Bytes(bytes) => write_length_delimited(out, number, bytes),
        Value::Message(message) => {
            let mut inner = Vec::new();
            encode(message, &mut inner);
            write_length_delimited(out, number, &inner);
        }
        value => {
            write_tag(out, number, wire_type(kind));
            scalar(kind, value, out);
        }
    }
}

/// A value other than string, bytes or message, without its tag.
fn scalar(kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    let fixed = wire_type(kind) != WireType::Varint;
    match *value {
        Value::Bool(value) => write_varint(out, u64::from(value)),
        Value::I32(value) if fixed => out.extend_from_slice(&value.to_le_bytes()),
        Value::I32(value) if matches!(kind, Kind::Sint32) => write_varint(out, zigzag(value.into())),
        // Negative numbers are extended to 64 bits, as protobuf requires.
        Value::I32(value) | Value::EnumNumber(value) => write_varint(out, i64::from(value).cast_unsigned()),
        Value::I64(value) if fixed => out.extend_from_slice(&value.to_le_bytes()),
        Value::I64(value) if matches!(kind, Kind::Sint64) => write_varint(out, zigzag(value)),
        Value::I64(value) => write_varint(out, value.cast_unsigned()),
        Value::U32(value) if fixed => out.extend_from_slice(&value.to_le_bytes()),
        Value::U32(value) => write_varint(out, value.into()),
        Value::U64(value) if fixed => out.extend_from_slice(&value.to_le_bytes()),
        Value::U64(value) => write_varint(out, value),
        Value::F32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::String(_) | Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => {}
    }
}
