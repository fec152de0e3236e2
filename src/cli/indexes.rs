//! `indexes`: compares the indexes of each database sink with those it should have.

use std::sync::Arc;

use serde::Serialize;

use super::{Common, Exit, Failure, Outcome, block_on, output};
use crate::{
    app::NoSuchSink,
    config::SinkConfig,
    document::Encoder,
    sink::{IndexState, IndexStatus},
};

/// Arguments of `indexes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the sink [default: all that have indexes]
    sink: Option<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    sink: String,
    #[serde(flatten)]
    status: IndexStatus,
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    let config = common.config_in_force()?;
    let chosen: Vec<&SinkConfig> =
        config.sinks.iter().filter(|sink| args.sink.as_ref().is_none_or(|name| *name == sink.name.as_str())).collect();
    if let (true, Some(name)) = (chosen.is_empty(), &args.sink) {
        let names = config.sinks.iter().map(|sink| sink.name.to_string()).collect();
        return Err(Failure::usage(NoSuchSink { name: name.clone(), names }.to_string()));
    }
    let rows = std::sync::Mutex::new(Vec::new());
    let encoder = Arc::new(Encoder::new(config.documents.clone()));
    block_on(async {
        for sink in chosen {
            let found = sink.target.indexes(&encoder).await;
            let found = found.map_err(|reason| Failure::from(format!("sink {}: {reason}", sink.name)))?;
            let found = found.into_iter().map(|status| Row { sink: sink.name.to_string(), status });
            rows.lock().map_err(|_| "listing was aborted")?.extend(found);
        }
        Ok(())
    })?;
    let rows = rows.into_inner().map_err(|_| "listing was aborted")?;
    if common.json {
        output::json(&rows)?;
    } else if rows.is_empty() {
        output::line("no sink has indexes")?;
    } else {
        show(&rows)?;
    }
    match rows.iter().filter(|row| matches!(row.status.state, IndexState::Missing | IndexState::Differs)).count() {
        0 => Ok(()),
        wrong => Err(Failure::new(Exit::Partial, format!("{wrong} indexes are missing or differ"))),
    }
}

fn show(rows: &[Row]) -> Outcome {
    let mut table = output::table(&["sink", "collection", "index", "state", "detail"]);
    for Row { sink, status } in rows {
        let IndexStatus { collection, index, state, detail } = status;
        let detail = detail.as_deref().unwrap_or_default();
        let cells = [sink, collection, index, state.as_str(), detail].map(str::to_owned);
        output::add_row(&mut table, cells);
    }
    output::print_table(&table)
}
