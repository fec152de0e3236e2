//! What runs beside a room's participants, and what was sent about it: egresses, ingresses, SIP calls, webhooks, API calls.

use std::collections::BTreeMap;

use livekit_protocol::{EgressStatus, IngressInput, SipCallDirection, SipCallStatus, ingress_state};
use serde_json::Value;

use super::{
    field::Fields,
    model::{ApiCall, Job, Time, Webhook},
    record::{Event, Records},
};

/// HTTP statuses from here on are failures: LiveKit does not follow redirects of webhooks.
const FIRST_FAILURE: u64 = 300;

/// The egresses, by time.
pub(super) fn egresses(records: &Records<'_>) -> Vec<Job> {
    let events = of_kind(records, "EGRESS_");
    collect(events.map(|event| {
        let egress = event.document.field("egress");
        let job = Job {
            id: first([event.document.text("egress_id"), egress.text("egress_id")]),
            kind: egress_kind(egress),
            status: status(egress, "status", |n| EgressStatus::try_from(n).ok().map(|status| status.as_str_name())),
            started_at: since_1970(egress, "started_at"),
            ended_at: since_1970(egress, "ended_at"),
            error: text(egress, "error"),
        };
        (event, job)
    }))
}

/// The ingresses, by time.
pub(super) fn ingresses(records: &Records<'_>) -> Vec<Job> {
    let events = of_kind(records, "INGRESS_");
    collect(events.map(|event| {
        let ingress = event.document.field("ingress");
        let state = ingress.field("state");
        let kind = status(ingress, "input_type", |n| IngressInput::try_from(n).ok().map(|input| input.as_str_name()));
        let job = Job {
            id: first([event.document.text("ingress_id"), ingress.text("ingress_id")]),
            kind: kind.trim_end_matches("_INPUT").to_ascii_lowercase(),
            status: status(state, "status", |n| {
                ingress_state::Status::try_from(n).ok().map(|status| status.as_str_name())
            }),
            started_at: since_1970(state, "started_at"),
            ended_at: since_1970(state, "ended_at"),
            error: text(state, "error"),
        };
        (event, job)
    }))
}

/// The SIP calls, by time.
pub(super) fn sip_calls(records: &Records<'_>) -> Vec<Job> {
    let events = of_kind(records, "SIP_").filter(|event| event.kind.starts_with("SIP_CALL_"));
    collect(events.map(|event| {
        let call = event.document.field("sip_call");
        let kind = status(call, "call_direction", |n| {
            SipCallDirection::try_from(n).ok().map(|direction| direction.as_str_name())
        });
        let time = |key: &str, old: &str| since_1970(call, key).or_else(|| since_1970(call, old));
        let job = Job {
            id: first([event.document.text("sip_call_id"), call.text("call_id")]),
            kind: kind.trim_start_matches("SCD_").to_ascii_lowercase(),
            status: status(call, "call_status", |n| SipCallStatus::try_from(n).ok().map(|status| status.as_str_name())),
            started_at: time("started_at_ns", "started_at"),
            ended_at: time("ended_at_ns", "ended_at"),
            error: text(call, "error"),
        };
        (event, job)
    }))
}

/// The webhooks that LiveKit reports to have sent, by time.
pub(super) fn webhooks(records: &Records<'_>) -> Vec<Webhook> {
    let events = records.events.iter().filter(|event| event.document.field("webhook").is_object());
    events
        .map(|event| {
            let webhook = event.document.field("webhook");
            Webhook {
                at: event.at,
                event: webhook.text("event").to_owned(),
                url: webhook.text("url").to_owned(),
                queue_ms: milliseconds(webhook, "queue_duration_ns"),
                send_ms: milliseconds(webhook, "send_duration_ns"),
                error: webhook_error(webhook),
            }
        })
        .collect()
}

