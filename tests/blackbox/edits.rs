//! Edits of the file under a daemon: what is said of them, and what they may not do.

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use nix::sys::signal::Signal;

use crate::adopt::{a_year, adopt, ids, small, world_and_dump};
use crate::common::daemon::{Daemon, alerts, until, write_config};
use crate::common::{Database, Server, World, password};
use crate::smtp::Smtp;
use crate::support::Psql;

const NOBODY: u32 = 65_534;

fn backup(name: &str, database: &str, keys: &str) -> String {
    format!("[backups.{name}]\ndatabase = \"{database}\"\n{keys}\n")
}

#[track_caller]
fn changes(world: &World) -> Vec<String> {
    let status = world.pgvigil(&["--json", "status"]).json();
    status["config"]["changes"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_edit_is_said_in_words_and_stops_no_run() {
    let database = Database::empty(Server::Pg15);
    database.sql("create table t as select 1 as i");
    let mut holder = Psql::connect(Server::Pg15, &database.name);
    holder.done("begin; lock table t in access exclusive mode");
    let world = World::new();
    let often = backup("busy", &database.name, "schedule = \"*/2 * * * * *\"");
    write_config(&world, "", &format!("{often}{}", backup("euem_db", "e", "schedule = \"0 2 * * *\"")));
    let daemon = Daemon::start(&world);
    let waits = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
    until("the dump waits for the lock", || (database.sql(waits) == "1").then_some(()));

    // The running backup is taken out, the other one moved.
    write_config(&world, "", &backup("euem_db", "e", "schedule = \"0 3 * * *\"\nretries = 5"));
    let line = daemon.wait_for_line("changed: euem_db");
    assert!(line.contains("euem_db: retries default -> 5, schedule 02:00 -> 03:00; next at 20") && line.contains(" 03:00:00 +0"), "{line}");
    daemon.wait_for_line("changed: busy: taken out; its backups stay and are not pruned");
    let told = changes(&world);
    assert!(told.len() == 2 && told[1].starts_with("euem_db: retries default -> 5, schedule 02:00 -> 03:00; next at "), "{told:?}");
    let page = world.pgvigil(&["status"]).stdout;
    assert!(page.contains("the last edit that was taken over") && page.contains("schedule 02:00 -> 03:00"), "{page}");
    assert_eq!(database.sql(waits), "1", "the run goes on");
    holder.done("rollback");
    daemon.wait_for_line("run ended backup=busy");
    let log = daemon.stop();
    assert!(log.contains("outcome=\"ok\""), "{log}");

    // What changes nothing says so, and does not take away what was said.
    let daemon = Daemon::start(&world);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("the file was read again backups=1 changes=0");
    assert_eq!(changes(&world), told);
}

/// The ways of editors and of Kubernetes, and a file that nobody lets us read.
#[test]
fn every_way_to_edit() {
    assert!(nix::unistd::Uid::effective().is_root(), "the test of rights needs root");
    let world = World::new();
    for dir in [world.path("state"), world.store()] {
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    std::fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let minute = |minute: u32| backup("x", "x", &format!("schedule = \"{minute} 2 * * *\""));
    write_config(&world, "", &minute(0));
    let readable = || std::fs::set_permissions(world.config(), PermissionsExt::from_mode(0o644)).unwrap();
    readable();
    let daemon = Daemon::start(&world);

    // In place, and by another file that takes the name.
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), text.replace("0 2 *", "1 2 *")).unwrap();
    daemon.wait_for_line("schedule 02:00 -> 02:01");
    std::fs::write(world.path("aside"), text.replace("0 2 *", "2 2 *")).unwrap();
    std::fs::rename(world.path("aside"), world.config()).unwrap();
    daemon.wait_for_line("schedule 02:01 -> 02:02");

    // It vanishes, and comes again; it may not be read, and may again.
    let kept = std::fs::read_to_string(world.config()).unwrap();
    std::fs::remove_file(world.config()).unwrap();
    daemon.wait_for_line("is faulty; the daemon goes on with what it had error=");
    daemon.wait_for_line("alert=config/reload");
    std::fs::write(world.config(), kept.replace("2 2 *", "3 2 *")).unwrap();
    daemon.wait_for_line("schedule 02:02 -> 02:03");
    daemon.wait_for_line("over: the file was edited");
    std::fs::set_permissions(world.config(), PermissionsExt::from_mode(0o600)).unwrap();
    let line = daemon.wait_for_lines("is faulty; the daemon goes on with what it had error=", 2);
    assert!(line.contains("ermission denied"), "{line}");
    daemon.wait_for_lines("alert=config/reload", 3);
    readable();
    daemon.wait_for_lines("over: the file was edited", 2);

    // A config map: the name is a link to ..data/pgvigil.toml, and ..data a link that is renamed over.
    let version = |name: &str, from: &str, to: &str| {
        std::fs::create_dir(world.path(name)).unwrap();
        std::fs::write(world.path(name).join("pgvigil.toml"), kept.replace(from, to)).unwrap();
        symlink(name, world.path("..data_tmp")).unwrap();
        std::fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
    };
    version("..1", "2 2 *", "4 2 *");
    symlink("..data/pgvigil.toml", world.path("link")).unwrap();
    std::fs::rename(world.path("link"), world.config()).unwrap();
    daemon.wait_for_line("schedule 02:03 -> 02:04");
    version("..2", "2 2 *", "5 2 *");
    std::fs::remove_dir_all(world.path("..1")).unwrap();
    daemon.wait_for_line("schedule 02:04 -> 02:05");
    daemon.stop();
}

#[test]
fn a_faulty_edit_is_mailed_once_and_shown_until_mended() {
    let smtp = Smtp::usual(&[]);
    let email = smtp.usual_section("");
    let world = World::new();
    write_config(&world, "", &format!("{email}{}", backup("x", "x", "schedule = \"0 2 * * *\"")));
    let daemon = Daemon::start(&world);
    let told = || smtp.alerts().into_iter().filter(|(key, _)| key == "config/reload").map(|(_, state)| state).collect::<Vec<_>>();
    for (n, fault) in ["shedule = \"0 3 * * *\"", "schedule = \"0 33 * * *\"", "password = 1"].iter().enumerate() {
        write_config(&world, "", &format!("{email}{}", backup("x", "x", fault)));
        daemon.wait_for_lines("the file is faulty", n + 1);
        until("it is told", || (!told().is_empty()).then_some(()));
        let status = world.pgvigil(&["--json", "status"]).expect(3).json();
        assert!(alerts(&status).contains(&"config/reload"), "{status:#}");
    }
    assert_eq!(told(), ["open"; 2], "to two; three faults of one edit after the other");

    // What was missing is there, and the file itself has not changed.
    let secret = world.path("secret");
    let by_file = Server::Pg15.section().replace("{ env = \"PGVIGIL_TEST_PASSWORD\" }", &format!("{{ file = \"{}\" }}", secret.display()));
    world.configure(&format!("{by_file}{email}{}", backup("x", "x", "schedule = \"0 4 * * *\"")));
    daemon.wait_for_lines("the file is faulty", 4);
    std::fs::write(&secret, password()).unwrap();
    daemon.wait_for_line("schedule 02:00 -> 04:00");
    until("its end is told", || (told() == ["open", "open", "closed", "closed"]).then_some(()));
    let status = world.pgvigil(&["--json", "status"]).expect(0).json();
    assert!(status["config"]["error"].is_null(), "{status:#}");
    daemon.stop();
}

/// An edit of `keep` that would delete more deletes nothing until somebody prunes by hand: not by the
/// next run, not by a restart of the daemon.
#[test]
fn a_shorter_retention_waits_for_a_person() {
    let database = small();
    let (world, dump) = world_and_dump(&database);
    let keep = |keep: &str| write_config(&world, "", &backup("x", &database.name, &format!("keep = {{ {keep} }}")));
    keep("last = 5");
    let nights = ids(&adopt(&world, &a_year(&world, &database, &dump, 5)).expect(0).json());
    let count = || ids(&world.pgvigil(&["--json", "list", "x"]).json()).len();
    let held = || {
        let status = world.pgvigil(&["--json", "status"]).json();
        let of = status["alerts"].as_array().unwrap().iter().find(|alert| alert["key"] == "backup/x/retention").cloned();
        of.map(|alert| alert["summary"].as_str().unwrap().to_owned())
    };
    let daemon = Daemon::start(&world);
    assert_eq!(held(), None);
    keep("last = 2");
    daemon.wait_for_line("changed: x: keep { last = 5 } -> { last = 2 }");
    let line = daemon.wait_for_line("alert=backup/x/retention");
    assert!(line.contains("would delete 3 backups more than before: nothing of it is deleted until pgvigil prune x"), "{line}");
    assert!(held().unwrap().contains("3 backups more"));
    world.pgvigil(&["status"]).expect(3);
    let newest = world.backup("x");
    assert_eq!(count(), 6, "a run deletes nothing");
    assert!(held().unwrap().contains("3 backups more"), "what the old one would delete as well is not counted");

    // Taken back.
    keep("last = 5");
    daemon.wait_for_line("over: retention of x was changed");
    assert_eq!((held(), count()), (None, 6));
    keep("last = 1");
    daemon.wait_for_lines("alert=backup/x/retention", 3);
    daemon.stop();

    // It outlives the daemon, and holds a run without one, too.
    let daemon = Daemon::start(&world);
    // It begins with cleaning up, which has the lock.
    until("a run finds the lock free", || (world.pgvigil(&["run", "x"]).code == Some(0)).then_some(()));
    assert!(held().unwrap().contains("4 backups more"), "{:?}", held());
    assert_eq!(count(), 7);
    let dry = world.pgvigil(&["--json", "prune", "x", "--dry-run"]).expect(0).json();
    assert_eq!((ids(&dry["deleted"]).len(), count()), (6, 7));
    assert!(held().is_some(), "to look is not to agree");
    world.pgvigil(&["prune", "x"]).expect(0);
    assert_eq!((count(), held()), (1, None));
    daemon.stop();
    assert!(!world.folder(&newest).exists() && !world.folder(&nights[0]).exists());
    // From now on by itself; and what keeps more is nobody's question.
    let id = world.backup("x");
    assert_eq!(ids(&world.pgvigil(&["--json", "list", "x"]).json()), [id]);
    keep("last = 3");
    for _ in 0..3 {
        world.backup("x");
    }
    assert_eq!(count(), 3);
}
