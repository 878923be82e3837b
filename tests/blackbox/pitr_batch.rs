//! Under load a push also takes what waits behind the segment that it is asked for.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::run;
use crate::offsite::{Sshd, bucket, s3};
use crate::pitr_site::Site;
use crate::support::{self, until};

/// A cluster whose log waits in `pg_wal`: so many whole segments.
fn waiting(count: usize) -> (Site, PathBuf, Vec<String>) {
    let site = Site::archiving(15, "");
    site.sql("create table t (n int)");
    site.switch();
    let log = Path::new(&site.sql("show data_directory")).join("pg_wal");
    site.archive_nothing();
    for n in 0..count {
        site.sql(&format!("insert into t values ({n})"));
        site.sql("select pg_switch_wal()");
    }
    let names = ready(&log);
    assert_eq!(names.len(), count, "{names:?}");
    (site, log, names)
}

/// What the server has yet to archive, in the order of the log.
fn ready(log: &Path) -> Vec<String> {
    let marks = std::fs::read_dir(log.join("archive_status")).unwrap();
    let mut names: Vec<String> =
        marks.filter_map(|mark| mark.unwrap().file_name().to_str().unwrap().strip_suffix(".ready").map(str::to_owned)).collect();
    names.sort();
    names
}

fn push(site: &Site, path: &Path) -> Output {
    let mut command = support::postgres_command(env!("CARGO_BIN_EXE_pgvigil").as_ref());
    run(command.arg("--config").arg(site.world.path("wal.toml")).args(["wal", "push"]).arg(path))
}

