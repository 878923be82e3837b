//! The store against a real sshd.

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::sshd::{Agent, Proxy, Sshd, make_key, shell};
use super::*;
use crate::config::file;
use crate::store::contract::{contract, contract_of_objects};

fn id(label: &str) -> Id {
    Id { backup: "b".to_owned(), label: label.parse::<Label>().unwrap() }
}

/// Bytes that no two portions have alike.
fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

async fn put(store: &SshStore, id: &Id, bytes: &Bytes) -> Result<()> {
    let mut upload = store.begin(id).await?;
    let mut file = upload.create("x.dump").await?;
    for start in (0..bytes.len()).step_by(300_000) {
        file.write(bytes.slice(start..bytes.len().min(start + 300_000))).await?;
    }
    file.finish().await?;
    upload.commit(Bytes::from_static(b"{}")).await
}

async fn read(store: &SshStore, id: &Id) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    store.read(id, "x.dump").await.map_err(std::io::Error::other)?.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The names in a folder of this machine.
fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_folder_of_another_host_keeps_the_contract() {
    let sshd = Sshd::start();
    contract(&sshd.store()).await;
    assert_eq!(std::fs::read_link(sshd.path("the store/b/latest")).unwrap().to_str(), Some("20240116T010000Z"));
    let mut elsewhere = sshd.written();
    elsewhere.path = sshd.path("new/and deeper/store");
    contract_of_objects(&Sshd::store_of(elsewhere, "0123")).await;
}

#[tokio::test]
async fn what_is_written_is_private_and_goes_without_a_trace() {
    use std::os::unix::fs::PermissionsExt;
    let sshd = Sshd::start();
    let store = sshd.store();
    let id = id("20240115T010000Z");
    put(&store, &id, &noise(10)).await.unwrap();
    let mode = |name: &str| std::fs::metadata(sshd.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("the store"), mode("the store/b"), mode("the store/b/20240115T010000Z")), (0o700, 0o700, 0o700));
    assert_eq!(mode("the store/b/20240115T010000Z/x.dump"), 0o600);
    store.add_document(&id, "pin-1.json", Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(names(&sshd.path("the store/b")), ["20240115T010000Z"]);
    assert_eq!(mode("the store/b/20240115T010000Z/pin-1.json"), 0o600);
    store.remove(&id).await.unwrap();
    assert!(names(&sshd.path("the store/b")).is_empty());
    assert!(store.remove(&id).await.is_err());
}

/// A connection is made when it is needed, shared, and ended with the store.
#[tokio::test]
async fn one_connection_serves_a_store() {
    let sshd = Sshd::start();
    let store = sshd.store();
    assert_eq!(sshd.sessions(), 0);
    let (a, b) = tokio::join!(store.backups(), store.labels("b"));
    a.unwrap();
    b.unwrap();
    assert_eq!(sshd.sessions(), 1);
    drop(store);
    while sshd.sessions() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Cut anywhere in the middle of an upload, and of the reading back: the bytes are the same, and those
/// that were there already do not go over the line again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_costs_little() {
    const LEN: usize = 24_000_000;
    let sshd = Sshd::start();
    let proxy = Proxy::to(sshd.port).await;
    sshd.know(proxy.port);
    let mut at = sshd.written();
    at.port = std::num::NonZeroU16::new(proxy.port);
    let store = Sshd::store_of(at, "0123");
    let bytes = noise(LEN);
    for (number, after) in [3_000, 5_000_000, 20_000_000, 23_900_000].into_iter().enumerate() {
        let id = id(&format!("2024011{number}T010000Z"));
        store.backups().await.unwrap();
        let (cuts, sent) = (proxy.cuts(), proxy.sent());
        proxy.cut_up_after(after);
        put(&store, &id, &bytes).await.unwrap();
        assert_eq!(proxy.cuts(), cuts + 1, "up after {after}");
        let again = proxy.sent() - sent - LEN as u64;
        assert!(again < 8_000_000, "{again} bytes more than the file has");
        assert!(std::fs::read(sshd.path("the store/b").join(id.label.to_string()).join("x.dump")).unwrap() == bytes);

        proxy.cut_down_after(after);
        assert!(read(&store, &id).await.unwrap() == bytes, "down after {after}");
    }
    assert_eq!(proxy.cuts(), 8);
    assert_eq!(names(&sshd.path("the store/b")).len(), 4);
}

