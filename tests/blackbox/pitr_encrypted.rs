//! Base backups and log that only who has a key can read.

use crate::common::daemon::{Daemon, until};
use crate::common::ran;
use crate::pitr_site::Site;
use crate::support::{own, stock};

/// A site whose base backups and log are for a key, which lies where the server's user can read it.
fn encrypting() -> (Site, String) {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let key = encrypt(&site);
    (site, key)
}

/// The same for a site that is there. The key is returned.
fn encrypt(site: &Site) -> String {
    let world = &site.world;
    stock("age-keygen", &["-o", "restored/key.txt"], &world.path(""));
    stock("chown", &["postgres:", "restored/key.txt"], &world.path(""));
    let public = String::from_utf8(stock("age-keygen", &["-y", "restored/key.txt"], &world.path(""))).unwrap();
    let to = format!("encrypt_to = [\"{}\"]\n", public.trim());
    for file in [world.config(), world.path("wal.toml")] {
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}{to}")).unwrap();
    }
    world.path("restored/key.txt").display().to_string()
}

/// Nothing that was in a table is in the store in clear.
fn is_encrypted(site: &Site) {
    let names = site.archived();
    assert!(!names.is_empty());
    for name in names {
        let path = site.world.store().join("cluster/wal/00000001").join(&name);
        let stored = std::fs::read(path).unwrap();
        assert!(stored.windows(21).take(4096).any(|bytes| bytes == b"age-encryption.org/v1"), "{name}");
    }
}

#[test]
fn log_that_is_streamed_or_comes_from_a_folder_is_for_the_key_too() {
    let settings = "wal = \"stream\"\ncompression = \"zstd\"\n";
    for site in [Site::with(15, "archive_mode = off", settings), Site::by_folder(15, "", "compression = \"zstd\"\n")] {
        let key = encrypt(&site);
        let _daemon = Daemon::start(&site.world);
        site.sql("create table t as select generate_series(1, 100) n");
        site.world.backup("cluster");
        site.sql("insert into t values (0)");
        site.switch();
        is_encrypted(&site);
        assert_eq!(site.restore(&["--latest", "--store", "local", "--identity", &key]).sql("select count(*) from t"), "101");
        let target = site.world.path("restored/without").display().to_string();
        let ran = site.pgvigil(&["restore", "cluster/latest", "--latest", "--target-dir", &target]).expect(1);
        assert!(ran.stderr.contains("no identity was given"), "{ran:#?}");
    }
}

#[test]
fn from_the_server_to_a_moment_with_the_key_only() {
    let (site, key) = encrypting();
    site.sql("create table t as select generate_series(1, 100) n");
    let id = site.world.backup("cluster");
    site.sql("insert into t values (0)");
    site.switch();
    let manifest = site.world.manifest(&id);
    let names: Vec<&str> = manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["base.tar.zst.age", "backup_manifest", "RESTORE.md"]);
    assert_eq!(manifest["encryption"]["method"], "age");
    is_encrypted(&site);
    // Who archives needs no key to know its own segment again.
    let name = site.archived()[0].strip_suffix(".zst").unwrap().to_owned();
    let raw = site.world.path("restored").join(&name);
    site.pgvigil(&["wal", "fetch", &name, raw.to_str().unwrap(), "--identity", &key]).expect(0);
    let push = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgvigil"));
        ran(command.arg("--config").arg(site.world.path("wal.toml")).args(["wal", "push"]).arg(&raw))
    };
    push().expect(0);
    let mut other = std::fs::read(&raw).unwrap();
    let last = other.len() - 1;
    other[last] ^= 1;
    std::fs::write(&raw, other).unwrap();
    assert!(push().expect(1).stderr.contains("with other bytes"));

    // Without the key the hashes are looked at, the windows are shown, and nothing is restored.
    site.pgvigil(&["verify", &id]).expect(0);
    site.pgvigil(&["verify", &id, "--identity", &key]).expect(0);
    assert!(site.pgvigil(&["wal", "status"]).stdout.contains("windows"));
    let ran = site.pgvigil(&["wal", "fetch", &name, "/dev/null"]).expect(255);
    assert!(ran.stderr.contains("no identity was given"), "{ran:#?}");
    let target = site.world.path("restored/without").display().to_string();
    let ran = site.pgvigil(&["restore", &id, "--latest", "--target-dir", &target]).expect(1);
    assert!(ran.stderr.contains("no identity was given"), "{ran:#?}");
    assert!(!site.world.path("restored/without").exists());
    let ran = site.pgvigil(&["verify", &id, "--drill"]).expect(3);
    assert!(ran.stderr.contains("encrypted"), "{ran:#?}");

    // With it.
    assert_eq!(site.restore(&["--latest", "--identity", &key]).sql("select count(*) from t"), "101");
    let answer = site.pgvigil(&["--json", "verify", &id, "--drill", "--identity", &key]).expect(0).json();
    assert_eq!(answer["rung"], "matched", "{answer}");
}

