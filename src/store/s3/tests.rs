//! The store against a real server.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::*;
use crate::config::file::{self, LockMode, ObjectLock};
use crate::config::values::{Given, Span};
use crate::store::contract;
use crate::store::contract::id;

/// The address of the server, which begins with whoever asks first.
#[expect(clippy::disallowed_methods, reason = "the script ends by itself")]
pub fn server() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/s3-server");
    let output = std::process::Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A place of its own for a test, for whom may everything.
pub fn place(endpoint: &str) -> S3Place {
    S3Place {
        at: file::S3 {
            bucket: "pgvigil".to_owned(),
            prefix: Some(format!("tests/{}", new_writer())),
            endpoint: Some(endpoint.to_owned()),
            region: None,
            addressing: None,
            sse: None,
            sse_kms_key_id: None,
            object_lock: None,
            ca_file: None,
        },
        access_key_id: Some(Given::Literal("admin".to_owned())),
        secret_access_key: Some(Given::Literal("secret-of-admin".to_owned())),
        session_token: None,
        spool: beside("spool"),
    }
}

/// The same place for whom may not delete.
fn as_writer(place: &S3Place) -> S3Place {
    S3Place {
        access_key_id: Some(Given::Literal("writer".to_owned())),
        secret_access_key: Some(Given::Literal("secret-of-writer".to_owned())),
        ..place.clone()
    }
}

/// The least that a server takes as a part, in bytes.
pub const PART_BYTES: usize = 5 * 1024 * 1024;

/// A file of three parts.
pub const LARGE_BYTES: usize = 2 * PART_BYTES + 1_000_000;

/// Small parts that double after 2 of them, the larger ones in the spool; little patience.
pub fn open(place: &S3Place, owner: &str) -> S3Store {
    let parts = Parts { first_bytes: PART_BYTES as u64, double_every: 2, in_memory_bytes_max: PART_BYTES as u64 };
    let (pause, pause_max) = (Duration::from_millis(5), Duration::from_millis(20));
    let patience = Patience { tries: 6, pause, pause_max, stall: Duration::from_secs(20) };
    S3Store::with("s3", place, owner.to_owned(), parts, patience).unwrap()
}

/// Bytes that differ from place to place.
pub fn text(bytes: usize) -> Bytes {
    let mut text = Vec::with_capacity(bytes + 8);
    for n in 0..=bytes as u64 / 8 {
        text.extend_from_slice(&n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    }
    text.truncate(bytes);
    Bytes::from(text)
}

pub async fn write(upload: &mut dyn Upload, name: &str, bytes: Bytes) -> Result<()> {
    let mut file = upload.create(name).await?;
    for chunk in bytes.chunks(700_000) {
        file.write(Bytes::copy_from_slice(chunk)).await?;
    }
    file.finish().await
}

pub async fn all(mut reader: Reader) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.map(|_| bytes)
}

/// Everything below the root of a store, and the uploads that are open there.
pub async fn left(store: &S3Store) -> (Vec<String>, usize) {
    let (shelf, root) = (store.shelf(), &store.place.root);
    let ask = bucket::Ask::get("").query("uploads", "").query("prefix", root);
    let uploads: answers::Uploads = answers::read(&shelf.bucket.text(&ask).await.unwrap()).unwrap();
    let keys = shelf.keys(root).await.unwrap();
    (keys.iter().map(|key| key.strip_prefix(root).unwrap().to_owned()).collect(), uploads.begun.len())
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    let endpoint = server();
    contract::contract(&open(&place(&endpoint), "0123")).await;
    contract::contract_of_objects(&open(&place(&endpoint), "0123")).await;
}

