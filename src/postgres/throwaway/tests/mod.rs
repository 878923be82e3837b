//! Against a real Engine and real clusters: run under `tests/support/with-servers`.

mod cluster;
mod container;
mod databases;

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::error::Kind;

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run under tests/support/with-servers"))
}

/// A folder for drills below one that nobody else may enter, and the name of an installation.
struct Place {
    _dir: tempfile::TempDir,
    folder: PathBuf,
    owner: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Longer than the path of a socket may be.
        let folder = dir.path().join("x".repeat(120)).join("drills");
        Place { folder, _dir: dir, owner: Tag::random().random_part().to_owned() }
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { major: 15, superuser: "Chief -x", preload: None, tag: Tag::random(), owner: &self.owner, folder: &self.folder }
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_none())
    }
}

/// A test that fails leaves no container either.
impl Drop for Place {
    fn drop(&mut self) {
        for container in containers(&self.owner) {
            docker(&["rm", "--force", "--volumes", &container]);
        }
    }
}

fn plan() -> Plan {
    let text = format!(
        "[servers.docker]\ncontainer = \"{}\"\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n\
         [servers.named]\nsocket = \"{}\"\nport = {}\npassword = {{ env = \"PGVIGIL_TEST_PASSWORD\" }}\n\
         [servers.newer]\nsocket = \"/nowhere\"\nbin_dir = \"{}\"\n\
         [stores.local]\npath = \"/nowhere\"\n",
        var("PGVIGIL_TEST_CONTAINER"),
        var("PGVIGIL_TEST_PG15_SOCKET"),
        var("PGVIGIL_TEST_PG15_PORT"),
        var("PGVIGIL_TEST_PG18_BIN"),
    );
    crate::config::parse(&text, Path::new("test.toml")).unwrap_or_else(|faults| panic!("{faults:?}"))
}

async fn ask(server: &Server, sql: &str) -> String {
    server.query(server.maintenance_database(), &format!("select to_json(({sql})::text)")).await.unwrap()
}

/// What every server of a drill can do.
async fn works(server: &Server, superuser: &str) {
    assert!(ask(server, "select version()").await.starts_with(&format!("PostgreSQL {}", server.facts.major())));
    assert_eq!(server.facts.user, superuser);
    assert!(server.facts.is_superuser);
    assert_eq!(ask(server, "select rolname from pg_roles where oid = 10").await, superuser);
    assert_eq!(ask(server, "select application_name from pg_stat_activity where pid = pg_backend_pid()").await, server.tag().as_str());
    assert_eq!(ask(server, "select current_setting('fsync') || current_setting('listen_addresses')").await, "off");
    let made = "create database \"a b\" template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'; select to_json(true)";
    assert!(server.query::<bool>("postgres", made).await.unwrap());
    assert!(server.query::<bool>("a b", "create table t as select 1; select to_json(true)").await.unwrap());
}

#[expect(clippy::disallowed_methods, reason = "the docker program is who looks independently")]
fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn containers(owner: &str) -> Vec<String> {
    let ids = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &format!("label={LABEL}={owner}")]);
    ids.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_cannot_be_preloaded_is_named_and_nothing_is_left() {
    let (plan, place) = (plan(), Place::new());
    let wanted = Wanted { preload: Some("nosuch_library"), ..place.wanted() };
    for made in [Throwaway::in_container(&plan.servers["docker"], &wanted).await, Throwaway::local(None, &wanted).await] {
        let error = made.err().unwrap();
        assert_eq!(error.kind, Kind::Unverifiable);
        assert!(error.message.starts_with("cannot verify: "), "{}", error.message);
        assert!(error.message.contains("could not access file \"nosuch_library\""), "{}", error.message);
        assert!(error.hint.unwrap().contains("nosuch_library"));
    }
    assert!(containers(&place.owner).is_empty() && place.is_empty());
}

#[test]
fn only_a_library_that_the_log_speaks_of_is_to_blame() {
    let log = "LOG: x\nFATAL:  could not access file \"b\": No such file";
    let error = not_started("does not start", log, Some("aa, \"b\""));
    assert!(error.hint.unwrap().starts_with("install what brings the library b "));
    let error = not_started("does not start", "FATAL: no space left", Some("aa"));
    assert_eq!((error.message.as_str(), error.hint), ("cannot verify: the drill's server does not start\n  FATAL: no space left", None));
}
