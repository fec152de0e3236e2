//! What a session is: one life of a room, from its creation to its end. Times are nanoseconds since 1970, written as RFC 3339;
//! what the records do not contain is `None` or empty, and left out of JSON.

use std::fmt;

use serde::Serialize;

/// One life of a room (`RM_…`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Session {
    /// `RM_…`.
    pub room_sid: String,
    /// The name that the application gave it; another session may have the same.
    pub room_name: String,
    /// The LiveKit nodes that sent its records; a room lives on one, its egress may be on another.
    pub node_ids: Vec<String>,
    /// Exact where an event has `room.creation_time_ms`, else the time of the first record.
    pub started_at: Time,
    /// When ROOM_ENDED was sent; `None` while the room is there, and where its node died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// The time of the last record.
    pub last_at: Time,
    /// Whether it goes on, has ended, or was lost.
    pub state: State,
    /// True once no further records are expected: 3.5 minutes after the end.
    pub settled: bool,
    /// Sums over its participants.
    pub totals: Totals,
    /// By the time of the first join.
    pub participants: Vec<Participant>,
    /// By the time of the start.
    pub egresses: Vec<Job>,
    /// By the time of the start.
    pub ingresses: Vec<Job>,
    /// By the time of the start.
    pub sip_calls: Vec<Job>,
    /// What LiveKit sent about it, by time.
    pub webhooks: Vec<Webhook>,
    /// Calls of LiveKit's API about it, by time.
    pub api_calls: Vec<ApiCall>,
    /// Worst first.
    pub observations: Vec<Observation>,
    /// Every event, in the order of their times.
    pub moments: Vec<Moment>,
}

/// Whether a session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No end was sent, and there are records of the last minutes.
    Active,
    /// ROOM_ENDED was sent.
    Ended,
    /// No end was sent, and there are no records any more: its node died, or records are missing.
    Lost,
}

/// Sums over a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Different identities; where they are redacted, connections.
    pub participants: usize,
    /// Most participants at the same time.
    pub peak_participants: usize,
    /// Over all connections, from joining to leaving.
    pub connection_seconds: f64,
    /// From participants to LiveKit, and from LiveKit to participants: primary, retransmitted and padding bytes.
    pub bytes_in: u64,
    /// From LiveKit to participants.
    pub bytes_out: u64,
}

/// Who has one identity in the room.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Participant {
    /// Empty where a redaction removed it, or no record says.
    pub identity: String,
    /// The name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// LiveKit's word: `STANDARD`, `INGRESS`, `EGRESS`, `SIP`, `AGENT` …; empty where no record says.
    pub kind: String,
    /// Over all of its connections.
    pub connection_seconds: f64,
    /// From the participant to LiveKit.
    pub bytes_in: u64,
    /// From LiveKit to the participant.
    pub bytes_out: u64,
    /// By the time of joining; each join has its own SID.
    pub connections: Vec<Connection>,
}

/// From a join to the leaving (`PA_…`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connection {
    /// `PA_…`.
    pub sid: String,
    /// When the signalling was connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<Time>,
    /// When media could flow; `None`: the client never got through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Time>,
    /// When it left; `None` while it is there, and where no record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_at: Option<Time>,
    /// When the signalling was resumed (same SID).
    pub resumed_at: Vec<Time>,
    /// When it reconnected, with all of its tracks.
    pub reconnected_at: Vec<Time>,
    /// PARTICIPANT_CONNECTION_ABORTED was sent.
    pub aborted: bool,
    /// LiveKit's word of why it left, such as `CLIENT_INITIATED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The client, as it described itself.
    pub client: Client,
    /// `udp`, `tcp` or `turn`, and what else LiveKit says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Milliseconds from joining to active, as LiveKit measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    /// Where the node is, if LiveKit's configuration says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Until it left; until now in a room that is there; else until the last record of it.
    pub seconds: f64,
    /// Data channels and signalling, both ways.
    pub data_bytes: u64,
    /// By the time of publishing.
    pub published: Vec<Track>,
    /// By the time of subscribing.
    pub subscribed: Vec<Subscription>,
}

/// What a client says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Client {
    /// LiveKit's word, such as `JS` or `SWIFT`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sdk: String,
    /// As the SDK counts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sdk_version: String,
    /// The operating system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// Of the operating system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Where it runs in one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub browser: String,
    /// Of the browser.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub browser_version: String,
    /// The model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Such as `wifi`, where the SDK says so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// `loopback`, `private`, `public`, or what the redaction left; never the address itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_class: String,
}

/// A published track (`TR_…`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Track {
    /// `TR_…`.
    pub sid: String,
    /// The name that the publisher gave it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `AUDIO`, `VIDEO` or `DATA`.
    pub kind: String,
    /// `CAMERA`, `MICROPHONE`, `SCREEN_SHARE`, `SCREEN_SHARE_AUDIO` or `UNKNOWN`.
    pub source: String,
    /// The codec, such as `video/VP8`.
    pub mime: String,
    /// Pixels; 0 of audio.
    pub width: u32,
    /// Pixels; 0 of audio.
    pub height: u32,
    /// Simulcast layers that were announced.
    pub layers: usize,
    /// When the first packet came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Time>,
    /// When it ended; `None` while it is there, and where no record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpublished_at: Option<Time>,
    /// Milliseconds from the request to the first packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_ms: Option<f64>,
    /// Open-ended where it stayed muted.
    pub muted: Vec<Span>,
    /// SIDs of the connections that subscribed to it.
    pub subscribers: Vec<String>,
    /// From the publisher to LiveKit.
    pub upstream: Quality,
}

