//! A batch as `insert` commands: each document is written directly into its command, raw, without a tree in between.
//!
//! ```text
//! { insert: <stream>, ordered: false, writeConcern: {…}, documents: [ <document>, … ] }
//! ```
//!
//! The driver's `insert_many` would accept the documents one by one, copy each twice, and hide in its errors which index a
//! duplicate key belongs to. Our own command is copied once, and its answer is returned whole.

use bson::{RawDocument, RawDocumentBuf};

use crate::{
    document::{DocumentContext, Encoder, Labels, expire_at},
    record::{now_millis, wall_millis},
    sink::{
        Batch, Outcome,
        encoding::{Cancelled, PART_BYTES},
    },
};

/// The limits of one command, from the server's `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of a document at most.
    pub(super) document: usize,
    /// Bytes of a message at most.
    pub(super) message: usize,
    /// Documents in one command at most.
    pub(super) documents: usize,
}

impl Default for Limits {
    /// The limits of every MongoDB since 3.6.
    fn default() -> Self {
        Self { document: 16 * 1024 * 1024, message: 48_000_000, documents: 100_000 }
    }
}

/// No server has a smaller limit for a document or a message: such a value is a mistake, for example of a proxy.
const MIN_BYTES: usize = 1 << 20;

/// Space for what surrounds the documents: MongoDB lets a command be this much larger than a document.
const AROUND: usize = 16 * 1024;

impl Limits {
    /// Reads them from the answer to `hello`; a missing or impossible value is replaced by the default.
    pub(super) fn from_hello(hello: &RawDocument) -> Self {
        let number = |key: &str, least: usize, usual: usize| {
            let value = hello.get(key).ok().flatten();
            let value = value.and_then(|value| value.as_i64().or_else(|| value.as_i32().map(i64::from)));
            value.and_then(|value| usize::try_from(value).ok()).filter(|&value| value >= least).unwrap_or(usual)
        };
        let usual = Self::default();
        Self {
            document: number("maxBsonObjectSize", MIN_BYTES, usual.document),
            message: number("maxMessageSizeBytes", MIN_BYTES, usual.message),
            documents: number("maxWriteBatchSize", 1, usual.documents),
        }
    }

    /// Bytes of documents in one command. The command is itself a document and fits a message, and the limit bounds memory.
    fn command(&self) -> usize {
        self.document.min(self.message.saturating_sub(AROUND)).min(PART_BYTES)
    }
}

/// How documents are encoded and written.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) labels: Labels,
    /// How long documents live, milliseconds.
    pub(super) expiration: Option<u64>,
    /// `ordered: false` and the write concern: elements between the collection's name and the documents.
    pub(super) options: RawDocumentBuf,
}

/// One command, and the indexes of its documents' records in the batch.
#[derive(Debug)]
pub(super) struct Insert {
    pub(super) command: RawDocumentBuf,
    pub(super) records: Vec<usize>,
}

/// The progress of encoding a batch.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// The next record.
    next: usize,
    /// The previous record's document, which did not fit in its command.
    left_over: Option<Vec<u8>>,
}

/// Encodes as much of a batch as one command can hold; `None` at its end. Records that cannot be documents are rejected in
/// `outcomes`; the others are in the commands. A document that is larger than the server's limit is alone in its command:
/// the server itself decides about it.
pub(super) fn next_insert(
    batch: &Batch,
    encoded: &mut Encoded,
    encoder: &Encoder,
    recipe: &Recipe,
    limits: &Limits,
    outcomes: &mut [Outcome],
    cancelled: &Cancelled,
) -> Option<Insert> {
    // The server compares with its own clock: of two times that may be wrong, use the one that keeps documents longer.
    let now = now_millis().max(wall_millis());
    let mut open = Writer::new(batch, recipe);
    if let Some(document) = encoded.left_over.take() {
        open.begin_document();
        open.bytes.extend_from_slice(&document);
        open.records.push(encoded.next - 1);
    }
    while let Some(record) = batch.records.get(encoded.next).filter(|_| !cancelled.is_set()) {
        let i = encoded.next;
        encoded.next += 1;
        let context = DocumentContext {
            expire_at: recipe.expiration.map(|expiration| expire_at(record.received_at, now, expiration)),
            labels: &recipe.labels,
        };
        let before = open.begin_document();
        let start = open.bytes.len();
        if let Err(error) = encoder.encode(batch.stream, &record.bytes, &context, &mut open.bytes) {
            outcomes[i] = Outcome::Rejected(format!("it cannot be a document: {error}"));
            open.bytes.truncate(before);
            continue;
        }
        let full = open.bytes.len() - open.documents > limits.command() || open.records.len() >= limits.documents;
        if full && !open.records.is_empty() {
            encoded.left_over = Some(open.bytes[start..].to_vec());
            open.bytes.truncate(before);
            return open.finish();
        }
        open.records.push(i);
    }
    open.finish()
}

