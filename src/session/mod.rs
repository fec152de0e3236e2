//! What a call was like: folds the stored records of a room into a session, and says what stands out.
//!
//! Pure: no clock, no input or output. Documents come in any order, some twice, some not at all, in our form or that of
//! OpenVidu's fork; every number is at most the truth.
//!
//! Uses no other module.

mod model;

use serde_json::Value;

pub use self::model::*;

/// The session that a room's documents tell of; `None` if none of them is about the room.
///
/// `now`: nanoseconds since 1970; what is open until then is still going on.
#[must_use]
pub fn fold(room_sid: &str, documents: &Documents, now: Time) -> Option<Session> {
    let _ = (room_sid, documents, now);
    None
}

/// The documents of a room as they were stored; integers as JSON numbers (or strings of digits), times as they are in records
/// (`{seconds, nanos}`).
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// Of AnalyticsEvent.
    pub events: Vec<Value>,
    /// Of AnalyticsStat.
    pub stats: Vec<Value>,
}

impl Summary {
    /// What a list shows of a session.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let _ = session;
        todo!()
    }
}