/// Wherever the connection breaks in a small backup: it is whole, and so is what is added to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_anywhere() {
    let sshd = Sshd::start();
    let proxy = Proxy::to(sshd.port).await;
    sshd.know(proxy.port);
    let mut at = sshd.written();
    at.port = std::num::NonZeroU16::new(proxy.port);
    let store = Sshd::store_of(at, "0123");
    let mut unknown = 0;
    for step in 0..40 {
        let id = id(&format!("20240115T0100{step:02}Z"));
        store.backups().await.unwrap();
        if step % 2 == 0 {
            proxy.cut_up_after(60 + step * 60);
        } else {
            proxy.cut_down_after(60 + step * 60);
        }
        match put(&store, &id, &noise(100)).await {
            Ok(()) => assert_eq!(read(&store, &id).await.unwrap(), noise(100), "step {step}"),
            // The one answer that cannot be asked for twice.
            Err(error) => {
                assert!(error.message.contains("cannot tell whether"), "step {step}: {error}");
                assert!(!store.labels("b").await.unwrap().contains(&id.label), "step {step}");
                unknown += 1;
                continue;
            }
        }
        store.backups().await.unwrap();
        if step % 2 == 0 {
            proxy.cut_up_after(60 + step * 60);
        } else {
            proxy.cut_down_after(60 + step * 60);
        }
        match store.add_document(&id, "pin-1.json", Bytes::from_static(b"{}")).await {
            Ok(added) => assert_eq!(added, Added::Done, "step {step}"),
            Err(error) => {
                assert!(error.message.contains("cannot tell whether"), "step {step}: {error}");
                unknown += 1;
            }
        }
    }
    assert!(proxy.cuts() > 40 && unknown < 20, "{} cuts, {unknown} in doubt", proxy.cuts());
    store.sweep("b").await.unwrap();
    let partials: Vec<_> = names(&sshd.path("the store/b")).into_iter().filter(|name| name.starts_with(PARTIAL)).collect();
    assert!(partials.iter().all(|name| !name.starts_with(".partial-2024")), "{partials:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_and_comes_back() {
    let mut sshd = Sshd::start();
    let store = sshd.store();
    let bytes = noise(12_000_000);
    let id = id("20240115T010000Z");
    let mut upload = store.begin(&id).await.unwrap();
    let mut file = upload.create("x.dump").await.unwrap();
    file.write(bytes.slice(..7_000_000)).await.unwrap();
    sshd.restart();
    file.write(bytes.slice(7_000_000..)).await.unwrap();
    file.finish().await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    assert!(read(&store, &id).await.unwrap() == bytes);

    // What the server had taken and is gone is not passed over.
    let id = self::id("20240116T010000Z");
    let mut upload = store.begin(&id).await.unwrap();
    let mut file = upload.create("x.dump").await.unwrap();
    file.write(bytes.slice(..9_000_000)).await.unwrap();
    sshd.kill();
    let partial = sshd.path("the store/b/.partial-20240116T010000Z-0123/x.dump");
    std::fs::File::options().write(true).open(partial).unwrap().set_len(1_000_000).unwrap();
    sshd.restart();
    let error = match file.write(bytes.slice(9_000_000..)).await {
        Ok(()) => file.finish().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.message.contains("has lost what it had taken"), "{error}");
    upload.discard().await;
    assert_eq!(store.labels("b").await.unwrap(), [self::id("20240115T010000Z").label]);
}

