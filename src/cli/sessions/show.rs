//! `sessions show`: one session, as a timeline, JSON, or CSV (a line per connection, or per event).

use super::{
    chart,
    source::{SourceArgs, at, bar, is_whole, print_csv, time},
};
use crate::{
    archive::Read,
    cli::{Common, Failure, Outcome, output},
    csv,
    session::{Connection, Moment, Participant, Session},
};

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// SID of the room: RM_…
    session: String,
    /// Show every event; with --csv, a line per event instead of one per connection
    #[arg(long)]
    events: bool,
    /// Show every track, also those received without problems
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) async fn show(common: &Common, args: &ShowArgs) -> Outcome {
    let archive = args.source.open(common)?;
    let limits = args.source.limits(1);
    let missing = || {
        let (session, address) = (&args.session, archive.address());
        let remedy = match session.starts_with("RM_") {
            true => "`livekit-spool sessions --since 7d` lists the SIDs",
            false => "give the SID of the room, RM_…: `livekit-spool sessions --room NAME` lists those of a room",
        };
        Failure::from(format!("no records of a session {session:?} in {address}; {remedy}"))
    };
    let bar = bar();
    let found = async {
        let room = archive.room(&args.session, &limits).await?.ok_or_else(missing)?;
        Ok::<_, Failure>(archive.records(&[room], &limits).await?)
    };
    let found = found.await;
    bar.finish_and_clear();
    let mut found = found?;
    let session = found.take(&args.session, time(std::time::SystemTime::now())).ok_or_else(missing)?;
    let read = Read::from(found);
    if args.source.csv {
        print_csv(if args.events { events(&session) } else { connections(&session) })?;
    } else if common.json {
        output::json(&session)?;
    } else {
        let what = chart::What { events: args.events, all_tracks: args.all };
        for line in chart::draw(&session, output::width().into(), what) {
            if !output::line_while_read(line)? {
                break;
            }
        }
    }
    is_whole(&read)
}

fn connections(session: &Session) -> Vec<String> {
    let headings = [
        "identity",
        "name",
        "kind",
        "connection_sid",
        "joined_at",
        "active_at",
        "left_at",
        "seconds",
        "aborted",
        "reason",
        "resumed",
        "reconnected",
        "transport",
        "connect_ms",
        "region",
        "sdk",
        "sdk_version",
        "os",
        "browser",
        "device",
        "network",
        "published",
        "subscribed",
        "data_bytes",
    ];
    let row = |(participant, connection): (&Participant, &Connection)| {
        let cells = [
            participant.identity.clone(),
            participant.name.clone(),
            participant.kind.clone(),
            connection.sid.clone(),
            at(connection.joined_at),
            at(connection.active_at),
            at(connection.left_at),
            connection.seconds.to_string(),
            connection.aborted.to_string(),
            connection.reason.clone().unwrap_or_default(),
            connection.resumed_at.len().to_string(),
            connection.reconnected_at.len().to_string(),
            connection.transport.clone().unwrap_or_default(),
            connection.connect_ms.map(|ms| ms.to_string()).unwrap_or_default(),
            connection.region.clone().unwrap_or_default(),
            connection.client.sdk.clone(),
            connection.client.sdk_version.clone(),
            connection.client.os.clone(),
            connection.client.browser.clone(),
            connection.client.device.clone(),
            connection.client.network.clone(),
            connection.published.len().to_string(),
            connection.subscribed.len().to_string(),
            connection.data_bytes.to_string(),
        ];
        csv::line(cells.iter().map(String::as_str))
    };
    let all = session.participants.iter();
    let all =
        all.flat_map(|participant| participant.connections.iter().map(move |connection| (participant, connection)));
    std::iter::once(csv::line(headings)).chain(all.map(row)).collect()
}

fn events(session: &Session) -> Vec<String> {
    let row = |moment: &Moment| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let cells = [
            moment.at.to_string(),
            moment.kind.clone(),
            text(&moment.identity),
            text(&moment.connection_sid),
            text(&moment.track_sid),
            moment.detail.clone(),
        ];
        csv::line(cells.iter().map(String::as_str))
    };
    let headings = csv::line(["at", "type", "identity", "connection_sid", "track_sid", "detail"]);
    std::iter::once(headings).chain(session.moments.iter().map(row)).collect()
}
