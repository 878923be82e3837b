//! Tests only: a real sshd on loopback, and a way to it that can be cut.

#![expect(clippy::disallowed_methods, reason = "what tests start, they end")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::SshStore;
use crate::config::file;
use crate::config::plan::SshPlace;

/// Folders of a chroot belong to root up to the top, and nobody else may write them: not so in /tmp.
const CHROOTS: &str = "/var/cache";

pub struct Sshd {
    pub dir: TempDir,
    pub port: u16,
    /// Who logs in.
    pub user: String,
    lines: String,
    child: Child,
}

/// Makes a key; the name of the file is what it is for.
pub fn make_key(path: &Path, more: &[&str]) {
    let path = path.to_str().unwrap();
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "", "-f", path]).args(more).status().unwrap();
    assert!(made.success());
}

/// What is easier said in a shell; its complaints are not shown.
pub fn shell(command: &str) {
    let done = Command::new("sh").args(["-ec", command]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(done.success(), "{command}");
}

/// An agent that holds keys.
pub struct Agent {
    socket: PathBuf,
    child: Child,
}

impl Agent {
    pub fn start(socket: &Path) -> Self {
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).spawn().unwrap();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Agent { socket: socket.to_owned(), child }
    }

    pub fn add(&self, key: &Path) {
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status().unwrap();
        assert!(added.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// A server for the user of the tests.
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more lines in its configuration.
    pub fn with(lines: &str) -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        Self::serving(tempfile::tempdir().unwrap(), &user, lines)
    }

    /// With an account that may enter its folder, and a folder that belongs to it.
    pub fn for_account(user: &str, lines: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::Builder::new().prefix("pgvigil-ssh").tempdir_in(CHROOTS).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let lines = lines(dir.path());
        Self::serving(dir, user, &lines)
    }

    fn serving(dir: TempDir, user: &str, lines: &str) -> Self {
        let at = dir.path();
        make_key(&at.join("host_key"), &["-t", "ed25519"]);
        make_key(&at.join("key"), &["-t", "ed25519"]);
        std::fs::copy(at.join("key.pub"), at.join("authorized_keys")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = run(at, port, lines);
        let sshd = Sshd { dir, port, user: user.to_owned(), lines: lines.to_owned(), child };
        sshd.know(port);
        sshd
    }

    /// Writes the host key into known_hosts, for a port.
    pub fn know(&self, port: u16) {
        let key = std::fs::read_to_string(self.path("host_key.pub")).unwrap();
        let known = std::fs::read_to_string(self.path("known_hosts")).unwrap_or_default();
        std::fs::write(self.path("known_hosts"), format!("{known}[127.0.0.1]:{port} {key}")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How the store is written in the file.
    pub fn written(&self) -> file::Ssh {
        file::Ssh {
            host: "127.0.0.1".to_owned(),
            user: Some(self.user.clone()),
            port: std::num::NonZeroU16::new(self.port),
            path: self.path("the store"),
            identity: Some(self.path("key")),
            known_hosts: Some(self.path("known_hosts")),
        }
    }

    pub fn store(&self) -> SshStore {
        Self::store_of(self.written(), "0123")
    }

    pub fn store_of(at: file::Ssh, owner: &str) -> SshStore {
        SshStore::new(&SshPlace { at }, owner.to_owned())
    }

    /// Ends it with all sessions.
    pub fn kill(&mut self) {
        let mut all = vec![i32::try_from(self.child.id()).unwrap()];
        // Whoever is the child of one that is found comes later in time, not in number: look until
        // nothing is new.
        loop {
            let more: Vec<i32> = children_of(&all);
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        for pid in all {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }

    /// Begins again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = run(self.dir.path(), self.port, &self.lines);
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> usize {
        children_of(&[i32::try_from(self.child.id()).unwrap()]).len()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn children_of(parents: &[i32]) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    pids.filter(|pid| !parents.contains(pid) && parent(*pid).is_some_and(|parent| parents.contains(&parent))).collect()
}

/// Starts sshd and waits until it listens.
fn run(at: &Path, port: u16, lines: &str) -> Child {
    if nix::unistd::geteuid().is_root() {
        // Made by Debian's service, which does not run here.
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let config = format!(
        "ListenAddress 127.0.0.1\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nMaxSessions 100\n{1}",
        at.display(),
        if lines.contains("Subsystem") { lines.to_owned() } else { format!("Subsystem sftp internal-sftp\n{lines}") },
    );
    std::fs::write(at.join("sshd_config"), config).unwrap();
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(at.join("sshd_config"))
        .args(["-p", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("/usr/sbin/sshd: {error}; tests/support/install ssh installs it"));
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Server listening") {
        assert!(log.read_line(&mut said).unwrap() > 0, "sshd did not begin: {said}");
    }
    // What nobody reads would fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    child
}

/// A way to a server that breaks when so many bytes have gone one direction, and works again after.
pub struct Proxy {
    pub port: u16,
    /// What may still pass; negative: no end.
    up: Arc<AtomicI64>,
    down: Arc<AtomicI64>,
    /// How often it was cut.
    cuts: Arc<AtomicUsize>,
    /// Bytes that went to the server.
    sent: Arc<AtomicU64>,
}

const NO_END: i64 = i64::MIN;

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            up: Arc::new(AtomicI64::new(NO_END)),
            down: Arc::new(AtomicI64::new(NO_END)),
            cuts: Arc::default(),
            sent: Arc::default(),
        };
        let (up, down, cuts, sent) = (proxy.up.clone(), proxy.down.clone(), proxy.cuts.clone(), proxy.sent.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (up, down, cuts, sent) = (up.clone(), down.clone(), cuts.clone(), sent.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let is_cut = tokio::select! {
                        is_cut = pass(near_read, far_write, up, sent) => is_cut,
                        is_cut = pass(far_read, near_write, down, Arc::default()) => is_cut,
                    };
                    cuts.fetch_add(usize::from(is_cut), Ordering::SeqCst);
                });
            }
        });
        proxy
    }

    /// Cuts once, when so many more bytes have gone to the server.
    pub fn cut_up_after(&self, bytes: i64) {
        self.up.store(bytes, Ordering::SeqCst);
    }

    /// Cuts once, when so many more bytes have come from the server.
    pub fn cut_down_after(&self, bytes: i64) {
        self.down.store(bytes, Ordering::SeqCst);
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Passes bytes on until one side ends or the way is cut, and says whether it was.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    left: Arc<AtomicI64>,
    passed: Arc<AtomicU64>,
) -> bool {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        passed.fetch_add(len as u64, Ordering::SeqCst);
        let allowed = left.load(Ordering::SeqCst);
        if allowed != NO_END {
            let rest = allowed - i64::try_from(len).unwrap();
            if rest <= 0 {
                left.store(NO_END, Ordering::SeqCst);
                let _ = to.write_all(&buffer[..len / 2]).await;
                return true;
            }
            left.store(rest, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
    false
}