#[tokio::test]
async fn only_the_host_that_is_meant_is_spoken_to() {
    let sshd = Sshd::start();
    // Known by no line; a usual file that is not there is as good as an empty one.
    std::fs::write(sshd.path("known_hosts"), "").unwrap();
    let error = sshd.store().backups().await.unwrap_err();
    assert!(error.message.contains(&format!("the host key of [127.0.0.1]:{} is not known: ssh-ed25519 SHA256:", sshd.port)), "{error}");
    assert_eq!(error.kind, Kind::Refused);
    let hint = error.hint.unwrap();
    let command = hint.split("then: ").nth(1).unwrap().to_owned();
    assert_eq!(command, format!("ssh-keyscan -t ed25519 -p {} 127.0.0.1 >> {}", sshd.port, sshd.path("known_hosts").display()));
    // The hint is the way out.
    shell(&command);
    assert!(sshd.store().backups().await.unwrap().is_empty());

    make_key(&sshd.path("other"), &["-t", "ed25519"]);
    let other = std::fs::read_to_string(sshd.path("other.pub")).unwrap();
    std::fs::write(sshd.path("known_hosts"), format!("[127.0.0.1]:{} {other}", sshd.port)).unwrap();
    let error = sshd.store().backups().await.unwrap_err();
    assert!(error.message.contains("known_hosts:1") && error.hint.unwrap().contains("ssh-keygen -R"), "{}", error.message);

    let own = std::fs::read_to_string(sshd.path("host_key.pub")).unwrap();
    std::fs::write(sshd.path("known_hosts"), format!("* {own}@revoked * {own}")).unwrap();
    assert!(sshd.store().backups().await.unwrap_err().message.contains("is revoked by"));

    std::fs::remove_file(sshd.path("known_hosts")).unwrap();
    let error = sshd.store().backups().await.unwrap_err();
    assert!(error.message.contains("cannot read") && error.hint.unwrap().contains("ssh-keyscan"), "{}", error.message);
}

/// A host that has keys of several kinds shows the one that is known.
#[tokio::test]
async fn the_kind_of_key_that_is_known_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["ecdsa", "rsa"] {
        make_key(&dir.path().join(kind), &["-t", kind]);
    }
    let at = dir.path().display();
    let sshd = Sshd::with(&format!("HostKey {at}/ecdsa\nHostKey {at}/rsa\n"));
    for kind in ["ecdsa", "rsa"] {
        let key = std::fs::read_to_string(dir.path().join(format!("{kind}.pub"))).unwrap();
        std::fs::write(sshd.path("known_hosts"), format!("[127.0.0.1]:{} {key}", sshd.port)).unwrap();
        assert!(sshd.store().backups().await.unwrap().is_empty(), "{kind}");
        // Also where only the hash of the name stands there.
        shell(&format!("ssh-keygen -q -H -f {} 2>/dev/null", sshd.path("known_hosts").display()));
        assert!(sshd.store().backups().await.unwrap().is_empty(), "{kind}, hashed");
    }
}

#[tokio::test]
async fn keys_of_every_kind_and_those_that_do_not_fit() {
    let sshd = Sshd::start();
    for (kind, more) in [("ed25519", &[][..]), ("ecdsa", &["-b", "521"]), ("rsa", &["-b", "2048"]), ("rsa-pem", &["-m", "PEM"])] {
        let path = sshd.path(kind);
        make_key(&path, &[&["-t", kind.trim_end_matches("-pem")], more].concat());
        let mut at = sshd.written();
        at.identity = Some(path);
        let error = Sshd::store_of(at.clone(), "0123").backups().await.unwrap_err();
        assert!(error.message.contains(" lets ") && error.message.contains(&format!("{kind})")), "{kind}: {error}");
        shell(&format!("cat {0}/{kind}.pub >> {0}/authorized_keys", sshd.dir.path().display()));
        let store = Sshd::store_of(at, "0123");
        assert!(store.backups().await.unwrap().is_empty(), "{kind}");
    }
    let failing = |identity: &str| {
        let mut at = sshd.written();
        at.identity = Some(sshd.path(identity));
        let store = Sshd::store_of(at, "0123");
        async move { store.backups().await.unwrap_err() }
    };
    shell(&format!("ssh-keygen -q -t ed25519 -N secret -f {}", sshd.path("locked").display()));
    let error = failing("locked").await;
    assert!(error.message.contains("passphrase") && error.hint.unwrap().contains("ssh-add"), "{}", error.message);
    assert!(failing("key.pub").await.message.contains("no private key"));
    assert!(failing("nosuch").await.message.contains("no such file"));
}