#[tokio::test]
async fn files_of_many_parts_come_back_whole() {
    let store = open(&place(&server()), "0123");
    let id = id("20240115T010000Z");
    let mut upload = store.begin(&id).await.unwrap();
    // None, less than a part, a part, a little more, and many that grow.
    let lengths = [0, 1, PART_BYTES, PART_BYTES + 1, 4 * PART_BYTES + 7];
    for length in lengths {
        write(&mut *upload, &format!("a%20b+c-{length}"), text(length)).await.unwrap();
        assert!(all(upload.read(&format!("a%20b+c-{length}")).await.unwrap()).await.unwrap() == text(length), "{length}");
    }
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    for length in lengths {
        assert!(all(store.read(&id, &format!("a%20b+c-{length}")).await.unwrap()).await.unwrap() == text(length), "{length}");
    }
    assert_eq!(left(&store).await.0.len(), lengths.len() + 1, "the marker is gone");
    store.remove(&id).await.unwrap();
    assert_eq!(left(&store).await, (vec![], 0));
    assert_eq!(store.remove(&id).await.unwrap_err().kind, Kind::NotFound);
}

/// Past a page of a list of parts, and past what one request may carry (5 GiB): 5.8 GB in the long run.
#[tokio::test]
async fn a_file_of_more_than_a_thousand_parts() {
    let count = if std::env::var_os("PGVIGIL_TEST_LONG").is_some() { 1_101 } else { 40 };
    let parts = Parts { first_bytes: PART_BYTES as u64, double_every: u32::MAX, ..Parts::default() };
    let store = S3Store::with("s3", &place(&server()), "0123".to_owned(), parts, Patience::default()).unwrap();
    let (id, block) = (id("20240115T010000Z"), text(PART_BYTES));
    // No two parts are the same.
    let part = |number: u64| [Bytes::from(number.to_be_bytes().to_vec()), block.slice(8..)];
    let mut upload = store.begin(&id).await.unwrap();
    let mut file = upload.create("long").await.unwrap();
    for number in 0..count {
        for piece in part(number) {
            file.write(piece).await.unwrap();
        }
    }
    file.finish().await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    let mut reader = store.read(&id, "long").await.unwrap();
    let mut back = vec![0; PART_BYTES];
    for number in 0..count {
        reader.read_exact(&mut back).await.unwrap();
        assert!(back == part(number).concat(), "part {number}");
    }
    assert_eq!(reader.read(&mut back).await.unwrap(), 0);
    store.remove(&id).await.unwrap();
    assert_eq!(left(&store).await, (vec![], 0));
    // What is begun and given up leaves none of its parts.
    let mut upload = store.begin(&id).await.unwrap();
    let mut file = upload.create("long").await.unwrap();
    for _ in 0..20 {
        file.write(block.clone()).await.unwrap();
    }
    drop(file);
    upload.discard().await;
    assert_eq!(left(&store).await, (vec![], 0));
}

/// What the server of the tests wrote beside its address.
fn beside(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("PGVIGIL_TEST_TMP").unwrap()).join("s3").join(name)
}

#[tokio::test]
async fn keys_that_are_good_for_an_hour() {
    let mut place = place(&server());
    let session = std::fs::read_to_string(beside("session")).unwrap();
    let [key, secret, token] = session.lines().collect::<Vec<_>>().try_into().unwrap();
    let given = |text: &str| Some(Given::Literal(text.to_owned()));
    (place.access_key_id, place.secret_access_key, place.session_token) = (given(key), given(secret), given(token));
    contract::contract(&open(&place, "0123")).await;
    // Without their token they are nobody's.
    place.session_token = None;
    assert!(open(&place, "0123").labels("b").await.is_err());
}

#[tokio::test]
async fn a_private_authority() {
    server();
    let mut place = place(std::fs::read_to_string(beside("https")).unwrap().trim());
    let error = open(&place, "0123").labels("b").await.unwrap_err();
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("ca_file in s3 of [stores.s3]")), "{error:?}");
    place.at.ca_file = Some(beside("ca.pem"));
    contract::contract(&open(&place, "0123")).await;
    place.at.ca_file = Some(beside("key.pem"));
    let refused = S3Store::new("s3", &place, "0123".to_owned()).err().unwrap();
    assert!(refused.message.contains("ca_file"), "{refused:?}");
}