#[test]
fn the_page_is_enough_with_stock_tools() {
    let (site, key) = encrypting();
    follow(&site, &key, true);
}

#[test]
fn the_page_of_one_that_is_not_encrypted_has_a_tablespace_and_no_settings_of_its_own() {
    let site = Site::archiving(15, "compression = \"zstd\"\n");
    let space = site.world.path("restored/far");
    std::fs::create_dir(&space).unwrap();
    own(&space);
    site.sql(&format!("create tablespace far location '{}'", space.display()));
    site.sql("alter role current_user set default_tablespace = far");
    follow(&site, "", false);
}

/// Restores by nothing but the lines of the page. `has_settings`: the cluster has them in its own folder.
fn follow(site: &Site, key: &str, has_settings: bool) {
    site.sql("create table t as select generate_series(1, 100) n");
    let id = site.world.backup("cluster");
    site.sql("insert into t values (0)");
    site.switch();
    let page = std::fs::read_to_string(site.world.folder(&id).join("RESTORE.md")).unwrap();
    let target = site.world.path("restored/by_hand").display().to_string();
    let here = |line: &str| {
        line.trim()
            .replace("/srv/restored", &target)
            .replace("PATH-OF-THE-STORE", &site.world.store().display().to_string())
            .replace("PATH-OF-THE-KEY/", "")
            .replace("key.txt", key)
    };
    let lines: Vec<String> = page.lines().filter(|line| line.starts_with("    ")).map(here).collect();
    let pick = |begins: &str| lines.iter().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("{begins}: {page}")).clone();
    let as_postgres = |script: &str| {
        stock("setpriv", &["--reuid=postgres", "--regid=postgres", "--init-groups", "bash", "-c", script], &site.world.folder(&id));
    };
    for line in lines.iter().filter(|line| ["mkdir", "zstd", "age", "sed"].iter().any(|program| line.starts_with(program))) {
        as_postgres(line);
    }
    if !has_settings {
        as_postgres(&format!("rm {target}/postgresql.conf {target}/pg_hba.conf {target}/pg_ident.conf"));
    }
    let conf = || std::fs::read_to_string(site.world.path("restored/by_hand/postgresql.conf")).unwrap_or_default();
    let before = conf();
    for line in lines.iter().filter(|line| line.starts_with("[ -e")) {
        as_postgres(line);
    }
    // What is there stays.
    assert!(if has_settings { conf() == before } else { conf().contains("max_connections = '") }, "{}", conf());
    let conf = [pick("restore_command"), pick("recovery_target_action"), pick("archive_mode")].join("\n");
    std::fs::write(site.world.path("restored/by_hand/postgresql.auto.conf"), format!("{conf}\n")).unwrap();
    as_postgres(&pick("touch"));
    let log = site.world.path("restored/by_hand/log").display().to_string();
    let ctl = crate::support::programs(15).join("pg_ctl").display().to_string();
    as_postgres(&format!("{ctl} start -s -w -D {target} -l {log} -o \"-p 54999 -c listen_addresses='' -k {target} -c hot_standby=off\""));
    let psql = crate::support::programs(15).join("psql").display().to_string();
    // Without settings of its own only the server's user has a way in.
    let ask = format!(
        "setpriv --reuid=postgres --regid=postgres --init-groups env PGPASSWORD=\"$PGVIGIL_TEST_PASSWORD\" {psql} -XAt -h {target} -p 54999 -U postgres -d postgres -c 'select count(*) from t'"
    );
    let count = until("the server is ready", || {
        let asked = std::process::Command::new("bash").args(["-c", &ask]).output().unwrap();
        asked.status.success().then(|| String::from_utf8(asked.stdout).unwrap().trim().to_owned())
    });
    as_postgres(&format!("{ctl} stop -s -m immediate -D {target}"));
    assert_eq!(count, "101");
    // Tablespaces are its own, not those of the live one.
    let links = std::fs::read_dir(site.world.path("restored/by_hand/pg_tblspc")).unwrap();
    let links: Vec<_> = links.map(|link| std::fs::read_link(link.unwrap().path()).unwrap().display().to_string()).collect();
    assert_eq!(links.len(), usize::from(!has_settings), "{links:?}");
    assert!(links.iter().all(|link| link.starts_with(&format!("{target}_"))), "{links:?}");
}
