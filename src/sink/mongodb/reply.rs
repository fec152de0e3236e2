//! The answer to an `insert`, record by record.
//!
//! ```text
//! { ok: 1, n, writeErrors: [{ index, code, errmsg, keyPattern }], writeConcernError: { code, errmsg }, errorLabels: […] }
//! ```
//!
//! `n` and the errors must account for each document once. If they do not, the answer is neither an acknowledgement nor a
//! refusal of any document.

use bson::{Bson, Document};

use super::fault::Fault;
use crate::sink::{Outcome, SinkErrorKind};

/// The content of an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// One per document of the command.
    pub(super) outcomes: Vec<Outcome>,
    /// Documents whose key exists in another unique index: delivered before, or a clash with a foreign document.
    pub(super) doubtful: Vec<(usize, String)>,
    /// Why some are to be retried.
    pub(super) retry: Option<(SinkErrorKind, String)>,
}

/// Reads the answer to an `insert` of so many documents. An answer acknowledges a document only if it can be read as a
/// whole and accounts for each document once.
pub(super) fn read(answer: &Document, documents: usize) -> Answer {
    let errors = match write_errors(answer, documents) {
        Ok(errors) => errors,
        Err(text) => return nothing_certain(documents, text),
    };
    let accepted = integer(answer, "n");
    if accepted.and_then(|accepted| usize::try_from(accepted).ok()) != Some(documents - errors.len()) {
        let accepted = answer.get("n").map_or_else(|| "nothing".to_owned(), Bson::to_string);
        let text =
            format!("an answer that counts {accepted} as accepted and {} as failed, of {documents}", errors.len());
        return nothing_certain(documents, text);
    }
    let mut read = Answer { outcomes: vec![Outcome::Delivered; documents], ..Answer::default() };
    let labels = answer.get_array("errorLabels").cloned().unwrap_or_default();
    for (index, error) in errors {
        read.apply_write_error(index, error, &labels);
    }
    for key in ["writeConcernError", "writeConcernErrors"] {
        if let Some(error) = answer.get(key).filter(|error| !is_nothing(error)) {
            read.apply_write_concern_error(error);
        }
    }
    read
}

/// Which documents failed, each once; an error if that cannot be read.
fn write_errors(answer: &Document, documents: usize) -> Result<Vec<(usize, &Document)>, String> {
    let listed = match answer.get("writeErrors") {
        None | Some(Bson::Null) => return Ok(Vec::new()),
        Some(Bson::Array(listed)) => listed,
        Some(other) => return Err(format!("an answer whose writeErrors cannot be read: {other}")),
    };
    let mut errors: Vec<(usize, &Document)> = Vec::with_capacity(listed.len());
    let mut seen = vec![false; documents];
    for error in listed {
        let place = error.as_document().and_then(|error| Some((integer(error, "index")?, error)));
        let place = place.and_then(|(index, error)| Some((usize::try_from(index).ok()?, error)));
        match place.filter(|(index, _)| seen.get(*index) == Some(&false)) {
            Some((index, error)) => {
                seen[index] = true;
                errors.push((index, error));
            }
            None => return Err(format!("an answer that names no document of {documents}, or one twice: {error}")),
        }
    }
    Ok(errors)
}

/// The values with which servers and proxies express that nothing is there.
fn is_nothing(value: &Bson) -> bool {
    match value {
        Bson::Null => true,
        Bson::Array(items) => items.is_empty(),
        _ => false,
    }
}

impl Answer {
    fn apply_write_error(&mut self, index: usize, error: &Document, labels: &[Bson]) {
        let code = code(error);
        let message = error.get_str("errmsg").unwrap_or_default();
        let text = format!("{message} (code {code})");
        let own = error.get_array("errorLabels").map(Vec::as_slice).unwrap_or_default();
        self.outcomes[index] = match Fault::of_labelled(code, message, &[own, labels].concat()) {
            Fault::Duplicate if is_id(error, message) => Outcome::Delivered,
            Fault::Duplicate => {
                self.doubtful.push((index, text));
                Outcome::Retry
            }
            Fault::Refused => Outcome::Rejected(with_details(text, error)),
            Fault::Unavailable(kind) => {
                self.retry = Some((kind, text));
                Outcome::Retry
            }
            Fault::Unknown => Outcome::Failed(text),
        };
    }