/// A track that a connection received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subscription {
    /// `TR_…`.
    pub track_sid: String,
    /// Who publishes the track; empty where no record says.
    pub publisher_identity: String,
    /// As of the track.
    pub source: String,
    /// As of the track.
    pub mime: String,
    /// Each time that it subscribed, until it unsubscribed.
    pub spans: Vec<Span>,
    /// Milliseconds from the request to the subscription, of the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe_ms: Option<f64>,
    /// LiveKit's words of why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From LiveKit to the subscriber.
    pub downstream: Quality,
}

/// From one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first moment.
    pub from: Time,
    /// The last one; `None` if it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
}

/// One track in one direction, as LiveKit's stats describe it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Primary, retransmitted and padding bytes.
    pub bytes: u64,
    /// Primary packets.
    pub packets: u64,
    /// Packets that were sent again. Downstream they are not among `packets`; upstream they are those that came out of order,
    /// among `packets`.
    pub retransmitted: u64,
    /// Upstream those that did not arrive at all; downstream those that the subscriber missed, less what the publisher had lost.
    pub lost: u64,
    /// Requests for lost packets.
    pub nacks: u64,
    /// Requests for a picture, because one was lost.
    pub plis: u64,
    /// Requests for a whole picture.
    pub firs: u64,
    /// Lost packets, as a share of those that were sent: 0 … 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The highest round-trip time, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rtt_ms: Option<u32>,
    /// The highest jitter, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_jitter_us: Option<u32>,
    /// The mean opinion score, 1.0 … 4.5: the lowest, and the mean over time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// The mean over time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f64>,
    /// By time; some 30 s each.
    pub intervals: Vec<Interval>,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interval {
    /// Its begin.
    pub from: Time,
    /// Its end.
    pub to: Time,
    /// As of [`Quality`].
    pub bytes: u64,
    /// As of [`Quality`].
    pub packets: u64,
    /// As of [`Quality`].
    pub lost: u64,
    /// Of video.
    pub frames: u64,
    /// Bits per second; `None` where the interval is too short for a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<f64>,
    /// Frames per second; `None` where the interval is too short for a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// 0 … 1, as of [`Quality`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The highest round-trip time, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<u32>,
    /// The highest jitter, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_us: Option<u32>,
    /// As of [`Quality`].
    pub nacks: u64,
    /// As of [`Quality`].
    pub plis: u64,
    /// As of [`Quality`].
    pub firs: u64,
    /// The mean opinion score, 1.0 … 4.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// An egress, an ingress or a SIP call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// `EG_…`, `IN_…` or `SCL_…`.
    pub id: String,
    /// What it is, such as `room_composite` or `rtmp`; empty where no record says.
    pub kind: String,
    /// LiveKit's word, such as `EGRESS_COMPLETE`.
    pub status: String,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// LiveKit's words of what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A webhook that LiveKit sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Webhook {
    /// When it was sent.
    pub at: Time,
    /// Such as `room_started`.
    pub event: String,
    /// Where it was sent.
    pub url: String,
    /// Milliseconds that it waited in LiveKit.
    pub queue_ms: f64,
    /// Milliseconds until it was answered.
    pub send_ms: f64,
    /// LiveKit's words of what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A call of LiveKit's API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ApiCall {
    /// The time of its event.
    pub at: Time,
    /// Such as `RoomService`.
    pub service: String,
    /// Such as `ListRooms`.
    pub method: String,
    /// An HTTP status or a code of Twirp's, as LiveKit sends it.
    pub status: String,
    /// Milliseconds until it was answered.
    pub duration_ms: f64,
}

/// What stands out, in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observation {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for programs, such as `never_active` or `loss_upstream`.
    pub kind: &'static str,
    /// The sentence for people, with its numbers.
    pub text: String,
    /// Whom it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Which connection it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_sid: Option<String>,
    /// Which track it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_sid: Option<String>,
}

/// How bad an observation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Somebody heard or saw it.
    Warning,
    /// Somebody could not take part.
    Problem,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// When it happened.
    pub at: Time,
    /// The name of its AnalyticsEventType.
    pub kind: String,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whose connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_sid: Option<String>,
    /// Which track.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_sid: Option<String>,
    /// What it says, in a few words; empty where the kind says all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// As of [`Session`].
    pub room_sid: String,
    /// As of [`Session`].
    pub room_name: String,
    /// As of [`Session`].
    pub started_at: Time,
    /// As of [`Session`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// As of [`Session`].
    pub last_at: Time,
    /// As of [`Session`].
    pub state: State,
    /// As of [`Session`].
    pub settled: bool,
    /// As of [`Session`].
    #[serde(flatten)]
    pub totals: Totals,
    /// Participants that are in the room now; 0 where it ended.
    pub present: usize,
    /// Egresses, of any kind.
    pub egresses: usize,
    /// The lowest score of a track in one direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// The highest loss of a track in one direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss: Option<f64>,
    /// How many observations of each severity; lists are sorted by these for the worst first.
    pub problems: usize,
    /// Observations that are warnings.
    pub warnings: usize,
    /// The worst observation's sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<String>,
}

/// Nanoseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// Seconds from an earlier time to this one; negative if that one is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> f64 {
        // A double cannot hold the nanoseconds since 1970.
        self.0.saturating_sub(earlier.0) as f64 / 1e9
    }
}

/// RFC 3339 with milliseconds, as the documents have it.
impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = bson::DateTime::from_millis(self.0.div_euclid(1_000_000));
        out.write_str(&millis.try_to_rfc3339_string().map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
