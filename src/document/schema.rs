//! Tables that say, per message and place in the document, how each field is encoded: built once from the descriptors.
//!
//! A message may have several tables, since the fork names some enums only at certain places ([`super::fork`]).

use std::collections::HashMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{
    fork::{NamedEnums, go_name},
    options::{DocumentOptions, Enums},
    redact::{self, Treatment},
    scrub::Scrub,
    writer::Header,
};
use crate::record::{Stream, schema::wire_type, wire::WireType};

/// Field numbers below this are looked up directly.
const DENSE: u32 = 256;

/// All tables; messages refer to each other by index.
#[derive(Debug)]
pub(super) struct Schema {
    tables: Vec<Table>,
    enums: Vec<EnumNames>,
    records: [usize; Stream::ALL.len()],
}

/// A message at a certain place.
#[derive(Debug, Default)]
pub(super) struct Table {
    fields: Vec<Field>,
    /// By field number: index into `fields` plus one.
    dense: Vec<u16>,
    sparse: HashMap<u32, u16>,
    /// Enums that are written even if the record has none.
    pub(super) always: Vec<usize>,
    pub(super) oneofs: Vec<Header>,
    /// More fields than bits: each message of this kind takes the exact path.
    pub(super) wide: bool,
}

/// A field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) header: Header,
    pub(super) shape: Shape,
    pub(super) value: Value,
    /// The wire form of one value.
    pub(super) wire: WireType,
    /// The bit that marks the field (for a oneof: any member) as seen in a message.
    pub(super) bit: u64,
    /// Its number among the fields of its message; members of a oneof share one.
    pub(super) slot: u16,
}

/// How often a field occurs, and the meaning of an absent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Zero, false and empty mean absent.
    Implicit,
    /// Present or absent, whatever the value.
    Explicit,
    /// A member of the oneof with this index.
    Oneof(usize),
    List,
    /// Entries are messages with this table.
    Map(usize),
}

/// The type of a value, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Bool,
    Int32,
    Sint32,
    Sfixed32,
    Uint32,
    Fixed32,
    Int64,
    Sint64,
    Sfixed64,
    Uint64,
    Fixed64,
    Float,
    Double,
    Enum,
    NamedEnum(usize),
    String,
    Bytes,
    /// A string that is replaced by a keyed hash.
    Hashed,
    /// A string without its credentials.
    Scrubbed(Scrub),
    Message(usize),
    /// Skipped.
    Removed,
}

/// The names of an enum's values.
#[derive(Debug)]
pub(super) struct EnumNames(HashMap<i32, String>, Vec<Option<String>>);

impl EnumNames {
    fn new(descriptor: &EnumDescriptor) -> Self {
        let mut names = HashMap::new();
        for value in descriptor.values() {
            names.entry(value.number()).or_insert_with(|| value.name().to_owned());
        }
        let dense = (0..64).map(|number| names.get(&number).cloned()).collect();
        Self(names, dense)
    }

    /// The name of a value, if the schema has one.
    #[inline]
    pub(super) fn name(&self, number: i32) -> Option<&str> {
        match usize::try_from(number).ok().and_then(|number| self.1.get(number)) {
            Some(name) => name.as_deref(),
            None => self.0.get(&number).map(String::as_str),
        }
    }
}

impl Table {
    /// The field with this number, if the schema knows it.
    #[inline]
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let index = match self.dense.get(number as usize) {
            Some(&index) => index,
            None => *self.sparse.get(&number)?,
        };
        self.fields.get(usize::from(index).wrapping_sub(1))
    }

    pub(super) fn field_at(&self, index: usize) -> &Field {
        &self.fields[index]
    }
}

impl Schema {
    /// Tables for these messages as the records of each stream.
    pub(super) fn new(options: &DocumentOptions, records: &[MessageDescriptor; Stream::ALL.len()]) -> Self {
        let mut builder =
            Builder { options, tables: Vec::new(), enums: Vec::new(), known: HashMap::new(), named: HashMap::new() };
        let records = records.each_ref().map(|record| builder.table(record, &NamedEnums::of_record()));
        Self { tables: builder.tables, enums: builder.enums, records }
    }

    pub(super) fn record(&self, stream: Stream) -> &Table {
        let index = Stream::ALL.iter().position(|&s| s == stream).unwrap_or_default();
        &self.tables[self.records[index]]
    }

    #[inline]
    pub(super) fn table(&self, index: usize) -> &Table {
        &self.tables[index]
    }

    #[inline]
    pub(super) fn names(&self, index: usize) -> &EnumNames {
        &self.enums[index]
    }
}

struct Builder<'a> {
    options: &'a DocumentOptions,
    tables: Vec<Table>,
    enums: Vec<EnumNames>,
    known: HashMap<(String, NamedEnums), usize>,
    named: HashMap<String, usize>,
}