#[tokio::test]
async fn more_than_a_thousand_keys() {
    let store = open(&place(&server()), "0123");
    let labels: Vec<Label> = (0..350).map(|n| Label::of(chrono::DateTime::from_timestamp(1_700_000_000 + n, 0).unwrap())).collect();
    let puts = labels.iter().flat_map(|label| {
        let names = ["manifest.json", "proof-1.json", "x.sql"].into_iter();
        names.map(move |name| format!("b/{label}/{name}"))
    });
    // Segments stand beside the labels, and are none.
    let puts = puts.chain((0..1_010).map(|n| format!("b/wal/1/{n:08}")));
    let store = &store;
    let puts: Vec<_> = puts.map(|key| async move { Objects::put(store, &key, Bytes::from_static(b"{}")).await.unwrap() }).collect();
    futures_util::stream::iter(puts).buffer_unordered(REQUESTS_MAX).collect::<Vec<_>>().await;
    assert_eq!(store.list("b/wal/1").await.unwrap().len(), 1_010);
    assert_eq!(store.list("b").await.unwrap().len(), 351);
    assert_eq!(store.backups().await.unwrap(), ["b"]);
    assert_eq!(store.labels("b").await.unwrap(), labels);
    assert_eq!(store.taken("b").await.unwrap(), labels);
    let ids: Vec<Id> = labels.iter().map(|label| Id { backup: "b".to_owned(), label: *label }).collect();
    let documents = store.documents_of(ids.clone()).await.unwrap();
    assert_eq!(documents.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), ids);
    assert!(documents.iter().all(|(_, documents)| documents.len() == 2));
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let store = open(&place(&server()), "0123");
    let id = id("20240115T010000Z");

    let mut upload = store.begin(&id).await.unwrap();
    write(&mut *upload, "done.sql", text(LARGE_BYTES)).await.unwrap();
    let mut file = upload.create("open.sql").await.unwrap();
    file.write(text(LARGE_BYTES)).await.unwrap();
    assert_eq!(left(&store).await.1, 1);
    assert_eq!(store.taken("b").await.unwrap(), [id.label]);
    upload.discard().await;
    drop(file);
    assert_eq!(left(&store).await, (vec![], 0));

    // One that is dropped goes in the background.
    let mut upload = store.begin(&id).await.unwrap();
    let mut file = upload.create("open.sql").await.unwrap();
    file.write(text(LARGE_BYTES)).await.unwrap();
    drop(file);
    drop(upload);
    while left(&store).await != (vec![], 0) {
        tokio::task::yield_now().await;
    }

    // A writer that was left open is none of the backup.
    let mut upload = store.begin(&id).await.unwrap();
    let mut file = upload.create("open.sql").await.unwrap();
    file.write(text(LARGE_BYTES)).await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(left(&store).await, (vec!["b/20240115T010000Z/manifest.json".to_owned()], 0));
}

#[tokio::test]
async fn what_a_crash_left_is_swept_by_its_owner() {
    let place = place(&server());
    let (ours, theirs) = (open(&place, "0123"), open(&place, "4567"));
    let id = id("20240115T010000Z");
    let mut upload = ours.begin(&id).await.unwrap();
    write(&mut *upload, "done.sql", text(LARGE_BYTES)).await.unwrap();
    let mut file = upload.create("open.sql").await.unwrap();
    file.write(text(LARGE_BYTES)).await.unwrap();
    // As a SIGKILL leaves it.
    std::mem::forget((upload, file));
    assert_eq!(theirs.sweep("b").await.unwrap(), 0);
    assert!(theirs.begin(&id).await.is_err());
    assert_eq!(left(&ours).await.0.len(), 2);
    assert_eq!(ours.sweep("b").await.unwrap(), 1);
    assert_eq!(left(&ours).await, (vec![], 0));
    assert_eq!(ours.sweep("b").await.unwrap(), 0);
}

