//! The fields that are removed from documents: by LiveKit's own marks in its .proto files, and by the lists below for
//! fields that LiveKit left unmarked. docs/redaction.md lists every text field with its decision. A test compares it with
//! the schema, so that a field of a newer LiveKit needs a decision.

use std::sync::LazyLock;

use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Value};

use super::{options::Redact, scrub::Scrub};
use crate::record::schema;

/// LiveKit's own mark of a field, an option in its .proto files.
static SENSITIVITY: LazyLock<ExtensionDescriptor> = LazyLock::new(|| {
    schema::pool().get_extension_by_name("logger.sensitivity").expect("livekit-protocol ships logger/options.proto")
});

/// Credentials that LiveKit left unmarked.
const SECRETS: [&str; 9] = [
    "livekit.AnalyticsEvent.analytics_key",
    "livekit.AnalyticsStat.analytics_key",
    "livekit.IngressInfo.stream_key",
    "livekit.Room.turn_password",
    "livekit.SIPDispatchRuleCallee.pin",
    "livekit.SIPDispatchRuleDirect.pin",
    "livekit.SIPDispatchRuleIndividual.pin",
    "livekit.WebhookConfig.signing_key",
    // `SIPCallInfo.call_context`: arbitrary content that nobody can check.
    "google.protobuf.Any.value",
];

/// URLs, which may hold credentials.
const URLS: [&str; 16] = [
    "livekit.AliOSSUpload.endpoint",
    "livekit.EgressInfo.manifest_location",
    "livekit.FileInfo.location",
    "livekit.IngressInfo.url",
    "livekit.ProxyConfig.url",
    "livekit.RoomCompositeEgressRequest.custom_base_url",
    "livekit.S3Upload.endpoint",
    "livekit.SIPCallInfo.pcap_file_link",
    "livekit.SegmentsInfo.live_playlist_location",
    "livekit.SegmentsInfo.playlist_location",
    "livekit.TemplateSource.custom_base_url",
    "livekit.TrackEgressRequest.websocket_url",
    "livekit.WebEgressRequest.url",
    "livekit.WebSource.url",
    "livekit.WebhookConfig.url",
    "livekit.WebhookInfo.url",
];

/// URLs that media is sent to: their path or query is the key to a channel.
const STREAM_URLS: [&str; 2] = ["livekit.StreamInfo.url", "livekit.StreamOutput.urls"];

/// Messages for people, which may quote such URLs.
const TEXTS: [&str; 11] = [
    "livekit.APICallInfo.twirp_error_message",
    "livekit.AnalyticsEvent.error",
    "livekit.EgressInfo.details",
    "livekit.EgressInfo.error",
    "livekit.IngressState.error",
    "livekit.SIPCallInfo.error",
    "livekit.SIPTransferInfo.error",
    "livekit.StreamInfo.error",
    "livekit.WebhookInfo.send_error",
    "livekit.WebhookInfo.service_error",
    "livekit.WebhookInfo.service_status",
];

/// Personal data, marked by LiveKit or not, that identifies a person or thing: hashed, since joins on it are useful.
const IDENTIFIERS: [&str; 32] = [
    "livekit.APICallInfo.participant_identity",
    "livekit.AnalyticsClientMeta.client_addr",
    "livekit.AnalyticsRoomParticipant.identity",
    "livekit.AudioRoute.participant_identity",
    "livekit.AzureBlobUpload.account_name",
    "livekit.ClientInfo.address",
    "livekit.DataTrackInfo.name",
    "livekit.FeatureUsageInfo.participant_identity",
    "livekit.IngressInfo.participant_identity",
    "livekit.MuteRoomTrackRequest.identity",
    "livekit.ParticipantEgressRequest.identity",
    "livekit.ParticipantInfo.identity",
    "livekit.ParticipantVideo.identity",
    "livekit.ProxyConfig.username",
    "livekit.RoomParticipantIdentity.identity",
    "livekit.S3Upload.assume_role_arn",
    "livekit.SIPCallInfo.participant_identity",
    "livekit.SIPDispatchRuleInfo.inbound_numbers",
    "livekit.SIPDispatchRuleInfo.numbers",
    "livekit.SIPInboundTrunkInfo.allowed_numbers",
    "livekit.SIPInboundTrunkInfo.auth_username",
    "livekit.SIPInboundTrunkInfo.numbers",
    "livekit.SIPOutboundTrunkInfo.auth_username",
    "livekit.SIPOutboundTrunkInfo.numbers",
    "livekit.SIPTransferInfo.transfer_to",
    "livekit.SIPUri.ip",
    "livekit.SIPUri.user",
    "livekit.SendDataRequest.destination_identities",
    "livekit.TrackInfo.name",
    "livekit.UpdateParticipantRequest.identity",
    "livekit.UpdateSubscriptionsRequest.identity",
    "livekit.WebhookInfo.participant_identity",
];

/// Personal data that LiveKit left unmarked and that has no use as a hash.
const PERSONAL: [&str; 5] = [
    "livekit.AnalyticsClientMeta.geo_hash",
    "livekit.AnalyticsRoomParticipant.name",
    "livekit.CreateRoomRequest.tags",
    "livekit.RoomConfiguration.tags",
    "livekit.SendDataRequest.data",
];

/// The decision about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing to redact.
    Plain,
    /// Credentials or authentication material: absent under `secrets` and `pii`.
    Secret,
    /// Kept, but credentials in it are removed under `secrets` and `pii`.
    Scrub(Scrub),
    /// Personal data: hashed under `pii`.
    Identifier,
    /// Personal data: absent under `pii`.
    Personal,
}

