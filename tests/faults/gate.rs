//! A proxy in front of PostgreSQL or the Docker Engine that stops in the middle of a dump: the one
//! connection that passes more than so many bytes to the client is held, and the test is told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::tools::{PATIENCE, must};

/// What lies behind.
#[derive(Debug, Clone)]
pub enum Behind {
    Tcp(u16),
    Unix(PathBuf),
    /// PostgreSQL in a container, at the address that it has at the time.
    Container(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Hold,
    Pass,
    Cut,
}

#[derive(Debug)]
struct Inner {
    limit: Option<u64>,
    reached: bool,
    way: Way,
    /// New connections are closed at once, those that are open too.
    shut: bool,
    /// The last so many bytes of a connection get lost.
    lose: Option<usize>,
    /// What lies behind does not hear that the client of a held connection has left.
    deaf: bool,
}

#[derive(Debug)]
pub struct Gate {
    pub port: u16,
    shared: Arc<(Mutex<Inner>, Condvar)>,
}

type Shared = Arc<(Mutex<Inner>, Condvar)>;

impl Gate {
    /// An open gate: everything passes.
    pub fn new(behind: Behind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Inner { limit: None, reached: false, way: Way::Hold, shut: false, lose: None, deaf: false };
        let shared: Shared = Arc::new((Mutex::new(inner), Condvar::new()));
        let for_listener = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), shared) = (client, Arc::clone(&for_listener)) else { continue };
                if shared.0.lock().unwrap().shut {
                    continue;
                }
                let behind = behind.clone();
                std::thread::spawn(move || connection(client, &behind, &shared));
            }
        });
        Gate { port, shared }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.0.lock().unwrap()
    }

    /// The first connection that passes so many bytes to the client is held there.
    pub fn arm(&self, bytes: u64) {
        *self.inner() = Inner { limit: Some(bytes), reached: false, way: Way::Hold, shut: false, lose: None, deaf: false };
    }

    /// The first connection that passes more than 64 KiB to the client, and that the other side
    /// ends, is cut so many bytes before its end.
    pub fn lose(&self, bytes: usize) {
        *self.inner() = Inner { limit: None, reached: false, way: Way::Pass, shut: false, lose: Some(bytes), deaf: false };
    }

    pub fn has_lost(&self) -> bool {
        self.inner().reached
    }

    /// Waits until a connection is held.
    pub fn reached(&self) {
        let (inner, waited) = self.shared.1.wait_timeout_while(self.inner(), PATIENCE, |inner| !inner.reached).unwrap();
        let inner = format!("{inner:?}");
        assert!(!waited.timed_out(), "no dump came so far as to be held: {inner}");
    }

    /// As when the network between is gone: what lies behind hears nothing of the client's leaving.
    pub fn deafen(&self) {
        self.set(|inner| inner.deaf = true);
    }

    /// Lets what is held pass, and all that comes.
    pub fn open(&self) {
        self.set(|inner| (inner.way, inner.limit, inner.shut) = (Way::Pass, None, false));
    }

    /// Ends the connection that is held, or will be, on both sides.
    pub fn cut(&self) {
        self.set(|inner| inner.way = Way::Cut);
    }

    /// The same, and nothing passes any more.
    pub fn shut(&self) {
        self.set(|inner| (inner.way, inner.shut) = (Way::Cut, true));
    }

    fn set(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.shared.1.notify_all();
    }
}

/// No thread waits for ever.
impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}

enum Server {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Server {
    fn connect(behind: &Behind) -> io::Result<Self> {
        let tcp = |address: &str, port| {
            let stream = TcpStream::connect((address, port))?;
            stream.set_nodelay(true)?;
            Ok(Server::Tcp(stream))
        };
        match behind {
            Behind::Tcp(port) => tcp("127.0.0.1", *port),
            Behind::Unix(path) => Ok(Server::Unix(UnixStream::connect(path)?)),
            Behind::Container(name) => tcp(&address(name), 5432),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Server::Tcp(stream) => Server::Tcp(stream.try_clone()?),
            Server::Unix(stream) => Server::Unix(stream.try_clone()?),
        })
    }

    fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Server::Tcp(stream) => stream.shutdown(how),
            Server::Unix(stream) => stream.shutdown(how),
        };
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Server::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Server::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for Server {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Server::Tcp(stream) => stream.read(buffer),
            Server::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Server {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Server::Tcp(stream) => stream.write(bytes),
            Server::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The address of a container of the machine's own Engine.
pub fn address(container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    must(Command::new("docker").args(["inspect", "--format", format, container]))
}

#[expect(clippy::needless_pass_by_value, reason = "the connection ends with this thread")]
fn connection(client: TcpStream, behind: &Behind, shared: &Shared) {
    let Ok(server) = Server::connect(behind) else { return };
    let _ = client.set_nodelay(true);
    let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else { return };
    let held = Arc::new(AtomicBool::new(false));
    let (is_held, inner) = (Arc::clone(&held), Arc::clone(shared));
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        // The end of its input, or the client has left; whoever is held has no input.
        let left = is_held.load(Ordering::SeqCst) && !inner.0.lock().unwrap().deaf;
        to_server.shutdown(if left { Shutdown::Both } else { Shutdown::Write });
    });
    if downwards(&client, server.try_clone().unwrap(), shared, &held).is_err() {
        server.shutdown(Shutdown::Both);
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// From the server to the client; an error: cut.
fn downwards(mut client: &TcpStream, mut server: Server, shared: &Shared, held: &AtomicBool) -> io::Result<()> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionAborted);
    // So that a shut gate ends idle connections too.
    server.set_read_timeout(Duration::from_millis(50))?;
    let mut buffer = vec![0; 16 * 1024];
    let (mut passed, mut kept) = (0, Vec::new());
    loop {
        let len = match server.read(&mut buffer) {
            Ok(0) if kept.is_empty() => return Ok(()),
            Ok(0) => {
                let mut inner = shared.0.lock().unwrap();
                (inner.reached, inner.lose) = (true, None);
                return Err(cut());
            }
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if shared.0.lock().unwrap().shut {
                    return Err(cut());
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut inner = shared.0.lock().unwrap();
        let lose = inner.lose;
        let before = match inner.limit {
            Some(limit) if passed + len as u64 > limit => (limit - passed) as usize,
            _ => len,
        };
        if before < len {
            inner.limit = None;
            drop(inner);
            client.write_all(&buffer[..before])?;
            held.store(true, Ordering::SeqCst);
            inner = shared.0.lock().unwrap();
            inner.reached = true;
            shared.1.notify_all();
            inner = shared.1.wait_while(inner, |inner| inner.way == Way::Hold).unwrap();
            if inner.way == Way::Cut {
                return Err(cut());
            }
            held.store(false, Ordering::SeqCst);
        }
        drop(inner);
        let rest = if before < len { &buffer[before..len] } else { &buffer[..len] };
        match lose {
            Some(lose) if passed > 64 * 1024 => {
                kept.extend_from_slice(rest);
                let whole = kept.len().saturating_sub(lose);
                client.write_all(&kept[..whole])?;
                kept.drain(..whole);
            }
            _ => client.write_all(rest)?,
        }
        passed += len as u64;
    }
}