/// Whatever the other one does in between, a writer that was only paused adds nothing.
#[tokio::test]
async fn a_paused_writer_writes_over_nobody() {
    let place = place(&server());
    let (paused, other) = (open(&place, "0123"), open(&place, "4567"));
    let id = id("20240115T010000Z");
    let taken = |result: Result<()>| assert!(result.unwrap_err().message.contains("of somebody else"));

    // It wakes when the other one is at work.
    let mut old = paused.begin(&id).await.unwrap();
    write(&mut *old, "x.sql", text(LARGE_BYTES)).await.unwrap();
    other.clear(&id).await.unwrap();
    assert_eq!(left(&other).await, (vec![], 0));
    let mut new = other.begin(&id).await.unwrap();
    write(&mut *new, "x.sql", Bytes::from_static(b"new")).await.unwrap();
    taken(write(&mut *old, "x.sql", text(LARGE_BYTES)).await);
    taken(write(&mut *old, "x.sql", Bytes::from_static(b"old")).await);
    taken(old.commit(Bytes::from_static(b"{\"old\": 1}")).await);
    new.commit(Bytes::from_static(b"{\"new\": 1}")).await.unwrap();
    assert_eq!(all(other.read(&id, "x.sql").await.unwrap()).await.unwrap(), b"new");
    assert_eq!(other.documents(&id).await.unwrap(), [("manifest.json".to_owned(), Bytes::from_static(b"{\"new\": 1}"))]);
    // What is complete is no leftover.
    paused.clear(&id).await.unwrap();
    assert_eq!(paused.labels("b").await.unwrap(), [id.label]);
    other.remove(&id).await.unwrap();

    // It wakes when the label is cleared, and nobody has begun.
    let mut old = paused.begin(&id).await.unwrap();
    write(&mut *old, "x.sql", text(LARGE_BYTES)).await.unwrap();
    other.clear(&id).await.unwrap();
    taken(old.commit(Bytes::from_static(b"{}")).await);
    assert_eq!(left(&other).await, (vec![], 0));
}

#[tokio::test]
async fn names_and_hosts() {
    let endpoint = server();
    let mut place = place(&endpoint);
    place.at.prefix = Some("/a b/c%2Fd/é+~/".to_owned() + &new_writer());
    contract::contract(&open(&place, "0123")).await;
    place.at.prefix = Some(format!("host/{}", new_writer()));
    place.at.addressing = Some(Addressing::Host);
    place.at.endpoint = Some(endpoint.replace("127.0.0.1", "localhost"));
    contract::contract(&open(&place, "0123")).await;
}

#[test]
fn addresses() {
    let at = |change: &dyn Fn(&mut file::S3)| {
        let mut at = place("https://s3.example.com/").at;
        at.bucket = "acme".to_owned();
        change(&mut at);
        let address = address(&at);
        (address.base, address.region)
    };
    let is = |base: &str, region: &str| (base.to_owned(), region.to_owned());
    assert_eq!(at(&|_| {}), is("https://s3.example.com/acme", "us-east-1"));
    assert_eq!(at(&|at| at.addressing = Some(Addressing::Host)), is("https://acme.s3.example.com", "us-east-1"));
    let aws = |at: &mut file::S3| {
        at.endpoint = None;
        at.region = Some("eu-central-1".to_owned());
    };
    assert_eq!(at(&aws), is("https://acme.s3.eu-central-1.amazonaws.com", "eu-central-1"));
    let dotted = |at: &mut file::S3| {
        aws(at);
        at.bucket = "ac.me".to_owned();
    };
    assert_eq!(at(&dotted), is("https://s3.eu-central-1.amazonaws.com/ac.me", "eu-central-1"));
}

