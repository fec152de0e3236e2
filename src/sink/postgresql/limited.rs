//! A connection on which a server can send only so much between two requests: what it sends is kept in memory until the
//! request is answered, and every answer that is asked for is small.
//!
//! The driver lets others make the stream of a TLS connection only. So a connection without TLS is one with a handshake that
//! does nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{
    TryFutureExt,
    future::{self, MapOk, TryJoin},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// The most bytes between two requests of delivery: the list of a hundred thousand relations is smaller.
pub(super) const SMALL: usize = 32 << 20;
/// For who takes the rows of an answer one by one, and stops where it has enough.
pub(super) const ANY: usize = usize::MAX;

/// Makes connections with the limit, by another connector.
#[derive(Clone)]
pub(super) struct Limit<C> {
    pub(super) connector: C,
    /// Bytes.
    pub(super) most: usize,
}

/// A connector that protects nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

/// A stream of a [`Plain`] connector.
pub(super) struct PlainStream<S>(S);

/// A stream with the limit.
pub(super) struct Limited<S> {
    stream: S,
    most: usize,
    received: usize,
}

impl<S> Limited<S> {
    fn new((stream, most): (S, usize)) -> Self {
        Self { stream, most, received: 0 }
    }
}

impl<S, C: MakeTlsConnect<S>> MakeTlsConnect<S> for Limit<C> {
    type Stream = Limited<C::Stream>;
    type TlsConnect = Limit<C::TlsConnect>;
    type Error = C::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        let most = self.most;
        self.connector.make_tls_connect(domain).map(|connector| Limit { connector, most })
    }
}

impl<S, C: TlsConnect<S>> TlsConnect<S> for Limit<C> {
    type Stream = Limited<C::Stream>;
    type Error = C::Error;
    type Future =
        MapOk<TryJoin<C::Future, future::Ready<Result<usize, C::Error>>>, fn((C::Stream, usize)) -> Self::Stream>;

    fn connect(self, stream: S) -> Self::Future {
        let most = future::ready(Ok(self.most));
        future::try_join(self.connector.connect(stream), most).map_ok(Limited::new)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MakeTlsConnect<S> for Plain {
    type Stream = PlainStream<S>;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Self> {
        Ok(Self)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for Plain {
    type Stream = PlainStream<S>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<PlainStream<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        future::ready(Ok(PlainStream(stream)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for PlainStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: TlsStream + Unpin> TlsStream for Limited<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.received += buffer.filled().len() - before;
        if self.received > self.most {
            // A reader that fails has read nothing.
            buffer.set_filled(before);
            return Poll::Ready(Err(io::Error::other("the server sends more than any answer has")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.received = 0;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_server_can_send_only_so_much_between_two_requests() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let part = vec![0; 1 << 20];
            while far.write_all(&part).await.is_ok() {}
        });
        let mut limited = Limited::new((PlainStream(near), SMALL));
        let mut part = vec![0; SMALL / 4];
        for _ in 0..3 {
            for _ in 0..4 {
                limited.read_exact(&mut part).await.expect("below the limit");
            }
            limited.write_all(b"next").await.expect("a request");
        }
        let mut rest = Vec::new();
        let error = limited.read_to_end(&mut rest).await.expect_err("endless");
        assert!(error.to_string().contains("more than any answer") && rest.len() <= SMALL, "{error}");
    }
}
