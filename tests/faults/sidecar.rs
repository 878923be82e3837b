//! compose.yaml and compose.network.yaml as they are shipped, but for the names of the images, under an
//! Engine of the test's own: the proxy's lists, drills, a container made anew, the Engine started anew.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::{World, password, run};
use crate::engine::Engine;
use crate::tools::{must, until};

const TOKEN: &str = "t0ken";

fn shipped(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The first block of a language below a heading of docs/sidecar.md.
fn documented(heading: &str, language: &str) -> String {
    let docs = std::fs::read_to_string(shipped("docs/sidecar.md")).unwrap();
    let (_, below) = docs.split_once(heading).unwrap();
    let (_, block) = below.split_once(&format!("```{language}\n")).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// A project of docker compose.
struct Project {
    address: String,
    world: World,
    name: &'static str,
}

impl Project {
    fn new(engine: &Engine, name: &'static str, file: &str, changes: &[(&str, &str)]) -> Self {
        let world = World::new();
        std::fs::write(world.path("postgres_password"), password()).unwrap();
        let (secret, docker) = (world.path("postgres_password").display().to_string(), shipped("docker").display().to_string());
        let socket = format!("{}:/var/run/docker.sock", engine.path("docker.sock"));
        let mut text = std::fs::read_to_string(shipped(file)).unwrap();
        let here = [
            ("image: postgres:17", "image: pgvigil-test/database"),
            ("image: pgvigil\n    build: .\n", "image: pgvigil-test/pgvigil\n"),
            ("./secrets/postgres_password", secret.as_str()),
            ("\"0 2 * * *\"", "\"*/3 * * * * *\""),
        ];
        for (from, to) in here.iter().chain(changes) {
            assert!(text.contains(from), "{file} has no {from}");
            text = text.replace(from, to);
        }
        text = text.replace("haproxy:3.0-alpine", "pgvigil-test/haproxy").replace("./docker/", &format!("{docker}/"));
        text = text.replace("/var/run/docker.sock:/var/run/docker.sock", &socket);
        std::fs::write(world.path("compose.yaml"), text).unwrap();
        // As the docs have it.
        let token = world.path("page_token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let (heading, from, to) = match name {
            "minute" => ("## To the minute", "myproject-postgres-1", "minute_postgres_1"),
            _ => ("## The page and the probes", "./secrets/page_token", token.to_str().unwrap()),
        };
        let more = documented(heading, "yaml");
        assert!(more.contains(from), "{more}");
        std::fs::write(world.path("override.yaml"), more.replace(from, to)).unwrap();
        Project { address: engine.address(), world, name }
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.address]).args(args);
        command
    }

    fn compose(&self, allow: &str, args: &[&str]) {
        let mut command = Command::new("docker-compose");
        command.env("DOCKER_HOST", &self.address).env("PGVIGIL_ALLOW", allow).env("PGVIGIL_UID", "4711").env("PGVIGIL_GID", "4712");
        if self.name != "network" {
            command.env_remove("PGVIGIL_UID").env_remove("PGVIGIL_GID");
        }
        must(
            command
                .args(["-p", self.name, "-f"])
                .arg(self.world.path("compose.yaml"))
                .arg("-f")
                .arg(self.world.path("override.yaml"))
                .args(args),
        );
    }

    /// The container of a service; compose may be of either generation.
    fn container(&self, service: &str) -> String {
        let filters = [format!("label=com.docker.compose.project={}", self.name), format!("label=com.docker.compose.service={service}")];
        must(self.docker(&["ps", "--all", "--quiet", "--filter", &filters[0], "--filter", &filters[1]]))
    }

    /// Something run beside the daemon.
    fn exec(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = run(self.docker(&["exec", &self.container("pgvigil")]).args(args));
        (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    fn ids(&self) -> Vec<String> {
        let output = run(&mut self.docker(&["exec", &self.container("pgvigil"), "pgvigil", "--json", "list", "shop"]));
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        list.as_array().into_iter().flatten().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits for a backup that is younger than all that were there.
    fn another_backup(&self) -> String {
        let before = self.ids();
        until("there is another backup", || self.ids().into_iter().next().filter(|id| before.first().is_none_or(|newest| id > newest)))
    }

    /// The status that a service answers a request with, asked from the machine of the Engine.
    fn ask(&self, engine: &Engine, service: &str, port: u16, what: &str, headers: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let addresses = must(self.docker(&["inspect", "--format", format, &self.container(service)]));
        answer(engine, &format!("{}/{port}", addresses.split(' ').next().unwrap()), what, headers)
    }
}

/// The status of the answer to a request.
fn answer(engine: &Engine, whom: &str, what: &str, headers: &str) -> String {
    let request = format!("{what} HTTP/1.1\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n{headers}\\r\\n\\r\\n");
    let first = engine.within(&format!("exec 3<>/dev/tcp/{whom}; printf '{request}' >&3; head -n 1 <&3"));
    first.split(' ').nth(1).unwrap_or_default().to_owned()
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in ["pgvigil", "socket-proxy", "postgres"] {
                let output = run(&mut self.docker(&["logs", "--tail", "40", &self.container(service)]));
                eprintln!("{service}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

/// What the list without drills must refuse; of them what that with drills must refuse, too.
const FORBIDDEN: [(&str, &str, bool); 22] = [
    ("POST", "/containers/create", false),
    ("POST", "/v1.41/containers/create?name=x", false),
    ("DELETE", "/containers/pgvigil-drill-0", false),
    ("POST", "/containers/pgvigil-drill-0/start", false),
    ("POST", "/containers/ID/start", true),
    ("POST", "/containers/ID/attach", true),
    ("POST", "/containers/ID/kill", true),
    ("POST", "/v1.41/containers/ID/stop", true),
    ("POST", "/containers/ID/update", true),
    ("DELETE", "/containers/beside_postgres_1", true),
    ("GET", "/containers/ID/export", true),
    ("GET", "/containers/ID/archive?path=/", true),
    ("GET", "/containers/ID/logs?stdout=1", true),
    ("PUT", "/containers/ID/archive?path=/", true),
    ("GET", "/containers/../info", true),
    ("GET", "//info", true),
    ("GET", "/info", true),
    ("GET", "/images/json", true),
    ("POST", "/images/create?fromImage=x", true),
    ("POST", "/build", true),
    ("POST", "/volumes/create", true),
    ("GET", "/secrets", true),
];

#[test]
fn compose_with_a_proxy() {
    let mut engine = Engine::apart();
    let project = Project::new(&engine, "beside", "compose.yaml", &[]);
    project.compose("backups", &["up", "--detach"]);
    let id = project.another_backup();
    assert!(id.starts_with("shop/"), "{id}");
    let inspect = |service: &str, format: &str| must(project.docker(&["inspect", "--format", format, &project.container(service)]));
    assert_eq!(project.exec(&["id", "-u"]).1.trim(), "10001");
    assert_eq!(project.exec(&["touch", "/x"]).0, Some(1), "the root file system is read-only");
    assert_eq!(project.exec(&["pgvigil", "status", "--alive"]).0, Some(0));
    until("it is healthy", || (inspect("pgvigil", "{{.State.Health.Status}}") == "healthy").then_some(()));

    // Backups are all that this list allows.
    let postgres = project.container("postgres");
    let refused = |engine: &Engine, drills: bool| {
        let call = |method, path: &str| {
            project.ask(engine, "socket-proxy", 2375, &format!("{method} {}", path.replace("ID", &postgres)), "Host: x")
        };
        for (method, path, always) in FORBIDDEN {
            if always || !drills {
                assert_eq!(call(method, path), "403", "{method} {path}");
            }
        }
        for (path, expected) in
            [("/version", "200"), ("/v1.41/containers/json", "200"), ("/containers/ID/json", "200"), ("/exec/0/json", "404")]
        {
            assert_eq!(call("GET", path), expected, "{path}");
        }
    };
    refused(&engine, false);
    let (code, said) = project.exec(&["pgvigil", "verify", "shop/latest", "--drill"]);
    assert!(code == Some(3) && said.contains("as good as root"), "{code:?} {said}");
    let check = project.exec(&["pgvigil", "check"]).1;
    assert!(check.contains("no more is open than backups need"), "{check}");

    // The page, on the machine and for other containers: to who has the token, by a name that is known.
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for (host, shown, expected) in [("127.0.0.1:9847", "X: y", "401"), ("127.0.0.1:9847", &bearer, "200"), ("evil", &bearer, "403")] {
        let headers = format!("Host: {host}\\r\\n{shown}");
        assert_eq!(answer(&engine, "127.0.0.1/9847", "GET /", &headers), expected, "{headers}");
    }
    assert_eq!(project.ask(&engine, "pgvigil", 9847, "GET /metrics", &format!("Host: pgvigil:9847\\r\\n{bearer}")), "200");

    // And drills, what the other one allows.
    project.compose("drills", &["up", "--detach"]);
    until("the drill goes well", || {
        let (code, said) = project.exec(&["pgvigil", "--json", "verify", "shop/latest", "--drill"]);
        assert!(!said.contains("as good as root"), "{said}");
        (code == Some(0) && said.contains("\"matched\"")).then_some(())
    });
    refused(&engine, true);
    let check = project.exec(&["pgvigil", "check"]).1;
    assert!(check.contains("no more is open than drills need; containers can be made, which is as good as root"), "{check}");

    // Made anew: the same backup, with the same name.
    project.compose("drills", &["up", "--detach", "--force-recreate", "--no-deps", "postgres"]);
    project.another_backup();
    let status: Value = serde_json::from_str(&project.exec(&["pgvigil", "--json", "status"]).1).unwrap();
    assert_eq!(status["backups"].as_array().unwrap().len(), 1, "{status:#}");

    // The Engine begins anew, and all containers with it.
    let before = project.ids();
    engine.stop();
    engine.serve(&[]);
    let after = until("they are there again", || project.ids().into_iter().next());
    assert!(Some(&after) >= before.first(), "{before:?} {after}");
    project.another_backup();
}

#[test]
fn compose_to_the_minute() {
    let engine = Engine::apart();
    let project = Project::new(&engine, "minute", "compose.yaml", &[]);
    // The new volume is made writable by the line of the docs.
    let line = documented("## To the minute", "sh");
    let (words, script) = line.trim().strip_prefix("docker compose ").unwrap().split_once('\'').unwrap();
    let mut args: Vec<&str> = words.split_whitespace().collect();
    args.push(script.strip_suffix('\'').unwrap());
    project.compose("drills", &args);
    project.compose("drills", &["up", "--detach"]);
    let (_, check) = until("nothing of check fails", || Some(project.exec(&["pgvigil", "check"])).filter(|(code, _)| *code != Some(1)));
    assert!(check.contains("backup cluster"), "{check}");
    let psql = |sql: &str| {
        must(project.docker(&["exec", &project.container("postgres"), "psql", "-X", "-A", "-t", "-q", "-U", "postgres", "-c", sql]))
    };
    let (code, said) = project.exec(&["pgvigil", "run", "cluster"]);
    assert_eq!(code, Some(0), "{said}");
    // What comes after the base backup is only in the log.
    psql("create table t as select generate_series(1, 1000) n");
    let segment = psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    psql("select pg_switch_wal()");
    until("the segment is in the store", || project.exec(&["ls", "/backups/cluster/wal/00000001"]).1.contains(&segment).then_some(()));
    let (code, said) = project.exec(&["pgvigil", "--json", "wal", "status"]);
    let status: Value = serde_json::from_str(&said).unwrap();
    assert!(code == Some(0) && status[0]["standing"] == "following", "{said}");
    let (code, said) = project.exec(&["pgvigil", "--json", "verify", "cluster/latest", "--drill"]);
    assert!(code == Some(0) && said.contains("\"matched\""), "{code:?} {said}");
    assert_eq!(project.exec(&["ls", "-A", "/archive"]).1.trim(), "", "what is in the store does not lie twice");
}

#[test]
fn compose_without_any_socket() {
    let engine = Engine::apart();
    let dirs = World::new();
    let [state, backups] = ["state", "backups"].map(|name| dirs.path(name));
    for dir in [&state, &backups] {
        std::fs::create_dir(dir).unwrap();
        chown(dir, Some(4711), Some(4712)).unwrap();
    }
    let (bind_state, bind_backups) = (format!("- {}:/var/lib/pgvigil", state.display()), format!("- {}:/backups", backups.display()));
    let changes = [("- state:/var/lib/pgvigil", bind_state.as_str()), ("- backups:/backups", bind_backups.as_str())];
    let project = Project::new(&engine, "network", "compose.network.yaml", &changes);
    project.compose("", &["up", "--detach"]);
    let id = project.another_backup();
    let meta = std::fs::metadata(backups.join(&id).join("manifest.json")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (4711, 4712, 0o600));
    assert_eq!(project.exec(&["id", "-u"]).1.trim(), "4711");
    let check = project.exec(&["pgvigil", "check"]);
    assert!(check.0 == Some(3) && check.1.contains("server main: PostgreSQL 15"), "{check:?}");
}
