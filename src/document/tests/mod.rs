//! The encoder over a schema with every kind of field, compared with a slow model: prost-reflect decodes, and the rules of
//! this module's header are applied to the decoded message.

mod broken;
mod model;
mod odd;
mod work;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use super::{DocumentContext, DocumentError, DocumentOptions, Encoder, Redact};
use crate::record::{Stream, wire};

/// A message of a .proto file.
fn compiled(source: &str, message: &str) -> MessageDescriptor {
    struct One(protox::file::File);
    impl protox::file::FileResolver for One {
        fn open_file(&self, _name: &str) -> Result<protox::file::File, protox::Error> {
            Ok(self.0.clone())
        }
    }
    let file = protox::file::File::from_source("types.proto", source).unwrap();
    let mut compiler = protox::Compiler::with_file_resolver(One(file));
    compiler.open_file("types.proto").unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(compiler.file_descriptor_set()).unwrap();
    pool.get_message_by_name(message).unwrap()
}

/// Field `number` with `bytes`, length-delimited.
fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::write_length_delimited(&mut out, number, bytes);
    out
}

/// Field `number` with an integer.
fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::write_varint_field(&mut out, number, value);
    out
}

/// `types.Everything`.
fn everything() -> MessageDescriptor {
    compiled(include_str!("types.proto"), "types.Everything")
}

fn encoder() -> Encoder {
    encoder_of(everything())
}

fn encoder_of(record: MessageDescriptor) -> Encoder {
    let options = DocumentOptions { redact: Redact::None, time: false, ..DocumentOptions::default() };
    Encoder::of(options, &[record.clone(), record.clone(), record])
}

/// The document of a record, without its `_id`.
fn document(encoder: &Encoder, record: &[u8]) -> Result<bson::Document, DocumentError> {
    let mut out = b"before".to_vec();
    let result = encoder.encode(Stream::Stats, record, &DocumentContext::default(), &mut out);
    assert_eq!(&out[..6], b"before");
    if let Err(error) = result {
        assert_eq!(out.len(), 6, "an error leaves the buffer as it was");
        return Err(error);
    }
    let raw = bson::RawDocument::from_bytes(&out[6..]).unwrap();
    let mut document = bson::Document::try_from(raw).unwrap();
    document.remove("_id").unwrap();
    Ok(document)
}
