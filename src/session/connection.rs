//! The connections of a room's participants: who joined when, with what, and how it ended.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use livekit_protocol::{DisconnectReason, client_info, participant_info};
use serde_json::Value;

use super::{
    field::Fields,
    model::{Client, Quality, Time},
    quality::Flow,
    record::{Event, Records, milliseconds},
};

/// A track's last interval was seen to end 0.21 s after its participant had left.
const CLOSING_NANOS: i64 = 1_000_000_000;

/// What the records say about one connection.
#[derive(Default)]
pub(super) struct Facts<'a> {
    /// `None`: no record says whose it is. Empty: redacted.
    pub(super) identity: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) kind: String,
    pub(super) joined_at: Option<Time>,
    pub(super) active_at: Option<Time>,
    pub(super) left_at: Option<Time>,
    pub(super) resumed_at: Vec<Time>,
    pub(super) reconnected_at: Vec<Time>,
    pub(super) aborted: bool,
    pub(super) reason: Option<String>,
    pub(super) client: Client,
    pub(super) transport: Option<String>,
    pub(super) connect_ms: Option<u64>,
    pub(super) region: Option<String>,
    /// The first and the last time at which it certainly was there.
    seen: Option<(Time, Time)>,
}

/// Every connection that the records name, by its SID. `latest`: what was later than this shows of none that it was there.
pub(super) fn connections<'a>(
    records: &Records<'a>,
    qualities: &BTreeMap<Flow<'a>, Quality>,
    latest: Time,
) -> BTreeMap<&'a str, Facts<'a>> {
    let mut connections: BTreeMap<&'a str, Facts<'a>> = BTreeMap::new();
    for event in &records.events {
        let publisher = event.document.field("publisher");
        if !publisher.text("sid").is_empty() {
            connections.entry(publisher.text("sid")).or_default().take_identity(publisher.text("identity"));
        }
        if !event.connection.is_empty() {
            connections.entry(event.connection).or_default().take(event);
        }
    }
    for (flow, quality) in qualities.iter().filter(|(flow, _)| !flow.connection.is_empty()) {
        let facts = connections.entry(flow.connection).or_default();
        for interval in &quality.intervals {
            facts.see(interval.from);
            facts.see(Time(interval.to.0.saturating_sub(CLOSING_NANOS)).max(interval.from));
        }
    }
    for facts in connections.values_mut() {
        facts.seen = facts.seen.map(|(first, last)| (first.min(latest), last.min(latest)));
        // The whole seconds of a webhook are before the join.
        facts.active_at = facts.active_at.map(|at| at.max(facts.joined_at.unwrap_or(at)));
    }
    connections
}

impl<'a> Facts<'a> {
    /// From when to when it was there, as far as the records say. `until`: the end if it has not left.
    pub(super) fn presence(&self, until: Option<Time>) -> Option<(Time, Time)> {
        let (first, last) = self.seen.or_else(|| self.joined_at.or(self.left_at).map(|at| (at, at)))?;
        let from = self.joined_at.unwrap_or(first);
        let to = self.left_at.or(until).unwrap_or(last);
        Some((from, to.max(from)))
    }

    fn see(&mut self, at: Time) {
        let (first, last) = self.seen.unwrap_or((at, at));
        self.seen = Some((first.min(at), last.max(at)));
    }

    fn take(&mut self, event: &Event<'a>) {
        match event.kind.as_str() {
            "PARTICIPANT_JOINED" => self.joined_at = self.joined_at.or(Some(event.at)),
            "PARTICIPANT_ACTIVE" => set(&mut self.active_at, event),
            "PARTICIPANT_RESUMED" => self.resumed_at.push(event.at),
            "RECONNECTED" => self.reconnected_at.push(event.at),
            "PARTICIPANT_LEFT" => set(&mut self.left_at, event),
            "PARTICIPANT_CONNECTION_ABORTED" => {
                set(&mut self.left_at, event);
                self.aborted = true;
            }
            _ => {}
        }
        if !is_sent_after_leaving(&event.kind) {
            self.see(event.at);
        }
        self.take_identity(event.document.field("participant").text("identity"));
        if let Some(participant) = event.participant() {
            // Where it has no identity, that is redacted.
            self.identity.get_or_insert_default();
            self.take_participant(participant);
        }
        self.take_client(event.document.field("client_info"));
        self.take_meta(event.document.field("client_meta"));
    }

