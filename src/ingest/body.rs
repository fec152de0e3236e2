//! HTTP bodies: read within the limits of size, time and memory, decompressed, and converted into records.

use std::{io, ops::RangeInclusive, pin::pin, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use super::{
    Refusal, Refused,
    conversions::Conversions,
    decompress::Encoding,
    memory::{Budget, Share},
    wire,
};
use crate::record::{
    RecordBatch, RecordBatchBuilder, Stream,
    json::{JsonError, halves_of_json, halves_of_ndjson, records_from_json, records_from_ndjson},
    now_millis,
};

/// A body is kept in pieces of this size: growing one buffer would need twice the memory of the body for a while.
const SEGMENT: usize = 64 * 1024;
/// JSON of these lengths is converted by two threads, if another one is free. Shorter texts gain nothing; the halves of
/// longer ones would take too much memory.
const IN_HALVES: RangeInclusive<usize> = 32 * 1024..=4 * 1024 * 1024;

/// The limits of a body.
#[derive(Debug, Clone)]
pub(crate) struct BodyLimits {
    pub max_bytes: usize,
    pub timeout: Duration,
}

/// Reads a whole body, still compressed.
pub(crate) async fn read<B>(
    body: B,
    headers: &HeaderMap,
    limits: &BodyLimits,
    memory: &Budget,
) -> Result<(BodyBytes, Share), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let too_large = || {
        let message = format!("the body is larger than the limit of {} bytes: send smaller bodies", limits.max_bytes);
        Refusal::new(Refused::TooLarge, message)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large());
    }
    let deadline = Instant::now() + limits.timeout;
    let (mut body, mut read, mut share) = (pin!(body), BodyBytes::default(), Share::default());
    loop {
        let frame = timeout_at(deadline, body.frame()).await;
        match frame.map_err(|_| Refusal::new(Refused::Timeout, "the body took too long to arrive"))? {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if read.length + data.len() > limits.max_bytes {
                    return Err(too_large());
                }
                memory.acquire(&mut share, data.len(), 0).await?;
                read.push(&data);
            }
            Some(Err(error)) => {
                return Err(Refusal::new(Refused::Aborted, format!("the body was interrupted: {error}")));
            }
            None => return Ok((read, share)),
        }
    }
}

/// A body in pieces.
#[derive(Debug, Default)]
pub(crate) struct BodyBytes {
    segments: Vec<Vec<u8>>,
    length: usize,
}

impl BodyBytes {
    fn push(&mut self, mut data: &[u8]) {
        self.length += data.len();
        while !data.is_empty() {
            let space = self.segments.last().map_or(0, |last| SEGMENT - last.len());
            if space == 0 {
                self.segments.push(Vec::with_capacity(data.len().min(SEGMENT)));
                continue;
            }
            let (head, tail) = data.split_at(space.min(data.len()));
            if let Some(last) = self.segments.last_mut() {
                last.extend_from_slice(head);
            }
            data = tail;
        }
    }

    /// Its length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// The whole body; each piece is released as soon as it is copied.
    pub(crate) fn join(self) -> Bytes {
        let mut whole = Vec::with_capacity(self.length);
        self.segments.into_iter().for_each(|segment| whole.extend_from_slice(&segment));
        whole.into()
    }
}

/// The type and compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    content: Content,
    pub(super) encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Protobuf,
    Json,
    NdJson,
}

impl Format {
    /// From `Content-Type` and `Content-Encoding`.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let unsupported = |message: &str| Refusal::new(Refused::Unsupported, message);
        let media = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let media = media.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let content = match media.to_ascii_lowercase().as_slice() {
            b"application/x-protobuf" | b"application/protobuf" => Content::Protobuf,
            b"application/json" => Content::Json,
            b"application/x-ndjson" => Content::NdJson,
            _ => {
                return Err(unsupported(
                    "Content-Type must be application/x-protobuf, application/json or application/x-ndjson",
                ));
            }
        };
        let encoding = Encoding::of(headers)?;
        Ok(Self { content, encoding })
    }
}

/// Converts bodies into records, large ones off the async threads.
#[derive(Debug, Clone)]
pub(super) struct Converter {
    conversions: Conversions,
    max_bytes: usize,
    max_records: u32,
}

