//! The answer to an `insert`, record by record.
//!
//! ```text
//! { ok: 1, n, writeErrors: [{ index, code, errmsg, keyPattern }], writeConcernError: { code, errmsg }, errorLabels: […] }
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
    let array = |of: &Document, key| of.get_array(key).cloned().unwrap_or_default();
    let (errors, labels) = (array(answer, "writeErrors"), array(answer, "errorLabels"));
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
        let labels = [array(error, "errorLabels"), labels.clone()].concat();
        read.outcomes[index] = match Fault::of_labelled(code, message, &labels) {
            Fault::Duplicate if is_id(error, message) => Outcome::Delivered,
            Fault::Duplicate => {
                read.doubtful.push((index, text));
                Outcome::Retry
            }
            Fault::Refused => Outcome::Rejected(with_details(text, error)),
            Fault::Away(kind) => {
                read.retry = Some((kind, text));
                Outcome::Retry
            }
            Fault::Unknown => Outcome::Failed(text),
        };
    }
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

    /// What becomes of a document, and of the one beside it that had no error.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Is {
        Delivered,
        Doubtful,
        Refused,
        Failed,
        Left(SinkErrorKind),
    }

    fn disposition(answer: &Answer, index: usize) -> Is {
        match &answer.outcomes[index] {
            Outcome::Delivered => Is::Delivered,
            Outcome::Rejected(_) => Is::Refused,
            Outcome::Failed(_) => Is::Failed,
            Outcome::Retry if answer.doubtful.iter().any(|(doubtful, _)| *doubtful == index) => Is::Doubtful,
            Outcome::Retry => Is::Left(answer.retry.as_ref().expect("a reason").0),
        }
    }

    #[test]
    fn each_class_of_codes_has_its_disposition_for_one_document_and_for_all_as_a_write_error_and_as_a_write_concern_error()
     {
        use SinkErrorKind::{Full, Timeout, Unauthorized, Unavailable};
        let classes: &[(&[i32], Is)] = &[
            (&[121, 22, 52, 53, 54, 55, 56, 57, 10334, 17280, 17419, 17420, 16755, 171], Is::Refused),
            (&[11000, 11001, 12582], Is::Doubtful),
            (&[10107, 13435, 189, 91, 11600, 11602, 6, 89, 9001, 112, 16500, 64, 75, 100], Is::Left(Unavailable)),
            (&[50, 262], Is::Left(Timeout)),
            (&[13, 18], Is::Left(Unauthorized)),
            (&[14031], Is::Left(Full)),
            (&[1, 2, 9, 14, 15, 20, 26, 28, 59, 61, 72, 166, 8000, 13297, 10003, 987_654, 0, -1], Is::Failed),
        ];
        for (codes, expected) in classes {
            for &code in *codes {
                let error = |index: i32| doc! { "index": index, "code": code, "errmsg": "told to fail" };
                let one = read(&doc! { "ok": 1.0, "n": 2, "writeErrors": [error(1)] }, 3);
                let found: Vec<_> = (0..3).map(|index| disposition(&one, index)).collect();
                assert_eq!(found, [Is::Delivered, *expected, Is::Delivered], "{code} on one");
                let all = read(&doc! { "ok": 1.0, "n": 0, "writeErrors": [error(0), error(1), error(2)] }, 3);
                assert!((0..3).all(|index| disposition(&all, index) == *expected), "{code} on all: {all:?}");

                let labelled =
                    doc! { "ok": 1.0, "n": 2, "writeErrors": [error(1)], "errorLabels": ["RetryableWriteError"] };
                let passes = if *expected == Is::Failed { Is::Left(Unavailable) } else { *expected };
                assert_eq!(disposition(&read(&labelled, 3), 1), passes, "{code} with a label");

                let concern = doc! { "code": code, "errmsg": "told to fail" };
                let concern = read(&doc! { "ok": 1.0, "n": 3, "writeConcernError": concern }, 3);
                let left = if let Is::Left(kind) = *expected { kind } else { Unavailable };
                assert!((0..3).all(|index| disposition(&concern, index) == Is::Left(left)), "{code}: {concern:?}");
            }
        }
    }

    #[test]
    fn an_answer_that_does_not_add_up_delivers_nothing() {
        assert_eq!(read(&doc! { "ok": 1.0, "n": 2 }, 3).outcomes, vec![Outcome::Retry; 3]);
        let beyond = doc! { "index": 7, "code": 121, "errmsg": "no" };
        assert_eq!(read(&doc! { "ok": 1.0, "n": 2, "writeErrors": [beyond] }, 3).outcomes, vec![Outcome::Retry; 3]);
    }
}