    fn take_identity(&mut self, identity: &'a str) {
        if !identity.is_empty() {
            self.identity = Some(identity);
        }
    }

    fn take_participant(&mut self, participant: &'a Value) {
        if !participant.text("name").is_empty() {
            self.name = participant.text("name");
        }
        // The time of the join itself; PARTICIPANT_JOINED is sent some milliseconds later.
        if let Some(joined_at) = milliseconds(participant.count("joined_at_ms")) {
            self.joined_at = Some(joined_at);
        }
        let kind =
            participant.word("kind", |n| participant_info::Kind::try_from(n).ok().map(|kind| kind.as_str_name()));
        // Events without details have no kind either.
        if self.kind.is_empty() || kind != "STANDARD" {
            self.kind = kind;
        }
        let reason = participant
            .word("disconnect_reason", |n| DisconnectReason::try_from(n).ok().map(|reason| reason.as_str_name()));
        if reason != "UNKNOWN_REASON" && !reason.is_empty() {
            self.reason = Some(reason);
        }
        let region = participant.text("region");
        if !region.is_empty() {
            self.region = Some(region.to_owned());
        }
    }

    fn take_client(&mut self, info: &Value) {
        if !info.is_object() {
            return;
        }
        let text = |key: &str| info.text(key).to_owned();
        let sdk = info.word("sdk", |n| client_info::Sdk::try_from(n).ok().map(|sdk| sdk.as_str_name()));
        self.client = Client {
            sdk: if sdk == "UNKNOWN" { String::new() } else { sdk },
            sdk_version: text("version"),
            os: text("os"),
            os_version: text("os_version"),
            browser: text("browser"),
            browser_version: text("browser_version"),
            device: text("device_model"),
            network: text("network"),
            address_class: address_class(info.text("address")),
        };
    }

    fn take_meta(&mut self, meta: &Value) {
        let text = |key: &str| Some(meta.text(key).to_owned()).filter(|text| !text.is_empty());
        self.transport = text("connection_type").or(self.transport.take());
        self.region = text("region").or(self.region.take());
        self.connect_ms = Some(meta.count("client_connect_time")).filter(|&millis| millis > 0).or(self.connect_ms);
        if self.client.address_class.is_empty() {
            self.client.address_class = address_class(meta.text("client_addr"));
        }
    }
}

/// The first time; one that is exact rather than one of whole seconds.
fn set(time: &mut Option<Time>, event: &Event<'_>) {
    let is_whole = |time: Time| time.0 % 1_000_000_000 == 0;
    if time.is_none_or(|time| is_whole(time) && event.is_exact()) {
        *time = Some(event.at);
    }
}

/// Some events come up to a second after the participant has left: they do not show that it was there.
fn is_sent_after_leaving(kind: &str) -> bool {
    matches!(
        kind,
        "WEBHOOK"
            | "API_CALL"
            | "REPORT"
            | "PARTICIPANT_LEFT"
            | "PARTICIPANT_CONNECTION_ABORTED"
            | "TRACK_UNPUBLISHED"
            | "TRACK_UNSUBSCRIBED"
            | "TRACK_MAX_SUBSCRIBED_VIDEO_QUALITY"
            | "TRACK_PUBLISH_STATS"
            | "TRACK_SUBSCRIBE_STATS"
    )
}

/// Where an address belongs; a redacted one stays as it is.
fn address_class(address: &str) -> String {
    if address.starts_with("pii:") {
        return address.to_owned();
    }
    let ip = address.parse::<IpAddr>().or_else(|_| address.parse::<SocketAddr>().map(|address| address.ip()));
    let class = match ip.map(|ip| ip.to_canonical()) {
        Err(_) => "",
        Ok(ip) if ip.is_unspecified() => "",
        Ok(ip) if ip.is_loopback() => "loopback",
        Ok(IpAddr::V4(ip)) if ip.is_private() || ip.is_link_local() => "private",
        Ok(IpAddr::V6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => "private",
        Ok(_) => "public",
    };
    class.to_owned()
}
