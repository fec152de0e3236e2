//! What an answer lacks, for APIs whose answers have no place to say so.

use axum::{
    http::{HeaderName, HeaderValue},
    response::{IntoResponseParts, ResponseParts},
};

use crate::archive::Read;

const NAME: HeaderName = HeaderName::from_static("livekit-spool-incomplete");
/// Bytes: proxies and clients take a few KiB of headers.
const MAX: usize = 1_024;

/// A header with what was left out, as part of an answer; none if the answer is whole.
#[derive(Debug, Default)]
pub(super) struct Incomplete(Option<HeaderValue>);

impl Incomplete {
    /// Of an answer, or of one page: that there are more sessions is said by the next one, or is an error.
    pub(super) fn of(read: &Read) -> Self {
        let text = Read { complete_from: None, ..read.clone() }.lacks().join("; ");
        // Names of files may have any characters, a header has ASCII.
        let ascii = text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' });
        let value: String = ascii.take(MAX).collect();
        Self(HeaderValue::try_from(value).ok().filter(|value| !value.is_empty()))
    }
}

impl IntoResponseParts for Incomplete {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        parts.headers_mut().extend(self.0.map(|value| (NAME, value)));
        Ok(parts)
    }
}
