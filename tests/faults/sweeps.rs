//! What a run removes of others: nothing. Two installations on one store, and a history that is
//! lost.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::common::daemon::until;
use crate::common::{Database, Server, World};
use crate::inject::{CHANGES, Deed, inject};
use crate::judge::{BACKUP, Case, End, FEW_ROWS, assert_sound, files_below, judge, sha256};
use crate::killed::MIDDLE;
use crate::tools::{Chance, scale};

const OTHER: &str = "0123456789abcdef";

fn owner(case: &Case) -> String {
    std::fs::read_to_string(case.world.path("state/id")).unwrap().trim().to_owned()
}

fn put(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "not yours").unwrap();
}

/// A second configuration for the same store: its own state_dir, or other sections.
fn second(case: &Case, name: &str, state: &str, sections: &str) -> PathBuf {
    let text = std::fs::read_to_string(case.world.config()).unwrap();
    let state_line = format!("state_dir = \"{}\"", case.world.path("state").display());
    let text = text.replace(&state_line, &format!("state_dir = \"{}\"", case.world.path(state).display()));
    let path = case.world.path(name);
    std::fs::write(&path, format!("{text}{sections}")).unwrap();
    path
}

#[test]
fn only_what_is_ours_is_swept() {
    let mut case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let (ours, folder) = (owner(&case), case.folder());
    let theirs = [
        folder.join("notes.txt"),
        folder.join("shop_20240115.sql.gz"),
        folder.join(".hidden"),
        folder.join(".partial-mine/file"),
        folder.join(".partial-/file"),
        folder.join(format!(".partial-20240101T000000Z-{OTHER}/manifest.json")),
        folder.join(format!(".partial-20240101T000000Z-{ours}.old/file")),
        folder.join(format!("partial-20240101T000000Z-{ours}/file")),
        folder.join(format!(".partial-proof-20240101T000000Z.json.00000001-{OTHER}")),
        folder.join("20240115/file"),
        case.world.store().join("readme.txt"),
        case.world.store().join("other-things/file"),
        case.world.store().join(format!(".partial-20240101T000000Z-{ours}/file")),
        case.world.store().join(format!("{BACKUP}2/.partial-20240101T000000Z-{ours}x/file")),
        case.world.path("outside/file"),
    ];
    for path in &theirs {
        put(path);
    }
    let names = |path: &PathBuf, of: &Path| {
        path.strip_prefix(of).ok().map(|rest| rest.components().next().unwrap().as_os_str().to_string_lossy().into_owned())
    };
    case.others = theirs.iter().flat_map(|path| [names(path, &folder), names(path, &case.world.store())]).flatten().collect();
    // A link of our own name goes, what it points to does not.
    std::os::unix::fs::symlink(case.world.path("outside"), folder.join(format!(".partial-20240102T000000Z-{ours}"))).unwrap();
    put(&folder.join(format!(".partial-20240103T000000Z-{ours}/dump.sql.gz")));
    std::os::unix::fs::symlink(case.world.path("outside"), folder.join(format!(".partial-20240103T000000Z-{ours}/link"))).unwrap();
    put(&folder.join(format!(".partial-proof-20240103T000000Z.json.00000001-{ours}")));
    let live = case.begin_to(MIDDLE);
    live.signal(Signal::SIGKILL);
    live.end();
    case.gate().open();
    assert_sound(&mut case, End::Interrupted);
    for path in &theirs {
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), "not yours", "{}", path.display());
    }
}

