//! One batch: its requests in order, bisected where the receiver refuses their content.
//!
//! A record that is refused alone is rejected only on evidence that it is the record: others of the same request (of the
//! same batch, with a request per record) are accepted, and it is refused alone once more. Behind one address may be several
//! receivers, one of which refuses everything. As long as none is accepted, the URL, the format or the receiver may be at
//! fault, and the refused ones are `Failed`: the worker tries them again, and rejects none while nothing is delivered.

use tokio::time::Instant;

use super::{
    answer::{Meaning, remedy},
    options::HttpFormat,
    request::{self, Entry},
    sender::{Answer, Sender},
};
use crate::sink::{Batch, BatchOutcome, Outcome, SinkError, SinkErrorKind};

/// When so many are refused alone, one after the other, and none is accepted, the fault is not in the records.
const MAX_ALONE_WHILE_NONE_PASSES: usize = 8;

/// The state of a batch.
pub(super) struct Delivery<'a> {
    sender: &'a Sender,
    batch: &'a Batch,
    until: Instant,
    /// One per record.
    pub(super) outcomes: Vec<Outcome>,
    /// Why the rest is to be retried.
    error: Option<SinkError>,
    /// Why the rest is failed: everything is refused.
    refused: Option<String>,
    evidence: Evidence,
}

/// What is known of the records that were refused alone.
#[derive(Default)]
struct Evidence {
    /// Some record was accepted.
    accepted: bool,
    /// Refused alone since one was accepted.
    alone: Vec<(Entry, String)>,
}

/// What a request came to.
enum Group {
    Delivered,
    /// Its content is refused, for this reason.
    Refused(String),
    /// The batch ends with it.
    Ended,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(sender: &'a Sender, batch: &'a Batch) -> Self {
        Self {
            sender,
            batch,
            // A little less than the worker gives, so that what was delivered until then is known to be.
            until: Instant::now() + sender.timeout / 10 * 9,
            outcomes: vec![Outcome::Retry; batch.records.len()],
            error: None,
            refused: None,
            evidence: Evidence::default(),
        }
    }

    /// False when the rest of the batch is not worth a request now.
    pub(super) const fn goes_on(&self) -> bool {
        self.error.is_none() && self.refused.is_none()
    }

    /// Sends a part of the batch.
    pub(super) async fn send(&mut self, entries: Vec<Entry>) {
        let format = self.sender.format();
        let max_bytes = self.sender.max_body_bytes();
        for request in request::split(entries, format, max_bytes) {
            if !self.goes_on() {
                return;
            }
            self.send_request(&request).await;
            // With a request per record, the neighbours are in other requests.
            if format != HttpFormat::Record {
                self.judge().await;
            }
        }
    }

    /// Sends a request, and its halves if it is refused.
    async fn send_request(&mut self, request: &[Entry]) {
        let mut todo: Vec<Vec<&Entry>> = vec![request.iter().collect()];
        while let Some(group) = todo.pop() {
            match self.send_group(&group).await {
                Group::Ended => return,
                Group::Delivered => {
                    self.evidence.accepted = true;
                    self.confirm().await;
                    if !self.goes_on() {
                        return;
                    }
                }
                Group::Refused(reason) => match group[..] {
                    [entry] => {
                        self.evidence.alone.push((entry.clone(), reason));
                        if self.evidence.alone.len() >= MAX_ALONE_WHILE_NONE_PASSES {
                            return self.refuse_all();
                        }
                    }
                    _ => {
                        // In random order: a refused record at the front must not hide those behind it for ever.
                        let (head, tail) = group.split_at(group.len() / 2);
                        let (first, second) = if rand::random() { (head, tail) } else { (tail, head) };
                        todo.extend([second.to_vec(), first.to_vec()]);
                    }
                },
            }
        }
    }

    /// Sends some entries in one request.
    async fn send_group(&mut self, group: &[&Entry]) -> Group {
        if Instant::now() >= self.until {
            let (sent, all) = (self.done(), self.batch.records.len());
            let timeout = self.sender.timeout;
            let text = format!("{sent} of {all} records were sent within {timeout:?}; lower flush.batch_records");
            self.fail(SinkErrorKind::Timeout, &text);
            return Group::Ended;
        }
        let (status, text) = match self.sender.send(self.batch.stream, group, self.until).await {
            Answer::Status { status, text } => (status, text),
            Answer::Failed(kind, text) => {
                self.fail(kind, &text);
                return Group::Ended;
            }
        };
        let meaning = Meaning::of(status);
        if meaning == Meaning::TooLarge {
            self.sender.learn_limit(group.iter().map(|entry| entry.json.len()).sum());
        }
        match meaning {
            Meaning::Delivered => {
                group.iter().for_each(|entry| self.outcomes[entry.record] = Outcome::Delivered);
                return Group::Delivered;
            }
            Meaning::TooLarge | Meaning::Refused => return Group::Refused(format!("the receiver refused it ({text})")),
            Meaning::Retry(kind) => self.fail(kind, &format!("{text}{}", remedy(status))),
            Meaning::Redirected => self.fail(SinkErrorKind::Unsuitable, &text),
        }
        Group::Ended
    }

    /// Others are accepted: those refused before are at fault themselves if they are refused again.
    async fn confirm(&mut self) {
        for (entry, _) in std::mem::take(&mut self.evidence.alone) {
            match self.send_group(&[&entry]).await {
                Group::Ended => return,
                Group::Delivered => {}
                Group::Refused(reason) => self.outcomes[entry.record] = Outcome::Rejected(reason),
            }
        }
    }

    /// Decides about those refused since the last one was accepted, and begins again.
    async fn judge(&mut self) {
        if self.evidence.accepted && self.goes_on() {
            self.confirm().await;
        }
        if self.goes_on() {
            self.fail_alone();
        }
    }

    /// Those refused while none was accepted are tried again by the worker.
    fn fail_alone(&mut self) {
        for (entry, reason) in std::mem::take(&mut self.evidence).alone {
            self.outcomes[entry.record] = Outcome::Failed(reason);
        }
    }

    /// All is refused: the rest would be, too.
    fn refuse_all(&mut self) {
        self.refused = self.evidence.alone.last().map(|(_, reason)| reason.clone());
        self.fail_alone();
    }

    fn fail(&mut self, kind: SinkErrorKind, text: &str) {
        self.error = Some(SinkError { kind, message: format!("{}: {text}", self.sender.endpoint.address) });
    }

    fn done(&self) -> usize {
        self.outcomes.iter().filter(|outcome| **outcome != Outcome::Retry).count()
    }

    pub(super) fn finish(mut self) -> BatchOutcome {
        // With a request per record, others were accepted in other requests, some time ago: the receiver may have changed since. Of a
        // batch that ended early they are tried again with the rest.
        if self.error.is_none() {
            self.fail_alone();
        }
        if let Some(reason) = self.refused {
            for outcome in self.outcomes.iter_mut().filter(|outcome| **outcome == Outcome::Retry) {
                *outcome = Outcome::Failed(reason.clone());
            }
        }
        BatchOutcome { records: self.outcomes, error: self.error }
    }
}