#[tokio::test]
async fn the_way_to_the_host_is_named_when_it_is_broken() {
    let mut sshd = Sshd::with("Subsystem none /bin/false\n");
    let error = sshd.store().backups().await.unwrap_err();
    assert!(error.message.contains("sftp does not begin") && error.hint.unwrap().contains("internal-sftp"), "{}", error.message);
    sshd.kill();
    let error = sshd.store().backups().await.unwrap_err();
    assert!(
        error.message.contains("connection refused") && error.hint.unwrap().contains(&format!("port {}", sshd.port)),
        "{}",
        error.message
    );
    let mut at = sshd.written();
    at.host = "nosuch.invalid".to_owned();
    assert!(Sshd::store_of(at, "0123").backups().await.unwrap_err().message.contains("no such host"));
}

#[tokio::test]
async fn an_agent_lends_its_keys() {
    let sshd = Sshd::start();
    let mut at = sshd.written();
    let own = at.identity.take().unwrap();
    let place = SshPlace { at };
    let error = SshStore::with_agent(&place, "0123".to_owned(), None).backups().await.unwrap_err();
    assert!(error.message.contains("neither identity nor SSH_AUTH_SOCK"), "{error}");

    let socket = sshd.path("agent");
    let store = SshStore::with_agent(&place, "0123".to_owned(), Some(socket.clone()));
    assert!(store.backups().await.unwrap_err().message.contains("the ssh agent"));
    let agent = Agent::start(&socket);
    assert!(store.backups().await.unwrap_err().message.contains("it holds no key"));
    // The one that fits is tried after one that does not, be that one of RSA.
    make_key(&sshd.path("other"), &["-t", "rsa"]);
    agent.add(&sshd.path("other"));
    let error = store.backups().await.unwrap_err();
    assert!(error.message.contains("not in with ssh-rsa SHA256:"), "{error}");
    agent.add(&own);
    assert!(store.backups().await.unwrap().is_empty());
    agent.add(&own);
    shell(&format!("cat {0}/other.pub > {0}/authorized_keys", sshd.dir.path().display()));
    assert!(SshStore::with_agent(&place, "0123".to_owned(), Some(socket)).backups().await.unwrap().is_empty(), "by RSA");
}

