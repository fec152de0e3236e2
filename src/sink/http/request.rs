//! The requests of a batch: its documents, their bodies, and what is different from one request to the next.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue};

use super::{
    headers::{IDEMPOTENCY_KEY, RECORD_ID, STREAM},
    options::{HttpCompression, HttpFormat},
    webhook,
};
use crate::{
    document::{DocumentContext, Encoder, JsonStyle, Labels, write_json},
    record::{QueuedRecord, RecordId, Stream},
    sink::{
        Batch, Outcome,
        encoding::{Cancelled, PART_BYTES},
    },
};

/// How a record becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// The document that every sink stores.
    Document,
    /// LiveKit's webhook with the same meaning; an event without one is filtered.
    Webhook,
}

/// An encoded record.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its index in the batch.
    pub(super) record: usize,
    pub(super) id: RecordId,
    pub(super) json: Vec<u8>,
}

/// Encodes the next part of a batch, starting with record `next`. Records that cannot be documents are rejected in
/// `outcomes`; those that are filtered are delivered there.
pub(super) fn entries(
    batch: &Batch,
    next: &mut usize,
    (encoder, content): (&Encoder, Content),
    labels: &Labels,
    outcomes: &mut [Outcome],
    cancelled: &Cancelled,
) -> Vec<Entry> {
    let context = DocumentContext { expire_at: None, labels };
    let mut document = Vec::new();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(queued) = batch.records.get(*next).filter(|_| bytes < PART_BYTES && !cancelled.is_set()) {
        let record = *next;
        *next += 1;
        let json = match content {
            Content::Document => of_document(batch.stream, queued, encoder, &context, &mut document).map(Some),
            Content::Webhook => webhook::json_of(&queued.bytes, encoder),
        };
        match json {
            Ok(Some(json)) => {
                bytes += json.len();
                entries.push(Entry { record, id: RecordId::of(batch.stream, &queued.bytes), json });
            }
            Ok(None) => outcomes[record] = Outcome::Delivered,
            Err(reason) => outcomes[record] = Outcome::Rejected(format!("it cannot be a document: {reason}")),
        }
    }
    entries
}

fn of_document(
    stream: Stream,
    queued: &QueuedRecord,
    encoder: &Encoder,
    context: &DocumentContext<'_>,
    document: &mut Vec<u8>,
) -> Result<Vec<u8>, String> {
    document.clear();
    encoder.encode(stream, &queued.bytes, context, document).map_err(|error| error.to_string())?;
    let mut json = Vec::with_capacity(document.len() * 3 / 2);
    write_json(document, JsonStyle::Plain, &mut json).map_err(|error| error.to_string())?;
    Ok(json)
}

/// Splits entries into requests: in order, each as large as allowed. A larger entry has a request of its own.
pub(super) fn split(entries: Vec<Entry>, format: HttpFormat, max_bytes: usize) -> Vec<Vec<Entry>> {
    let mut requests: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        // A separator follows each document; an array has its brackets.
        let more = entry.json.len() + 1;
        let has_space = format != HttpFormat::Record && bytes + more < max_bytes;
        match requests.last_mut() {
            Some(last) if has_space => {
                last.push(entry);
                bytes += more;
            }
            _ => {
                requests.push(vec![entry]);
                bytes = more;
            }
        }
    }
    requests
}

/// The body of a request, uncompressed.
pub(super) fn body(entries: &[&Entry], format: HttpFormat) -> Vec<u8> {
    let bytes = entries.iter().map(|entry| entry.json.len() + 1).sum::<usize>() + 1;
    let mut plain = Vec::with_capacity(bytes);
    match format {
        HttpFormat::Ndjson => {
            for entry in entries {
                plain.extend_from_slice(&entry.json);
                plain.push(b'\n');
            }
        }
        HttpFormat::Array => {
            plain.push(b'[');
            for (i, entry) in entries.iter().enumerate() {
                if i > 0 {
                    plain.push(b',');
                }
                plain.extend_from_slice(&entry.json);
            }
            plain.push(b']');
        }
        HttpFormat::Record => entries.iter().for_each(|entry| plain.extend_from_slice(&entry.json)),
    }
    plain
}

/// Takes tens of milliseconds for a large body.
///
/// # Errors
/// For want of memory.
pub(super) fn compressed(plain: Vec<u8>, compression: HttpCompression) -> io::Result<Vec<u8>> {
    match compression {
        HttpCompression::None => Ok(plain),
        HttpCompression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
            encoder.write_all(&plain)?;
            encoder.finish()
        }
        HttpCompression::Zstd => zstd::bulk::compress(&plain, zstd::DEFAULT_COMPRESSION_LEVEL),
    }
}

/// The headers that identify this request's records.
pub(super) fn headers(stream: Stream, entries: &[&Entry], format: HttpFormat) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(STREAM, HeaderValue::from_static(stream.as_str()));
    headers.insert(IDEMPOTENCY_KEY, idempotency_key(stream, entries));
    if let (HttpFormat::Record, [entry]) = (format, entries)
        && let Ok(id) = HeaderValue::from_str(entry.id.as_str())
    {
        headers.insert(RECORD_ID, id);
    }
    headers
}

