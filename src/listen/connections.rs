//! Connections, in bounds: of number, of time, of the size of a request. Who is slow makes room for who
//! is not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// How many there may be at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long the head of a request may take, and how long a connection may wait for its next one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection may last: one that reads its answer byte by byte ends here.
const LASTS_MAX: Duration = Duration::from_secs(120);

/// Of a request without its body; nothing here has one.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const HEADERS_MAX: usize = 64;

/// The pause after the system had no more descriptors, or the like.
const PAUSE: Duration = Duration::from_secs(1);

/// One that has not sent the head of a request yet.
struct Silent {
    heard: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Serves until it is dropped, and its connections with it.
pub async fn serve(socket: TcpListener, app: Router) {
    let mut open = JoinSet::new();
    let mut silent: VecDeque<Silent> = VecDeque::new();
    loop {
        while open.try_join_next().is_some() {}
        silent.retain(|one| !one.task.is_finished() && !one.heard.load(Ordering::Relaxed));
        if open.len() >= CONNECTIONS_MAX {
            if let Some(oldest) = silent.pop_front() {
                oldest.task.abort();
            }
            open.join_next().await;
            continue;
        }
        match socket.accept().await {
            Ok((stream, _)) => {
                let heard = Arc::new(AtomicBool::new(false));
                let task = open.spawn(connection(stream, app.clone(), Arc::clone(&heard)));
                silent.push_back(Silent { heard, task });
            }
            Err(error) => {
                tracing::warn!(%error, "the listener cannot take a connection; it goes on in a second");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, app: Router, heard: Arc<AtomicBool>) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        app.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    // What goes wrong here is the client's, and told to the client.
    let _ = tokio::time::timeout(LASTS_MAX, http.serve_connection(TokioIo::new(stream), service)).await;
}
