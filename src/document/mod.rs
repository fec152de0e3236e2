//! Turns a record's bytes into the document a sink stores, by the protobuf descriptors.
