//! The store behind a network that cuts and a server that is busy.

use super::proxy::{Act, Proxy};
use super::tests::{LARGE_BYTES, PART_BYTES, all, left, open, place, server, text, write};
use super::*;
use crate::config::values::Given;
use crate::store::contract::id;

const LABEL: &str = "20240115T010000Z";

/// A backup of a small and a large file.
async fn backup(store: &S3Store) -> Result<()> {
    let mut upload = store.begin(&id(LABEL)).await?;
    write(&mut *upload, "small.sql", text(1_000)).await?;
    write(&mut *upload, "large.sql", text(LARGE_BYTES)).await?;
    upload.commit(Bytes::from_static(b"{}")).await
}

/// It is whole, and nothing lies beside it.
async fn is_whole(store: &S3Store) {
    for (name, bytes) in [("small.sql", 1_000), ("large.sql", LARGE_BYTES)] {
        assert!(all(store.read(&id(LABEL), name).await.unwrap()).await.unwrap() == text(bytes), "{name}");
    }
    let names = ["large.sql", "manifest.json", "small.sql"].map(|name| format!("b/{LABEL}/{name}"));
    assert_eq!(left(store).await, (names.to_vec(), 0));
}

/// What of a backup is asked for, by the first line of the request.
const REQUESTS: [&str; 7] =
    ["/.partial ", "/small.sql ", "?uploads= ", "partNumber=2&", "large.sql?uploadId=", "/manifest.json ", "list-type=2"];

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    for of in REQUESTS {
        proxy.act(of, &[Act::Answer(503, "SlowDown"), Act::Answer(429, ""), Act::Answer(500, "InternalError")]);
    }
    let store = open(&place(&proxy.endpoint), "0123");
    backup(&store).await.unwrap();
    assert!(proxy.is_done());
    is_whole(&store).await;
}

#[tokio::test]
async fn a_storm_without_an_end_fails_the_backup_and_shows_nothing() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    let store = open(&place(&proxy.endpoint), "0123");
    proxy.act("partNumber=3&", &[Act::Answer(503, "SlowDown"); 6]);
    let error = backup(&store).await.unwrap_err();
    assert!(error.message.contains("503 SlowDown") && error.hint.is_some(), "{error:?}");
    while left(&store).await != (vec![], 0) {
        tokio::task::yield_now().await;
    }
    // What is refused for good is asked for once.
    for (status, code) in [(403, "AccessDenied"), (403, "RequestTimeTooSkewed"), (301, "PermanentRedirect")] {
        let before = proxy.heads("/.partial ").len();
        proxy.act("/.partial ", &[Act::Answer(status, code)]);
        assert!(backup(&store).await.is_err(), "{code}");
        assert_eq!(proxy.heads("/.partial ").len(), before + 1, "{code}");
    }
}

#[tokio::test]
async fn connections_are_cut_on_the_way_there() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    proxy.act("/small.sql ", &[Act::CutBody(0), Act::CutBody(500)]);
    proxy.act("partNumber=2&", &[Act::CutBody(10_000), Act::CutBody(0), Act::CutBody(PART_BYTES - 1)]);
    proxy.act("partNumber=1&", &[Act::Flip]);
    let store = open(&place(&proxy.endpoint), "0123");
    backup(&store).await.unwrap();
    assert!(proxy.is_done());
    is_whole(&store).await;
}

/// Each request may have been done although nobody heard of it.
#[tokio::test]
async fn answers_are_lost() {
    let server = server();
    for of in REQUESTS {
        let proxy = Proxy::start(&server).await;
        proxy.act(of, &[Act::LoseAnswer, Act::LoseAnswer]);
        let store = open(&place(&proxy.endpoint), "0123");
        backup(&store).await.unwrap_or_else(|error| panic!("{of}: {error:?}"));
        assert!(proxy.is_done(), "{of}");
        for (name, bytes) in [("small.sql", 1_000), ("large.sql", LARGE_BYTES)] {
            assert!(all(store.read(&id(LABEL), name).await.unwrap()).await.unwrap() == text(bytes), "{of}: {name}");
        }
        assert_eq!(store.labels("b").await.unwrap(), [id(LABEL).label], "{of}");
    }
}

/// A writer that is paused at the worst of moments: between its look at the marker and the manifest.
#[tokio::test]
async fn a_manifest_that_comes_too_late_goes_again() {
    let server = server();
    for (is_cleared, has_begun) in [(false, false), (true, false), (true, true)] {
        let proxy = Proxy::start(&server).await;
        let place = place(&proxy.endpoint);
        let direct = crate::config::plan::S3Place {
            at: crate::config::file::S3 { endpoint: Some(server.clone()), ..place.at.clone() },
            ..place.clone()
        };
        let (paused, other) = (open(&place, "0123"), open(&direct, "4567"));
        let mut old = paused.begin(&id(LABEL)).await.unwrap();
        write(&mut *old, "small.sql", text(1_000)).await.unwrap();
        proxy.act("PUT ", &[Act::Wait]);
        let committing = tokio::spawn(async move { old.commit(Bytes::from_static(b"{\"old\": 1}")).await });
        while !proxy.is_done() {
            tokio::task::yield_now().await;
        }
        let mut new = None;
        if is_cleared {
            other.clear(&id(LABEL)).await.unwrap();
        } else {
            other.take(&id(LABEL)).await.unwrap();
        }
        if has_begun {
            new = Some(other.begin(&id(LABEL)).await.unwrap());
        }
        proxy.release();
        assert!(committing.await.unwrap().unwrap_err().message.contains("of somebody else"), "{is_cleared} {has_begun}");
        assert!(other.labels("b").await.unwrap().is_empty(), "{is_cleared} {has_begun}");
        if let Some(mut new) = new {
            write(&mut *new, "small.sql", Bytes::from_static(b"new")).await.unwrap();
            new.commit(Bytes::from_static(b"{}")).await.unwrap();
            assert_eq!(all(other.read(&id(LABEL), "small.sql").await.unwrap()).await.unwrap(), b"new");
        }
    }
}