    /// What was stored, or existed, is not durable as required: all of it is retried. The same applies if the error cannot
    /// be read.
    fn apply_write_concern_error(&mut self, error: &Bson) {
        let (kind, text) = match error.as_document() {
            Some(error) => {
                let code = code(error);
                let info = error.get_document("errInfo");
                let timed_out = info.is_ok_and(|info| info.get_bool("wtimeout").unwrap_or(false));
                let kind = match Fault::of_code(code) {
                    _ if timed_out => SinkErrorKind::Timeout,
                    Fault::Unavailable(kind) => kind,
                    Fault::Duplicate | Fault::Refused | Fault::Unknown => SinkErrorKind::Unavailable,
                };
                (kind, format!("{} (code {code})", error.get_str("errmsg").unwrap_or_default()))
            }
            None => (SinkErrorKind::Unavailable, error.to_string()),
        };
        for outcome in &mut self.outcomes {
            if *outcome == Outcome::Delivered {
                *outcome = Outcome::Retry;
            }
        }
        // A majority read would not find what is not durable yet.
        self.doubtful.clear();
        self.retry = Some((kind, format!("not durable as the write concern requires: {text}")));
    }
}

/// All are retried; those already stored are then found there.
fn nothing_certain(documents: usize, text: String) -> Answer {
    let retry = Some((SinkErrorKind::Unnamed, text));
    Answer { outcomes: vec![Outcome::Retry; documents], doubtful: Vec::new(), retry }
}

/// True if the key is the document's own `_id`: this record is already stored. The text is read up to the key only, which
/// is foreign data, and from the end, which does not contain the namespace:
/// `E11000 duplicate key error collection: <namespace> index: <name> [collation: {…}] dup key: {…}`.
fn is_id(error: &Document, message: &str) -> bool {
    if let Some(pattern) = error.get("keyPattern") {
        return pattern.as_document().is_some_and(|pattern| pattern.keys().eq(["_id"]));
    }
    let before_key = message.split(" dup key").next().unwrap_or_default();
    before_key.rsplit_once("index: ").is_some_and(|(_, index)| {
        let name = index.split_whitespace().next().unwrap_or_default();
        name == "_id_" || name.ends_with(".$_id_")
    })
}

/// A validation error says in `errInfo` which rule failed.
fn with_details(text: String, error: &Document) -> String {
    match error.get_document("errInfo") {
        Ok(info) => format!("{text}: {}", info),
        Err(_) => text,
    }
}

/// A whole number of any type.
pub(super) fn integer(document: &Document, key: &str) -> Option<i64> {
    /// Up to this limit a double is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match document.get(key)? {
        Bson::Int32(value) => Some(i64::from(*value)),
        Bson::Int64(value) => Some(*value),
        Bson::Double(value) if value.fract() == 0.0 && value.abs() <= EXACT => Some(*value as i64),
        _ => None,
    }
}

