//! `/api/v1/usage`: minutes and bytes by day, for billing.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    parameters::{Parameters, bad},
    reader::Reader,
};
use crate::{
    admin::problem::Problem,
    archive::Query,
    csv,
    ingest::Json,
    session::{Grouping, Usage},
};

#[derive(Clone, Copy)]
enum Format {
    Json,
    Csv,
}

pub(super) async fn show(State(reader): State<Arc<Reader>>, parameters: Parameters) -> Result<Response, Problem> {
    let (from, to) = parameters.range()?;
    let format = parameters.word("format", &[("json", Format::Json), ("csv", Format::Csv)])?.unwrap_or(Format::Json);
    let prefixes: Vec<String> = parameters.all("prefix").map(str::to_owned).collect();
    let separator = parameters.one("by")?.map(|text| text.parse::<char>().map_err(|error| bad("by", error)));
    let room_prefix = if let [prefix] = &prefixes[..] { Some(prefix.clone()) } else { None };
    let grouping = match (prefixes.is_empty(), separator.transpose()?) {
        (false, Some(_)) => return Err(bad("by", "cannot be combined with prefix")),
        (true, Some(separator)) => Grouping::Separator(separator),
        (true, None) => Grouping::All,
        (false, None) => Grouping::Prefixes(prefixes),
    };
    let source = reader.open(parameters.one("sink")?)?;
    let mut usage = Usage::new(grouping, from, to);
    let query = Query { from, to, room_name: None, room_prefix };
    let read = source.each(&query, &mut |session| usage.add(session)).await?;
    let rows = usage.rows();
    match format {
        Format::Json => Ok(Json(json!({
            "sink": source.sink,
            "address": source.address(),
            "from": from,
            "to": to,
            "usage": rows,
            "complete_from": read.complete_from,
            "cut": read.cut,
            "unread": read.unread,
        }))
        .into_response()),
        Format::Csv if read.lacks().is_empty() => {
            let lines: String = csv::of_usage(&rows).collect();
            Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], lines).into_response())
        }
        // It has no place to say so.
        Format::Csv => {
            let message =
                "not everything in this range could be read: request a shorter range, or JSON, which says what";
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, message))
        }
    }
}
