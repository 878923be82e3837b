//! As root: secrets are read with root's rights, files are written with those of state_dir's owner.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::common::{Database, Server, World, password, ran};
use crate::support::{Cluster, as_user};

const NOBODY: u32 = 65_534;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A world whose state_dir and store belong to nobody, and whose secret only root can read.
fn world_of_nobody(section: &str, sections: &str) -> World {
    assert!(nix::unistd::Uid::effective().is_root(), "the tests of rights need root");
    let world = World::new();
    let secret = world.path("secret");
    std::fs::write(&secret, password()).unwrap();
    mode(&secret, 0o600);
    mode(&world.path(""), 0o755);
    for dir in [world.path("state"), world.store()] {
        std::fs::create_dir(&dir).unwrap();
        chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
        mode(&dir, 0o700);
    }
    let section = section.replace("{ env = \"PGVIGIL_TEST_PASSWORD\" }", &format!("{{ file = \"{}\" }}", secret.display()));
    world.configure(&format!("{section}{sections}"));
    mode(&world.config(), 0o600);
    world
}

/// Owner of everything below a folder, without the folder itself.
fn owners(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        found.push((path.display().to_string(), meta.uid()));
        if meta.is_dir() {
            found.extend(owners(&path));
        }
    }
    found
}

#[test]
fn root_goes_on_as_the_owner_of_state_dir() {
    for (server, keys) in [(Server::Pg15, ""), (Server::Pg15, "format = \"directory\"\n")] {
        let database = Database::sample(server);
        let world = world_of_nobody(&server.section(), &format!("[backups.x]\ndatabase = \"{}\"\n{keys}", database.name));
        world.pgvigil(&["check"]).expect(3);
        let id = world.backup("x");
        for args in [["verify", &id], ["pin", &id], ["unpin", &id], ["show", &id], ["history", "x"]] {
            world.pgvigil(&args).expect(0);
        }
        for dir in [world.store(), world.path("state")] {
            let found = owners(&dir);
            assert!(found.len() > 3, "{found:?}");
            assert!(found.iter().all(|(_, uid)| *uid == NOBODY), "{found:#?}");
        }
        // The owner can do without root what needs no secret.
        mode(&world.config(), 0o644);
        for args in [&["list"][..], &["cat", &id, "RESTORE.md"], &["verify", &id], &["pin", &id]] {
            let ran = ran(&mut as_user("nobody", &world.command(args)));
            assert!(ran.expect(0).stderr.contains("servers.main.password"));
        }
        let refused = ran(&mut as_user("nobody", &world.command(&["--json", "run", "x"]))).expect(1);
        assert_eq!(refused.json()["error"]["kind"], "secret");
    }
}

#[test]
fn root_adopts_what_only_root_can_read() {
    let database = Database::empty(Server::Pg15);
    let world = world_of_nobody(&Server::Pg15.section(), &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let dir = world.path("roots");
    std::fs::create_dir(&dir).unwrap();
    mode(&dir, 0o700);
    let file = dir.join(format!("backup_{}_20240115_020000.sql", database.name));
    world.pgvigil(&["export", &database.name, "--output", &file.display().to_string()]).expect(0);
    mode(&file, 0o600);
    world.pgvigil(&["adopt", "x", &file.display().to_string()]).expect(0);
    let found = owners(&world.store());
    assert!(found.len() > 3 && found.iter().all(|(_, uid)| *uid == NOBODY), "{found:#?}");
}

#[test]
fn an_export_keeps_the_rights_of_its_caller() {
    let database = Database::empty(Server::Pg15);
    let world = world_of_nobody(&Server::Pg15.section(), "");
    let dir = world.path("roots");
    std::fs::create_dir(&dir).unwrap();
    mode(&dir, 0o700);
    let file = dir.join("x.sql");
    world.pgvigil(&["export", &database.name, "--output", &file.display().to_string()]).expect(0);
    assert_eq!(std::fs::metadata(&file).unwrap().uid(), 0);
}

#[test]
fn a_folder_that_the_owner_cannot_write_is_told_with_the_fix() {
    let database = Database::empty(Server::Pg15);
    let world = world_of_nobody(&Server::Pg15.section(), &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    chown(world.store(), Some(0), Some(0)).unwrap();
    let check = world.pgvigil(&["check"]).expect(1);
    assert!(check.stdout.contains("chown"), "{check:#?}");
    let ran = world.pgvigil(&["run", "x"]).expect(1);
    assert!(ran.stderr.contains("permission denied") && ran.stderr.contains("chown"), "{ran:#?}");
}

#[test]
fn a_server_with_tls_does_not_look_into_the_home_of_root() {
    // libpq looks for ~/.postgresql/postgresql.crt when the server speaks TLS, and takes a home
    // that it may not read for a failure.
    let world = World::new();
    let (key, certificate) = (world.path("server.key"), world.path("server.crt"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let cluster = Cluster::start(15, "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n", &[&key, &certificate]);
    let section =
        format!("[servers.main]\nhost = \"127.0.0.1\"\nport = {}\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n", cluster.port);
    let home = world.path("home");
    std::fs::create_dir(&home).unwrap();
    mode(&home, 0o700);
    for sslmode in ["prefer", "require"] {
        let world = world_of_nobody(&section, &format!("sslmode = \"{sslmode}\"\n[backups.x]\ndatabase = \"postgres\"\n"));
        let ran = ran(world.command(&["--json", "run", "x"]).env("HOME", &home)).expect(0);
        assert_eq!(ran.json()["outcome"], "ok", "{ran:#?}");
    }
    let world = world_of_nobody(&section, "sslmode = \"verify-full\"\n[backups.x]\ndatabase = \"postgres\"\n");
    world.pgvigil(&["run", "x"]).expect(1);
    let trusted = world_of_nobody(
        &section.replace("127.0.0.1", "localhost"),
        &format!(
            "sslmode = \"verify-full\"\nsslrootcert = \"{}\"\n[backups.x]\ndatabase = \"postgres\"\n",
            world.path("server.crt").display()
        ),
    );
    std::fs::copy(&certificate, world.path("server.crt")).unwrap();
    mode(&world.path("server.crt"), 0o644);
    trusted.pgvigil(&["run", "x"]).expect(0);
}
