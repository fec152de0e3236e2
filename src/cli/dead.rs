//! `dead list|show|retry|drop`: the dead letters of a sink, of a running and a stopped process.

use serde_json::{Value, json};

use super::{
    Common, Exit, Failure, Outcome, backlog, block_on,
    client::{Client, encoded},
    output, records,
};
use crate::{
    app::{self, Retried, Stopped},
    config::{
        Config,
        units::{human_count, parse_duration},
    },
    document::Encoder,
    inspect,
    record::{Stream, UnixMillis, now_millis},
    spool::DeadFilter,
    tasks,
};

/// Arguments of `dead`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List dead letters: time, attempts, reason
    List(ListArgs),
    /// Show one dead letter with all its details and its document
    Show {
        /// Name of the sink
        sink: String,
        /// Its `_id`
        id: String,
    },
    /// Send dead letters to the sink again; those that it stores are removed here
    Retry(SomeArgs),
    /// Remove dead letters for good
    Drop(SomeArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Name of the sink
    sink: String,
    #[command(flatten)]
    filter: FilterArgs,
    /// Maximum number of dead letters
    #[arg(short, value_name = "N", default_value_t = 50)]
    n: usize,
}

#[derive(Debug, clap::Args)]
struct SomeArgs {
    /// Name of the sink
    sink: String,
    #[command(flatten)]
    filter: FilterArgs,
    /// All dead letters; without it, give at least one filter
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct FilterArgs {
    /// Only of this stream
    #[arg(long)]
    stream: Option<Stream>,
    /// Only the one with this `_id`
    #[arg(long)]
    id: Option<String>,
    /// Only those whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those whose last attempt is at least this long ago: 1h, "2 days"
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse_duration(text))]
    older_than: Option<std::time::Duration>,
}

impl FilterArgs {
    fn filter(&self) -> DeadFilter {
        let before = |age: std::time::Duration| now_millis() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        DeadFilter {
            stream: self.stream,
            id: self.id.clone(),
            reason: self.reason.clone(),
            before: self.older_than.map(before),
        }
    }

    const fn is_empty(&self) -> bool {
        self.stream.is_none() && self.id.is_none() && self.reason.is_none() && self.older_than.is_none()
    }
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    let config = common.config_of_spools()?;
    block_on(async {
        match &args.action {
            Action::List(args) => list(common, &config, args).await,
            Action::Show { sink, id } => show(&config, sink, id).await,
            Action::Retry(args) => retry(common, &config, args).await,
            Action::Drop(args) => drop(common, &config, args).await,
        }
    })
}

async fn list(common: &Common, config: &Config, args: &ListArgs) -> Outcome {
    let dead_letters = dead_letters(config, &args.sink, &args.filter.filter(), args.n).await?;
    show_list(common, &dead_letters)?;
    all_were_read(config, &args.sink).await
}

/// Fails if some dead letters cannot be read now.
async fn all_were_read(config: &Config, sink: &str) -> Outcome {
    let snapshot = backlog::snapshot(config).await?;
    // A sink that has had no record yet has no dead letters either.
    let Ok(sink) = backlog::sink_of(&snapshot, sink) else { return Ok(()) };
    sink.unread_dead_letters.clone().map_or(Ok(()), |error| Err(Failure::new(Exit::Partial, error)))
}

fn show_list(common: &Common, dead_letters: &[Value]) -> Outcome {
    if common.json {
        return output::json(&dead_letters);
    }
    if dead_letters.is_empty() {
        return output::line("no dead letters");
    }
    let mut table = output::table(&["last attempt", "stream", "id", ">tries", "reason"]);
    for dead_letter in dead_letters {
        let at = dead_letter["last_attempt_at"].as_i64().unwrap_or_default();
        let text = |field: &str| dead_letter[field].as_str().unwrap_or_default().to_owned();
        let cells = [
            humantime::format_rfc3339_seconds(backlog::time(at)).to_string(),
            text("stream"),
            text("id"),
            dead_letter["attempts"].to_string(),
            text("reason"),
        ];
        output::add_row(&mut table, cells);
    }
    output::print_table(&table)
}

