//! The slow, exact way for a message whose fields come repeated or interleaved: protobuf says that of a value the last
//! one counts, that a message in several pieces is merged, and that a list goes on wherever the next element stands.
//!
//! The message is put into the order that the encoder expects: each field once, lists and maps in one run. Only this
//! level is looked at: what messages hold is put in order when the encoder gets to them.

use std::collections::HashMap;

use super::{
    error::{DocumentError, WireType},
    schema::{Shape, Table, Value},
    wire,
};
use crate::record::write_varint;

/// One field, put together from all its occurrences.
struct Gathered {
    number: u32,
    tag: u32,
    /// Values that are not messages: tag and value. Messages: the pieces' contents.
    bytes: Vec<u8>,
    /// Only the contents of a message; tag and length come before it.
    message: bool,
}

/// The same message with each field in one place; fields that the schema does not know are left out.
pub(super) fn merged(table: &Table, message: &[u8]) -> Result<Vec<u8>, DocumentError> {
    let mut order: Vec<Gathered> = Vec::new();
    // Oneofs and fields alike go by a slot of their own.
    let mut slots: HashMap<(bool, usize), usize> = HashMap::new();
    let mut input = message;
    while !input.is_empty() {
        let before = input;
        let tag = wire::tag(&mut input)?;
        let number = tag >> 3;
        let start = input;
        wire::skip(&mut input, tag)?;
        let Some(field) = table.field(number) else { continue };
        let whole = &before[..before.len() - input.len()];
        let message = matches!(field.value, Value::Message(_))
            && !matches!(field.shape, Shape::List | Shape::Map(_))
            && WireType::from_tag(tag) == Some(WireType::Length);
        let bytes = if message { wire::length_delimited(&mut { start })? } else { whole };

        let slot = match field.shape {
            Shape::Oneof(index) => (true, index),
            _ => (false, number as usize),
        };
        let index = *slots.entry(slot).or_insert_with(|| {
            order.push(Gathered { number, tag, bytes: Vec::new(), message });
            order.len() - 1
        });
        let gathered = &mut order[index];
        let goes_on = gathered.number == number
            && match field.shape {
                Shape::List | Shape::Map(_) => true,
                _ => message && gathered.message,
            };
        if !goes_on {
            *gathered = Gathered { number, tag, bytes: Vec::new(), message };
        }
        gathered.bytes.extend_from_slice(bytes);
    }

    let mut out = Vec::with_capacity(message.len() + 16);
    for gathered in order {
        if gathered.message {
            write_varint(&mut out, u64::from(gathered.tag));
            write_varint(&mut out, gathered.bytes.len() as u64);
        }
        out.extend_from_slice(&gathered.bytes);
    }
    Ok(out)
}