/// The calls of LiveKit's API, by time.
pub(super) fn api_calls(records: &Records<'_>) -> Vec<ApiCall> {
    let events = records.events.iter().filter(|event| event.document.field("api_call").is_object());
    events
        .map(|event| {
            let call = event.document.field("api_call");
            let code = call.text("twirp_error_code");
            ApiCall {
                at: event.at,
                service: call.text("service").to_owned(),
                method: call.text("method").to_owned(),
                status: if code.is_empty() { call.count("status").to_string() } else { code.to_owned() },
                duration_ms: milliseconds(call, "duration_ns"),
            }
        })
        .collect()
}

fn of_kind<'r, 'a>(records: &'r Records<'a>, prefix: &'static str) -> impl Iterator<Item = &'r Event<'a>> {
    records.events.iter().filter(move |event| event.kind.starts_with(prefix))
}

/// One job from the events about it: what the last one says, if it says something.
fn collect<'r, 'a: 'r>(events: impl Iterator<Item = (&'r Event<'a>, Job)>) -> Vec<Job> {
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for (event, mut job) in events.filter(|(_, job)| !job.id.is_empty()) {
        // Only where the report has no time of its own.
        if ["EGRESS_STARTED", "INGRESS_STARTED", "SIP_CALL_STARTED"].contains(&event.kind.as_str()) {
            job.started_at.get_or_insert(event.at);
        }
        if ["EGRESS_ENDED", "INGRESS_ENDED", "SIP_CALL_ENDED"].contains(&event.kind.as_str()) {
            job.ended_at.get_or_insert(event.at);
        }
        job.error = job.error.or_else(|| text(event.document, "error"));
        match jobs.get_mut(&job.id) {
            None => {
                jobs.insert(job.id.clone(), job);
            }
            Some(known) => {
                for (known, new) in [(&mut known.kind, job.kind), (&mut known.status, job.status)] {
                    if !new.is_empty() {
                        *known = new;
                    }
                }
                known.started_at = known.started_at.or(job.started_at);
                known.ended_at = job.ended_at.or(known.ended_at);
                known.error = job.error.or(known.error.take());
            }
        }
    }
    let mut jobs: Vec<Job> = jobs.into_values().collect();
    jobs.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
    jobs
}

fn first(ids: [&str; 2]) -> String {
    ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default().to_owned()
}

/// Empty where there is no report.
fn status(report: &Value, key: &str, name: fn(i32) -> Option<&'static str>) -> String {
    if report.is_object() { report.word(key, name) } else { String::new() }
}

fn text(document: &Value, key: &str) -> Option<String> {
    Some(document.text(key).to_owned()).filter(|text| !text.is_empty())
}

/// A time in nanoseconds.
fn since_1970(document: &Value, key: &str) -> Option<Time> {
    i64::try_from(document.count(key)).ok().filter(|&nanos| nanos > 0).map(Time)
}

fn milliseconds(document: &Value, key: &str) -> f64 {
    document.real(key).filter(|&nanos| nanos > 0.0).unwrap_or(0.0) / 1e6
}

/// The member of the request's oneof, such as `room_composite`; of the newer request its source.
fn egress_kind(egress: &Value) -> String {
    let member = |of: &Value, oneof: &str| of.field(oneof).as_object().and_then(|member| member.keys().min().cloned());
    let kind = member(egress, "Request").unwrap_or_default();
    let source = member(egress.field("Request").field("Egress"), "Source");
    snake_case(&source.unwrap_or(kind))
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// Why a webhook did not arrive, or was refused.
fn webhook_error(webhook: &Value) -> Option<String> {
    let http = webhook.count("http_status_code");
    let said = text(webhook, "send_error").or_else(|| text(webhook, "service_error"));
    let dropped = || webhook.flag("is_dropped").then(|| "dropped by LiveKit".to_owned());
    let refused = || (http >= FIRST_FAILURE).then(|| format!("HTTP status {http}"));
    said.or_else(dropped).or_else(refused)
}
