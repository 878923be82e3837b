//! The listener: probes, metrics, the status as JSON and as a page. It only reads. Whatever becomes of
//! it, the daemon goes on.

mod board;
mod connections;
mod guard;
mod metrics;
mod page;
mod routes;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::task::JoinSet;

use crate::config::Plan;
use crate::config::listen::Listen;
use crate::error::{Error, Kind, Result};
use crate::host::secret::{self, Secret};
use crate::state::State;

use board::Board;

/// Whom the listener answers.
#[derive(Debug)]
struct Rules {
    /// As the file has it.
    asked: SocketAddr,
    /// With the port that was found where the file leaves it open.
    address: SocketAddr,
    token: Option<Secret>,
    names: Vec<String>,
}

/// The rules in force: an edit of the file changes them under the requests.
type InForce = Arc<RwLock<Arc<Rules>>>;

/// What listens; it ends when it is dropped.
struct Serving {
    rules: InForce,
    _task: JoinSet<()>,
}

/// The listener of a daemon, as its file asks for it.
pub struct Listener {
    board: Arc<Board>,
    serving: Option<Serving>,
}

impl Listener {
    /// One that does not listen yet.
    ///
    /// # Errors
    /// What is on record cannot be opened.
    pub fn new(state: &State, plan: &Arc<Plan>) -> Result<Self> {
        Ok(Listener { board: Arc::new(Board::new(state, plan)?), serving: None })
    }

    /// Does as a plan says: begins, ends, goes elsewhere, or answers others. If it cannot, it stays as
    /// it was.
    ///
    /// # Errors
    /// The address is not to be had, or the token is empty.
    pub fn follow(&mut self, plan: &Arc<Plan>) -> Result<()> {
        match &plan.listen {
            None => self.serving = None,
            Some(listen) => self.listen(listen)?,
        }
        self.board.follow(plan);
        Ok(())
    }

    fn listen(&mut self, listen: &Listen) -> Result<()> {
        let token = listen.token.as_ref().map(|given| secret::resolve("listen_token", given)).transpose()?;
        if token.as_ref().is_some_and(|token| token.reveal().trim().is_empty()) {
            return Err(Error::new(Kind::Config, "listen_token is empty").hint("write a long random text, as of `openssl rand -hex 32`"));
        }
        let mut rules = Rules { asked: listen.address, address: listen.address, token, names: listen.names.clone() };
        if let Some(serving) = &self.serving {
            let mut in_force = serving.rules.write().unwrap_or_else(PoisonError::into_inner);
            if in_force.asked == listen.address {
                rules.address = in_force.address;
                *in_force = Arc::new(rules);
                return Ok(());
            }
        }
        // Until it is dropped, the socket that listens keeps the port from every other address.
        let is_ours = self
            .serving
            .as_ref()
            .is_some_and(|serving| serving.rules.read().unwrap_or_else(PoisonError::into_inner).address.port() == listen.address.port());
        let (socket, address) = bind(listen.address)
            .map_err(|error| if is_ours { error.hint("another address on the same port needs a restart of the daemon") } else { error })?;
        rules.address = address;
        tracing::info!(%address, token = rules.token.is_some(), "listening");
        let rules = Arc::new(RwLock::new(Arc::new(rules)));
        let app = routes::app(Arc::clone(&self.board), Arc::clone(&rules));
        let mut task = JoinSet::new();
        task.spawn(connections::serve(socket, app));
        self.serving = Some(Serving { rules, _task: task });
        Ok(())
    }
}

fn bind(address: SocketAddr) -> Result<(tokio::net::TcpListener, SocketAddr)> {
    let bound = || {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    bound().map_err(|error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program listens there: choose another port, or end that one",
            std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 are root's: choose another",
            _ => "choose another address or port, or remove listen",
        };
        Error::system(format!("cannot listen on {address}"), &error).hint(hint)
    })
}
