//! The kinds of records: each has its own message in LiveKit's schema and its own queue in every spool.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The kinds of records LiveKit sends, each a queue of its own in every spool.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    bincode::Encode,
    bincode::Decode,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Stream {
    /// `livekit.AnalyticsEvent`
    Events = 0,
    /// `livekit.AnalyticsStat`
    Stats = 1,
    /// `livekit.AnalyticsNodeRooms`
    NodeRooms = 2,
}

/// One of something for each stream, by the stream's number.
pub(crate) type PerStream<T> = [T; Stream::ALL.len()];

impl Stream {
    /// All streams, by their number.
    pub const ALL: [Self; 3] = [Self::Events, Self::Stats, Self::NodeRooms];

    /// The stream's name: of its queue, its collection, its key in JSON output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Stats => "stats",
            Self::NodeRooms => "node_rooms",
        }
    }

    /// The stream of this number, as the on-disk format and the export format store it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Events),
            1 => Some(Self::Stats),
            2 => Some(Self::NodeRooms),
            _ => None,
        }
    }

    /// Full protobuf name of the stream's record message.
    #[must_use]
    pub const fn message_name(self) -> &'static str {
        match self {
            Self::Events => "livekit.AnalyticsEvent",
            Self::Stats => "livekit.AnalyticsStat",
            Self::NodeRooms => "livekit.AnalyticsNodeRooms",
        }
    }

    /// The method of [`SERVICE_NAME`](super::schema::SERVICE_NAME) that receives the stream's records.
    #[must_use]
    pub const fn method_name(self) -> &'static str {
        match self {
            Self::Events => "IngestEvents",
            Self::Stats => "IngestStats",
            Self::NodeRooms => "IngestNodeRoomStates",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Stream {
    type Err = UnknownStream;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == s).ok_or_else(|| UnknownStream(s.to_owned()))
    }
}

/// A stream name that is none of `events`, `stats`, `node_rooms`.
#[derive(Debug, thiserror::Error)]
#[error("unknown stream {0:?}: use events, stats or node_rooms")]
pub struct UnknownStream(String);