async fn show(config: &Config, sink: &str, id: &str) -> Outcome {
    let filter = DeadFilter { id: Some(id.to_owned()), ..DeadFilter::default() };
    let found = dead_letters(config, sink, &filter, 3).await?;
    if found.is_empty() {
        all_were_read(config, sink).await?;
        return Err(Failure::from(format!("sink {sink} has no dead letter with the id {id:?}")));
    }
    found.iter().try_for_each(output::json)
}

/// Dead letters as the API returns them.
async fn dead_letters(config: &Config, sink: &str, filter: &DeadFilter, n: usize) -> Result<Vec<Value>, Failure> {
    if let Some(client) = Client::find(&config.data_dir).await? {
        let path = format!("sinks/{}/dead?n={n}{}", encoded(sink), parameters(filter));
        let mut answer: Value = client.get(&path).await?;
        if let Some(failed) = answer["failed"].as_str() {
            return Err(Failure::from(failed.to_owned()));
        }
        return Ok(answer["dead_letters"].as_array_mut().map(std::mem::take).unwrap_or_default());
    }
    let Some(name) = records::stopped_spool(config, sink)? else { return Ok(Vec::new()) };
    let source = app::look_at(config, &name).await?;
    let (filter, encoder) = (filter.clone(), Encoder::new(config.documents.clone()));
    let listed = tasks::run_blocking(move || {
        let mut dead_letters = Vec::new();
        source.contents().each_dead_letter(&filter, (0, n), &|| false, &mut |dead_letter| {
            dead_letters.push(serde_json::to_value(inspect::dead_letter(dead_letter, &encoder)).unwrap_or_default());
            true
        })?;
        Ok::<_, Failure>(dead_letters)
    });
    listed.await?
}

async fn retry(common: &Common, config: &Config, args: &SomeArgs) -> Outcome {
    let filter = chosen(args)?;
    let retried: Retried = match Client::find(&config.data_dir).await? {
        Some(client) => {
            client.post(&format!("sinks/{}/dead/retry?{}", encoded(&args.sink), parameters(&filter))).await?
        }
        None => {
            let stopped = Stopped::open(config.clone()).map_err(Failure::operation)?;
            stopped.retry_dead_letters(&args.sink, filter).await.map_err(Failure::operation)?
        }
    };
    if common.json {
        output::json(&retried)?;
    } else {
        let (delivered, rejected) = (human_count(retried.delivered), human_count(retried.rejected));
        output::line(format!("{delivered} delivered, {rejected} rejected again"))?;
    }
    match retried.stopped_by {
        Some(reason) => Err(Failure::new(Exit::Partial, format!("the rest was not tried: {reason}"))),
        None => all_were_read(config, &args.sink).await,
    }
}

async fn drop(common: &Common, config: &Config, args: &SomeArgs) -> Outcome {
    let filter = chosen(args)?;
    let dropped = match Client::find(&config.data_dir).await? {
        Some(client) => {
            let path = format!("sinks/{}/dead/drop?{}", encoded(&args.sink), parameters(&filter));
            let answer: Value = client.post(&path).await?;
            answer["dropped"].as_u64().unwrap_or_default()
        }
        None => {
            let stopped = Stopped::open(config.clone()).map_err(Failure::operation)?;
            stopped.drop_dead_letters(&args.sink, filter).await.map_err(Failure::operation)?
        }
    };
    if common.json {
        output::json(&json!({ "dropped": dropped }))?;
    } else {
        output::line(format!("{} dropped", human_count(dropped)))?;
    }
    all_were_read(config, &args.sink).await
}

fn chosen(args: &SomeArgs) -> Result<DeadFilter, Failure> {
    if args.filter.is_empty() && !args.all {
        return Err(Failure::usage("select dead letters with --id, --stream, --reason or --older-than, or give --all"));
    }
    Ok(args.filter.filter())
}

fn parameters(filter: &DeadFilter) -> String {
    let text = |name: &str, value: Option<String>| value.map(|value| format!("&{name}={}", encoded(&value)));
    [
        text("stream", filter.stream.map(|stream| stream.to_string())),
        text("id", filter.id.clone()),
        text("reason", filter.reason.clone()),
        text("before", filter.before.map(|at: UnixMillis| at.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect()
}