/// A command that is being written.
struct Writer {
    bytes: Vec<u8>,
    /// The start of the array of documents.
    documents: usize,
    records: Vec<usize>,
}

/// BSON's element types that a command is made of.
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;

impl Writer {
    fn new(batch: &Batch, recipe: &Recipe) -> Self {
        let name = batch.stream.as_str();
        let mut bytes = vec![0; 4]; // its length, at the end
        bytes.push(STRING);
        bytes.extend_from_slice(b"insert\0");
        bytes.extend_from_slice(&(name.len() as u32 + 1).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        let options = recipe.options.as_bytes();
        bytes.extend_from_slice(&options[4..options.len() - 1]);
        bytes.push(ARRAY);
        bytes.extend_from_slice(b"documents\0");
        let documents = bytes.len();
        bytes.extend_from_slice(&[0; 4]); // the array's length, at the end
        Self { bytes, documents, records: Vec::with_capacity(batch.records.len()) }
    }

    /// Writes what comes before a document; returns where to truncate if encoding it fails.
    fn begin_document(&mut self) -> usize {
        let before = self.bytes.len();
        self.bytes.push(DOCUMENT);
        push_decimal(&mut self.bytes, self.records.len());
        self.bytes.push(0);
        before
    }

    fn finish(mut self) -> Option<Insert> {
        if self.records.is_empty() {
            return None;
        }
        self.bytes.push(0);
        close(&mut self.bytes, self.documents);
        self.bytes.push(0);
        close(&mut self.bytes, 0);
        let command = RawDocumentBuf::from_bytes(self.bytes).ok()?;
        Some(Insert { command, records: self.records })
    }
}

/// Fills in the length of the document that began at `start` and ends here.
fn close(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// The key of an array element.
fn push_decimal(out: &mut Vec<u8>, mut number: usize) {
    let start = out.len();
    loop {
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, rawdoc};
    use bytes::Bytes;
    use livekit_protocol::AnalyticsEvent;
    use prost::Message;

    use super::*;
    use crate::{
        document::DocumentOptions,
        record::{QueuedRecord, Stream},
    };

    fn batch(records: impl IntoIterator<Item = Vec<u8>>) -> Batch {
        let records = records.into_iter().enumerate();
        let record = |(i, bytes)| QueuedRecord { seq: i as u64, received_at: 0, bytes: Bytes::from(bytes) };
        Batch { stream: Stream::Events, records: records.map(record).collect() }
    }

    fn event(i: usize, room: &str) -> Vec<u8> {
        AnalyticsEvent { id: format!("AE_{i}"), room_id: room.to_owned(), ..Default::default() }.encode_to_vec()
    }

    fn recipe() -> Recipe {
        let options = rawdoc! { "ordered": false, "writeConcern": { "w": "majority", "j": true } };
        Recipe { labels: Labels::none(), expiration: None, options }
    }

    fn encode(batch: &Batch, limits: Limits) -> (Vec<(Document, Vec<usize>)>, Vec<Outcome>) {
        let encoder = Encoder::new(DocumentOptions::default());
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let (mut encoded, cancelled) = (Encoded::default(), Cancelled::default());
        let inserts: Vec<Insert> = std::iter::from_fn(|| {
            next_insert(batch, &mut encoded, &encoder, &recipe(), &limits, &mut outcomes, &cancelled)
        })
        .collect();
        let parsed = |insert: Insert| (Document::try_from(insert.command).expect("valid BSON"), insert.records);
        (inserts.into_iter().map(parsed).collect(), outcomes)
    }

    fn ids(command: &Document) -> Vec<&str> {
        let documents = command.get_array("documents").expect("documents");
        documents
            .iter()
            .map(|document| document.as_document().and_then(|d| d.get_str("_id").ok()).expect("_id"))
            .collect()
    }

    #[test]
    fn a_batch_is_one_unordered_insert_with_its_write_concern() {
        let (commands, _) = encode(&batch((0..12).map(|i| event(i, "RM_x"))), Limits::default());
        let [(command, records)] = &commands[..] else { panic!("{} commands", commands.len()) };
        assert_eq!(command.keys().collect::<Vec<_>>(), ["insert", "ordered", "writeConcern", "documents"]);
        assert_eq!(command.get("insert"), Some(&Bson::from("events")));
        assert_eq!(command.get("ordered"), Some(&Bson::Boolean(false)));
        assert_eq!(ids(command).len(), 12);
        assert_eq!((ids(command)[11], records[11]), ("AE_11", 11));
    }

    #[test]
    fn a_record_that_makes_no_document_is_rejected_alone() {
        let (commands, outcomes) = encode(&batch([event(0, "a"), vec![0xFF; 3], event(2, "b")]), Limits::default());
        assert_eq!(ids(&commands[0].0), ["AE_0", "AE_2"]);
        assert_eq!(commands[0].1, [0, 2]);
        assert!(
            matches!(&outcomes[1], Outcome::Rejected(reason) if reason.contains("cannot be a document")),
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_batch_is_split_under_the_servers_limits() {
        let records = batch((0..10).map(|i| event(i, &"x".repeat(1000))));
        let by_count = encode(&records, Limits { documents: 4, ..Limits::default() }).0;
        assert_eq!(by_count.iter().map(|(command, _)| ids(command).len()).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(by_count[2].1, [8, 9]);
        let by_size = encode(&records, Limits { document: 3500, ..Limits::default() }).0;
        assert_eq!(by_size.iter().map(|(command, _)| ids(command).len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
        let all: Vec<&str> = by_size.iter().flat_map(|(command, _)| ids(command)).collect();
        assert_eq!(all, (0..10).map(|i| format!("AE_{i}")).collect::<Vec<_>>());
    }

    #[test]
    fn documents_much_larger_than_their_records_are_made_a_command_at_a_time() {
        let batch = crate::sink::encoding::small_records_of_large_documents(150);
        let encoder = Encoder::new(DocumentOptions::default());
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let (mut encoded, mut records, cancelled) = (Encoded::default(), Vec::new(), Cancelled::default());
        let (recipe, limits) = (recipe(), Limits::default());
        while let Some(insert) =
            next_insert(&batch, &mut encoded, &encoder, &recipe, &limits, &mut outcomes, &cancelled)
        {
            assert!(insert.command.as_bytes().len() <= PART_BYTES + AROUND);
            assert!(encoded.next <= records.len() + insert.records.len() + 1, "no further than the command");
            records.extend(insert.records);
        }
        assert_eq!(records, (0..150).collect::<Vec<_>>());
    }

    #[test]
    fn a_document_over_the_servers_limit_goes_alone_since_only_the_servers_answer_is_final() {
        let (commands, outcomes) = encode(
            &batch([event(0, "a"), event(1, &"x".repeat(5000)), event(2, "c")]),
            Limits { document: 1000, ..Limits::default() },
        );
        assert_eq!(
            commands.iter().map(|(command, _)| ids(command)).collect::<Vec<_>>(),
            [["AE_0"], ["AE_1"], ["AE_2"]]
        );
        assert_eq!(outcomes, vec![Outcome::Retry; 3]);
    }

    #[test]
    fn limits_come_from_hello_and_are_as_usual_where_it_is_silent_or_says_what_no_server_has() {
        let hello = |document: i32, message: i64, documents: i32| {
            Limits::from_hello(
                &rawdoc! { "maxBsonObjectSize": document, "maxMessageSizeBytes": message, "maxWriteBatchSize": documents },
            )
        };
        let (mib, usual) = (1 << 20, Limits::default());
        assert_eq!(hello(2 * mib, 5_000_000, 7), Limits { document: 2 << 20, message: 5_000_000, documents: 7 });
        assert_eq!(Limits::from_hello(&rawdoc! {}), usual);
        for nothing in [0, -1, 10, 1000, mib - 1] {
            let one = Limits { documents: 1, ..usual };
            assert_eq!(hello(nothing, i64::from(nothing), 1), one, "{nothing}");
        }
        let strange = rawdoc! { "maxBsonObjectSize": "16", "maxMessageSizeBytes": true, "maxWriteBatchSize": 2.5 };
        assert_eq!(Limits::from_hello(&strange), usual);
    }
}
