//! Tables of the protobuf JSON mapping: for each message its fields by name, in both spellings; for each enum its
//! values by name.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind as ProtoKind};

use crate::record::{schema::wire_type, wire::WireType};

/// How many fields after the last one are compared with a name before it is looked up.
const AHEAD: usize = 8;

/// The field of a `google.protobuf.Any` with the message's bytes.
pub(super) const PAYLOAD: u32 = 2;
/// The key of a message in an `Any` whose JSON is not an object with its fields.
const VALUE_KEY: &str = "value";

/// All messages and enums of a pool; they refer to each other by index.
#[derive(Debug)]
pub(super) struct Schema {
    messages: Vec<Message>,
    message_names: HashMap<Box<str>, usize>,
    enums: Vec<HashMap<Box<str>, i32, FixedState>>,
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// In the order of declaration, in which most encoders write them.
    fields: Vec<Field>,
    /// Index into `fields`, by `lowerCamelCase` and by `snake_case` name.
    names: HashMap<Box<str>, u16, FixedState>,
    /// What the JSON of an `Any` with this message has, if not its fields.
    pub(super) in_any: Option<Box<Self>>,
}

/// How a message is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An object with its fields.
    Object,
    /// An RFC 3339 string.
    Timestamp,
    /// A string of seconds: `1.5s`.
    Duration,
    /// The value of its only field (`google.protobuf.Int32Value` and the like).
    Wrapper,
    /// An object with the fields of another message, whose name is in `@type`.
    Any,
}

/// A field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) shape: Shape,
    pub(super) kind: Kind,
    /// The wire form of one value.
    pub(super) wire: WireType,
    /// The numbers of all members of its oneof, if it has one.
    pub(super) oneof: Option<Box<Oneof>>,
    json_name: Box<str>,
}

#[derive(Debug)]
pub(super) struct Oneof {
    pub(super) name: Box<str>,
    pub(super) members: Vec<u32>,
}

/// How often a field occurs, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not written if it is zero, false or empty.
    Implicit,
    /// Written whatever its value.
    Explicit,
    /// Its elements one after another in one value, without tags.
    Packed,
    /// Its elements one after another, each with its tag.
    List,
    /// Its entries, each a message with the fields 1 (key) and 2 (value).
    Map,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Integer(Integer),
    Float,
    Double,
    String,
    Bytes,
    /// Index of the enum.
    Enum(usize),
    /// Index of the message, and its form in JSON.
    Message(usize, Form),
}

/// The range of an integer type, and its wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integer {
    pub(super) min: i128,
    pub(super) max: i128,
    pub(super) coding: Coding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Varint,
    Zigzag,
    Fixed32,
    Fixed64,
}

impl Schema {
    pub(super) fn new(pool: &DescriptorPool) -> Self {
        let numbered = |names: Vec<String>| names.into_iter().enumerate().map(|(index, name)| (name.into(), index));
        let message_names = numbered(pool.all_messages().map(|message| message.full_name().to_owned()).collect());
        let enum_names = numbered(pool.all_enums().map(|one| one.full_name().to_owned()).collect());
        let builder = Builder { messages: message_names.collect(), enums: enum_names.collect() };
        let messages = pool.all_messages().map(|message| builder.message(&message)).collect();
        let values = |one: prost_reflect::EnumDescriptor| {
            one.values().map(|value| (value.name().into(), value.number())).collect::<HashMap<_, _, FixedState>>()
        };
        Self { messages, message_names: builder.messages, enums: pool.all_enums().map(values).collect() }
    }

    pub(super) fn message(&self, index: usize) -> &Message {
        &self.messages[index]
    }

    pub(super) fn message_named(&self, full_name: &str) -> Option<&Message> {
        self.message_names.get(full_name).map(|&index| &self.messages[index])
    }

    /// The number of an enum's value.
    pub(super) fn enum_value(&self, index: usize, name: &str) -> Option<i32> {
        self.enums[index].get(name).copied()
    }
}

/// Compares names; most that differ do so in their length or their ends.
#[inline]
fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len() && one.first() == other.first() && one.last() == other.last() && one == other
}

impl Message {
    /// Finds a field by either of its names; `expected` is the index of the field that is tried
    /// first, with some after it: encoders leave out those without a value. Returns its index
    /// and its name as it was given.
    #[inline]
    pub(super) fn find(&self, name: &str, expected: usize) -> Option<(usize, &str)> {
        for (index, field) in self.fields.iter().enumerate().skip(expected).take(AHEAD) {
            if is_same(&field.json_name, name) {
                return Some((index, &field.json_name));
            }
        }
        self.names.get_key_value(name).map(|(name, &index)| (usize::from(index), &**name))
    }

    pub(super) fn field(&self, index: usize) -> &Field {
        &self.fields[index]
    }
}

