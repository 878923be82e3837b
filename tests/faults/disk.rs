//! The disk is full, fails, is read-only or not ours; and the power goes.

use std::path::Path;
use std::process::Command;

use nix::errno::Errno;

use crate::common::{Database, Ran, Server, World};
use crate::inject::{CHANGES, Deed, calls_of, inject};
use crate::judge::{BACKUP, Case, End, FEW_ROWS, assert_sound, is_label, judge};
use crate::killed::MIDDLE;
use crate::tools::{Chance, Mounted, chmod, long, must, scale};

fn few_rows() -> Database {
    let database = Database::empty(Server::Pg15);
    database.sql(FEW_ROWS);
    database
}

/// A failure of the store says where, and what to do.
#[track_caller]
fn assert_tells(ran: &Ran, path: &Path) {
    let told = ran.code == Some(1) && ran.stderr.contains("HINT:") && ran.stderr.contains(path.to_str().unwrap());
    assert!(told, "no hint, or no path: {ran:#?}");
}

/// Each kind of call on the store fails at several places of a run, and once from a place on.
fn errors(backup: &str, calls: &[(&str, Errno)]) {
    let mut chance = Chance::new();
    let mut case = Case::in_world(World::new(), few_rows(), backup);
    let log = case.world.path("calls");
    let mut faults = Vec::new();
    for (call, errno) in calls {
        let all = calls_of(&mut case.run_command(), &case.world.store(), call, &log).len();
        case.settle();
        for at in chance.spread(scale(2, usize::MAX), all) {
            let deeds = [Deed::Fail(*errno as i32), Deed::FailOn(*errno as i32)];
            let first = if long() { 0 } else { chance.below(2) };
            for deed in deeds.into_iter().skip(first).take(scale(1, 2)) {
                let mut run = case.run_command();
                inject(&mut run, &case.world.store(), call, at, deed);
                let _ = std::fs::remove_file(&log);
                run.env("INJECT_LOG", &log);
                let before = case.labels();
                let ran = case.start(run).end();
                let what = format!("{call} {at} of {all} fails with {errno} ({deed:?})");
                let calls = std::fs::read_to_string(&log).unwrap();
                let Some(path) = calls.lines().nth(at - 1).and_then(|line| line.splitn(3, ' ').nth(2)) else {
                    // A run with a call less than the one that was counted.
                    assert_eq!(ran.code, Some(0), "{what}: {ran:#?}");
                    case.settle();
                    continue;
                };
                let stored = case.labels().iter().any(|label| !before.contains(label));
                // What was stored before the failure: its proof, or only its reading back.
                let after = path.contains(".partial-proof")
                    || Path::new(path).components().any(|part| is_label(&part.as_os_str().to_string_lossy()));
                // Only a convenience, or only asked for the progress.
                let harmless = path.contains("latest") || matches!(*call, "open" | "read" | "unlink");
                let end = match ran.code {
                    // 3: stored and proven, but retention could not look.
                    Some(0 | 3) => End::Done,
                    _ if stored => End::FailedStored,
                    // What cannot be removed either waits for the next run.
                    _ if deed == Deed::FailOn(*errno as i32) => End::FailedOutOfReach,
                    _ => End::Failed,
                };
                if (ran.code == Some(0) && !harmless) || (stored && end == End::FailedStored && !after) {
                    faults.push(format!("{what} at {path}: stored: {stored}: {ran:#?}"));
                }
                if ran.code != Some(0)
                    && !(matches!(ran.code, Some(1 | 3))
                        && ran.stderr.contains("HINT:")
                        && ran.stderr.contains(case.world.store().to_str().unwrap()))
                {
                    faults.push(format!("{what} at {path}: no hint, or no path: {ran:#?}"));
                }
                faults.extend(judge(&mut case, end).into_iter().map(|fault| format!("{what} at {path}: {fault}")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn writes_fail() {
    errors("", &[("write", Errno::ENOSPC), ("write", Errno::EIO), ("create", Errno::ENOSPC)]);
}

#[test]
fn making_durable_fails() {
    errors("", &[("fsync", Errno::EIO), ("fsync", Errno::ENOSPC)]);
}

#[test]
fn making_folders_and_names_fails() {
    errors("", &[("mkdir", Errno::ENOSPC), ("rename", Errno::EIO), ("symlink", Errno::EPERM)]);
}

#[test]
fn reading_fails() {
    errors("", &[("open", Errno::EIO), ("read", Errno::EIO), ("open", Errno::EMFILE)]);
}

#[test]
fn a_directory_fails() {
    errors("format = \"directory\"", &[("fsync", Errno::EIO), ("open", Errno::EIO), ("read", Errno::EIO), ("chmod", Errno::EPERM)]);
}

/// The name shows, and the folder that holds it cannot be made durable: not a success, and the
/// name goes again.
#[test]
fn the_folder_of_the_names_cannot_be_made_durable() {
    let mut case = Case::in_world(World::new(), few_rows(), "");
    let calls = calls_of(&mut case.run_command(), &case.world.store(), "fsync,rename", &case.world.path("calls"));
    case.settle();
    let renamed = calls.iter().position(|call| call.name == "rename" && call.path.to_str().unwrap().contains(".partial-2")).unwrap();
    let at = renamed + 1 + calls[renamed..].iter().position(|call| call.name == "fsync").unwrap();
    assert_eq!(calls[at - 1].path, case.folder().canonicalize().unwrap());
    let mut run = case.run_command();
    inject(&mut run, &case.world.store(), "fsync,rename", at, Deed::Fail(Errno::EIO as i32));
    let ran = case.start(run).end();
    assert_tells(&ran, &case.folder());
    assert_sound(&mut case, End::Failed);
}

/// What is on record cannot be written: what was stored is whole all the same, and the next run goes on.
/// Without the record of what retention obeys nothing is deleted, and that is told.
#[test]
fn the_state_fails() {
    let mut chance = Chance::new();
    let mut case = Case::in_world(World::new(), few_rows(), "");
    let (state, log) = (case.world.path("state"), case.world.path("calls"));
    for (call, errno) in
        [("write", Errno::ENOSPC), ("fsync", Errno::EIO), ("create", Errno::ENOSPC), ("unlink", Errno::EIO), ("open", Errno::EIO)]
    {
        let all = calls_of(&mut case.run_command(), &state, call, &log).len();
        case.settle();
        for at in chance.spread(scale(2, usize::MAX), all) {
            let deeds = [Deed::Fail(errno as i32), Deed::FailOn(errno as i32)];
            let first = if long() { 0 } else { chance.below(2) };
            for deed in deeds.into_iter().skip(first).take(scale(1, 2)) {
                let mut run = case.run_command();
                inject(&mut run, &state, call, at, deed);
                let ran = case.start(run).end();
                let is_told = match ran.code {
                    Some(0) => true,
                    Some(3) => ran.stderr.contains("retention: the alerts in state_dir"),
                    code => code == Some(1) && ran.stderr.contains("HINT:"),
                };
                assert!(is_told, "{call} {at} {errno}: {ran:#?}");
                assert_sound(&mut case, if ran.code == Some(1) { End::FailedState } else { End::Done });
            }
        }
    }
}

/// Rows of more room than there is, so that it cannot be foreseen by the backup before.
const MUCH: &str = "create table much as select md5(g::text) from generate_series(1, 400000) g";

/// A file system of so little room that the dump does not fit.
#[test]
fn the_disk_is_full() {
    for backup in
        ["compression = \"none\"", "format = \"custom\"\ncompression = \"none\"", "format = \"directory\"\ncompression = \"none\""]
    {
        let world = World::new();
        // Also another file system than the one of temporary files.
        let store = Mounted::tmpfs(&world.store(), "200m");
        let mut case = Case::in_world(world, Database::sample(Server::Pg15), backup);
        let used = must(Command::new("du").args(["-sm"]).arg(&store.path));
        let used: u32 = used.split_whitespace().next().unwrap().parse().unwrap();
        store.remount(&format!("size={}m", used + 2));
        let ran = case.run();
        assert_tells(&ran, &case.world.store());
        assert!(ran.stderr.contains("would not fit"), "{ran:#?}");
        store.remount("size=200m");
        assert_sound(&mut case, End::Failed);

        case.target.sql(MUCH);
        let used = must(Command::new("du").args(["-sm"]).arg(&store.path));
        let used: u32 = used.split_whitespace().next().unwrap().parse().unwrap();
        store.remount(&format!("size={}m", used + 10));
        let ran = case.run();
        store.remount("size=200m");
        assert_tells(&ran, &case.world.store());
        assert!(ran.stderr.contains("the disk is full"), "{ran:#?}");
        assert_sound(&mut case, End::Failed);
    }
}

/// On ext4 what is written may find no room as late as at the fsync.
#[test]
fn a_disk_with_blocks_is_full() {
    let world = World::new();
    let store = Mounted::ext4(&world.store(), 90);
    let mut case = Case::in_world(world, Database::sample(Server::Pg15), "compression = \"none\"");
    case.target.sql(MUCH);
    let ballast = store.path.join("ballast");
    case.others.push("ballast".to_owned());
    let room = must(Command::new("df").args(["--output=avail", "-k"]).arg(&store.path));
    let room: u32 = room.lines().last().unwrap().trim().parse().unwrap();
    must(Command::new("fallocate").args(["-l", &format!("{}k", room - 10_000)]).arg(&ballast));
    let ran = case.run();
    assert_tells(&ran, &case.world.store());
    std::fs::remove_file(ballast).unwrap();
    assert_sound(&mut case, End::Failed);
}

#[test]
fn a_limit_on_the_size_of_files() {
    for backup in ["compression = \"none\"", "format = \"directory\"\ncompression = \"none\""] {
        let mut case = Case::in_world(World::new(), Database::sample(Server::Pg15), backup);
        let run = case.run_command();
        let mut limited = Command::new("bash");
        limited.args(["-c", "ulimit -f 1000 && exec \"$@\"", "bash"]).arg(run.get_program()).args(run.get_args());
        for (name, value) in run.get_envs() {
            limited.env(name, value.unwrap());
        }
        let ran = case.start(limited).end();
        assert_tells(&ran, &case.world.store());
        assert_sound(&mut case, End::Failed);
    }
}

/// The kernel finds an error of the disk in the middle of a dump.
#[test]
fn the_disk_becomes_read_only() {
    for backup in ["", "format = \"directory\""] {
        let world = World::new();
        let store = Mounted::ext4(&world.store(), 40);
        let mut case = Case::in_world(world, Database::sample(Server::Pg15), backup);
        let live = case.begin_to(MIDDLE);
        store.find_error();
        case.gate().open();
        let ran = live.end();
        assert_tells(&ran, &case.world.store());
        // It stays so.
        let ran = case.run();
        assert_tells(&ran, &case.world.store());
        store.again();
        let rows = case.history();
        assert!(rows[0]["outcome"] == "failed" && rows[1]["outcome"] == "failed", "{rows:#?}");
        assert_eq!(case.labels().len(), 1);
        case.run().expect(0);
        case.settle();
        store.remount("ro");
        let ran = case.run();
        store.remount("rw");
        assert_tells(&ran, &case.world.store());
        assert_sound(&mut case, End::Failed);
    }
}

/// pgvigil goes on as the owner of state_dir, and the store is somebody else's.
#[test]
fn the_store_is_not_ours() {
    let mut case = Case::in_world(World::new(), few_rows(), "");
    for mode in [0o700, 0o755] {
        chmod(&case.world.path(""), 0o755);
        chmod(&case.world.store(), mode);
        chmod(&case.folder(), mode);
        must(Command::new("chown").args(["-R", "postgres:"]).arg(case.world.path("state")));
        let ran = case.run();
        must(Command::new("chown").args(["-R", "root:"]).arg(case.world.path("state")));
        assert_tells(&ran, &case.world.store());
        assert_sound(&mut case, End::Failed);
    }
}

#[test]
fn the_state_is_not_ours() {
    let mut case = Case::in_world(World::new(), few_rows(), "");
    chmod(&case.world.path(""), 0o755);
    let as_postgres = |case: &Case| {
        let run = case.run_command();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(run.get_program()).args(run.get_args());
        other.current_dir(case.world.path(""));
        for (name, value) in run.get_envs() {
            other.env(name, value.unwrap());
        }
        case.start(other).end()
    };
    for mode in [0o700, 0o755] {
        chmod(&case.world.path("state"), mode);
        chmod(&case.world.path("state/locks"), mode);
        let ran = as_postgres(&case);
        assert_tells(&ran, &case.world.path("state"));
        assert_sound(&mut case, End::FailedState);
    }
    // A state_dir that cannot be one.
    let kept = case.world.path("kept");
    std::fs::rename(case.world.path("state"), &kept).unwrap();
    std::fs::write(case.world.path("state"), "a file").unwrap();
    let ran = case.run();
    std::fs::remove_file(case.world.path("state")).unwrap();
    std::fs::rename(&kept, case.world.path("state")).unwrap();
    assert_tells(&ran, &case.world.path("state"));
    assert_sound(&mut case, End::FailedState);
}

/// The power goes at each call that changes the store, and right after a success: what pgvigil
/// called durable is there, and whole.
#[test]
fn power_cuts() {
    let mut chance = Chance::new();
    let world = World::new();
    let store = Mounted::ext4(&world.store(), 60);
    let mut case = Case::in_world(world, few_rows(), "");
    let all = calls_of(&mut case.run_command(), &store.path, CHANGES, &case.world.path("calls")).len();
    case.settle();
    for at in chance.spread(scale(8, usize::MAX), all) {
        // What the test itself removed is gone for good.
        must(Command::new("sync").arg("--file-system").arg(&store.path));
        let mut run = case.run_command();
        inject(&mut run, &store.path, CHANGES, at, Deed::Cut);
        let ran = case.start(run).end();
        assert!(ran.code.is_none() && ran.stderr.is_empty(), "cut at call {at} of {all}: {ran:#?}");
        store.again();
        let found = judge(&mut case, End::Killed);
        assert!(found.is_empty(), "the power went at call {at} of {all}: {}", found.join("\n"));
    }
    for backup in ["", "format = \"directory\"", "format = \"custom\""] {
        case.configure(&case.server, backup);
        must(Command::new("sync").arg("--file-system").arg(&store.path));
        let id = case.world.backup(BACKUP);
        let mut list = case.command(&["list"]);
        inject(&mut list, &store.path, "open", 1, Deed::Cut);
        let _ = case.start(list).end();
        store.again();
        assert!(case.world.folder(&id).is_dir(), "{backup}: {id} is lost");
        assert_sound(&mut case, End::Done);
    }
}