/// While one backup is under way, another of the same installation runs, is killed, and runs again.
#[test]
fn a_run_beside_another() {
    let mut case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let more = format!("[backups.other]\ndatabase = \"{}\"\n", case.target.name());
    let config = second(&case, "more.toml", "state", &more);
    case.others.push("other".to_owned());
    let live = case.begin_to(MIDDLE);
    let partial = |case: &Case| case.world.names(BACKUP).into_iter().find(|name| name.starts_with(".partial-")).unwrap();
    let held = partial(&case);
    // The dump, and the session that holds its snapshot; that which counts has ended.
    until("the rows are counted", || (case.programs().len() == 2).then_some(()));

    // The same backup: told that it is busy, from here and from the other file.
    for mut command in [case.run_command(), case.command_of(&config, &["--json", "run", BACKUP])] {
        command.current_dir(case.world.path(""));
        let ran = case.start(command).end().expect(75);
        assert_eq!(ran.json()["outcome"], "skipped", "{ran:#?}");
    }
    // The gate holds only one.
    let other = || case.start(case.command_of(&config, &["--json", "run", "other"]));
    let killed = other();
    killed.signal(Signal::SIGKILL);
    killed.end();
    other().end().expect(0);
    assert_eq!((partial(&case), case.programs().len()), (held, 2), "the one under way was disturbed");
    case.gate().open();
    live.end().expect(0);
    let history = case.history();
    let outcomes: Vec<&str> = history.iter().map(|row| row["outcome"].as_str().unwrap_or("running")).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "ok").count(), 2, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "interrupted").count(), 0, "{outcomes:?}");
    case.settle();
    case.run().expect(0);
    assert_sound(&mut case, End::Done);
}

