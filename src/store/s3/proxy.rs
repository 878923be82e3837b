//! A proxy between a store and its server that does to requests what networks and busy servers do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// It is answered so, and does not reach the server.
    Answer(u16, &'static str),
    /// So many bytes of its body get through, then the connection is cut.
    CutBody(usize),
    /// So many bytes of the answer get through, then the connection is cut.
    CutAnswer(usize),
    /// The server gets it, and nobody its answer.
    LoseAnswer,
    /// Nothing moves any more, until the client goes.
    Stall,
    /// It gets through when it is released.
    Wait,
    /// A byte of the body gets through as another one.
    Flip,
}

/// For requests whose first line contains a text: what becomes of the first, the second and so on.
type Acts = Vec<(&'static str, VecDeque<Act>)>;

pub struct Proxy {
    pub endpoint: String,
    acts: Arc<Mutex<Acts>>,
    heads: Arc<Mutex<Vec<String>>>,
    gate: Arc<tokio::sync::Semaphore>,
}

impl Proxy {
    /// A proxy before a server; it ends with the test.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (acts, heads) = (Arc::<Mutex<Acts>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let proxy = Proxy { endpoint, acts: Arc::clone(&acts), heads: Arc::clone(&heads), gate: Arc::clone(&gate) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, acts, heads, gate) = (server.clone(), Arc::clone(&acts), Arc::clone(&heads), Arc::clone(&gate));
                tokio::spawn(async move {
                    // Whoever cuts a connection leaves errors behind.
                    let _ = one(client, &server, &acts, &heads, &gate).await;
                });
            }
        });
        proxy
    }

    /// Does something to the next requests whose first line contains `of`.
    pub fn act(&self, of: &'static str, acts: &[Act]) {
        self.acts.lock().unwrap().push((of, acts.iter().copied().collect()));
    }

    /// Lets one go that waits.
    pub fn release(&self) {
        self.gate.add_permits(1);
    }

    /// Whether everything that was to be done was done.
    pub fn is_done(&self) -> bool {
        self.acts.lock().unwrap().iter().all(|(_, acts)| acts.is_empty())
    }

    /// The heads of the requests whose first line contains a text.
    pub fn heads(&self, of: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().filter(|head| head.lines().next().unwrap_or_default().contains(of)).cloned().collect()
    }
}

/// One request a connection.
async fn one(
    mut client: TcpStream,
    server: &str,
    acts: &Mutex<Acts>,
    heads: &Mutex<Vec<String>>,
    gate: &tokio::sync::Semaphore,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let act =
        acts.lock().unwrap().iter_mut().find(|(of, acts)| line.contains(of) && !acts.is_empty()).and_then(|(_, acts)| acts.pop_front());
    heads.lock().unwrap().push(head.clone());
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    match act {
        Some(Act::Stall) => {
            tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
            return Ok(());
        }
        Some(Act::CutBody(bytes)) => body.truncate(bytes),
        Some(Act::Wait) => gate.acquire().await.unwrap().forget(),
        _ => {}
    }
    client.read_exact(&mut body).await?;
    if let Some(Act::Answer(status, code)) = act {
        let told = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
        let length = told.len();
        let told = if line.starts_with("HEAD") { String::new() } else { told };
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{told}");
        return client.write_all(answer.as_bytes()).await;
    }
    if matches!(act, Some(Act::Flip)) {
        let middle = body.len() / 2;
        body[middle] ^= 1;
    }
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(head.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1).as_bytes()).await?;
    upstream.write_all(&body).await?;
    if let Some(Act::CutBody(_)) = act {
        return Ok(());
    }
    let limit = match act {
        Some(Act::CutAnswer(bytes)) => bytes as u64,
        Some(Act::LoseAnswer) => 0,
        _ => u64::MAX,
    };
    if limit == 0 {
        // It has been done when it is answered.
        upstream.read_u8().await?;
        return Ok(());
    }
    tokio::io::copy(&mut upstream.take(limit), &mut client).await?;
    client.shutdown().await
}