/// What happens to a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    Keep,
    Scrub(Scrub),
    Hash,
    Remove,
}

/// LiveKit's mark takes precedence; a field that it marks as secret stays secret.
pub(super) fn decision(field: &FieldDescriptor) -> Decision {
    const MARKED_PII: i32 = 1;
    const MARKED_SECRET: i32 = 2;

    let mark = match &*field.options().get_extension(&SENSITIVITY) {
        Value::EnumNumber(mark) => *mark,
        _ => 0,
    };
    let name = field.full_name();
    if mark == MARKED_SECRET || SECRETS.contains(&name) {
        Decision::Secret
    } else if IDENTIFIERS.contains(&name) {
        Decision::Identifier
    } else if mark == MARKED_PII || PERSONAL.contains(&name) {
        Decision::Personal
    } else if URLS.contains(&name) {
        Decision::Scrub(Scrub::Url)
    } else if STREAM_URLS.contains(&name) {
        Decision::Scrub(Scrub::StreamUrl)
    } else if TEXTS.contains(&name) {
        Decision::Scrub(Scrub::Text)
    } else {
        Decision::Plain
    }
}

/// What `redact` does with a field.
pub(super) fn treatment(redact: Redact, field: &FieldDescriptor) -> Treatment {
    match (redact, decision(field)) {
        (Redact::None, _) => Treatment::Keep,
        (_, Decision::Secret) => Treatment::Remove,
        (_, Decision::Scrub(scrub)) => Treatment::Scrub(scrub),
        (Redact::Pii, Decision::Identifier) => Treatment::Hash,
        (Redact::Pii, Decision::Personal) => Treatment::Remove,
        (_, Decision::Plain | Decision::Identifier | Decision::Personal) => Treatment::Keep,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost_reflect::{Kind, MessageDescriptor};

    use super::*;
    use crate::record::Stream;

    /// Every field of all records that holds text (or arbitrary bytes), or that LiveKit marked.
    fn text_fields() -> BTreeMap<String, Decision> {
        fn walk(message: &MessageDescriptor, seen: &mut BTreeSet<String>, found: &mut BTreeMap<String, Decision>) {
            if !seen.insert(message.full_name().to_owned()) {
                return;
            }
            for field in message.fields() {
                let kind = match field.kind() {
                    Kind::Message(entry) if entry.is_map_entry() => {
                        if matches!(entry.map_entry_key_field().kind(), Kind::String) {
                            Kind::String
                        } else {
                            entry.map_entry_value_field().kind()
                        }
                    }
                    kind => kind,
                };
                let decision = decision(&field);
                match kind {
                    Kind::String | Kind::Bytes => _ = found.insert(field.full_name().to_owned(), decision),
                    _ if decision != Decision::Plain => _ = found.insert(field.full_name().to_owned(), decision),
                    _ => {}
                }
                if let Kind::Message(inner) = kind {
                    walk(&inner, seen, found);
                }
            }
        }
        let (mut seen, mut found) = (BTreeSet::new(), BTreeMap::new());
        for stream in Stream::ALL {
            walk(&schema::record(stream), &mut seen, &mut found);
        }
        found
    }

    const fn word(decision: Decision) -> &'static str {
        match decision {
            Decision::Plain => "kept",
            Decision::Secret => "secret",
            Decision::Scrub(Scrub::Url) => "URL",
            Decision::Scrub(Scrub::StreamUrl) => "stream URL",
            Decision::Scrub(Scrub::Text) => "text",
            Decision::Identifier => "identifier",
            Decision::Personal => "personal",
        }
    }

    #[test]
    fn every_field_of_text_is_decided_in_docs_redaction_md() {
        let docs = include_str!("../../docs/redaction.md");
        let mut documented = BTreeMap::new();
        for line in docs.lines().filter_map(|line| line.strip_prefix("| `")) {
            let mut cells = line.split('|').map(str::trim);
            let field = cells.next().unwrap().trim_end_matches('`');
            if field.contains('.') {
                assert_eq!(documented.insert(field, cells.next().unwrap()), None, "{field} is listed twice");
            }
        }
        let fields = text_fields();
        let rows = fields.iter().filter(|(field, _)| !documented.contains_key(field.as_str()));
        let rows: String = rows.map(|(field, decision)| format!("| `{field}` | {} | |\n", word(*decision))).collect();
        assert!(rows.is_empty(), "nobody decided on these fields; decide, then add them to docs/redaction.md:\n{rows}");
        for (field, decision) in &fields {
            let documented = documented[field.as_str()];
            assert_eq!(documented, word(*decision), "{field}: docs/redaction.md and this module differ");
        }
        for field in documented.keys() {
            assert!(fields.contains_key(*field), "docs/redaction.md lists {field}, which the schema does not have");
        }
    }

    #[test]
    fn every_field_of_the_lists_is_in_the_schema() {
        let fields = text_fields();
        for name in [&SECRETS[..], &URLS, &STREAM_URLS, &TEXTS, &IDENTIFIERS, &PERSONAL].concat() {
            assert!(fields.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_livekit_marks_as_secret_is_removed_by_default() {
        let marked = schema::pool().get_message_by_name("livekit.S3Upload").unwrap();
        for name in ["access_key", "secret", "session_token", "assume_role_external_id"] {
            let field = marked.get_field_by_name(name).unwrap();
            assert_eq!(treatment(Redact::default(), &field), Treatment::Remove);
            assert_eq!(treatment(Redact::Pii, &field), Treatment::Remove);
            assert_eq!(treatment(Redact::None, &field), Treatment::Keep);
        }
    }
}