/// SIGKILL in the middle of an upload: nothing shows, and the next run takes away what is ours.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the writer that is killed is this very test in another process")]
async fn what_a_killed_writer_left_is_swept() {
    const PLACE: &str = "PGVIGIL_TEST_SSH_WRITER";
    let id = id("20240115T010000Z");
    if let Ok(place) = std::env::var(PLACE) {
        let at: file::Ssh = toml::from_str(&place).unwrap();
        let store = SshStore::new(&SshPlace { at }, "0123".to_owned());
        let mut upload = store.begin(&id).await.unwrap();
        let mut file = upload.create("x.dump").await.unwrap();
        loop {
            file.write(noise(1_000_000)).await.unwrap();
        }
    }
    let sshd = Sshd::start();
    let place = format!(
        "host = '127.0.0.1'\nport = {}\nuser = '{}'\npath = '{}'\nidentity = '{}'\nknown_hosts = '{}'\n",
        sshd.port,
        sshd.user,
        sshd.path("the store").display(),
        sshd.path("key").display(),
        sshd.path("known_hosts").display(),
    );
    let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::ssh::tests::what_a_killed_writer_left_is_swept"])
        .env(PLACE, place)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let partial = sshd.path("the store/b/.partial-20240115T010000Z-0123/x.dump");
    while std::fs::metadata(&partial).map_or(0, |meta| meta.len()) < 3_000_000 {
        assert_eq!(writer.try_wait().unwrap(), None, "it ended before its time");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    writer.kill().unwrap();
    writer.wait().unwrap();

    let (ours, theirs) = (sshd.store(), Sshd::store_of(sshd.written(), "4567"));
    assert!(ours.labels("b").await.unwrap().is_empty());
    assert_eq!(ours.taken("b").await.unwrap(), [id.label]);
    std::fs::write(sshd.path("the store/b/.partial-notes"), "a user's").unwrap();
    std::os::unix::fs::symlink("nowhere", sshd.path("the store/b/.partial-latest-0123")).unwrap();
    // A document under way is left alone, one that has been for hours is not.
    for (name, age) in [("pin.0a-0123", "now"), ("pin.0b-0123", "2 hours ago"), ("pin.0c-4567", "2 hours ago")] {
        shell(&format!("touch -d '{age}' '{}/.partial-{name}'", sshd.path("the store/b").display()));
    }
    assert_eq!(theirs.sweep("b").await.unwrap(), 1, "its own document");
    assert_eq!(ours.sweep("b").await.unwrap(), 3);
    assert_eq!(names(&sshd.path("the store/b")), [".partial-notes", ".partial-pin.0a-0123"]);

    // What is there of another is cleared by whoever holds the slot.
    std::mem::forget(theirs.begin(&id).await.unwrap());
    put(&ours, &id, &noise(10)).await.unwrap();
    ours.clear(&id).await.unwrap();
    assert_eq!(names(&sshd.path("the store/b")), [".partial-notes", ".partial-pin.0a-0123", "20240115T010000Z"]);
}

/// A removal that was broken off does not keep the next one from its work.
#[tokio::test]
async fn a_removal_goes_on_where_one_has_stopped() {
    let sshd = Sshd::start();
    let (store, id) = (sshd.store(), id("20240115T010000Z"));
    put(&store, &id, &noise(10)).await.unwrap();
    let left = sshd.path("the store/b/.partial-20240115T010000Z-0123");
    std::fs::create_dir_all(left.join("a folder/in it")).unwrap();
    std::fs::write(left.join("manifest.json"), "{}").unwrap();
    store.remove(&id).await.unwrap();
    assert!(names(&sshd.path("the store/b")).is_empty());
}

/// The files of a directory archive come one by one, with the folder in their names.
#[tokio::test]
async fn a_file_brings_its_folder_along() {
    let sshd = Sshd::start();
    let (store, id) = (sshd.store(), id("20240115T010000Z"));
    let mut upload = store.begin(&id).await.unwrap();
    for number in 0..20 {
        let mut file = upload.create(&format!("a db/{number}.dat")).await.unwrap();
        file.write(noise(number * 20_000)).await.unwrap();
        file.finish().await.unwrap();
    }
    let mut bytes = Vec::new();
    upload.read("a db/7.dat").await.unwrap().read_to_end(&mut bytes).await.unwrap();
    assert!(bytes == noise(140_000));
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    for number in 0..20 {
        let there = sshd.path("the store/b/20240115T010000Z/a db").join(format!("{number}.dat"));
        assert!(std::fs::read(there).unwrap() == noise(number * 20_000), "{number}");
    }
    store.remove(&id).await.unwrap();
    assert!(names(&sshd.path("the store/b")).is_empty());
}

/// A small disk of its own, for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        shell(&format!("mount -t tmpfs -o {options} tmpfs '{}'", at.display()));
        Disk(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        shell(&format!("umount -l '{}'", self.0.display()));
    }
}

#[tokio::test]
async fn a_disk_that_is_full_or_read_only_is_called_so() {
    let sshd = Sshd::start();
    let disk = Disk::mount(sshd.path("the store"), "size=8m,mode=700");
    let (store, id) = (sshd.store(), id("20240115T010000Z"));
    let available = store.try_out().await.unwrap().unwrap();
    assert!((7_000_000..=8_400_000).contains(&available), "{available}");
    put(&store, &self::id("20240114T010000Z"), &noise(2_000_000)).await.unwrap();
    let usage = store.usage().await.unwrap().unwrap();
    assert_eq!(usage.total, 8 * 1024 * 1024);
    assert!((20..=30).contains(&usage.percent()), "{usage:?}");

    let error = put(&store, &id, &noise(20_000_000)).await.unwrap_err();
    assert!(error.message.contains("the disk there is full") && error.hint.as_ref().unwrap().contains("free space"), "{error}");
    assert_eq!(store.labels("b").await.unwrap().len(), 1);
    // What was dropped goes by itself.
    while names(&sshd.path("the store/b")).len() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    shell(&format!("mount -o remount,ro '{}'", disk.0.display()));
    for error in [put(&store, &id, &noise(10)).await.unwrap_err(), store.try_out().await.unwrap_err()] {
        assert!(error.message.contains("the file system there is read-only"), "{error}");
    }
    assert_eq!(read(&store, &self::id("20240114T010000Z")).await.unwrap(), noise(2_000_000));
}

