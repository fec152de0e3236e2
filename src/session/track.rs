//! Published tracks and who received them.
//!
//! TRACK_SUBSCRIBE_REQUESTED, TRACK_UNSUBSCRIBED and others name a track by its SID only; what it is comes from the other events.

use std::collections::BTreeMap;

use livekit_protocol::{TrackSource, TrackType};
use serde_json::Value;

use super::{
    field::Fields,
    model::{Quality, Span, Subscription, Time, Track},
    quality::Flow,
    record::{Event, Records},
};

/// The tracks of a room by the SIDs of the connection and of the track.
pub(super) struct Tracks<'a> {
    published: BTreeMap<(&'a str, &'a str), Publishing>,
    subscribed: BTreeMap<(&'a str, &'a str), Subscribing>,
    described: BTreeMap<&'a str, Description>,
    publishers: BTreeMap<&'a str, &'a str>,
    /// Of each track, who received it.
    subscribers: BTreeMap<&'a str, Vec<String>>,
}

/// What a track is, whoever says so.
#[derive(Clone, Default)]
struct Description {
    name: String,
    kind: String,
    source: String,
    mime: String,
    width: u32,
    height: u32,
    layers: usize,
}

#[derive(Default)]
struct Publishing {
    requested_at: Option<Time>,
    published_at: Option<Time>,
    unpublished_at: Option<Time>,
    publish_ms: Option<f64>,
    muted: Vec<Span>,
}

#[derive(Default)]
struct Subscribing {
    /// Not answered yet.
    requested_at: Option<Time>,
    spans: Vec<Span>,
    subscribe_ms: Option<f64>,
    error: Option<String>,
}

impl<'a> Tracks<'a> {
    pub(super) fn of(records: &Records<'a>, qualities: &BTreeMap<Flow<'a>, Quality>) -> Self {
        let mut tracks = Self {
            published: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            described: BTreeMap::new(),
            publishers: BTreeMap::new(),
            subscribers: BTreeMap::new(),
        };
        for event in records.events.iter().filter(|event| !event.track.is_empty()) {
            tracks.take(event);
        }
        for flow in qualities.keys().filter(|flow| !flow.is_data() && !flow.track.is_empty()) {
            let key = (flow.connection, flow.track);
            if flow.is_downstream {
                tracks.subscribed.entry(key).or_default();
            } else {
                tracks.published.entry(key).or_default();
            }
        }
        for stat in &records.stats {
            let mime = stat.document.text("mime");
            if !mime.is_empty() {
                let described = tracks.described.entry(stat.track).or_default();
                described.take_mime(mime);
            }
        }
        for &(connection, track) in tracks.published.keys() {
            tracks.publishers.entry(track).or_insert(connection);
        }
        for (&(connection, track), subscribing) in &tracks.subscribed {
            let flow = Flow { connection, track, is_downstream: true };
            if !subscribing.spans.is_empty() || qualities.get(&flow).is_some_and(|quality| quality.packets > 0) {
                tracks.subscribers.entry(track).or_default().push(connection.to_owned());
            }
        }
        tracks
    }

    /// What a connection published, by time.
    pub(super) fn published_by(&self, connection: &'a str, qualities: &BTreeMap<Flow<'a>, Quality>) -> Vec<Track> {
        let of_connection = self.published.range((connection, "")..).take_while(|((sid, _), _)| *sid == connection);
        let mut tracks: Vec<Track> = of_connection
            .map(|(&(connection, track), publishing)| {
                let Description { name, kind, source, mime, width, height, layers } =
                    self.described.get(track).cloned().unwrap_or_default();
                Track {
                    sid: track.to_owned(),
                    name,
                    kind,
                    source: if source.is_empty() { "UNKNOWN".to_owned() } else { source },
                    mime,
                    width,
                    height,
                    layers,
                    published_at: publishing.published_at,
                    unpublished_at: publishing.unpublished_at,
                    publish_ms: publishing.publish_ms,
                    muted: publishing.muted.clone(),
                    subscribers: self.subscribers.get(track).cloned().unwrap_or_default(),
                    upstream: qualities
                        .get(&Flow { connection, track, is_downstream: false })
                        .cloned()
                        .unwrap_or_default(),
                }
            })
            .collect();
        tracks.sort_by(|a, b| (a.published_at, &a.sid).cmp(&(b.published_at, &b.sid)));
        tracks
    }

    /// What a connection received, by time.
    pub(super) fn received_by(
        &self,
        connection: &'a str,
        qualities: &BTreeMap<Flow<'a>, Quality>,
        identity_of: impl Fn(&str) -> Option<&'a str>,
    ) -> Vec<Subscription> {
        let of_connection = self.subscribed.range((connection, "")..).take_while(|((sid, _), _)| *sid == connection);
        let mut subscriptions: Vec<Subscription> = of_connection
            .map(|(&(connection, track), subscribing)| {
                let description = self.described.get(track).cloned().unwrap_or_default();
                let publisher = self.publishers.get(track).and_then(|publisher| identity_of(publisher));
                Subscription {
                    track_sid: track.to_owned(),
                    publisher_identity: publisher.unwrap_or_default().to_owned(),
                    source: if description.source.is_empty() { "UNKNOWN".to_owned() } else { description.source },
                    mime: description.mime,
                    spans: subscribing.spans.clone(),
                    subscribe_ms: subscribing.subscribe_ms,
                    error: subscribing.error.clone(),
                    downstream: qualities
                        .get(&Flow { connection, track, is_downstream: true })
                        .cloned()
                        .unwrap_or_default(),
                }
            })
            .collect();
        let first = |subscription: &Subscription| subscription.spans.first().map(|span| span.from);
        subscriptions.sort_by(|a, b| (first(a), &a.track_sid).cmp(&(first(b), &b.track_sid)));
        subscriptions
    }

