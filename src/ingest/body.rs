//! HTTP bodies: read within the limits of size, time and memory, decompressed, turned into records.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    Refusal, Refused,
    inflate::Encoding,
    memory::{Budget, Share},
    wire,
};
use crate::{
    document::{records_from_json, records_from_ndjson},
    record::{RecordBatch, Stream, now_millis},
};

/// Bodies that are decompressed or parsed at the same time: the work is the processor's, and its memory is bounded so.
const CONVERSIONS: usize = 2;
/// JSON values in a body, counted by their punctuation. Each takes up far more memory parsed than as text: `[{},{},…`.
const MAX_JSON_VALUES: usize = 1_000_000;

/// What a body has to keep to.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    pub max_bytes: usize,
    pub timeout: Duration,
}

/// Reads a whole body, as it came.
pub(super) async fn read<B>(
    body: B,
    headers: &HeaderMap,
    limits: &BodyLimits,
    memory: &Budget,
) -> Result<(Bytes, Share), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let too_large = || {
        let message = format!("the body is over the limit of {} bytes: send smaller ones", limits.max_bytes);
        Refusal::new(Refused::TooLarge, message)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.max_bytes as u64) {
        return Err(too_large());
    }
    let deadline = Instant::now() + limits.timeout;
    let (mut body, mut read, mut share) = (pin!(body), BytesMut::new(), Share::default());
    loop {
        let frame = timeout_at(deadline, body.frame()).await;
        match frame.map_err(|_| Refusal::new(Refused::Timeout, "the body took too long to arrive"))? {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if read.len() + data.len() > limits.max_bytes {
                    return Err(too_large());
                }
                share.merge(memory.take(data.len()).await?);
                read.extend_from_slice(&data);
            }
            Some(Err(error)) => return Err(Refusal::new(Refused::Aborted, format!("the body broke off: {error}"))),
            None => return Ok((read.freeze(), share)),
        }
    }
}

/// What a body's headers say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    content: Content,
    encoding: Encoding,
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
        let encoding = match headers.get(CONTENT_ENCODING) {
            None => Encoding::Identity,
            Some(name) => Encoding::named(name.as_bytes().trim_ascii())
                .ok_or_else(|| unsupported("Content-Encoding must be gzip, zstd or identity"))?,
        };
        Ok(Self { content, encoding })
    }
}

/// Turns bodies into records, a few at a time.
#[derive(Debug, Clone)]
pub(super) struct Converter {
    turns: Arc<Semaphore>,
    max_bytes: usize,
    max_records: u32,
}

impl Converter {
    pub(super) fn new(max_bytes: usize, max_records: u32) -> Self {
        Self { turns: Arc::new(Semaphore::new(CONVERSIONS)), max_bytes, max_records }
    }

    /// The records of a body.
    pub(super) async fn records(&self, stream: Stream, format: Format, body: Bytes) -> Result<RecordBatch, Refusal> {
        let (max_bytes, max_records) = (self.max_bytes, self.max_records);
        self.convert(move || {
            let plain = format.encoding.decompress(&body, max_bytes)?;
            let records = match format.content {
                Content::Protobuf => return Ok(wire::message(stream, now_millis(), plain, max_records)?),
                Content::Json => check_json_size(&plain).and_then(|()| Ok(records_from_json(stream, &plain)?))?,
                Content::NdJson => check_json_size(&plain).and_then(|()| Ok(records_from_ndjson(stream, &plain)?))?,
            };
            if records.count() > max_records {
                return Err(wire::WireError::TooManyRecords { limit: max_records }.into());
            }
            Ok(records.build(now_millis()))
        })
        .await
    }

    /// Runs a conversion off the async threads, when it is its turn.
    pub(super) async fn convert<T: Send + 'static>(
        &self,
        conversion: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let internal = |error: String| Refusal::new(Refused::Unavailable, format!("internal error: {error}"));
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| internal(error.to_string()))?;
        let converted = tokio::task::spawn_blocking(move || {
            let converted = conversion();
            drop(turn);
            converted
        });
        converted.await.unwrap_or_else(|error| Err(internal(error.to_string())))
    }
}

/// Refuses JSON that would take up too much memory once parsed.
pub(super) fn check_json_size(text: &[u8]) -> Result<(), Refusal> {
    let values = text.iter().filter(|byte| matches!(byte, b',' | b'{' | b'[' | b'\n')).count();
    if values > MAX_JSON_VALUES {
        let message = format!("more than {MAX_JSON_VALUES} JSON values in one request: send them in several");
        return Err(Refusal::new(Refused::TooLarge, message));
    }
    Ok(())
}

impl From<crate::document::JsonError> for Refusal {
    fn from(error: crate::document::JsonError) -> Self {
        Self::new(Refused::Invalid, error.to_string())
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn json_that_blows_up_when_parsed_is_refused_by_its_punctuation() {
        let converter = Converter::new(64 << 20, 10_000_000);
        let format = Format { content: Content::Json, encoding: Encoding::Identity };
        let text = format!(r#"{{"room": {{"enabledCodecs": [{}{{}}]}}}}"#, "{},".repeat(MAX_JSON_VALUES));
        let refusal = converter.records(Stream::Events, format, text.into()).await.unwrap_err();
        assert_eq!(refusal.reason, Refused::TooLarge);
    }
}
