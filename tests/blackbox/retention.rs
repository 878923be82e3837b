//! `prune`, and what else deletes: what goes, what stays, and why.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::adopt::{a_year, adopt, ids, small, world_and_dump};
use crate::common::{Database, Server, World, run, unique};
use crate::support::{bin_dir, rungs, stock};

/// Backups of the last nights, newest first, kept as `keep` says.
fn nights(database: &Database, count: u64, keep: &str) -> (World, Vec<String>) {
    let (world, dump) = world_and_dump(database);
    configure(&world, database, keep);
    let files = a_year(&world, database, &dump, count);
    let adopted = adopt(&world, &files).expect(0).json();
    (world, ids(&adopted))
}

fn configure(world: &World, database: &Database, keep: &str) {
    world.configure(&format!("{}[backups.x]\ndatabase = \"{}\"\nkeep = {keep}\n", Server::Pg15.section(), database.name));
}

/// Flips a bit of a backup's dump, and has it found.
fn make_bad(world: &World, id: &str) {
    let path = world.folder(id).join(world.manifest(id)["files"][0]["name"].as_str().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    world.pgvigil(&["verify", id]).expect(1);
}

fn listed(world: &World, backup: &str) -> Vec<String> {
    ids(&world.pgvigil(&["--json", "list", backup]).expect(0).json())
}

fn latest(world: &World) -> String {
    format!("x/{}", std::fs::read_link(world.store().join("x/latest")).unwrap().display())
}

/// `id: reasons` of a list of `prune --json`.
fn told(rows: &Value) -> Vec<String> {
    let reasons = |row: &Value| row["reasons"].as_array().unwrap().iter().map(|why| why.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    rows.as_array().unwrap().iter().map(|row| format!("{}: {}", row["id"].as_str().unwrap(), reasons(row).join(", "))).collect()
}

/// Every path below a folder.
fn paths(dir: &Path) -> Vec<String> {
    let found = String::from_utf8(stock("find", &[&dir.display().to_string()], Path::new("/"))).unwrap();
    let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn the_clean_up_scripts_of_common_guides_find_nothing_of_ours() {
    let stem = unique("");
    // The database may well be named like the files of the scripts.
    let databases = [small(), Database::create(Server::Pg15, &format!("backup_app{stem}"), "template0")];
    let names = databases.each_ref().map(|database| database.name.clone());
    for keys in ["", "compression = \"zstd\"\n", "format = \"custom\"\n", "format = \"directory\"\n"] {
        let (world, dump) = world_and_dump(&databases[0]);
        world.configure(&format!("{}[backups.x]\ndatabases = [\"{}\", \"{}\"]\n{keys}", Server::Pg15.section(), names[0], names[1]));
        adopt(&world, &a_year(&world, &databases[0], &dump, 3)).expect(0);
        let id = world.backup("x");
        world.pgvigil(&["pin", &id]).expect(0);
        let dir = world.store().display().to_string();
        // What the scripts are for lies in the same folder.
        let theirs = || names.each_ref().map(|name| world.store().join(format!("backup_{name}_20240115_020000.sql.gz")));
        for name in &names {
            for script in [
                format!("find {dir} -type f -name \"backup_{name}_*.sql.gz\" -mtime +30 -delete"),
                format!("find {dir} -type f -name \"backup_{name}_*.sql.gz\" -mtime +7 -delete"),
                format!("find {dir} -type f -name \"backup_*\" -mtime +7 -delete"),
                format!("find {dir} -name \"backup_*\" -mtime +7 -delete"),
                format!("find {dir} -name \"backup_*\" -mtime +7 -exec rm -rf {{}} +"),
            ] {
                let before = paths(&world.store());
                for path in theirs() {
                    std::fs::write(path, "").unwrap();
                }
                stock("find", &[&dir, "-exec", "touch", "-h", "-d", "400 days ago", "{}", "+"], Path::new("/"));
                let output = run(Command::new("sh").args(["-c", &script]));
                assert!(output.status.success(), "{script}: {output:?}");
                assert!(theirs().iter().any(|path| !path.exists()), "{script} deletes what it is for");
                for path in theirs() {
                    let _ = std::fs::remove_file(path);
                }
                assert_eq!(paths(&world.store()), before, "{script}");
            }
        }
        for id in listed(&world, "x") {
            world.pgvigil(&["verify", &id]).expect(0);
        }
    }
}

#[test]
fn every_verdict_has_its_reasons_and_a_dry_run_deletes_nothing() {
    let database = small();
    let (world, ids) = nights(&database, 6, "{ last = 2 }");
    // The newest turns bad, the oldest is pinned.
    make_bad(&world, &ids[0]);
    world.pgvigil(&["pin", &ids[5]]).expect(0);
    let kept =
        [format!("{}: newest", ids[0]), format!("{}: floor, last 1", ids[1]), format!("{}: last 2", ids[2]), format!("{}: pinned", ids[5])];
    let deleted = [format!("{}: expired", ids[3]), format!("{}: expired", ids[4])];
    for _ in 0..2 {
        let dry = world.pgvigil(&["--json", "prune", "--dry-run"]).expect(0).json();
        assert_eq!(
            (told(&dry["kept"]).as_slice(), told(&dry["deleted"]).as_slice(), &dry["dry_run"]),
            (&kept[..], &deleted[..], &true.into())
        );
        let text = world.pgvigil(&["prune", "x", "--dry-run"]).expect(0).stdout;
        assert!(text.contains("would be deleted") && text.contains("expired") && text.contains("floor, last 1"), "{text}");
        assert!(text.contains("4 kept, 2 would be deleted"), "{text}");
        assert_eq!(listed(&world, "x"), ids);
    }
    // The same is told by list and by show.
    let list = world.pgvigil(&["--json", "list"]).expect(0).json();
    let tiers: Vec<&Value> = list.as_array().unwrap().iter().map(|entry| &entry["tiers"]).collect();
    let (none, last) = (serde_json::json!([]), serde_json::json!(["last"]));
    assert_eq!(tiers, [&none, &last, &last, &none, &none, &none]);
    assert!(world.pgvigil(&["list"]).expect(0).stdout.contains("TIERS"));
    let show = |id: &str| world.pgvigil(&["--json", "show", id]).expect(0).json()["stores"][0]["reasons"].clone();
    assert_eq!((show(&ids[5]), show(&ids[3])), (serde_json::json!(["pinned"]), serde_json::json!(["expired"])));
    assert!(world.pgvigil(&["show", &ids[1]]).expect(0).stdout.contains("in local: floor, last 1"));

    let done = world.pgvigil(&["--json", "prune"]).expect(0).json();
    assert_eq!(
        (told(&done["kept"]).as_slice(), told(&done["deleted"]).as_slice(), &done["dry_run"]),
        (&kept[..], &deleted[..], &false.into())
    );
    assert_eq!(listed(&world, "x"), [0, 1, 2, 5].map(|n| ids[n].clone()));
    assert_eq!(latest(&world), ids[1]);
    // A pin that is taken out holds no more.
    world.pgvigil(&["unpin", &ids[5]]).expect(0);
    let text = world.pgvigil(&["prune"]).expect(0).stdout;
    assert!(text.contains("3 kept, 1 deleted"), "{text}");
    assert_eq!(listed(&world, "x"), ids[..3]);
    assert_eq!(told(&world.pgvigil(&["--json", "prune"]).expect(0).json()["deleted"]), Vec::<String>::new());
    world.pgvigil(&["prune", "nosuch"]).expect(1);
}

#[test]
fn nothing_good_is_nothing_to_prune() {
    let database = small();
    let (world, ids) = nights(&database, 4, "{ last = 1 }");
    for id in &ids {
        make_bad(&world, id);
    }
    assert_eq!(told(&world.pgvigil(&["--json", "prune"]).expect(0).json()["deleted"]), Vec::<String>::new());
    assert_eq!(rungs(&world, "x"), ["bad"; 4]);
    assert!(!world.store().join("x/latest").exists());
}

#[test]
fn a_store_that_is_empty_all_at_once_is_not_believed() {
    let database = small();
    let world = World::new();
    configure(&world, &database, "{ last = 1 }");
    assert!(world.pgvigil(&["prune"]).expect(0).stdout.contains("nothing to prune"));
    let id = world.backup("x");
    // Its disk is not mounted.
    std::fs::rename(world.store(), world.path("away")).unwrap();
    std::fs::create_dir(world.store()).unwrap();
    for args in [&["--json", "prune"][..], &["--json", "prune", "--dry-run"], &["--json", "prune", "x"]] {
        let ran = world.pgvigil(args).expect(1);
        let answer = ran.json();
        assert!(answer["error"]["message"].as_str().unwrap().contains("nothing is pruned"), "{ran:#?}");
        assert_eq!((&answer["kept"], &answer["deleted"]), (&serde_json::json!([]), &serde_json::json!([])));
    }
    std::fs::remove_dir(world.store()).unwrap();
    std::fs::rename(world.path("away"), world.store()).unwrap();
    world.pgvigil(&["prune"]).expect(0);
    assert_eq!(listed(&world, "x"), [id]);
}

#[test]
fn backups_whose_names_begin_alike_do_not_see_each_other() {
    let (app, app_x) = (small(), small());
    let world = World::new();
    world.configure(&format!(
        "{}[backups.app]\ndatabase = \"{}\"\nkeep = {{ last = 1 }}\n[backups.app_x]\ndatabase = \"{}\"\nkeep = {{ last = 3 }}\n",
        Server::Pg15.section(),
        app.name,
        app_x.name
    ));
    for (backup, database) in [("app", &app), ("app_x", &app_x)] {
        let (_, dump) = world_and_dump(database);
        let files = a_year(&world, database, &dump, 4);
        let mut args = vec!["adopt", backup];
        args.extend(files.iter().map(String::as_str));
        world.pgvigil(&args).expect(0);
    }
    let others = paths(&world.store().join("app_x"));
    let done = world.pgvigil(&["--json", "prune", "app"]).expect(0).json();
    assert!(done["deleted"].as_array().unwrap().len() == 3 && ids(&done["deleted"]).iter().all(|id| id.starts_with("app/")), "{done:#}");
    assert_eq!((listed(&world, "app").len(), paths(&world.store().join("app_x"))), (1, others));
    let ours = paths(&world.store().join("app"));
    world.pgvigil(&["prune", "app_x"]).expect(0);
    assert_eq!((paths(&world.store().join("app")), listed(&world, "app_x").len()), (ours, 3));
    // What the file no longer knows is never pruned.
    world.configure(&Server::Pg15.section());
    let done = world.pgvigil(&["--json", "prune"]).expect(0).json();
    assert_eq!((&done["kept"], &done["deleted"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!((listed(&world, "app").len(), listed(&world, "app_x").len()), (1, 3));
}

#[test]
fn a_killed_prune_leaves_every_backup_whole_or_gone() {
    let database = small();
    let (world, ids) = nights(&database, 60, "{ last = 2 }");
    let labels = |world: &World| world.names("x").into_iter().filter(|name| name.starts_with("20")).collect::<Vec<_>>();
    let mut broken_off = 0;
    for wait in [0, 3, 7, 15] {
        let before = labels(&world).len();
        let mut child = world.command(&["prune"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Deletions are quick: no rest between two looks.
        while labels(&world).len() == before && child.try_wait().unwrap().is_none() {}
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().unwrap();
        let there = labels(&world);
        broken_off += usize::from(there.len() > 2);
        for label in &there {
            world.pgvigil(&["verify", &format!("x/{label}")]).expect(0);
        }
        assert_eq!(listed(&world, "x").len(), there.len());
        assert!(listed(&world, "x").starts_with(&ids[..2]), "{there:?}");
        assert_eq!(latest(&world), ids[0]);
    }
    assert!(broken_off > 0, "each of them came to its end");
    world.pgvigil(&["prune"]).expect(0);
    assert_eq!(listed(&world, "x"), ids[..2]);
    // What is left of the dead ones is no backup, and swept by the next run.
    world.backup("x");
    assert!(!world.names("x").iter().any(|name| name.starts_with('.')), "{:?}", world.names("x"));
}

#[test]
fn a_run_prunes_after_itself() {
    let database = small();
    let world = World::new();
    configure(&world, &database, "{ last = 2 }");
    let ids: Vec<String> = (0..3).map(|_| world.backup("x")).collect();
    assert_eq!(listed(&world, "x"), [ids[2].clone(), ids[1].clone()]);
    assert_eq!(latest(&world), ids[2]);
    // A run that failed prunes nothing.
    configure(&world, &database, "{ last = 1 }");
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), text.replace(&database.name, "nosuch")).unwrap();
    world.pgvigil(&["run", "x"]).expect(1);
    assert_eq!(listed(&world, "x").len(), 2);
}

#[test]
fn a_prune_waits_for_no_run() {
    let database = small();
    let (world, ids) = nights(&database, 3, "{ last = 1 }");
    let bin =
        bin_dir(&world, 15, &[("pg_dump", "echo begun > \"$world/begun\"; read -r line < \"$world/gate\"; exec \"$real\"/pg_dump \"$@\"")]);
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), text.replace("[backups.x]", &format!("bin_dir = \"{}\"\n[backups.x]", bin.display()))).unwrap();
    stock("mkfifo", &["begun", "gate"], &world.path(""));
    let child = world.command(&["run", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(std::fs::read_to_string(world.path("begun")).unwrap(), "begun\n");
    let ran = world.pgvigil(&["--json", "prune"]).expect(75);
    assert_eq!(ran.json()["error"]["kind"], "busy");
    assert_eq!(listed(&world, "x"), ids, "nothing is deleted");
    // To look is not to wait.
    assert_eq!(world.pgvigil(&["--json", "prune", "--dry-run"]).expect(0).json()["deleted"].as_array().unwrap().len(), 2);
    std::fs::write(world.path("gate"), "go\n").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(listed(&world, "x").len(), 1, "the run pruned when it had ended");
}

#[test]
fn what_was_said_while_the_clock_was_ahead_hides_nothing_that_is_said_later() {
    let database = small();
    let (world, ids) = nights(&database, 3, "{ last = 1 }");
    let (newest, oldest) = (&ids[0], &ids[2]);
    std::fs::write(world.folder(oldest).join("pin-20990101T000000Z.json"), "{\"pinned\": false}").unwrap();
    let proof = paths(&world.folder(newest)).into_iter().find(|path| path.contains("proof-")).unwrap();
    std::fs::copy(proof, world.folder(newest).join("proof-20990101T000000Z.json")).unwrap();

    world.pgvigil(&["pin", oldest]).expect(0);
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json()[2]["pinned"], true);
    make_bad(&world, newest);
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json()[0]["rung"], "bad");
    assert_eq!(&latest(&world), &ids[1]);
    world.pgvigil(&["prune"]).expect(0);
    assert_eq!(listed(&world, "x"), ids, "two of them the newest and the newest good one, one pinned");
    world.pgvigil(&["unpin", oldest]).expect(0);
    world.pgvigil(&["prune"]).expect(0);
    assert_eq!(listed(&world, "x"), ids[..2]);
}

#[test]
fn a_run_with_problems_deletes_nothing() {
    let database = small();
    let (world, ids) = nights(&database, 2, "{ last = 1 }");
    let script = "exec \"$real\"/pg_dump --exclude-table='*.*' \"$@\"".to_owned();
    let bin = bin_dir(&world, 15, &[("pg_dump", &script)]);
    let keys = format!("bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\nkeep = {{ last = 1 }}\n", bin.display(), database.name);
    world.configure(&format!("{}{keys}", Server::Pg15.section()));
    let ran = world.pgvigil(&["run", "x"]).expect(3);
    assert!(ran.stderr.contains("holds none of them"), "{ran:#?}");
    assert_eq!(listed(&world, "x")[1..], ids);
    configure(&world, &database, "{ last = 1 }");
    let id = world.backup("x");
    assert_eq!(listed(&world, "x"), [id]);
}