impl Converter {
    /// # Errors
    /// When the threads cannot be started.
    pub(super) fn new(max_bytes: usize, max_records: u32) -> io::Result<Self> {
        Ok(Self { conversions: Conversions::new("http")?, max_bytes, max_records })
    }

    /// The records of a body, and their part of its memory. `space` is memory for decompressing.
    pub(super) async fn records(
        &self,
        stream: Stream,
        format: Format,
        body: BodyBytes,
        (mut share, mut space): (Share, Share),
    ) -> Result<(RecordBatch, Share), Refusal> {
        let converter = self.clone();
        self.convert(format.encoding, body.len(), move || {
            let batch = converter.read(stream, format, body)?;
            share.merge(space.split(batch.bytes().len().saturating_sub(share.bytes())));
            Ok((batch, share))
        })
        .await
    }

    fn read(&self, stream: Stream, format: Format, body: BodyBytes) -> Result<RecordBatch, Refusal> {
        let (conversions, max_records) = (&self.conversions, self.max_records);
        let plain = format.encoding.decompress(&body.join(), self.max_bytes)?;
        let records = match format.content {
            Content::Protobuf => return Ok(wire::message(stream, now_millis(), plain, max_records)?),
            Content::Json => read_json(stream, &plain, conversions, halves_of_json, records_from_json)?,
            Content::NdJson => read_json(stream, &plain, conversions, halves_of_ndjson, records_from_ndjson)?,
        };
        if records.count() > max_records {
            return Err(wire::WireError::TooManyRecords { limit: max_records }.into());
        }
        Ok(records.build(now_millis()))
    }

    /// Runs another conversion of a body of this length. It owns the memory that it needs: it may outlive its sender.
    pub(super) async fn convert<T: Send + 'static>(
        &self,
        encoding: Encoding,
        length: usize,
        conversion: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.conversions.of_body(encoding, length).begin(conversion)?.await
    }
}

#[cfg(test)]
impl Converter {
    /// See [`Conversions::occupy`].
    pub(super) fn occupy(&self) -> std::sync::mpsc::Sender<()> {
        self.conversions.occupy()
    }
}

/// The records of a JSON text: of a long one both halves at once.
fn read_json(
    stream: Stream,
    text: &Bytes,
    conversions: &Conversions,
    halves: fn(&Bytes) -> Option<[Bytes; 2]>,
    read: fn(Stream, &[u8]) -> Result<RecordBatchBuilder, JsonError>,
) -> Result<RecordBatchBuilder, JsonError> {
    let halves = if IN_HALVES.contains(&text.len()) { halves(text) } else { None };
    if let Some([first, second]) = halves {
        let (first, second) = conversions.both(|| read(stream, &first), move || read(stream, &second));
        if let (Ok(mut records), Ok(more)) = (first, second) {
            records.extend(&more.build(0));
            return Ok(records);
        }
    }
    read(stream, text)
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        let reason = if error.is_too_large { Refused::TooLarge } else { Refused::Invalid };
        Self::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_ENCODING;

    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_format_is_what_the_headers_say() {
        let json = headers(&[(CONTENT_TYPE, "Application/JSON; charset=utf-8")]);
        assert_eq!(Format::of(&json).unwrap(), Format { content: Content::Json, encoding: Encoding::Identity });
        let zstd = headers(&[(CONTENT_TYPE, "application/x-protobuf"), (CONTENT_ENCODING, "zstd")]);
        assert_eq!(Format::of(&zstd).unwrap(), Format { content: Content::Protobuf, encoding: Encoding::Zstd });
        for bad in [
            &[][..],
            &[(CONTENT_TYPE, "text/plain")],
            &[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "br")],
            &[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip, zstd")],
        ] {
            assert_eq!(Format::of(&headers(bad)).unwrap_err().reason, Refused::Unsupported, "{bad:?}");
        }
    }

    #[test]
    fn a_body_in_pieces_is_joined_in_order() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        for size in [1, 1000, SEGMENT, 100_000] {
            let mut body = BodyBytes::default();
            bytes.chunks(size).for_each(|chunk| body.push(chunk));
            assert!(body.segments.iter().all(|segment| segment.len() <= SEGMENT));
            assert_eq!(body.join(), bytes, "chunks of {size}");
        }
    }
}