impl Builder<'_> {
    fn table(&mut self, message: &MessageDescriptor, named: &NamedEnums) -> usize {
        let key = (message.full_name().to_owned(), named.clone());
        if let Some(&index) = self.known.get(&key) {
            return index;
        }
        // Entered before its fields are processed, so that a message can contain itself.
        let index = self.tables.len();
        self.known.insert(key, index);
        self.tables.push(Table::default());
        self.tables[index] = self.build(message, named);
        index
    }

    fn build(&mut self, message: &MessageDescriptor, named: &NamedEnums) -> Table {
        let mut table = Table::default();
        let mut oneofs: HashMap<String, (usize, u16)> = HashMap::new();
        let mut slots = 0;
        let mut next_slot = || {
            slots += 1;
            slots - 1
        };
        // Enums that are always written get their bits first: these bits must exist.
        let mut descriptors: Vec<_> = message.fields().collect();
        descriptors.sort_by_key(|field| (!is_always(field, named), field.number()));

        for field in descriptors {
            let always = is_always(&field, named);
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            let (key, slot, shape) = if let Some(oneof) = &oneof {
                let (index, slot) = *oneofs.entry(oneof.name().to_owned()).or_insert_with(|| {
                    table.oneofs.push(Header::new(&go_name(oneof.name())));
                    (table.oneofs.len() - 1, next_slot())
                });
                (go_name(field.name()), slot, Shape::Oneof(index))
            } else {
                let shape = if field.is_list() {
                    Shape::List
                } else if field.is_map() {
                    Shape::Map(0)
                } else if field.supports_presence() || always {
                    Shape::Explicit
                } else {
                    Shape::Implicit
                };
                (field.name().to_owned(), next_slot(), shape)
            };
            let wrapper = oneof.as_ref().map(|oneof| go_name(oneof.name()));
            let segments: Vec<&str> = wrapper.as_deref().into_iter().chain([key.as_str()]).collect();
            let value = self.value(&field, named, &segments);
            let shape = match (shape, value) {
                (Shape::Map(_), Value::Message(entry)) => Shape::Map(entry),
                (shape, _) => shape,
            };
            if always {
                table.always.push(table.fields.len());
            }
            table.fields.push(Field {
                header: Header::new(&key),
                shape,
                value,
                wire: wire_type(&field.kind()),
                bit: 1_u64.checked_shl(slot.into()).unwrap_or(0),
                slot,
            });
            #[expect(clippy::cast_possible_truncation, reason = "a message has far fewer fields")]
            let index = table.fields.len() as u16;
            if field.number() < DENSE {
                let at = field.number() as usize;
                table.dense.resize(table.dense.len().max(at + 1), 0);
                table.dense[at] = index;
            } else {
                table.sparse.insert(field.number(), index);
            }
        }
        table.wide = slots > 64;
        table
    }

    fn value(&mut self, field: &FieldDescriptor, named: &NamedEnums, segments: &[&str]) -> Value {
        let text = matches!(field.kind(), Kind::String);
        match redact::treatment(self.options.redact, field) {
            Treatment::Keep => {}
            Treatment::Hash if text && self.options.pii_key.is_some() => return Value::Hashed,
            Treatment::Scrub(scrub) if text => return Value::Scrubbed(scrub),
            Treatment::Hash | Treatment::Scrub(_) | Treatment::Remove => return Value::Removed,
        }
        match field.kind() {
            Kind::Bool => Value::Bool,
            Kind::Int32 => Value::Int32,
            Kind::Sint32 => Value::Sint32,
            Kind::Sfixed32 => Value::Sfixed32,
            Kind::Uint32 => Value::Uint32,
            Kind::Fixed32 => Value::Fixed32,
            Kind::Int64 => Value::Int64,
            Kind::Sint64 => Value::Sint64,
            Kind::Sfixed64 => Value::Sfixed64,
            Kind::Uint64 => Value::Uint64,
            Kind::Fixed64 => Value::Fixed64,
            Kind::Float => Value::Float,
            Kind::Double => Value::Double,
            Kind::String => Value::String,
            Kind::Bytes => Value::Bytes,
            Kind::Message(message) => Value::Message(self.table(&message, &named.below(segments))),
            Kind::Enum(descriptor) => {
                if self.options.enums == Enums::Names || named.contains(segments) {
                    let enums = &mut self.enums;
                    Value::NamedEnum(*self.named.entry(descriptor.full_name().to_owned()).or_insert_with(|| {
                        enums.push(EnumNames::new(&descriptor));
                        enums.len() - 1
                    }))
                } else {
                    Value::Enum
                }
            }
        }
    }
}

/// True for an enum that is written even if the record has none.
fn is_always(field: &FieldDescriptor, named: &NamedEnums) -> bool {
    !field.is_list()
        && !field.supports_presence()
        && field.kind().as_enum().is_some()
        && named.contains(&[field.name()])
}
