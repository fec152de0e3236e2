//! The intake from outside: real sockets, real clients, spools in memory that behave as told.

mod grpc;
mod http;
mod support;
mod webhook;
