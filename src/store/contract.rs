//! What every store promises, held against each of them.

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::local::LocalStore;
use super::memory::MemoryStore;
use super::{Added, Listed, Objects, Store};
use crate::catalog::{Id, Label};

pub(super) fn id(label: &str) -> Id {
    Id { backup: "b".to_owned(), label: label.parse::<Label>().unwrap() }
}

pub(super) async fn put(store: &dyn Store, id: &Id) -> crate::Result<()> {
    let mut upload = store.begin(id).await?;
    let mut file = upload.create("x.sql").await?;
    file.write(Bytes::from_static(b"hello ")).await?;
    file.write(Bytes::from_static(b"world")).await?;
    file.finish().await?;
    upload.commit(Bytes::from_static(b"{}")).await
}

pub(super) async fn contract(store: &dyn Store) {
    let (first, second) = (id("20240115T010000Z"), id("20240116T010000Z"));
    assert!(store.labels("b").await.unwrap().is_empty());
    assert!(store.backups().await.unwrap().is_empty());

    // Nothing shows before the commit, and nothing of a discarded one after.
    let mut upload = store.begin(&first).await.unwrap();
    let mut file = upload.create("x.sql").await.unwrap();
    file.write(Bytes::from_static(b"half")).await.unwrap();
    assert!(store.labels("b").await.unwrap().is_empty());
    drop(file);
    upload.discard().await;
    assert!(store.labels("b").await.unwrap().is_empty());

    put(store, &second).await.unwrap();
    put(store, &first).await.unwrap();
    assert_eq!(store.backups().await.unwrap(), ["b"]);
    assert_eq!(store.labels("b").await.unwrap(), [first.label, second.label]);
    assert!(store.labels("bb").await.unwrap().is_empty());
    let mut text = String::new();
    store.read(&first, "x.sql").await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello world");
    assert!(store.read(&first, "y.sql").await.is_err());

    // A name that is taken stays what it is.
    assert!(put(store, &first).await.is_err());
    assert_eq!(store.documents(&first).await.unwrap(), [("manifest.json".to_owned(), Bytes::from_static(b"{}"))]);

    let pin = Bytes::from_static(b"{\"pinned\": true}");
    assert_eq!(store.add_document(&first, "pin-1.json", pin.clone()).await.unwrap(), Added::Done);
    assert_eq!(store.add_document(&first, "pin-1.json", Bytes::new()).await.unwrap(), Added::AlreadyThere);
    assert_eq!(store.documents(&first).await.unwrap()[1], ("pin-1.json".to_owned(), pin));
    store.point_latest("b", Some(second.label)).await.unwrap();
    assert_eq!(store.labels("b").await.unwrap().len(), 2);
    assert_eq!(store.sweep("b").await.unwrap(), 0);
}

pub(super) async fn contract_of_objects(store: &dyn Objects) {
    assert!(store.list("b/wal").await.unwrap().is_empty());
    for key in ["b/wal/1/02", "b/wal/1/01", "b/wal/00000002.history"] {
        assert_eq!(store.put(key, Bytes::from(key)).await.unwrap(), Added::Done);
    }
    // An object stays what it is.
    assert_eq!(store.put("b/wal/1/01", Bytes::from_static(b"other")).await.unwrap(), Added::AlreadyThere);
    assert_eq!(store.get("b/wal/1/01").await.unwrap(), Some(Bytes::from_static(b"b/wal/1/01")));
    assert_eq!(store.get("b/wal/1/03").await.unwrap(), None);
    let listed = |name: &str, bytes| Listed { name: name.to_owned(), bytes };
    assert_eq!(store.list("b/wal").await.unwrap(), [listed("00000002.history", Some(22)), listed("1", None)]);
    assert_eq!(store.list("b/wal/1").await.unwrap(), [listed("01", Some(10)), listed("02", Some(10))]);
    store.delete("b/wal/1/01").await.unwrap();
    store.delete("b/wal/1/01").await.unwrap();
    assert_eq!(store.list("b/wal/1").await.unwrap(), [listed("02", Some(10))]);
    assert_eq!(store.get("b/wal/1/01").await.unwrap(), None);
}

#[tokio::test]
async fn a_folder_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract(&LocalStore::new(dir.path().join("new").join("store"), "0123".to_owned())).await;
    contract_of_objects(&LocalStore::new(dir.path().join("another").join("store"), "0123".to_owned())).await;
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    contract(&MemoryStore::default()).await;
    contract_of_objects(&MemoryStore::default()).await;
}

/// Whichever call fails, the backup is whole or not there.
#[tokio::test]
async fn a_failing_store_shows_nothing() {
    for call in 1..=6 {
        let store = MemoryStore::default();
        store.fail_at(call);
        assert!(put(&store, &id("20240115T010000Z")).await.is_err(), "call {call}");
        assert!(store.labels("b").await.unwrap().is_empty(), "call {call}");
    }
}

/// Only unfinished work of the same state_dir is swept.
#[tokio::test]
async fn a_sweep_takes_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let ours = LocalStore::new(dir.path().to_owned(), "0123".to_owned());
    let theirs = LocalStore::new(dir.path().to_owned(), "4567".to_owned());
    for store in [&ours, &theirs] {
        let mut upload = store.begin(&id("20240115T010000Z")).await.unwrap();
        upload.create("x.sql").await.unwrap();
        // As a SIGKILL leaves it.
        std::mem::forget(upload);
    }
    put(&ours, &id("20240114T010000Z")).await.unwrap();
    std::fs::write(dir.path().join("b/.partial-notes"), "a user's").unwrap();
    assert_eq!(ours.sweep("b").await.unwrap(), 1);
    let mut left: Vec<_> =
        std::fs::read_dir(dir.path().join("b")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".partial-20240115T010000Z-4567", ".partial-notes", "20240114T010000Z"]);
}