    fn take(&mut self, event: &Event<'a>) {
        let (track, at) = (event.track, event.at);
        let document = event.document.field("track");
        let key = (event.connection, track);
        match event.kind.as_str() {
            "TRACK_PUBLISH_REQUESTED" => {
                self.describe(track, document);
                self.published.entry(key).or_default().requested_at.get_or_insert(at);
            }
            "TRACK_PUBLISHED" => {
                self.describe(track, document);
                self.published.entry(key).or_default().publish(at, document.flag("muted"));
            }
            "TRACK_UNPUBLISHED" => {
                self.describe(track, document);
                self.published.entry(key).or_default().unpublished_at = Some(at);
            }
            "TRACK_MUTED" => {
                self.describe(track, document);
                self.published.entry(key).or_default().mute(at);
            }
            "TRACK_UNMUTED" => {
                self.describe(track, document);
                self.published.entry(key).or_default().unmute(at);
            }
            "TRACK_PUBLISHED_UPDATE" => {
                self.describe(track, document);
                self.published.entry(key).or_default();
            }
            "TRACK_SUBSCRIBE_REQUESTED" => {
                self.subscribed.entry(key).or_default().requested_at = Some(at);
            }
            "TRACK_SUBSCRIBED" => {
                self.describe(track, document);
                let publisher = event.document.field("publisher").text("sid");
                if !publisher.is_empty() {
                    self.publishers.insert(track, publisher);
                }
                self.subscribed.entry(key).or_default().subscribe(at);
            }
            "TRACK_UNSUBSCRIBED" => self.subscribed.entry(key).or_default().unsubscribe(at),
            "TRACK_SUBSCRIBE_FAILED" => {
                let subscribing = self.subscribed.entry(key).or_default();
                subscribing.requested_at = None;
                let error = event.document.text("error");
                subscribing.error = Some(if error.is_empty() { "unknown" } else { error }.to_owned());
            }
            _ => {}
        }
    }

    fn describe(&mut self, track: &'a str, document: &Value) {
        if document.is_object() {
            self.described.entry(track).or_default().take(document);
        }
    }
}

impl Description {
    fn take(&mut self, track: &Value) {
        let newest = |kept: &mut String, new: String| {
            if !new.is_empty() && new != "UNKNOWN" {
                *kept = new;
            }
        };
        newest(&mut self.name, track.text("name").to_owned());
        newest(
            &mut self.source,
            track.word("source", |n| TrackSource::try_from(n).ok().map(|source| source.as_str_name())),
        );
        newest(&mut self.mime, track.text("mime_type").to_owned());
        newest(&mut self.kind, track.word("type", |n| TrackType::try_from(n).ok().map(|kind| kind.as_str_name())));
        let size = |key: &str| u32::try_from(track.count(key)).ok().filter(|&size| size > 0);
        self.width = size("width").unwrap_or(self.width);
        self.height = size("height").unwrap_or(self.height);
        let layers_of_codecs = track.list("codecs").iter().map(|codec| codec.list("layers").len());
        let layers = layers_of_codecs.chain([track.list("layers").len()]).max().unwrap_or(0);
        self.layers = self.layers.max(layers);
    }

    fn take_mime(&mut self, mime: &str) {
        if self.mime.is_empty() {
            mime.clone_into(&mut self.mime);
        }
        if self.kind.is_empty() {
            let kind = mime.split('/').next().unwrap_or_default().to_ascii_uppercase();
            self.kind = Some(kind).filter(|kind| kind == "AUDIO" || kind == "VIDEO").unwrap_or_default();
        }
    }
}

impl Publishing {
    fn publish(&mut self, at: Time, is_muted: bool) {
        if self.published_at.is_none() {
            self.published_at = Some(at);
            self.publish_ms = self.requested_at.map(|requested| milliseconds(requested, at));
            if is_muted {
                self.mute(at);
            }
        }
    }

    fn mute(&mut self, at: Time) {
        if self.muted.last().is_none_or(|span| span.to.is_some()) {
            self.muted.push(Span { from: at, to: None });
        }
    }

    fn unmute(&mut self, at: Time) {
        if let Some(span) = self.muted.last_mut().filter(|span| span.to.is_none()) {
            span.to = Some(at);
        }
    }
}

impl Subscribing {
    fn subscribe(&mut self, at: Time) {
        let requested_at = self.requested_at.take();
        if self.spans.last().is_none_or(|span| span.to.is_some()) {
            if self.spans.is_empty() {
                self.subscribe_ms = requested_at.map(|requested| milliseconds(requested, at));
            }
            self.spans.push(Span { from: at, to: None });
        }
    }

    fn unsubscribe(&mut self, at: Time) {
        self.requested_at = None;
        if let Some(span) = self.spans.last_mut().filter(|span| span.to.is_none()) {
            span.to = Some(at);
        }
    }
}

fn milliseconds(from: Time, to: Time) -> f64 {
    to.0.saturating_sub(from.0) as f64 / 1e6
}
