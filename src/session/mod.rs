//! What a call was like: folds the stored records of a room into a session, and says what stands out.
//!
//! Pure: no clock, no input or output. Documents come in any order, some twice, some not at all, in our form or that of
//! OpenVidu's fork; every number is at most the truth.
//!
//! Uses no other module.

mod connection;
mod documents;
mod field;
mod fold;
mod job;
mod model;
mod moment;
mod observation;
mod quality;
mod record;
mod summary;
#[cfg(test)]
mod tests;
mod track;
mod usage;

pub(crate) use self::field::cut;
pub use self::{
    documents::Documents,
    fold::fold,
    model::*,
    record::EVENT_ROOM_PATHS,
    usage::{Grouping, Usage, UsageRow},
};
