//! `adopt`: the dumps of a cron script join those of our own, and stay where they are.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use chrono::{DateTime, Days, Utc};
use serde_json::Value;

use crate::common::{Database, Ran, Server, World, ran, run, unique};
use crate::restore_page::{as_it_stands, fingerprint, follow, restored, same};
use crate::support::{bin_dir, programs, stock, until};

/// The folder of somebody's old dumps, beside a world.
pub fn old(world: &World) -> PathBuf {
    let dir = world.path("old");
    let _ = std::fs::create_dir(&dir);
    dir
}

/// What `pg_dump` writes.
pub fn dump(database: &Database, args: &[&str]) -> Vec<u8> {
    let output = run(database.server.tool("pg_dump").args(args).arg("-d").arg(&database.name));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Passes bytes through a stock tool, such as `gzip -9`.
pub fn through(tool: &str, bytes: &[u8]) -> Vec<u8> {
    let mut words = tool.split(' ');
    let mut child = Command::new(words.next().unwrap()).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let feeding = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

pub fn write(world: &World, name: &str, bytes: &[u8]) -> String {
    let path = old(world).join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// A world with a backup `x` of a database, and a small dump of it as a cron script makes it.
pub fn world_and_dump(database: &Database) -> (World, Vec<u8>) {
    let world = World::with(database.server, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    (world, through("gzip -9", &dump(database, &[])))
}

pub fn small() -> Database {
    let database = Database::create(Server::Pg15, &unique("old"), "template0");
    database.sql("create table a as select i, md5(i::text) from generate_series(1, 2000) i");
    database
}

pub fn adopt(world: &World, files: &[String]) -> Ran {
    let mut args = vec!["--json", "adopt", "x"];
    args.extend(files.iter().map(String::as_str));
    world.pgvigil(&args)
}

/// `outcome rung` of each row.
fn outcomes(ran: &Ran) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    ran.json().as_array().unwrap().iter().map(|row| format!("{} {}", text(&row["outcome"]), text(&row["rung"]))).collect()
}

/// Every name below a folder with its bytes.
pub fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn real_dumps_of_every_kind_join_the_catalog() {
    for server in [Server::Pg15, Server::Pg18, Server::Exec] {
        let database = Database::sample(server);
        let name = &database.name;
        let world = World::with(server, &format!("[backups.x]\ndatabase = \"{name}\"\n"));
        let plain = dump(&database, &[]);
        let files = [
            write(&world, &format!("backup_{name}_20240115_020000.sql.gz"), &through("gzip -9", &plain)),
            write(&world, &format!("backup_{name}_20240116_020000.sql"), &plain),
            write(&world, &format!("{name}_20240117_020000.sql.zst"), &through("zstd -q", &plain)),
            write(&world, &format!("nightly-{name}_20240118_020000.dump"), &dump(&database, &["-Fc"])),
        ];
        let before = snapshot(&old(&world));
        let ran = adopt(&world, &files).expect(0);
        assert_eq!(outcomes(&ran), ["ok readable"; 4], "{server:?} {ran:#?}");
        let labels = ["20240115T010000Z", "20240116T010000Z", "20240117T010000Z", "20240118T010000Z"];
        let local = ["20240115_020000.sql.gz", "20240116_020000.sql", "20240117_020000.sql.zst", "20240118_020000.dump"];
        for (((row, file), label), local) in ran.json().as_array().unwrap().iter().zip(&files).zip(labels).zip(local) {
            let id = format!("x/{label}");
            assert_eq!((&row["file"], &row["id"], &row["error"]), (&file.as_str().into(), &id.as_str().into(), &Value::Null));
            let manifest = world.manifest(&id);
            let of = &manifest["files"][0];
            assert_eq!(of["name"], format!("{name}_{local}"), "{manifest:#}");
            let bytes = std::fs::read(file).unwrap();
            assert_eq!(std::fs::read(world.folder(&id).join(of["name"].as_str().unwrap())).unwrap(), bytes, "exactly the same bytes");
            assert_eq!(of["bytes"], bytes.len());
            let is_archive = !of["name"].as_str().unwrap().contains(".sql");
            let raw = if is_archive { bytes.len() } else { plain.len() };
            assert_eq!(of["raw_bytes"], raw, "{file}");
            let sha256 = String::from_utf8(stock("sha256sum", &[file], Path::new("/"))).unwrap();
            assert!(sha256.starts_with(of["sha256"].as_str().unwrap()), "{file}");
            assert_eq!(manifest["adopted_from"][0], Path::new(file).file_name().unwrap().to_str().unwrap());
            assert_eq!(
                manifest["taken_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap().format("%Y%m%dT%H%M%SZ").to_string(),
                label
            );
            assert_eq!((&manifest["narrow"], &manifest["evidence"], &manifest["globals"]), (&false.into(), &Value::Null, &Value::Null));
            let version = if server == Server::Pg18 { "18." } else { "15." };
            for key in ["server_version", "client_version"] {
                assert!(manifest[key].as_str().unwrap().starts_with(version), "{manifest:#}");
            }
            // The commands make no difference.
            world.pgvigil(&["verify", &id]).expect(0);
            assert!(world.pgvigil(&["show", &id]).expect(0).stdout.contains("adopted"));
            let cat = run(&mut world.command(&["cat", &id]));
            assert!(cat.status.success() && cat.stdout == if is_archive { bytes } else { plain.clone() }, "{file}");
        }
        assert_eq!(std::fs::read_link(world.store().join("x/latest")).unwrap(), Path::new(labels[3]));
        let list = world.pgvigil(&["--json", "list"]).expect(0).json();
        assert!(list.as_array().unwrap().iter().all(|entry| entry["rung"] == "readable" && !entry["tiers"].as_array().unwrap().is_empty()));
        assert_eq!(snapshot(&old(&world)), before, "the originals");
        // Ours joins them.
        let newest = world.backup("x");
        assert_eq!(world.pgvigil(&["--json", "show", "x/latest"]).expect(0).json()["id"], newest.as_str());
    }
}

fn round_trip(server: Server, args: &[&str], pack: &str, ending: &str) {
    let database = Database::sample(server);
    let target = restored(&database);
    let world = World::with(server, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let mut bytes = dump(&database, args);
    if !pack.is_empty() {
        bytes = through(pack, &bytes);
    }
    let file = write(&world, &format!("backup_{}_20240115_020000{ending}", database.name), &bytes);
    adopt(&world, &[file]).expect(0);
    let before = fingerprint(server, &database.name, &["properties", "database"]);
    follow(&world, "x/20240115T010000Z", if server == Server::Pg18 { 18 } else { 15 }, as_it_stands);
    same(ending, &before, &fingerprint(server, &target.name, &["properties", "database"]));
    let page = std::fs::read_to_string(world.folder("x/20240115T010000Z").join("RESTORE.md")).unwrap();
    for words in ["**Adopted.**", &format!("backup_{}_20240115_020000{ending}", database.name), "roles and tablespaces: ", "was not asked"]
    {
        assert!(page.contains(words), "{words} in {page}");
    }
    assert!(!page.contains("OWNER TO"), "{page}");
}

#[test]
fn the_page_of_an_adopted_dump_restores_it() {
    round_trip(Server::Pg15, &[], "gzip -9", ".sql.gz");
}

#[test]
fn the_page_of_an_adopted_dump_restores_it_into_a_container() {
    round_trip(Server::Exec, &[], "gzip -9", ".sql.gz");
}

#[test]
fn the_page_of_an_adopted_archive_restores_it() {
    round_trip(Server::Pg18, &["-Fc"], "", ".dump");
}

#[test]
fn the_page_of_an_adopted_dump_that_is_not_packed_restores_it() {
    round_trip(Server::Pg18, &[], "", ".sql");
}

#[test]
fn what_is_no_whole_dump_of_this_database_is_refused_and_the_others_go_on() {
    let database = small();
    let (world, good) = world_and_dump(&database);
    let name = &database.name;
    world.configure(&format!("{}[backups.x]\ndatabase = \"{name}\"\n[backups.y]\ndatabase = \"my_{name}\"\n", Server::Pg15.section()));
    let plain = dump(&database, &[]);
    let archive = dump(&database, &["-Fc"]);
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let mut flipped_archive = archive.clone();
    let end = flipped_archive.len() - 200;
    flipped_archive[end] ^= 0x10;
    let zstd = through("zstd -q", &plain);
    let future = Utc::now().checked_add_days(Days::new(2)).unwrap().format("%Y%m%d_%H%M%S");
    let create = dump(&database, &["--create"]);
    let other = small();
    let cases: Vec<(String, Vec<u8>, &str)> = vec![
        (format!("backup_{name}_20240101_020000.sql.gz"), good[..good.len() / 2].to_vec(), "not sound"),
        (format!("backup_{name}_20240102_020000.sql.gz"), flipped, "not sound"),
        // Cut before it was packed: gzip -t is content.
        (format!("backup_{name}_20240103_020000.sql.gz"), through("gzip -9", &plain[..plain.len() / 2]), "in the middle of the rows"),
        (format!("backup_{name}_20240104_020000.sql"), plain[..plain.len() - 60].to_vec(), "not a whole dump"),
        (format!("backup_{name}_20240105_020000.sql.zst"), zstd[..zstd.len() - 9].to_vec(), "not sound"),
        (format!("backup_{name}_20240106_020000.dump"), archive[..archive.len() / 2].to_vec(), "not a whole archive"),
        (format!("backup_{name}_20240107_020000.dump"), flipped_archive, "not a whole archive"),
        (format!("backup_{name}_20240108_020000.dump"), good.clone(), "does not begin like an archive"),
        // `pg_dump nodb | gzip`
        (format!("backup_{name}_20240109_020000.sql.gz"), through("gzip -9", b""), "it is empty"),
        (format!("backup_{name}_20240110_020000.sql.gz"), through("gzip -9", &create), "\\connect"),
        (format!("backup_{name}_20240111_020000.dump"), dump(&other, &["-Fc"]), &other.name),
        (format!("backup_{name}_2024011_020000.sql.gz"), good.clone(), "YYYYmmdd_HHMMSS"),
        (format!("backup_{name}_20240230_020000.sql.gz"), good.clone(), "no such time"),
        (format!("backup_{name}_20240112_020000.sql.bz2"), good.clone(), "does not end in"),
        (format!("backup_{}_20240112_020000.sql.gz", other.name), good.clone(), &other.name),
        (format!("backup_my_{name}_20240112_020000.sql.gz"), good.clone(), "my_"),
        (format!("backup_{name}x_20240112_020000.sql.gz"), good.clone(), "is of database"),
        (format!("backup_{name}_{future}.sql.gz"), good.clone(), "of the future"),
    ];
    let mut files: Vec<String> = cases.iter().map(|(name, bytes, _)| write(&world, name, bytes)).collect();
    files.push(old(&world).join(format!("backup_{name}_20240113_020000.sql.gz")).display().to_string());
    files.push(world.path("old").display().to_string());
    let pipe = old(&world).join(format!("backup_{name}_20240114_020000.sql.gz"));
    stock("mkfifo", &[&pipe.display().to_string()], Path::new("/"));
    files.push(pipe.display().to_string());
    std::fs::create_dir(world.path("good")).unwrap();
    let whole = world.path("good").join(format!("backup_{name}_20240131_020000.sql.gz"));
    std::fs::write(&whole, &good).unwrap();
    files.push(whole.display().to_string());
    let ran = adopt(&world, &files).expect(1);
    let rows = ran.json();
    let expected = cases.iter().map(|(_, _, why)| *why).chain(["no such file", "no plain file", "no plain file"]);
    for (row, why) in rows.as_array().unwrap().iter().zip(expected) {
        assert_eq!((&row["id"], &row["outcome"], &row["rung"]), (&Value::Null, &"failed".into(), &Value::Null), "{why}: {row:#}");
        let message = row["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("not adopted: ") && message.contains(why), "{why}: {row:#}");
        assert!(ran.stderr.contains(&format!("{}: not adopted: ", row["file"].as_str().unwrap())), "{ran:#?}");
    }
    let last = rows.as_array().unwrap().last().unwrap();
    assert_eq!((&last["id"], &last["outcome"]), (&"x/20240131T010000Z".into(), &"ok".into()), "{last:#}");
    assert_eq!(world.names("x"), ["20240131T010000Z", "latest"]);
    // In words.
    let table = world.pgvigil(&["adopt", "x", &files[0], &files[files.len() - 1]]).expect(1);
    assert!(table.stdout.contains("1 there already, 1 not adopted;"), "{table:#?}");
    assert!(table.stdout.contains("pgvigil prune x"), "{table:#?}");
    world.pgvigil(&["adopt", "nosuch", &files[0]]).expect(1);
    world.pgvigil(&["adopt", "x"]).expect(2);
}

#[test]
fn a_second_adoption_changes_nothing() {
    let database = small();
    let (world, good) = world_and_dump(&database);
    let file = write(&world, &format!("backup_{}_20240115_020000.sql.gz", database.name), &good);
    assert_eq!(outcomes(&adopt(&world, &[file.clone(), file.clone()]).expect(0)), ["ok readable", "skipped readable"]);
    let before = snapshot(&world.folder("x/20240115T010000Z"));
    assert_eq!(outcomes(&adopt(&world, std::slice::from_ref(&file)).expect(0)), ["skipped readable"]);
    assert!(world.pgvigil(&["adopt", "x", &file]).expect(0).stdout.contains("there already"));
    // Other bytes under the same time are another dump.
    let other = write(&world, &format!("backup_{}_20240115_020000.sql", database.name), &dump(&database, &[]));
    let ran = adopt(&world, &[other]).expect(1);
    assert!(ran.json()[0]["error"]["message"].as_str().unwrap().contains("with other bytes"), "{ran:#?}");
    assert_eq!(snapshot(&world.folder("x/20240115T010000Z")), before);
}

#[test]
fn several_databases_of_one_time_are_one_backup() {
    let databases = [small(), small(), small()];
    let [a, b, c] = databases.each_ref().map(|database| database.name.as_str());
    let world = World::new();
    for which in [format!("databases = [\"{a}\", \"{b}\", \"{c}\"]"), "databases = \"all\"".to_owned()] {
        world.configure(&format!("{}[backups.x]\n{which}\n", Server::Pg15.section()));
        let whole = databases.each_ref().map(|database| through("gzip -9", &dump(database, &[])));
        let name = |database: &str| format!("backup_{database}_20240115_020000.sql.gz");
        // One of them is cut: the other two are a backup.
        let files = [
            write(&world, &name(a), &whole[0]),
            write(&world, &name(b), &whole[1][..whole[1].len() / 2]),
            write(&world, &name(c), &whole[2]),
        ];
        let ran = adopt(&world, &files).expect(1);
        assert_eq!(outcomes(&ran), ["ok readable", "failed -", "ok readable"], "{ran:#?}");
        let manifest = world.manifest("x/20240115T010000Z");
        assert_eq!(manifest["databases"], serde_json::json!([a, c]));
        assert_eq!(manifest["adopted_from"], serde_json::json!([name(a), name(c)]));
        // The third comes too late: a backup is never changed.
        let late = adopt(&world, &[write(&world, &name(b), &whole[1])]).expect(1);
        assert!(late.json()[0]["error"]["message"].as_str().unwrap().contains("adopt them together"), "{late:#?}");
        world.pgvigil(&["verify", "x/latest"]).expect(0);
        std::fs::remove_dir_all(world.store()).unwrap();
    }
}

#[test]
fn times_are_those_of_the_zone_of_the_backup() {
    let database = small();
    let (world, good) = world_and_dump(&database);
    let name = &database.name;
    for (local, label, ours) in [
        ("20250115_020000", "20250115T010000Z", "20250115_020000"),
        ("20250715_020000", "20250715T000000Z", "20250715_020000"),
        // 02:30 did not exist: the end of the gap.
        ("20250330_023000", "20250330T010000Z", "20250330_030000"),
        // 02:30 came twice: the first.
        ("20251026_023000", "20251026T003000Z", "20251026_023000"),
    ] {
        let file = write(&world, &format!("backup_{name}_{local}.sql.gz"), &good);
        let ran = adopt(&world, &[file]).expect(0);
        assert_eq!(ran.json()[0]["id"], format!("x/{label}"));
        assert_eq!(world.manifest(&format!("x/{label}"))["files"][0]["name"], format!("{name}_{ours}.sql.gz"));
    }
    // Of the backup, not of the file.
    world.configure(&format!("{}[backups.x]\ndatabase = \"{name}\"\ntimezone = \"America/New_York\"\n", Server::Pg15.section()));
    let file = write(&world, &format!("backup_{name}_20240115_020000.sql.gz"), &good);
    assert_eq!(adopt(&world, &[file]).expect(0).json()[0]["id"], "x/20240115T070000Z");
}

#[test]
fn a_dump_that_says_nothing_of_versions_is_adopted_all_the_same() {
    let database = small();
    let (world, _) = world_and_dump(&database);
    let plain = String::from_utf8(dump(&database, &[])).unwrap();
    let silent: String = plain.lines().filter(|line| !line.starts_with("-- Dumped ")).map(|line| format!("{line}\n")).collect();
    assert_ne!(plain, silent);
    let file = write(&world, &format!("{}_20240115_020000.sql", database.name), silent.as_bytes());
    adopt(&world, &[file]).expect(0);
    let manifest = world.manifest("x/20240115T010000Z");
    assert_eq!((&manifest["server_version"], &manifest["client_version"]), (&"unknown".into(), &"unknown".into()));
    for args in [["show", "x/latest"], ["verify", "x/latest"], ["cat", "x/latest"], ["list", "x"]] {
        world.pgvigil(&args).expect(0);
    }
    let target = restored(&database);
    follow(&world, "x/20240115T010000Z", 15, as_it_stands);
    assert_eq!(target.sql("select count(*) from a"), "2000");
}

/// Adopts the dumps of a year, one a night at two, as a script left them. Returns their names.
pub fn a_year(world: &World, database: &Database, dump: &[u8], nights: u64) -> Vec<String> {
    let today = Utc::now().date_naive();
    let night = |ago: u64| today.checked_sub_days(Days::new(ago)).unwrap().format("%Y%m%d").to_string();
    (1..=nights).map(|ago| write(world, &format!("backup_{}_{}_020000.sql.gz", database.name, night(ago)), dump)).collect()
}

pub fn ids(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_year_of_adopted_dumps_is_tiered_and_pruned_like_ours() {
    let database = small();
    let (world, good) = world_and_dump(&database);
    let files = a_year(&world, &database, &good, 366);
    let before = snapshot(&old(&world));
    let ran = adopt(&world, &files).expect(0);
    assert_eq!(outcomes(&ran), vec!["ok readable"; 366]);
    let list = world.pgvigil(&["--json", "list"]).expect(0).json();
    let with =
        |tier: &str| list.as_array().unwrap().iter().filter(|entry| entry["tiers"].as_array().unwrap().contains(&tier.into())).count();
    // Each night's year stands behind the name of the database.
    let mut years: Vec<&str> = files.iter().map(|file| &file.rsplit('_').nth(1).unwrap()[..4]).collect();
    years.dedup();
    assert_eq!(["last", "within", "daily", "weekly", "monthly", "yearly"].map(with), [3, 0, 7, 4, 12, years.len()], "{list:#}");
    let told = world.pgvigil(&["--json", "prune", "--dry-run"]).expect(0).json();
    assert_eq!(told["dry_run"], true);
    let (kept, expired) = (ids(&told["kept"]), ids(&told["deleted"]));
    assert_eq!(kept.len() + expired.len(), 366);
    assert_eq!(ids(&list).len(), 366, "a dry run deletes nothing");
    assert!(
        told["kept"].as_array().unwrap().iter().any(|row| row["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .any(|why| why.as_str().unwrap().starts_with("monthly ")))
    );
    let done = world.pgvigil(&["--json", "prune", "x"]).expect(0).json();
    assert_eq!(ids(&done["deleted"]), expired);
    assert_eq!(ids(&world.pgvigil(&["--json", "list"]).expect(0).json()), kept);
    assert_eq!(snapshot(&old(&world)), before, "the originals");
}

#[test]
fn a_killed_adoption_leaves_nothing_under_a_final_name() {
    let database = small();
    let (world, good) = world_and_dump(&database);
    let files = a_year(&world, &database, &good, 40);
    let mut args = vec!["adopt", "x"];
    args.extend(files.iter().map(String::as_str));
    for wait in [60, 110, 190, 330] {
        let before = world.names("x").len();
        let mut child = world.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At some place between two names.
        until("one more is there, or all", || world.names("x").len() > before.min(40) || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().unwrap();
        for name in world.names("x").iter().filter(|name| !name.starts_with('.') && *name != "latest") {
            world.pgvigil(&["verify", &format!("x/{name}")]).expect(0);
        }
        world.pgvigil(&["list"]).expect(0);
    }
    adopt(&world, &files).expect(0);
    let names = world.names("x");
    assert_eq!((names.len(), names.iter().filter(|name| name.starts_with('.')).count()), (41, 0), "{names:?}");
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing() {
    let database = small();
    let (world, _) = world_and_dump(&database);
    let file = write(&world, &format!("{}_20240115_020000.sql", database.name), &dump(&database, &[]));
    let command = world.command(&["--json", "adopt", "x", &file]);
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -f 8; exec \"$@\"", "-"]).arg(command.get_program()).args(command.get_args()).current_dir("/");
    let ran = ran(&mut limited).expect(1);
    assert!(ran.json()[0]["error"]["message"].as_str().unwrap().contains("cannot write"), "{ran:#?}");
    assert_eq!(world.names("x"), Vec::<String>::new());
    // A disk that is too small is not filled up first.
    let target = world.store().display().to_string();
    stock("mount", &["-t", "tmpfs", "-o", "size=40k", "tmpfs", &target], Path::new("/"));
    let ran = adopt(&world, std::slice::from_ref(&file));
    stock("umount", &[&target], Path::new("/"));
    assert!(ran.expect(1).stderr.contains("it would not fit"));
    adopt(&world, &[file]).expect(0);
}

#[test]
fn an_adoption_waits_for_no_run() {
    let database = small();
    let (world, good) = world_and_dump(&database);
    let bin =
        bin_dir(&world, 15, &[("pg_dump", "echo begun > \"$world/begun\"; read -r line < \"$world/gate\"; exec \"$real\"/pg_dump \"$@\"")]);
    world.configure(&format!("{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), bin.display(), database.name));
    stock("mkfifo", &["begun", "gate"], &world.path(""));
    let child = world.command(&["run", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(std::fs::read_to_string(world.path("begun")).unwrap(), "begun\n");
    let file = write(&world, &format!("{}_20240115_020000.sql.gz", database.name), &good);
    assert_eq!(adopt(&world, std::slice::from_ref(&file)).expect(75).json()["error"]["kind"], "busy");
    std::fs::write(world.path("gate"), "go\n").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    adopt(&world, &[file]).expect(0);
    assert_eq!(world.names("x").len(), 3);
}

#[test]
fn an_archive_that_nobody_can_open_is_written_and_no_more() {
    let database = small();
    let (world, _) = world_and_dump(&database);
    let bin = world.path("without");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(programs(15).join("psql"), bin.join("psql")).unwrap();
    let file = write(&world, &format!("{}_20240115_020000.dump", database.name), &dump(&database, &["-Fc"]));
    world.configure(&format!("{}bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", Server::Pg15.section(), bin.display(), database.name));
    let ran = adopt(&world, &[file]).expect(3);
    assert_eq!(outcomes(&ran), ["problems written"]);
    assert!(ran.stderr.contains("the archive was not opened"), "{ran:#?}");
    assert!(!world.store().join("x/latest").exists());
}
