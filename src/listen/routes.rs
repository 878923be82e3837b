//! The paths of the listener, and what stands before them.

use std::sync::{Arc, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::board::{Board, Seen};
use super::{InForce, Rules, guard, metrics, page};
use crate::error::Error;
use crate::host::clock;
use crate::status::freshness::{Freshness, freshness};

#[derive(Clone)]
struct App {
    board: Arc<Board>,
    rules: InForce,
}

pub fn app(board: Arc<Board>, rules: InForce) -> Router {
    let app = App { board, rules };
    let guarded = Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(scrape))
        .route("/api/v1/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is nothing here; try /, /metrics, /api/v1/status, /livez or /healthz\n") })
        .layer(middleware::from_fn_with_state(app.clone(), needs_token));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/healthz", get(healthz))
        .merge(guarded)
        .layer(middleware::from_fn_with_state(app.clone(), is_for_us))
        .with_state(app)
}

impl App {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn may_see(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.rules().token.as_ref().is_none_or(|token| guard::shows(shown, token))
    }
}

/// Refuses what is addressed to another name or wants to change something, and adds what every answer
/// says to a browser.
async fn is_for_us(State(app): State<App>, request: Request, next: Next) -> Response {
    let rules = app.rules();
    let mut hosts = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let host = hosts.next().unwrap_or_default();
    // A request may name its host in its first line, too.
    let named = request.uri().authority().map(axum::http::uri::Authority::as_str);
    let is_ours = |host: &str| guard::is_addressed(host, rules.address, &rules.names);
    let mut response = if hosts.next().is_some() || !is_ours(host) || named.is_some_and(|named| !is_ours(named)) {
        (StatusCode::FORBIDDEN, "this name is none of this listener's; add it to listen_names\n").into_response()
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], "nothing can be changed here\n").into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

async fn needs_token(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.may_see(request.headers()) {
        return next.run(request).await;
    }
    let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"pgvigil: any name, listen_token as the password\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, ask, "listen_token is needed: Authorization: Bearer TOKEN, or as the password of any name\n").into_response()
}

/// What cannot be looked up.
fn unknown(error: &Error) -> Response {
    tracing::warn!(%error, "the listener cannot tell how things stand");
    (StatusCode::SERVICE_UNAVAILABLE, format!("how things stand cannot be told: {}\n", error.message)).into_response()
}

/// Freshness. Without the token only whether, not of what.
async fn healthz(State(app): State<App>, headers: HeaderMap) -> Response {
    let seen = match app.board.look().await {
        Ok(seen) => seen,
        Err(error) => {
            tracing::warn!(%error, "the listener cannot tell how things stand");
            return (StatusCode::SERVICE_UNAVAILABLE, "not healthy: how things stand cannot be told\n").into_response();
        }
    };
    let late = late(&seen);
    if late.is_empty() {
        return "ok\n".into_response();
    }
    let mut text = format!("not fresh: {} of {} backups\n", late.len(), seen.plan.backups.len());
    if app.may_see(&headers) {
        for line in late {
            text += &format!("{line}\n");
        }
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// The backups that are not fresh, each with why. What was not looked at is not known to be fresh.
fn late(seen: &Seen) -> Vec<String> {
    let now = clock::now();
    let of = |backup: &crate::config::plan::Backup| {
        let record = seen.gathered.records.iter().find(|record| record.name == backup.name);
        let Some(record) = record else { return Some(format!("{}: nothing is known of it", backup.name)) };
        match freshness(backup, record.fresh, now) {
            Freshness::Late(since) => {
                let since = since.map(|since| format!(" since {}", since.format("%Y-%m-%dT%H:%M:%SZ"))).unwrap_or_default();
                Some(format!("{}: no backup at {} within its age{since}", backup.name, record.want))
            }
            Freshness::Fresh(_) | Freshness::Waited(_) => None,
        }
    };
    seen.plan.backups.values().filter_map(of).collect()
}

async fn status(State(app): State<App>) -> Response {
    match app.board.look().await {
        Ok(seen) => {
            let mut text = serde_json::to_string_pretty(&seen.gathered.status.at(clock::now())).unwrap_or_default();
            text.push('\n');
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(error) => unknown(&error),
    }
}

async fn scrape(State(app): State<App>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match app.board.look().await {
        Ok(seen) => ([(header::CONTENT_TYPE, metrics::content_type(accept))], metrics::text(&seen, clock::now())).into_response(),
        Err(error) => unknown(&error),
    }
}

async fn status_page(State(app): State<App>) -> Response {
    match app.board.look().await {
        Ok(seen) => {
            let page = page::page(&seen, clock::now());
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                (header::CONTENT_SECURITY_POLICY, page::policy()),
            ];
            (headers, page.into_string()).into_response()
        }
        Err(error) => unknown(&error),
    }
}