#[tokio::test]
async fn a_lock_holds_what_was_written() {
    let mut place = place(&server());
    place.at.bucket = "locked".to_owned();
    place.at.object_lock = Some(ObjectLock { mode: LockMode::Compliance, retain: Span(Duration::from_secs(3_600)) });
    let store = open(&place, "0123");
    let id = id("20240115T010000Z");
    let mut upload = store.begin(&id).await.unwrap();
    write(&mut *upload, "small.sql", text(10)).await.unwrap();
    write(&mut *upload, "large.sql", text(LARGE_BYTES)).await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    for name in ["small.sql", "large.sql", "manifest.json"] {
        let key = store.place.file(&id, name);
        let head = store.shelf().bucket.ask(&bucket::Ask::new(reqwest::Method::HEAD, &key)).await.unwrap();
        assert_eq!(head.headers()["x-amz-object-lock-mode"], "COMPLIANCE", "{name}");
        assert!(head.headers().contains_key("x-amz-object-lock-retain-until-date"), "{name}");
        // Who may everything may not this.
        let version = head.headers()["x-amz-version-id"].to_str().unwrap();
        let delete = bucket::Ask::new(reqwest::Method::DELETE, &key).query("versionId", version);
        let refused = store.shelf().bucket.ask(&delete).await.unwrap_err();
        assert!(refused.is_denied(), "{name}: {refused:?}");
    }
    // A lock holds versions: what we delete does not show any more, and is there for as long as it says.
    store.remove(&id).await.unwrap();
    assert!(store.labels("b").await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_that_may_not_delete() {
    let place = place(&server());
    let (store, admin) = (open(&as_writer(&place), "0123"), open(&place, "4567"));
    let tried = store.try_out().await.unwrap();
    assert_eq!((tried.deletes, tried.refuses), (false, true));
    let id = id("20240115T010000Z");
    let mut upload = store.begin(&id).await.unwrap();
    write(&mut *upload, "x.sql", text(LARGE_BYTES)).await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    // The marker stays, and says nothing any more.
    assert_eq!(store.labels("b").await.unwrap(), [id.label]);
    assert!(left(&store).await.0.iter().any(|key| key.ends_with("/.partial")));
    assert_eq!(store.sweep("b").await.unwrap(), 0);
    let refused = store.remove(&id).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Undeletable, "{refused:?}");
    assert_eq!(Objects::delete(&store, "b/20240115T010000Z/x.sql").await.unwrap_err().kind, Kind::Undeletable);
    assert_eq!(store.labels("b").await.unwrap(), [id.label]);
    assert_eq!(store.documents(&id).await.unwrap().len(), 1);
    assert_eq!(store.add_document(&id, "proof-1.json", Bytes::from_static(b"{}")).await.unwrap(), Added::Done);
    // What a run gives up stays, and is no backup.
    let second = contract::id("20240116T010000Z");
    let mut upload = store.begin(&second).await.unwrap();
    write(&mut *upload, "x.sql", text(10)).await.unwrap();
    upload.discard().await;
    assert_eq!(store.labels("b").await.unwrap(), [id.label]);
    assert_eq!(store.taken("b").await.unwrap(), [id.label, second.label]);
    assert_eq!(store.clear(&second).await.unwrap_err().kind, Kind::Undeletable);
    admin.clear(&second).await.unwrap();
    admin.remove(&id).await.unwrap();
    assert!(admin.taken("b").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_is_tried_out() {
    let store = open(&place(&server()), "0123");
    let tried = store.try_out().await.unwrap();
    assert_eq!((tried.deletes, tried.refuses), (true, true));
    assert_eq!(left(&store).await, (vec![], 0));
}

#[tokio::test]
async fn what_is_wrong_is_told_with_what_to_do() {
    let endpoint = server();
    let told = async |change: &dyn Fn(&mut S3Place)| {
        let mut place = place(&endpoint);
        change(&mut place);
        let error = open(&place, "0123").try_out().await.unwrap_err();
        format!("{} {}", error.message, error.hint.unwrap_or_default())
    };
    let wrong = told(&|place| place.secret_access_key = Some(Given::Literal("secret-of-nobody".to_owned()))).await;
    assert!(wrong.contains("SignatureDoesNotMatch") && wrong.contains("secret_access_key of [stores.s3]"), "{wrong}");
    assert!(!wrong.contains("secret-of-nobody"), "{wrong}");
    let wrong = told(&|place| place.access_key_id = Some(Given::Literal("nobody".to_owned()))).await;
    assert!(wrong.contains("access_key_id"), "{wrong}");
    let wrong = told(&|place| place.at.bucket = "no-such-bucket".to_owned()).await;
    assert!(wrong.contains("there is no such bucket"), "{wrong}");
    let wrong = told(&|place| place.at.endpoint = Some("http://127.0.0.1:1".to_owned())).await;
    assert!(wrong.contains("endpoint of [stores.s3]"), "{wrong}");
    let wrong = told(&|place| place.at.endpoint = Some(endpoint.replace("http:", "https:"))).await;
    assert!(wrong.contains("endpoint"), "{wrong}");
}