/// The recommended account: no shell, only sftp, and of the host nothing but its folder.
#[tokio::test]
async fn an_account_that_sees_only_its_folder() {
    let sshd = Sshd::for_account("nobody", |dir| format!("{}X11Forwarding no\n", chroot(dir)));
    std::fs::create_dir(sshd.path("backups")).unwrap();
    let mut at = sshd.written();
    at.path = PathBuf::from("/backups/of pgvigil");
    let store = Sshd::store_of(at.clone(), "0123");
    let error = store.try_out().await.unwrap_err();
    assert!(error.message.contains("permission denied") && error.hint.unwrap().contains("chown"), "{}", error.message);
    shell(&format!("chown nobody '{}'", sshd.path("backups").display()));
    assert!(store.try_out().await.unwrap().unwrap() > 0);
    assert!(names(&sshd.path("backups/of pgvigil")).is_empty());
    contract(&store).await;
    // Relative to where the account begins.
    at.path = PathBuf::from("backups/another");
    contract_of_objects(&Sshd::store_of(at, "0123")).await;
    assert_eq!(names(&sshd.path("backups")), ["another", "of pgvigil"]);
}

/// What docs/stores-ssh.md says of a host that forbids deletion.
#[tokio::test]
async fn a_host_that_takes_finished_backups_away_from_the_account() {
    let sshd = Sshd::for_account("nobody", chroot);
    std::fs::create_dir(sshd.path("backups")).unwrap();
    shell(&format!("chown nobody '{}'", sshd.path("backups").display()));
    let docs = include_str!("../../../docs/stores-ssh.md");
    let script = docs.split("```sh\n#!/bin/sh\n").nth(1).unwrap().split("```").next().unwrap();
    let there = format!("'{}'", sshd.path("backups").display());
    let script =
        script.replace("/srv/pgvigil/backups", &there).replace("root:pgvigil", "root:nogroup").replace("-user pgvigil", "-user nobody");
    let mut at = sshd.written();
    at.path = PathBuf::from("/backups");
    let (store, first, second) = (Sshd::store_of(at, "0123"), id("20240115T010000Z"), id("20240116T010000Z"));
    put(&store, &first, &noise(1_000)).await.unwrap();
    // Under way while the job comes by.
    let mut upload = store.begin(&second).await.unwrap();
    shell(&script);
    shell(&script);
    assert_eq!(read(&store, &first).await.unwrap(), noise(1_000));
    store.add_document(&first, "proof-1.json", Bytes::from_static(b"{}")).await.unwrap();
    upload.create("x.dump").await.unwrap().finish().await.unwrap();
    upload.commit(Bytes::from_static(b"{}")).await.unwrap();
    store.point_latest("b", Some(second.label)).await.unwrap();
    let error = store.remove(&first).await.unwrap_err();
    assert!(error.message.contains("permission denied"), "{error}");
    assert!(store.delete("b/20240115T010000Z/manifest.json").await.unwrap_err().message.contains("permission denied"));
    assert_eq!(store.labels("b").await.unwrap(), [first.label, second.label]);
    // Over what is there it cannot write either.
    let target = "/backups/b/20240115T010000Z/x.dump".to_owned();
    assert!(SshFile::create(store.link.clone(), target).await.is_err());
    assert!(store.link.ask(|session, _| async move { session.replace("/backups/b/20240116T010000Z/x.dump", "/backups/b/20240115T010000Z/x.dump").await }).await.unwrap().is_err());
    // What the job has not seen yet is still its own.
    store.remove(&second).await.unwrap();
    assert_eq!(store.documents(&first).await.unwrap().len(), 2);
}

fn chroot(dir: &std::path::Path) -> String {
    format!("Match User nobody\nChrootDirectory {}\nForceCommand internal-sftp\nAllowTcpForwarding no\n", dir.display())
}

/// An object that is not there is another thing than a store that is not.
#[tokio::test]
async fn nothing_is_no_answer() {
    let sshd = Sshd::start();
    let store = sshd.store();
    assert!(store.get("b/wal/1/01").await.unwrap_err().message.contains("no such folder"));
    store.put("b/wal/1/02", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(store.get("b/wal/1/01").await.unwrap(), None);
}