impl Form {
    pub(super) fn of(full_name: &str) -> Self {
        match full_name {
            "google.protobuf.Timestamp" => Self::Timestamp,
            "google.protobuf.Duration" => Self::Duration,
            "google.protobuf.Any" => Self::Any,
            "google.protobuf.FloatValue"
            | "google.protobuf.DoubleValue"
            | "google.protobuf.Int32Value"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue" => Self::Wrapper,
            _ => Self::Object,
        }
    }
}

struct Builder {
    messages: HashMap<Box<str>, usize>,
    enums: HashMap<Box<str>, usize>,
}

impl Builder {
    fn message(&self, message: &prost_reflect::MessageDescriptor) -> Message {
        let mut descriptors: Vec<_> = message.fields().collect();
        // As in the .proto file: the path of a field's descriptor ends with its index there.
        descriptors.sort_by_key(|field| field.path().last().copied());
        let fields: Vec<Field> = descriptors.iter().map(|field| self.field(field)).collect();
        #[expect(clippy::cast_possible_truncation, reason = "a message has far fewer fields")]
        let index_of = |index: usize| index as u16;
        // A field's JSON name goes before another's name in the .proto file.
        let proto = descriptors.iter().enumerate().map(|(index, field)| (field.name().into(), index_of(index)));
        let json = descriptors.iter().enumerate().map(|(index, field)| (field.json_name().into(), index_of(index)));
        let names = proto.chain(json).collect();
        let form = Form::of(message.full_name());
        let has_value = form != Form::Object || message.full_name() == "google.protobuf.Empty";
        let in_any = has_value.then(|| Box::new(Self::in_any(self.messages[message.full_name()], form)));
        Message { fields, names, in_any }
    }

    /// An object whose only field is the message; several of it are refused.
    fn in_any(message: usize, form: Form) -> Message {
        let oneof = Oneof { name: VALUE_KEY.into(), members: vec![PAYLOAD] };
        let field = Field {
            number: PAYLOAD,
            shape: Shape::Explicit,
            kind: Kind::Message(message, form),
            wire: WireType::Length,
            oneof: Some(Box::new(oneof)),
            json_name: VALUE_KEY.into(),
        };
        let names = std::iter::once((VALUE_KEY.into(), 0)).collect();
        Message { fields: vec![field], names, in_any: None }
    }

    fn field(&self, field: &FieldDescriptor) -> Field {
        let shape = if field.is_map() {
            Shape::Map
        } else if field.is_list() {
            if field.is_packed() { Shape::Packed } else { Shape::List }
        } else if field.supports_presence() {
            Shape::Explicit
        } else {
            Shape::Implicit
        };
        let oneof = field.containing_oneof().map(|oneof| {
            let members = oneof.fields().map(|member| member.number()).collect();
            Box::new(Oneof { name: oneof.name().into(), members })
        });
        let (kind, wire) = (self.kind(&field.kind()), wire_type(&field.kind()));
        Field { number: field.number(), shape, kind, wire, oneof, json_name: field.json_name().into() }
    }

    fn kind(&self, kind: &ProtoKind) -> Kind {
        let signed32 = |coding| Kind::Integer(Integer { min: i32::MIN.into(), max: i32::MAX.into(), coding });
        let unsigned32 = |coding| Kind::Integer(Integer { min: 0, max: u32::MAX.into(), coding });
        let signed64 = |coding| Kind::Integer(Integer { min: i64::MIN.into(), max: i64::MAX.into(), coding });
        let unsigned64 = |coding| Kind::Integer(Integer { min: 0, max: u64::MAX.into(), coding });
        match kind {
            ProtoKind::Bool => Kind::Bool,
            ProtoKind::Int32 => signed32(Coding::Varint),
            ProtoKind::Sint32 => signed32(Coding::Zigzag),
            ProtoKind::Sfixed32 => signed32(Coding::Fixed32),
            ProtoKind::Uint32 => unsigned32(Coding::Varint),
            ProtoKind::Fixed32 => unsigned32(Coding::Fixed32),
            ProtoKind::Int64 => signed64(Coding::Varint),
            ProtoKind::Sint64 => signed64(Coding::Zigzag),
            ProtoKind::Sfixed64 => signed64(Coding::Fixed64),
            ProtoKind::Uint64 => unsigned64(Coding::Varint),
            ProtoKind::Fixed64 => unsigned64(Coding::Fixed64),
            ProtoKind::Float => Kind::Float,
            ProtoKind::Double => Kind::Double,
            ProtoKind::String => Kind::String,
            ProtoKind::Bytes => Kind::Bytes,
            ProtoKind::Enum(one) => Kind::Enum(self.enums[one.full_name()]),
            ProtoKind::Message(message) => {
                Kind::Message(self.messages[message.full_name()], Form::of(message.full_name()))
            }
        }
    }
}
