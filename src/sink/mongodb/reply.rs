//! The answer to an `insert`, record by record.
//!
//! ```text
//! { ok: 1, n, writeErrors: [{ index, code, errmsg, keyPattern }], writeConcernError: { code, errmsg } }
//! ```

use bson::{Bson, Document};

use super::fault::Fault;
use crate::sink::{Outcome, SinkErrorKind};

/// What an answer says.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// One per document of the command.
    pub(super) outcomes: Vec<Outcome>,
    /// Documents whose key another unique index has: delivered before, or a clash with someone else's document.
    pub(super) doubtful: Vec<(usize, String)>,
    /// Why some are to be retried.
    pub(super) retry: Option<(SinkErrorKind, String)>,
}

/// Reads the answer to an `insert` of so many documents.
pub(super) fn read(answer: &Document, documents: usize) -> Answer {
    let mut read = Answer { outcomes: vec![Outcome::Delivered; documents], ..Answer::default() };
    let errors = answer.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let (mut away, mut unknown) = (None, None);
    for error in errors.iter().filter_map(Bson::as_document) {
        let index = integer(error, "index").and_then(|index| usize::try_from(index).ok());
        let Some(index) = index.filter(|&index| index < documents) else {
            // An error for a document that was not sent: nothing of this answer can be relied on.
            return nothing_certain(
                documents,
                format!("an answer that names document {index:?} of {documents}: {error}"),
            );
        };
        let code = integer(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        let message = error.get_str("errmsg").unwrap_or_default();
        let text = format!("{message} (code {code})");
        read.outcomes[index] = match Fault::of_answer(code, message) {
            Fault::Duplicate if is_id(error, message) => Outcome::Delivered,
            Fault::Duplicate => {
                read.doubtful.push((index, text));
                Outcome::Retry
            }
            Fault::Refused => Outcome::Rejected(with_details(text, error)),
            Fault::Away(kind) => {
                away = Some((kind, text));
                Outcome::Retry
            }
            Fault::Unknown => {
                unknown = Some((SinkErrorKind::Unnamed, text));
                Outcome::Retry
            }
        };
    }
    // Where others passed, an unknown error is the record's own: found out now, it holds up nothing later.
    let others_passed = read.outcomes.iter().any(|outcome| *outcome != Outcome::Retry);
    read.retry = if others_passed { unknown.or(away) } else { away.or(unknown) };
    if let Ok(error) = answer.get_document("writeConcernError") {
        read.apply_write_concern_error(error);
    } else if let Some(taken) = integer(answer, "n")
        && taken + errors.len() as i64 != documents as i64
    {
        let text = format!("an answer of {taken} documents taken and {} failed, of {documents}", errors.len());
        return nothing_certain(documents, text);
    }
    read
}

impl Answer {
    /// What was taken, or found there, is not durable as asked: all of it comes again.
    fn apply_write_concern_error(&mut self, error: &Document) {
        let code = integer(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        let timed_out = error.get_document("errInfo").is_ok_and(|info| info.get_bool("wtimeout").unwrap_or(false));
        let kind = match Fault::of_code(code) {
            _ if timed_out => SinkErrorKind::Timeout,
            Fault::Away(kind) => kind,
            Fault::Duplicate | Fault::Refused | Fault::Unknown => SinkErrorKind::Unavailable,
        };
        for outcome in &mut self.outcomes {
            if *outcome == Outcome::Delivered {
                *outcome = Outcome::Retry;
            }
        }
        // A majority read would not find yet what is not durable yet.
        self.doubtful.clear();
        let message = error.get_str("errmsg").unwrap_or_default();
        self.retry = Some((kind, format!("not durable as the write concern asks: {message} (code {code})")));
    }
}

/// All come again; what was taken is then found there.
fn nothing_certain(documents: usize, text: String) -> Answer {
    let retry = Some((SinkErrorKind::Unnamed, text));
    Answer { outcomes: vec![Outcome::Retry; documents], doubtful: Vec::new(), retry }
}

/// True where the key is the document's own `_id`: the very record is there already.
fn is_id(error: &Document, message: &str) -> bool {
    match error.get_document("keyPattern") {
        Ok(pattern) => pattern.keys().eq(["_id"]),
        Err(_) => message.split("index: ").nth(1).is_some_and(|index| {
            let name = index.split_whitespace().next().unwrap_or_default();
            name == "_id_" || name.ends_with(".$_id_")
        }),
    }
}

/// A validation error says in `errInfo` which rule.
fn with_details(text: String, error: &Document) -> String {
    match error.get_document("errInfo") {
        Ok(info) => format!("{text}: {}", info),
        Err(_) => text,
    }
}

/// A number of whatever type the server gave it.
pub(super) fn integer(document: &Document, key: &str) -> Option<i64> {
    match document.get(key)? {
        Bson::Int32(value) => Some(i64::from(*value)),
        Bson::Int64(value) => Some(*value),
        Bson::Double(value) => Some(*value as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_clean_answer_delivers_all() {
        let answer = read(&doc! { "ok": 1.0, "n": 3 }, 3);
        assert_eq!(answer.outcomes, vec![Outcome::Delivered; 3]);
        assert!(answer.retry.is_none() && answer.doubtful.is_empty());
    }

    #[test]
    fn each_error_hits_its_own_record_only() {
        let errors = [
            doc! { "index": 1, "code": 121, "errmsg": "Document failed validation" },
            doc! { "index": 3, "code": 10107, "errmsg": "not primary" },
        ];
        let answer = read(&doc! { "ok": 1.0, "n": 3, "writeErrors": errors.to_vec() }, 5);
        assert!(
            matches!(&answer.outcomes[1], Outcome::Rejected(reason) if reason.contains("failed validation (code 121)"))
        );
        assert_eq!(answer.outcomes[3], Outcome::Retry);
        assert_eq!(answer.outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count(), 3);
        assert_eq!(answer.retry.expect("a reason").0, SinkErrorKind::Unavailable);
    }

    #[test]
    fn a_duplicate_id_is_delivered_and_any_other_unique_key_is_doubtful() {
        let errors = [
            doc! { "index": 0, "code": 11000, "errmsg": "E11000", "keyPattern": { "_id": 1 } },
            doc! { "index": 1, "code": 11000, "errmsg": "E11000", "keyPattern": { "room_id": 1 } },
            doc! { "index": 2, "code": 11000, "errmsg": "E11000 duplicate key error collection: a.b index: _id_ dup key" },
            doc! { "index": 3, "code": 11000, "errmsg": "E11000 duplicate key error index: a.b.$_id_ dup key" },
            doc! { "index": 4, "code": 11000, "errmsg": "E11000 duplicate key error collection: a.b index: own_id_ dup key" },
        ];
        let answer = read(&doc! { "ok": 1.0, "n": 0, "writeErrors": errors.to_vec() }, 5);
        let delivered = |i: usize| answer.outcomes[i] == Outcome::Delivered;
        assert!(delivered(0) && delivered(2) && delivered(3));
        assert_eq!(answer.doubtful.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn a_write_concern_error_makes_every_delivered_one_a_retry_duplicates_too() {
        let errors = [
            doc! { "index": 0, "code": 11000, "errmsg": "E11000", "keyPattern": { "_id": 1 } },
            doc! { "index": 1, "code": 121, "errmsg": "no" },
        ];
        let concern =
            doc! { "code": 64, "errmsg": "waiting for replication timed out", "errInfo": { "wtimeout": true } };
        let answer = read(&doc! { "ok": 1.0, "n": 1, "writeErrors": errors.to_vec(), "writeConcernError": concern }, 3);
        assert_eq!((&answer.outcomes[0], &answer.outcomes[2]), (&Outcome::Retry, &Outcome::Retry));
        assert!(matches!(answer.outcomes[1], Outcome::Rejected(_)));
        assert_eq!(answer.retry.expect("a reason").0, SinkErrorKind::Timeout);
    }

    #[test]
    fn an_answer_that_does_not_add_up_delivers_nothing() {
        assert_eq!(read(&doc! { "ok": 1.0, "n": 2 }, 3).outcomes, vec![Outcome::Retry; 3]);
        let beyond = doc! { "index": 7, "code": 121, "errmsg": "no" };
        assert_eq!(read(&doc! { "ok": 1.0, "n": 2, "writeErrors": [beyond] }, 3).outcomes, vec![Outcome::Retry; 3]);
    }
}
