//! The indexes that OpenVidu's dashboards and the list of sessions rely on. A failure to create one is a warning with the remedy: records are more
//! important than indexes.

use bson::{Document, doc};
use mongodb::{
    Database,
    error::{Error, ErrorKind},
};

use super::{
    fault::{Fault, kind_of},
    reply::integer,
};
use crate::{
    document::{Index, indexes},
    record::Stream,
    sink::SinkErrorKind,
};

/// Error codes for an index that exists with other options, or another one of that name.
const CONFLICTS: [i32; 2] = [85, 86];

/// In the form of `createIndexes`.
fn specification(index: &Index) -> Document {
    let key: Document = index.fields.iter().map(|field| ((*field).to_owned(), 1.into())).collect();
    let mut specification = doc! { "key": key, "name": index.name() };
    if let Some(seconds) = index.expire_after_seconds {
        specification.insert("expireAfterSeconds", seconds);
    }
    specification
}

/// Creates the missing indexes of a collection. Returns the failures of single indexes, and, if they had been created
/// before, which ones were missing.
///
/// # Errors
/// When the server cannot be reached.
pub(super) async fn create(
    database: &Database,
    stream: Stream,
    expires: bool,
    made_before: bool,
) -> Result<Vec<String>, Error> {
    let wanted = || indexes(stream).iter().filter(|index| expires || index.expire_after_seconds.is_none());
    match create_some(database, stream, wanted().map(specification).collect()).await {
        Ok(made) if made && made_before => {
            let name = database.name();
            return Ok(vec![format!(
                "indexes of {name}.{stream} were missing, and are created again: check whether the collection was dropped, or \
                 the uri leads to another server"
            )]);
        }
        Ok(_) => return Ok(Vec::new()),
        Err(error) if is_unavailable(&error) => return Err(error),
        Err(_) => {}
    }
    // One of them is refused; creating each alone shows which.
    let mut warnings = Vec::new();
    for index in wanted() {
        match create_some(database, stream, vec![specification(index)]).await {
            Ok(_) => {}
            Err(error) if is_unavailable(&error) => return Err(error),
            Err(error) => warnings.push(warning(database.name(), stream, index, &error)),
        }
    }
    Ok(warnings)
}

/// True if the answer says that some were missing.
async fn create_some(database: &Database, stream: Stream, indexes: Vec<Document>) -> Result<bool, Error> {
    let command = doc! { "createIndexes": stream.as_str(), "indexes": indexes };
    let answer = database.run_command(command).await?;
    let count = |key| integer(&answer, key);
    Ok(count("numIndexesAfter").is_some_and(|after| count("numIndexesBefore").is_some_and(|before| before < after)))
}

/// Missing rights are no reason to wait here: a user that can only insert is acceptable.
pub(super) fn is_unavailable(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Command(answer) => {
            matches!(Fault::of_code(answer.code), Fault::Unavailable(kind) if kind != SinkErrorKind::Unauthorized)
        }
        _ => kind_of(error) != SinkErrorKind::Unnamed,
    }
}

fn warning(database: &str, stream: Stream, index: &Index, error: &Error) -> String {
    let (code, reason) = match error.kind.as_ref() {
        ErrorKind::Command(answer) => (answer.code, answer.message.clone()),
        other => (0, other.to_string()),
    };
    let name = index.name();
    let expires = index.expire_after_seconds.is_some();
    let what = if expires { "TTL index" } else { "index" };
    let hint = format!(
        "to fix it, run db.{stream}.dropIndex(\"{name}\") (or drop the index that the error names) in database \
         {database}: it is created within minutes"
    );
    let consequence = match (CONFLICTS.contains(&code), expires) {
        (true, true) => format!("documents expire as the present index says, or never; {hint}"),
        (true, false) => format!("the present index stays; {hint}"),
        (false, true) => "documents will not expire by themselves on this server".to_owned(),
        (false, false) => "queries by this field will be slow".to_owned(),
    };
    format!(
        "{what} {name} on {database}.{stream} was not created: {consequence}. The server said: {reason} (code {code})"
    )
}
