//! Per sink: reads batches, delivers them, removes what was acknowledged.