/// The code of an error; 0, which has no meaning, if there is none.
fn code(error: &Document) -> i32 {
    integer(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or_default()
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

    /// The results for a document, and of the one next to it that had no error.
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
                let error = |index: i32| doc! { "index": index, "code": code, "errmsg": "injected failure" };
                let one = read(&doc! { "ok": 1.0, "n": 2, "writeErrors": [error(1)] }, 3);
                let found: Vec<_> = (0..3).map(|index| disposition(&one, index)).collect();
                assert_eq!(found, [Is::Delivered, *expected, Is::Delivered], "{code} on one");
                let all = read(&doc! { "ok": 1.0, "n": 0, "writeErrors": [error(0), error(1), error(2)] }, 3);
                assert!((0..3).all(|index| disposition(&all, index) == *expected), "{code} on all: {all:?}");

                let labelled =
                    doc! { "ok": 1.0, "n": 2, "writeErrors": [error(1)], "errorLabels": ["RetryableWriteError"] };
                let passes = if *expected == Is::Failed { Is::Left(Unavailable) } else { *expected };
                assert_eq!(disposition(&read(&labelled, 3), 1), passes, "{code} with a label");

                let concern = doc! { "code": code, "errmsg": "injected failure" };
                let concern = read(&doc! { "ok": 1.0, "n": 3, "writeConcernError": concern }, 3);
                let left = if let Is::Left(kind) = *expected { kind } else { Unavailable };
                assert!((0..3).all(|index| disposition(&concern, index) == Is::Left(left)), "{code}: {concern:?}");
            }
        }
    }

    /// What an answer to three documents may say amiss, by its field.
    fn lies() -> Vec<(String, Document)> {
        let error = |index: Bson| doc! { "index": index, "code": 121, "errmsg": "no" };
        let one = || Bson::Array(vec![error(1.into()).into()]);
        let wrong = || {
            vec![
                Bson::from("3"),
                Bson::Boolean(true),
                doc! { "n": 3 }.into(),
                Bson::Array(vec![Bson::Int32(3)]),
                Bson::DateTime(bson::DateTime::from_millis(3)),
                Bson::Double(2.5),
                Bson::Double(f64::NAN),
                Bson::Double(f64::INFINITY),
                Bson::Double(1e300),
                Bson::Int64(i64::MAX),
                Bson::Int64(i64::MIN),
                Bson::Int32(-1),
                Bson::Int32(4),
                Bson::from(""),
            ]
        };
        let mut lies = vec![("nothing".to_owned(), doc! { "ok": 1.0 })];
        // How many were accepted.
        for n in wrong().into_iter().chain([Bson::Null, Bson::Int32(0), Bson::Int32(2)]) {
            lies.push((format!("n {n:?}"), doc! { "ok": 1.0, "n": n.clone() }));
            if n != Bson::Int32(2) {
                lies.push((format!("n {n:?} with an error"), doc! { "ok": 1.0, "n": n, "writeErrors": one() }));
            }
        }
        lies.push(("no n with an error".to_owned(), doc! { "ok": 1.0, "writeErrors": one() }));
        // Which ones failed: a list of documents, each with the place of another one.
        for errors in wrong() {
            for n in 0..=3 {
                lies.push((
                    format!("writeErrors {errors:?}"),
                    doc! { "ok": 1.0, "n": n, "writeErrors": errors.clone() },
                ));
                let listed = vec![errors.clone()];
                lies.push((format!("writeErrors [{errors:?}]"), doc! { "ok": 1.0, "n": n, "writeErrors": listed }));
            }
        }
        for index in wrong().into_iter().chain([Bson::Null, Bson::Int32(3)]) {
            for n in 0..=3 {
                let errors = vec![error(index.clone())];
                lies.push((format!("index {index:?}"), doc! { "ok": 1.0, "n": n, "writeErrors": errors }));
            }
        }
        let places: [&[i32]; 4] = [&[0, 0, 0], &[1, 1], &[2, 0, 2], &[0, 1, 2, 2]];
        for places in places {
            for n in 0..=3 {
                let errors: Vec<Bson> = places.iter().map(|&place| error(place.into()).into()).collect();
                lies.push((format!("{places:?} and {n}"), doc! { "ok": 1.0, "n": n, "writeErrors": errors }));
            }
        }
        // Whether it is durable.
        for key in ["writeConcernError", "writeConcernErrors"] {
            for error in wrong().into_iter().chain([Bson::Array(vec![doc! { "code": 64 }.into()]), doc! {}.into()]) {
                lies.push((format!("{key} {error:?}"), doc! { "ok": 1.0, "n": 3, key: error }));
            }
        }
        lies
    }

    #[test]
    fn whatever_is_missing_wrong_or_of_another_type_in_an_answer_nothing_of_it_is_delivered_or_refused() {
        for (what, lie) in lies() {
            let answer = read(&lie, 3);
            assert_eq!(answer.outcomes, vec![Outcome::Retry; 3], "{what}: {lie}");
            assert!(answer.retry.is_some() && answer.doubtful.is_empty(), "{what}: {lie}");
        }
    }

    #[test]
    fn a_number_of_any_type_counts_and_what_is_null_or_empty_is_not_there() {
        for n in [Bson::Int32(3), Bson::Int64(3), Bson::Double(3.0)] {
            assert_eq!(read(&doc! { "ok": 1.0, "n": n }, 3).outcomes, vec![Outcome::Delivered; 3]);
        }
        for index in [Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0)] {
            let errors = vec![doc! { "index": index, "code": 121.0, "errmsg": "no" }];
            let answer = read(&doc! { "ok": 1.0, "n": 2.0, "writeErrors": errors }, 3);
            assert!(matches!(answer.outcomes[1], Outcome::Rejected(_)), "{answer:?}");
            assert_eq!(answer.outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count(), 2);
        }
        for nothing in [Bson::Null, Bson::Array(Vec::new())] {
            let concern = doc! { "ok": 1.0, "n": 3, "writeErrors": nothing.clone(), "writeConcernErrors": nothing };
            let answer = read(&concern, 3);
            assert_eq!((answer.outcomes, answer.retry), (vec![Outcome::Delivered; 3], None));
        }
    }

    #[test]
    fn only_a_whole_number_is_a_final_code() {
        for code in [Bson::from("121"), Bson::Double(121.5), Bson::Null, Bson::Int64((1 << 40) + 121)] {
            let errors = vec![doc! { "index": 0, "code": code.clone(), "errmsg": "no" }];
            let answer = read(&doc! { "ok": 1.0, "n": 0, "writeErrors": errors }, 1);
            assert!(matches!(answer.outcomes[0], Outcome::Failed(_)), "{code:?}: {answer:?}");
        }
    }

    #[test]
    fn which_index_has_a_key_is_known_from_its_pattern_or_by_the_servers_part_of_the_text() {
        let outcome = |message: &str, pattern: Option<Bson>| {
            let mut error = doc! { "index": 0, "code": 11000, "errmsg": message };
            error.extend(pattern.map(|pattern| ("keyPattern".to_owned(), pattern)));
            read(&doc! { "ok": 1.0, "n": 0, "writeErrors": [error] }, 1).outcomes.remove(0)
        };
        let text = |about: &str| format!("E11000 duplicate key error collection: {about}");
        for (message, delivered) in [
            ("a.b index: _id_ dup key: { _id: \"AE_1\" }", true),
            ("a.b index: _id_ collation: { locale: \"de\" } dup key: { _id: \"AE_1\" }", true),
            ("x.index: _id_ index: foo_1 dup key: { foo: 1 }", false),
            ("a index: _id_ b.events index: foo_1 dup key: { foo: 1 }", false),
            ("a.b index: foo_1 dup key: { foo: \"x index: _id_ dup key: y\" }", false),
            ("a.b index: foo_1 collation: { locale: \"de\" } dup key: { foo: \" index: _id_ \" }", false),
            ("a.b dup key: { _id: 1 }", false),
        ] {
            assert_eq!(outcome(&text(message), None) == Outcome::Delivered, delivered, "{message}");
            let (own, other) = (doc! { "_id": 1 }.into(), doc! { "foo": 1 }.into());
            assert_eq!(outcome(&text(message), Some(own)), Outcome::Delivered, "{message}");
            for other in [other, doc! { "_id": 1, "foo": 1 }.into(), Bson::from("_id"), doc! {}.into()] {
                assert_eq!(outcome(&text(message), Some(other)), Outcome::Retry, "{message}");
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