/// Two installations write to one store. Neither sweeps, or replaces, what is the other's.
#[test]
fn two_installations_on_one_store() {
    let mut case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let config = second(&case, "second.toml", "state2", "");
    let live = case.begin_to(MIDDLE);
    let partials = |case: &Case| case.world.names(BACKUP).into_iter().filter(|name| name.starts_with(".partial-")).collect::<Vec<_>>();
    let held = partials(&case);
    let mut ours: Vec<String> = (0..2)
        .map(|_| {
            let ran = case.start(case.command_of(&config, &["--json", "run", BACKUP])).end().expect(0);
            ran.json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(partials(&case), held);
    case.gate().open();
    let first = live.end().expect(0).json()["id"].as_str().unwrap().to_owned();
    ours.push(first);
    ours.sort();
    ours.dedup();
    assert_eq!(ours.len(), 3);
    for id in &ours {
        case.pgvigil(&["verify", id]).expect(0);
        case.start(case.command_of(&config, &["verify", id])).end().expect(0);
    }
    case.settle();

    // Killed in one, the other leaves it alone; its own next run removes it.
    let live = case.begin_to(MIDDLE);
    live.signal(Signal::SIGKILL);
    live.end();
    case.gate().open();
    let held = partials(&case);
    assert_eq!(held.len(), 1);
    case.start(case.command_of(&config, &["--json", "run", BACKUP])).end().expect(0);
    assert_eq!(partials(&case), held);
    case.run().expect(0);
    assert_eq!(partials(&case), [""; 0]);
}

/// All at the same moment, again and again, without a common lock: what wants a name that is taken
/// meanwhile fails, and says so; no backup replaces another.
#[test]
fn two_installations_at_once() {
    let mut case = Case::small(Server::Pg15, "");
    let configs: Vec<PathBuf> = (1..=4).map(|nth| second(&case, &format!("second{nth}.toml"), &format!("state{nth}"), "")).collect();
    for _ in 0..scale(3, 30) {
        let before = case.labels();
        let runs: Vec<_> = configs.iter().map(|config| case.start(case.command_of(config, &["--json", "run", BACKUP]))).collect();
        let mut ids = Vec::new();
        for ran in runs.into_iter().map(crate::judge::Live::end) {
            match ran.code {
                Some(0) => ids.push(ran.json()["id"].as_str().unwrap().to_owned()),
                _ => assert!(ran.code == Some(1) && ran.stderr.contains("HINT:"), "{ran:#?}"),
            }
        }
        assert!(!ids.is_empty());
        assert_eq!(case.labels().len(), before.len() + ids.len(), "{ids:?}");
        assert!(!case.world.names(BACKUP).iter().any(|name| name.starts_with(".partial-")), "{:?}", case.world.names(BACKUP));
        for id in ids {
            case.pgvigil(&["verify", &id]).expect(0);
        }
        case.settle();
    }
    case.run().expect(0);
    assert_sound(&mut case, End::Done);
}

/// One installation, the same backup, at the same moment: one runs, the others are told.
#[test]
fn one_run_at_a_time() {
    let mut case = Case::small(Server::Pg15, "");
    for _ in 0..scale(3, 30) {
        let before = case.labels().len();
        let runs: Vec<_> = (0..4).map(|_| case.begin()).collect();
        let codes: Vec<_> = runs.into_iter().map(|run| run.end().code).collect();
        let done = codes.iter().filter(|code| **code == Some(0)).count();
        assert!(done >= 1 && codes.iter().all(|code| matches!(code, Some(0 | 75))), "{codes:?}");
        assert_eq!(case.labels().len(), before + done, "{codes:?}");
    }
    case.settle();
    case.run().expect(0);
    assert_sound(&mut case, End::Done);
}

/// `state_dir` is gone: no backup is lost, nothing that was under way is taken for one, and the
/// next run works.
#[test]
fn the_state_is_lost() {
    let case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let first = format!("{BACKUP}/{}", case.labels()[0]);
    case.pgvigil(&["pin", &first]).expect(0);
    let live = case.begin_to(MIDDLE);
    live.signal(Signal::SIGKILL);
    live.end();
    case.gate().open();
    std::fs::remove_dir_all(case.world.path("state")).unwrap();
    let list = case.pgvigil(&["--json", "list"]).expect(0).json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["id"], &list[0]["pinned"]), (1, &first.as_str().into(), &true.into()));
    case.pgvigil(&["show", &first]).expect(0);
    case.pgvigil(&["verify", &first]).expect(0);
    let second = case.world.backup(BACKUP);
    assert_ne!(first, second);
    let list = case.pgvigil(&["--json", "list"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(case.history().len(), 1);
    // A history that is none: said with a way out, and nothing is done to it.
    for text in ["", "no database at all, but long enough to look at, and then some more of it"] {
        let path = case.world.path("state/history.db");
        std::fs::write(&path, text).unwrap();
        let ran = case.run();
        if !text.is_empty() {
            assert!(ran.code == Some(1) && ran.stderr.contains("history.db") && ran.stderr.contains("HINT:"), "{ran:#?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            std::fs::remove_file(&path).unwrap();
            case.run().expect(0);
        }
        assert_eq!(case.pgvigil(&["list"]).expect(0).code, Some(0));
    }
}

/// What was interrupted belongs to a backup and a server that are no longer in the file.
#[test]
fn the_server_of_an_interrupted_run_is_gone() {
    let case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let live = case.begin_to(MIDDLE);
    live.signal(Signal::SIGKILL);
    live.end();
    case.gate().open();
    let text = std::fs::read_to_string(case.world.config()).unwrap();
    let text = text.replace("[servers.main]", "[servers.fresh]").replace("[backups.shop]", "[backups.fresh]");
    std::fs::write(case.world.config(), text).unwrap();
    case.pgvigil(&["run", "fresh"]).expect(0);
    let rows = case.pgvigil(&["--json", "history"]).expect(0).json();
    let shop: Vec<&str> =
        rows.as_array().unwrap().iter().filter(|row| row["backup"] == "shop").map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(shop, ["interrupted", "ok"]);
    assert!(case.programs().is_empty());
    assert!(!case.world.names(BACKUP).iter().any(|name| name.starts_with(".partial-")), "{:?}", case.world.names(BACKUP));
}

/// verify, pin, check and export killed at each call that changes something: the backup is
/// untouched, and the next run leaves nothing of it.
#[test]
fn other_commands_killed() {
    let mut chance = Chance::new();
    let mut case = Case::small(Server::Pg15, "");
    let mut faults = Vec::new();
    let name = case.target.name().to_owned();
    for args in [&["verify", "shop/latest"][..], &["pin", "shop/latest"], &["check"], &["export", &name, "--output", "exported.sql"]] {
        let log = case.world.path("calls");
        let mut counted = case.command(args);
        counted.env("INJECT_LOG", &log);
        inject(&mut counted, &case.world.path(""), CHANGES, 0, Deed::None);
        let _ = std::fs::remove_file(&log);
        // check ends with a warning here.
        assert!(matches!(case.start(counted).end().code, Some(0 | 3)));
        let all = std::fs::read_to_string(&log).unwrap().lines().count();
        for at in chance.spread(scale(4, usize::MAX), all) {
            let _ = std::fs::remove_file(case.world.path("exported.sql"));
            let before = case.history().len();
            let mut command = case.command(args);
            inject(&mut command, &case.world.path(""), CHANGES, at, Deed::Kill);
            let ran = case.start(command).end();
            assert!(ran.code.is_none() || ran.code == Some(0) || ran.code == Some(3), "{ran:#?}");
            assert_eq!(case.history().len(), before);
            let exported = case.world.path("exported.sql");
            if exported.exists() && !std::fs::read_to_string(&exported).unwrap().contains("database dump complete") {
                faults.push(format!("{args:?} killed at call {at} of {all}: a part under the final name"));
            }
            if args[0] == "export" {
                case.pgvigil(&[args, &["--force"]].concat()).expect(0);
                let names = std::fs::read_dir(case.world.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
                faults.extend(
                    names
                        .filter(|name| name.contains("partial"))
                        .map(|name| format!("{args:?} killed at call {at} of {all}: {name} stays")),
                );
            }
            case.run().expect(0);
            let found = judge(&mut case, End::Done);
            faults.extend(found.into_iter().map(|fault| format!("{args:?} killed at call {at} of {all}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A second database beside the first, so that a kill between the two finds one dump whole.
#[test]
fn a_folder_of_several_dumps() {
    let second = Database::empty(Server::Pg15);
    second.sql(FEW_ROWS);
    let mut case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let text = std::fs::read_to_string(case.world.config()).unwrap();
    let one = format!("database = \"{}\"\n", case.target.name());
    // The second dump is the one that is held; the first is there already.
    let several = format!("databases = [\"{}\", \"{}\"]\n", second.name, case.target.name());
    std::fs::write(case.world.config(), text.replace(&format!("]\n{one}"), &format!("]\n{several}"))).unwrap();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let live = case.begin_to(MIDDLE);
        let partial = case.world.names(BACKUP).into_iter().find(|name| name.starts_with(".partial-")).unwrap();
        assert!(files_below(&case.folder().join(partial)).len() >= 2);
        live.signal(signal);
        live.end();
        case.gate().open();
        assert_sound(&mut case, if signal == Signal::SIGKILL { End::Interrupted } else { End::Cancelled });
    }
    let manifest = case.world.manifest(&format!("{BACKUP}/{}", case.labels()[0]));
    assert_eq!(manifest["databases"].as_array().unwrap().len(), 2);
}

/// What was there under the name that a run wants is never replaced.
#[test]
fn a_name_that_is_taken() {
    let case = Case::in_world(World::new(), Database::sample(Server::Pg15), "");
    let live = case.begin_to(MIDDLE);
    let partial = case.world.names(BACKUP).into_iter().find(|name| name.starts_with(".partial-")).unwrap();
    let label = &partial[".partial-".len()..][..16];
    let taken = case.folder().join(label);
    std::fs::create_dir(&taken).unwrap();
    case.gate().open();
    let ran = live.end().expect(1);
    assert!(ran.stderr.contains(label), "{ran:#?}");
    assert_eq!(std::fs::read_dir(&taken).unwrap().count(), 0);
    put(&taken.join("mine"));
    let sum = sha256(&taken.join("mine"));
    case.run().expect(0);
    assert_eq!(sha256(&taken.join("mine")), sum);
}