/// The same for the same records in the same order: a quoted string, as the draft of the header's standard has it.
fn idempotency_key(stream: Stream, entries: &[&Entry]) -> HeaderValue {
    let mut hash = blake3::Hasher::new();
    hash.update(stream.as_str().as_bytes());
    for entry in entries {
        let id = entry.id.as_str().as_bytes();
        hash.update(&(id.len() as u64).to_le_bytes());
        hash.update(id);
    }
    let key = format!("\"{}\"", &hash.finalize().to_hex()[..32]);
    HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use livekit_protocol::AnalyticsEvent;
    use prost::Message;

    use super::*;
    use crate::document::DocumentOptions;

    fn entry(record: usize, json: &str) -> Entry {
        let event = AnalyticsEvent { id: format!("AE_{record}"), ..AnalyticsEvent::default() };
        let id = RecordId::of(Stream::Events, &event.encode_to_vec());
        Entry { record, id, json: json.as_bytes().to_vec() }
    }

    fn text(entries: &[Entry], format: HttpFormat) -> String {
        let entries: Vec<&Entry> = entries.iter().collect();
        String::from_utf8(body(&entries, format)).unwrap()
    }

    #[test]
    fn a_body_is_lines_an_array_or_one_document() {
        let entries = [entry(0, r#"{"a":1}"#), entry(1, "{}")];
        assert_eq!(text(&entries, HttpFormat::Ndjson), "{\"a\":1}\n{}\n");
        assert_eq!(text(&entries, HttpFormat::Array), "[{\"a\":1},{}]");
        assert_eq!(text(&entries[..1], HttpFormat::Array), "[{\"a\":1}]");
        assert_eq!(text(&entries[..1], HttpFormat::Record), "{\"a\":1}");
    }

    #[test]
    fn compressed_bodies_are_the_same_inside() {
        let entry = entry(0, &"{\"a\":1}".repeat(1000));
        let plain = body(&[&entry], HttpFormat::Ndjson);
        assert_eq!(compressed(plain.clone(), HttpCompression::None).unwrap(), plain);
        let zstd = compressed(plain.clone(), HttpCompression::Zstd).unwrap();
        assert_eq!(zstd::decode_all(&zstd[..]).unwrap(), plain);
        let gzip = compressed(plain.clone(), HttpCompression::Gzip).unwrap();
        let mut inside = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut inside).unwrap();
        assert_eq!(inside, plain);
        assert!(gzip.len() < plain.len() / 10 && zstd.len() < plain.len() / 10);
    }

    #[test]
    fn requests_are_as_large_as_allowed_and_keep_the_order() {
        for format in [HttpFormat::Ndjson, HttpFormat::Array] {
            for max_bytes in [1, 10, 50, 100, 1000, 100_000] {
                let entries: Vec<Entry> =
                    (0..100).map(|i| entry(i, &format!("{{\"n\":\"{}\"}}", "x".repeat(i)))).collect();
                let requests = split(entries, format, max_bytes);
                let order: Vec<usize> = requests.iter().flatten().map(|entry| entry.record).collect();
                assert_eq!(order, (0..100).collect::<Vec<_>>());
                for request in &requests {
                    let bytes = text(request, format).len();
                    assert!(bytes <= max_bytes || request.len() == 1, "{bytes} of {max_bytes}");
                }
                let two: Vec<usize> = requests.windows(2).map(|two| text(&two[0], format).len() + 9).collect();
                assert!(max_bytes < 1000 || two.iter().all(|bytes| bytes * 2 > max_bytes), "{two:?} of {max_bytes}");
            }
        }
        assert_eq!(split((0..5).map(|i| entry(i, "{}")).collect(), HttpFormat::Record, 1 << 20).len(), 5);
    }

    #[test]
    fn the_key_is_the_same_for_the_same_records_and_of_no_others() {
        let (a, b) = (entry(1, "{}"), entry(2, "{}"));
        let key = |stream, entries: &[&Entry]| headers(stream, entries, HttpFormat::Ndjson)[IDEMPOTENCY_KEY].clone();
        assert_eq!(key(Stream::Events, &[&a, &b]), key(Stream::Events, &[&entry(1, "[]"), &entry(2, "[]")]));
        let others = [key(Stream::Events, &[&a]), key(Stream::Events, &[&b, &a]), key(Stream::Stats, &[&a, &b])];
        assert!(!others.contains(&key(Stream::Events, &[&a, &b])));
        let text = key(Stream::Events, &[&a]).to_str().unwrap().to_owned();
        assert!(text.len() == 34 && text.starts_with('"') && text.ends_with('"'), "{text}");
    }

    #[test]
    fn a_lone_record_has_its_id_in_a_header_unless_no_header_can_have_it() {
        let id = |entry: &Entry| headers(Stream::Events, &[entry], HttpFormat::Record).get(RECORD_ID).cloned();
        assert_eq!(id(&entry(1, "{}")).unwrap(), "AE_1");
        let odd = AnalyticsEvent { id: "AE\r\nX-Evil: 1".to_owned(), ..AnalyticsEvent::default() };
        let id_of_odd = RecordId::of(Stream::Events, &odd.encode_to_vec());
        assert_eq!(id(&Entry { record: 0, id: id_of_odd, json: Vec::new() }), None);
    }

    #[test]
    fn documents_much_larger_than_their_records_are_made_a_part_at_a_time() {
        let batch = crate::sink::encoding::small_records_of_large_documents(150);
        let encoder = Encoder::new(DocumentOptions::default());
        let (labels, cancelled) = (Labels::none(), Cancelled::default());
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let (mut next, mut records) = (0, Vec::new());
        while next < batch.records.len() {
            let part = entries(&batch, &mut next, (&encoder, Content::Document), &labels, &mut outcomes, &cancelled);
            let bytes: usize = part.iter().map(|entry| entry.json.len()).sum();
            assert!(bytes < PART_BYTES + PART_BYTES / 4, "{bytes} bytes at once");
            records.extend(part.iter().map(|entry| entry.record));
        }
        assert_eq!(records, (0..150).collect::<Vec<_>>());
    }
}
