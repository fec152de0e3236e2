//! Where senders connect: a TCP address or a Unix socket.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
};

use super::Holder;

/// Connections that wait to be accepted. Where this is full, the kernel drops the next ones, and they try again after a second
/// or more.
const BACKLOG: u32 = 1024;
/// Owner and group can send; other users of the machine cannot.
const SOCKET_MODE: u32 = 0o660;

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed when this is dropped.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: a file left behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds a TCP port.
    ///
    /// # Errors
    /// When the address is in use, not of this machine, or not allowed.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        listen(address).map(Self::Tcp)
    }

    /// Binds a Unix socket; a socket file that nobody listens on is replaced.
    ///
    /// # Errors
    /// When another process listens there, another file has this path, or the directory cannot be written.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        remove_stale_socket(path).await?;
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok(Self::Unix(listener, file))
    }

    /// A bound Unix socket whose file nobody else needs.
    pub(crate) fn of_socket(listener: UnixListener, path: PathBuf) -> Self {
        Self::Unix(listener, SocketFile(path))
    }

    /// True if only this machine can connect: loopback or a Unix socket.
    #[must_use]
    pub fn is_private(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback()),
            Self::Unix(..) => true,
        }
    }

    /// The port, if it is TCP.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Io>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), Peer { address: Some(address), certified: false }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Peer { address: None, certified: false }))
            }
        }
    }
}

/// Binds a TCP port.
///
/// # Errors
/// The operating system's error.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As `TcpListener::bind` does: a port whose last process has just ended can be bound.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("a closed socket"),
            },
            Self::Unix(_, SocketFile(path)) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection's bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The peer of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Its address; none for a Unix socket.
    pub address: Option<SocketAddr>,
    /// True if it showed a client certificate that TLS verified.
    pub certified: bool,
}

impl Peer {
    /// The holder that its connections and streams count against.
    pub(super) fn holder(&self) -> Holder {
        Holder::new(self.address.map(|address| address.ip()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("the Unix socket"),
        }
    }
}

/// Removes the file of a socket whose process is gone; a live socket, or another kind of file, stays.
async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket has this path"));
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_and_unix_sockets_are_private_and_all_interfaces_are_not() {
        for (address, private) in [("127.0.0.1:0", true), ("0.0.0.0:0", false)] {
            let listener = Listener::tcp(address.parse().unwrap()).unwrap();
            assert_eq!(listener.is_private(), private, "{address}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert!(Listener::unix(&directory.path().join("s")).await.unwrap().is_private());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_living_one_and_other_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let living = Listener::unix(&path).await.unwrap();
        assert_eq!(Listener::unix(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        drop(living);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(Listener::unix(&path).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
