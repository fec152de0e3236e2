//! The admin side: status page, API, metrics, the Unix socket.
