//! LiveKit's webhooks, converted into the analytics events with the same meaning. The event keeps the webhook's bytes, for a
//! sink that sends webhooks.
//!
//! LiveKit signs each with a JWT by API key (`Authorization`), whose claim `sha256` is the hash of the body. It treats a
//! 4xx as sent, and retries a 5xx for seconds only: webhooks are less reliable than gRPC. `num_dropped` counts those it
//! gave up on.

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::Request;
use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, WebhookEvent, WebhookInfo};
use prost::Message;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Accepted, Dropped, Protocol, Refusal, Refused, body::BodyLimits, decompress::Encoding, handler_state::HandlerState,
    listener::Peer, repeats::ContentHash,
};
use crate::record::{
    RecordBatch, RecordBatchBuilder, Stream, add_webhook_body, event_of_webhook,
    json::{UnknownFields, protobuf_from_json},
    now_millis,
};

/// A webhook holds one room, participant, track, egress or ingress: kilobytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Accepts a webhook.
pub(super) async fn ingest(state: &HandlerState, peer: Peer, request: Request<Body>) -> Result<Accepted, Refusal> {
    let (head, body) = request.into_parts();
    let refuse = |why: &str| state.authenticator.refuse(Protocol::Webhook, why, peer, state.ingester.status());
    let (pass, claims) = state.authenticator.webhook(&head.headers, peer).map_err(|why| refuse(&why))?;
    let limits = BodyLimits { max_bytes: state.limits.max_bytes.min(MAX_BODY_BYTES), ..state.limits.clone() };
    let encoding = Encoding::of(&head.headers)?;
    let (body, share) = state.read(Protocol::Webhook, &head, body, &limits, (pass, peer)).await?;
    let space = state.ingester.memory().for_decompressed(encoding.most(share.bytes(), limits.max_bytes)).await?;
    let (max_bytes, length) = (limits.max_bytes, body.len());
    // The signature covers the content, not its encoding.
    let decompress = move || Ok((encoding.decompress(&body.join(), max_bytes)?, (share, space)));
    let (bytes, memory) = state.converter.convert(encoding, length, decompress).await?;
    let hash: ContentHash = Sha256::digest(&bytes).into();
    if !claims.sha256.is_some_and(|claimed| is_same_hash(&hash, &claimed)) {
        return Err(refuse("the token was not signed for this body"));
    }
    let sinks = state.ingester.generation();
    if state.repeats.knows(&hash, sinks) {
        state.ingester.status().count_webhook_repeated();
        return Ok(Accepted { records: 1, dropped: Dropped::default() });
    }
    let ((batch, dropped_by_livekit), _memory) =
        state.converter.convert(Encoding::Identity, bytes.len(), move || Ok((convert(&bytes)?, memory))).await?;
    let records = u64::from(batch.count());
    let dropped = state.ingester.append_alone(Protocol::Webhook, batch).await?;
    state.ingester.status().count_webhooks_dropped(dropped_by_livekit);
    if dropped.is_empty() {
        state.repeats.remember(hash, sinks);
    }
    Ok(Accepted { records, dropped })
}

fn is_same_hash(hash: &ContentHash, claimed: &str) -> bool {
    BASE64_STANDARD.decode(claimed).is_ok_and(|claimed| hash.as_slice().ct_eq(&claimed).into())
}

/// The event with the meaning of a webhook, and how many webhooks LiveKit dropped before it.
fn convert(body: &[u8]) -> Result<(RecordBatch, u64), Refusal> {
    let bytes = protobuf_from_json("livekit.WebhookEvent", UnknownFields::Ignore, body)?;
    let webhook = WebhookEvent::decode(&bytes[..])
        .map_err(|error| Refusal::new(Refused::Invalid, format!("not a livekit.WebhookEvent: {error}")))?;
    #[expect(deprecated, reason = "LiveKit still sends it")]
    let dropped = u64::try_from(webhook.num_dropped).unwrap_or(0);
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    let mut event = event(webhook).encode_to_vec();
    add_webhook_body(&mut event, body);
    batch.push(&event);
    Ok((batch.build(now_millis()), dropped))
}

fn event(webhook: WebhookEvent) -> AnalyticsEvent {
    let room_id = webhook.room.as_ref().map(|room| room.sid.clone());
    let participant_id = webhook.participant.as_ref().map(|participant| participant.sid.clone());
    let track_id = webhook.track.as_ref().map(|track| track.sid.clone());
    let egress_id = webhook.egress_info.as_ref().map(|egress| egress.egress_id.clone());
    let ingress_id = webhook.ingress_info.as_ref().map(|ingress| ingress.ingress_id.clone());
    let room_of_egress = webhook.egress_info.as_ref().map(|egress| egress.room_id.clone());
    let room_of_ingress =
        webhook.ingress_info.as_ref().and_then(|ingress| Some(ingress.state.as_ref()?.room_id.clone()));
    let event_type = event_of_webhook(&webhook.event).unwrap_or(AnalyticsEventType::Webhook);
    let mut event = AnalyticsEvent {
        r#type: event_type.into(),
        timestamp: Some(pbjson_types::Timestamp { seconds: webhook.created_at, nanos: 0 }),
        room_id: room_id.or(room_of_egress).or(room_of_ingress).unwrap_or_default(),
        participant_id: participant_id.unwrap_or_default(),
        track_id: track_id.unwrap_or_default(),
        egress_id: egress_id.unwrap_or_default(),
        ingress_id: ingress_id.unwrap_or_default(),
        room_end_reason: webhook.room_end_reason,
        ..Default::default()
    };
    if event_type == AnalyticsEventType::Webhook {
        event.webhook = Some(info(&webhook, &event));
    }
    AnalyticsEvent {
        id: webhook.id,
        room: webhook.room,
        participant: webhook.participant,
        track: webhook.track,
        egress: webhook.egress_info,
        ingress: webhook.ingress_info,
        ..event
    }
}