#[track_caller]
fn pushed(site: &Site, path: &Path) {
    let output = push(site, path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[track_caller]
fn refused(site: &Site, path: &Path, why: &str) {
    let output = push(site, path);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains(why), "{output:?}");
}

fn in_store(site: &Site, names: &[String]) -> Vec<String> {
    site.archived().iter().map(|name| name.strip_suffix(".zst").unwrap().to_owned()).filter(|name| names.contains(name)).collect()
}

/// The notes of all backups.
fn notes(log: &Path) -> Vec<PathBuf> {
    let of = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    of(&log.join("pgvigil-pushed")).iter().flat_map(|backup| of(backup)).collect()
}

/// Changes the file that pushes read.
fn configure(site: &Site, from: &str, to: &str) {
    let path = site.world.path("wal.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// Another folder for a store.
fn folder(site: &Site, name: &str) -> PathBuf {
    let dir = site.world.path(name);
    std::fs::create_dir(&dir).unwrap();
    support::own(&dir);
    dir
}

#[test]
fn a_push_takes_what_waits_behind_it() {
    let (site, log, names) = waiting(11);
    pushed(&site, &log.join(&names[0]));
    assert_eq!(in_store(&site, &names), names[..8]);
    for name in &names[..8] {
        assert!(site.unpacked(&format!("{name}.zst")) == std::fs::read(log.join(name)).unwrap(), "{name}");
    }
    // What was taken along is done when it is asked for, whatever has become of the store since; and that is told once.
    let away = site.world.path("away");
    std::fs::rename(site.world.store(), &away).unwrap();
    pushed(&site, &log.join(&names[1]));
    refused(&site, &log.join(&names[1]), "store local");
    std::fs::rename(&away, site.world.store()).unwrap();
    // The server goes on as if nothing had happened, and asks for each.
    site.archive_again();
    until("all is archived", || ready(&log).is_empty());
    assert_eq!(in_store(&site, &names), names);
    assert_eq!(notes(&log), [] as [PathBuf; 0], "every note was used up");
}

#[test]
fn a_note_is_of_one_file_and_these_stores() {
    let (site, log, names) = waiting(5);
    pushed(&site, &log.join(&names[0]));
    // Other bytes under the same name are another file.
    let path = log.join(&names[1]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9_000_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    refused(&site, &path, "is in the archive already, with other bytes");
    bytes[9_000_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    pushed(&site, &path);
    // A store that the file names now has nothing of it yet.
    let has = |store: &Path, name: &str| store.join(format!("cluster/wal/00000001/{name}.zst")).exists();
    let second = folder(&site, "second");
    let section = format!("[stores.second]\npath = \"{}\"\n[backups.cluster]\nstores = [\"local\", \"second\"]\n", second.display());
    configure(&site, "[backups.cluster]\n", &section);
    pushed(&site, &log.join(&names[2]));
    assert!(has(&second, &names[2]) && !notes(&log).is_empty());
    // Nor has one of the same name in another place.
    let third = folder(&site, "third");
    configure(&site, &second.display().to_string(), &third.display().to_string());
    pushed(&site, &log.join(&names[3]));
    assert!(has(&third, &names[3]));
    // Half a note is none.
    for note in notes(&log) {
        std::fs::write(note, "{\"name\":").unwrap();
    }
    std::fs::rename(&third, site.world.path("away")).unwrap();
    std::fs::write(&third, "").unwrap();
    refused(&site, &log.join(&names[4]), "store second");
}

#[test]
fn where_no_note_can_be_left_nothing_is_taken_along() {
    let (site, log, names) = waiting(3);
    std::fs::write(log.join("pgvigil-pushed"), "").unwrap();
    let output = push(&site, &log.join(&names[0]));
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("what waits behind is not pushed along"), "{output:?}");
    assert_eq!(in_store(&site, &names), names[..1]);
    pushed(&site, &log.join(&names[1]));
}

#[test]
fn log_that_does_not_pack_comes_back_from_a_bucket_and_another_host() {
    let site = Site::archiving(15, "");
    site.switch();
    let name = site.archived()[0].strip_suffix(".zst").unwrap().to_owned();
    let mut raw = site.unpacked(&format!("{name}.zst"));
    let mut state = 88_172_645_463_325_252_u64;
    for word in raw[64..].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let (from, back) = (site.world.path("restored").join(&name), site.world.path("restored/back"));
    std::fs::write(&from, &raw).unwrap();
    let sshd = Sshd::start();
    let sections = format!("{}{}", bucket("bucket", &s3(), &crate::common::unique("wal"), "admin"), sshd.section("host"));
    configure(&site, "[backups.cluster]\n", &format!("{sections}[backups.cluster]\nstores = [\"bucket\", \"host\"]\n"));
    let config = site.world.path("wal.toml");
    let wal = |args: &[&str]| site.pgvigil(&[&["--config", config.to_str().unwrap(), "wal"], args].concat());
    // The second time it is held against what is there.
    for _ in 0..2 {
        wal(&["push", from.to_str().unwrap()]).expect(0);
    }
    let stored = std::fs::metadata(sshd.folder().join(format!("cluster/wal/00000001/{name}.zst"))).unwrap().len();
    assert!(stored > 16 << 20, "{stored}");
    for store in ["bucket", "host"] {
        wal(&["fetch", &name, back.to_str().unwrap(), "--store", store]).expect(0);
        assert!(std::fs::read(&back).unwrap() == raw, "{store}");
        std::fs::remove_file(&back).unwrap();
    }
}

#[test]
fn nothing_goes_past_one_that_fails() {
    let (site, log, names) = waiting(5);
    // Another one has the name of the third.
    let folder = site.world.store().join("cluster/wal/00000001");
    let forged = folder.join(format!("{}.zst", names[2]));
    std::fs::copy(folder.join(&site.archived()[0]), &forged).unwrap();
    support::own(&forged);
    pushed(&site, &log.join(&names[0]));
    assert_eq!(in_store(&site, &names), names[..3], "the log is there in its order, and no further");
    pushed(&site, &log.join(&names[1]));
    refused(&site, &log.join(&names[2]), "by its header");
    assert_eq!(in_store(&site, &names), names[..3]);
    std::fs::remove_file(&forged).unwrap();
    pushed(&site, &log.join(&names[2]));
    assert_eq!(in_store(&site, &names), names);
}