#[tokio::test]
async fn connections_are_cut_on_the_way_back() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    let store = open(&place(&proxy.endpoint), "0123");
    backup(&store).await.unwrap();
    // In the head, in the middle, and again without a byte more.
    proxy.act(
        "GET ",
        &[Act::CutAnswer(50), Act::CutAnswer(3_000_000), Act::CutAnswer(100), Act::Answer(503, "SlowDown"), Act::CutAnswer(4_000_000)],
    );
    assert!(all(store.read(&id(LABEL), "large.sql").await.unwrap()).await.unwrap() == text(LARGE_BYTES));
    assert!(proxy.is_done());

    // Another object of that name is not the rest of this one.
    proxy.act("GET ", &[Act::CutAnswer(3_000_000), Act::Wait]);
    let reading = tokio::spawn(all(store.read(&id(LABEL), "large.sql").await.unwrap()));
    while !proxy.is_done() {
        tokio::task::yield_now().await;
    }
    let key = store.place.file(&id(LABEL), "large.sql");
    store.shelf().put_over(&key, Payload::from(text(LARGE_BYTES).slice(1..)), "x").await.unwrap();
    proxy.release();
    let error = reading.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("412"), "{error}");
}

#[tokio::test]
async fn a_server_that_goes_silent_is_left() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    let mut place = place(&proxy.endpoint);
    place.at.region = Some("eu-central-1".to_owned());
    let patience = Patience { stall: std::time::Duration::from_millis(300), ..Patience::default() };
    let store = S3Store::with(
        "s3",
        &place,
        "0123".to_owned(),
        Parts { first_bytes: PART_BYTES as u64, double_every: 2, in_memory_bytes_max: PART_BYTES as u64 },
        patience,
    )
    .unwrap();
    proxy.act("partNumber=2&", &[Act::Stall]);
    proxy.act("/small.sql ", &[Act::Stall]);
    backup(&store).await.unwrap();
    assert!(proxy.is_done());
    is_whole(&store).await;
}

/// What is put in front of every object goes along, and is signed.
#[tokio::test]
async fn tokens_and_encryption_are_told() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    let mut place = place(&proxy.endpoint);
    place.session_token = Some(Given::Literal("a-token".to_owned()));
    place.at.sse = Some("aws:kms".to_owned());
    place.at.sse_kms_key_id = Some("a-key".to_owned());
    proxy.act("PUT ", &[Act::Answer(200, "")]);
    let store = open(&place, "0123");
    assert_eq!(Objects::put(&store, "b/wal/1", text(1)).await.unwrap(), Added::Done);
    let head = proxy.heads("PUT ").pop().unwrap().to_ascii_lowercase();
    for header in [
        "x-amz-security-token: a-token",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: a-key",
        "if-none-match: *",
    ] {
        assert!(head.contains(&format!("{header}\r\n")), "{header}: {head}");
        let name = header.split(':').next().unwrap();
        assert!(head.lines().any(|line| line.starts_with("authorization:") && line.contains(name)), "{name} is not signed: {head}");
    }
}

#[tokio::test]
async fn a_large_file_comes_in_parts_in_its_order() {
    const HUGE_BYTES: usize = 45_000_000;
    let server = server();
    let proxy = Proxy::start(&server).await;
    let store = open(&place(&proxy.endpoint), "0123");
    let mut upload = store.begin(&id(LABEL)).await.unwrap();
    write(&mut *upload, "huge.sql", text(HUGE_BYTES)).await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    // Whatever happens to which of them.
    proxy.act(
        "GET ",
        &[Act::CutAnswer(50), Act::CutAnswer(3_000_000), Act::Answer(503, "SlowDown"), Act::CutAnswer(100), Act::CutAnswer(5_000_000)],
    );
    assert!(all(store.read(&id(LABEL), "huge.sql").await.unwrap()).await.unwrap() == text(HUGE_BYTES));
    assert!(proxy.is_done());

    // Parts of another object of that name are none of this one.
    proxy.act("GET ", &[Act::CutAnswer(HUGE_BYTES), Act::Wait]);
    let reading = tokio::spawn(all(store.read(&id(LABEL), "huge.sql").await.unwrap()));
    while !proxy.is_done() {
        tokio::task::yield_now().await;
    }
    let key = store.place.file(&id(LABEL), "huge.sql");
    store.shelf().put_over(&key, Payload::from(text(HUGE_BYTES).slice(1..)), "x").await.unwrap();
    proxy.release();
    let error = reading.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("412"), "{error}");
}