/// A webhook without an event type of its own (agents' jobs, future names) is kept as the report of a webhook.
fn info(webhook: &WebhookEvent, event: &AnalyticsEvent) -> WebhookInfo {
    WebhookInfo {
        event_id: webhook.id.clone(),
        event: webhook.event.clone(),
        room_name: webhook.room.as_ref().map(|room| room.name.clone()).unwrap_or_default(),
        room_id: event.room_id.clone(),
        participant_identity: webhook.participant.as_ref().map(|one| one.identity.clone()).unwrap_or_default(),
        participant_id: event.participant_id.clone(),
        track_id: event.track_id.clone(),
        egress_id: event.egress_id.clone(),
        ingress_id: event.ingress_id.clone(),
        created_at: event.timestamp,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(body: &str) -> AnalyticsEvent {
        let (batch, _) = convert(body.as_bytes()).unwrap();
        AnalyticsEvent::decode(batch.iter().next().unwrap()).unwrap()
    }

    #[test]
    fn a_webhook_says_the_same_as_its_event() {
        let event = converted(
            r#"{"event": "track_published", "id": "EV_1", "createdAt": "1795301026", "room": {"sid": "RM_1", "name": "r"},
                "participant": {"sid": "PA_1", "identity": "u"}, "track": {"sid": "TR_1", "type": "VIDEO"}}"#,
        );
        assert_eq!((event.id.as_str(), event.r#type()), ("EV_1", AnalyticsEventType::TrackPublished));
        assert_eq!(event.timestamp.unwrap().seconds, 1_795_301_026);
        assert_eq!([event.room_id, event.participant_id, event.track_id], ["RM_1", "PA_1", "TR_1"]);
        assert_eq!(event.room.unwrap().name, "r");
        assert_eq!(event.participant.unwrap().identity, "u");
        assert_eq!(event.track.unwrap().sid, "TR_1");
        assert!(event.webhook.is_none());
    }

    #[test]
    fn egress_and_ingress_bring_their_ids_and_room() {
        let egress = converted(
            r#"{"event": "egress_updated", "id": "EV_2", "egressInfo": {"egressId": "EG_1", "roomId": "RM_2",
                "status": "EGRESS_ACTIVE"}}"#,
        );
        assert_eq!((egress.r#type(), egress.egress_id.as_str()), (AnalyticsEventType::EgressUpdated, "EG_1"));
        assert_eq!((egress.room_id.as_str(), egress.egress.unwrap().egress_id.as_str()), ("RM_2", "EG_1"));
        let ingress = converted(
            r#"{"event": "ingress_started", "id": "EV_3", "ingressInfo": {"ingressId": "IN_1", "state": {"roomId": "RM_3"}}}"#,
        );
        assert_eq!((ingress.r#type(), ingress.ingress_id.as_str()), (AnalyticsEventType::IngressStarted, "IN_1"));
        assert_eq!((ingress.room_id.as_str(), ingress.ingress.is_some()), ("RM_3", true));
    }

    #[test]
    fn every_name_of_the_schema_has_its_type_and_a_name_of_the_future_is_kept_as_a_webhook() {
        for (name, event_type) in [
            ("room_started", AnalyticsEventType::RoomCreated),
            ("room_finished", AnalyticsEventType::RoomEnded),
            ("participant_joined", AnalyticsEventType::ParticipantActive),
            ("participant_left", AnalyticsEventType::ParticipantLeft),
            ("participant_connection_aborted", AnalyticsEventType::ParticipantConnectionAborted),
            ("track_unpublished", AnalyticsEventType::TrackUnpublished),
            ("egress_started", AnalyticsEventType::EgressStarted),
            ("egress_ended", AnalyticsEventType::EgressEnded),
            ("ingress_ended", AnalyticsEventType::IngressEnded),
            ("agent_job_started", AnalyticsEventType::Webhook),
            ("room_dreamt", AnalyticsEventType::Webhook),
        ] {
            let event = converted(&format!(
                r#"{{"event": "{name}", "id": "EV", "room": {{"sid": "RM", "name": "n"}}, "new": 1}}"#
            ));
            assert_eq!(event.r#type(), event_type, "{name}");
            let kept =
                event.webhook.map(|webhook| [webhook.event, webhook.event_id, webhook.room_id, webhook.room_name]);
            let expected =
                (event_type == AnalyticsEventType::Webhook).then(|| [name, "EV", "RM", "n"].map(str::to_owned));
            assert_eq!(kept, expected, "{name}");
        }
    }

    #[test]
    fn what_livekit_dropped_is_counted_and_the_rooms_end_has_its_reason() {
        let (batch, dropped) = convert(br#"{"event": "room_finished", "numDropped": 7, "roomEndReason": 1}"#).unwrap();
        assert_eq!(dropped, 7);
        assert_eq!(AnalyticsEvent::decode(batch.iter().next().unwrap()).unwrap().room_end_reason, 1);
    }

    #[test]
    fn the_hash_is_the_bodys_and_of_no_other() {
        let [hash, other] = [b"body", b"bodY"].map(|body| ContentHash::from(Sha256::digest(body)));
        let claimed = BASE64_STANDARD.encode(hash);
        assert!(is_same_hash(&hash, &claimed));
        assert!(!is_same_hash(&other, &claimed) && !is_same_hash(&hash, "") && !is_same_hash(&hash, "not base64"));
    }
}
