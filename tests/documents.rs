//! Documents against those that OpenVidu's LiveKit fork makes of the same records, and against broken records.

#[path = "documents/golden.rs"]
mod golden;
