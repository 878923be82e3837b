//! Containers that ask for a backup by their labels: they come, go, are made anew, and so does the Engine.

use std::process::Command;

use crate::common::daemon::{Daemon, alerts, until};
use crate::common::{World, password};
use crate::engine::Engine;
use crate::tools::must;

impl Engine {
    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.address()]).args(args);
        command
    }

    /// Runs PostgreSQL with labels, without `pgvigil.` in front of them.
    fn run(&self, name: &str, labels: &[(&str, &str)], more: &[&str]) {
        let mut command = self.docker(&["run", "--detach", "--name", name, "--env", "POSTGRES_DB=shop", "--env", "POSTGRES_USER=clerk"]);
        for (label, value) in labels {
            command.args(["--label", &format!("pgvigil.{label}={value}")]);
        }
        let image = "pgvigil-test/database";
        let more = if more.is_empty() { vec!["--env", "POSTGRES_PASSWORD", image] } else { more.to_vec() };
        must(command.args(more).env("POSTGRES_PASSWORD", password()));
    }

    fn remove(&self, name: &str) {
        must(self.docker(&["rm", "--force", "--volumes", name]));
    }

    fn ready(&self, name: &str) {
        let ask = ["exec", "--env", "PGUSER=clerk", name, "psql", "-X", "-d", "shop", "-c", "select 1"];
        until("the server answers", || self.docker(&ask).output().unwrap().status.success().then_some(()));
    }
}

fn told(world: &World) -> Vec<String> {
    alerts(&world.pgvigil(&["--json", "status"]).json()).into_iter().map(str::to_owned).collect()
}

#[test]
fn containers_are_followed_as_they_come_and_go() {
    let mut engine = Engine::start();
    engine.images();
    let world = World::new();
    world.configure(&format!("[discovery]\ndocker = \"{}\"\n", engine.address()));
    engine.run("shop-db", &[("enable", "true"), ("schedule", "@yearly"), ("keep", "{ last = 2 }"), ("name", "shop")], &[]);
    engine.run("other", &[("schedule", "@yearly")], &[]);
    engine.ready("shop-db");

    // Without a daemon a command asks the Engine.
    let next = world.pgvigil(&["--json", "next", "--days", "367"]).expect(0).json();
    assert_eq!((&next[0]["backup"], next.as_array().unwrap().len()), (&"shop".into(), 1), "{next:#}");
    let id = world.backup("shop");
    assert_eq!(world.manifest(&id)["databases"][0], "shop");
    assert_eq!(world.pgvigil(&["--json", "list", "shop"]).expect(0).json()[0]["id"], *id);

    let daemon = Daemon::start(&world);
    daemon.wait_for_line("changed: shop: added");
    // One that comes, over the network with the password of its own environment, which is a file inside.
    std::fs::write(world.path("secret"), password()).unwrap();
    let mount = format!("{}:/run/secrets/password:ro", world.path("secret").display());
    let by_file = ["--env", "POSTGRES_PASSWORD_FILE=/run/secrets/password", "--volume", &mount, "pgvigil-test/database"];
    let often = [("enable", "true"), ("schedule", "*/2 * * * * *"), ("server.via", "network"), ("keep.last", "3")];
    engine.run("second", &often, &by_file);
    daemon.wait_for_line("changed: second: added; next at");
    daemon.wait_for_line("changed: server second: added");
    let ended = until("it is backed up", || {
        daemon.log().lines().find(|line| line.contains("run ended backup=second") && line.contains("\"ok\"")).map(str::to_owned)
    });
    assert!(ended.contains("readable"), "{ended}");
    assert!(!daemon.log().contains(&password()));
    assert!(!std::fs::read_to_string(world.path("state/discovered.json")).unwrap().contains(&password()));

    // Faulty labels are told, and hold up nobody.
    engine.run("faulty", &[("enable", "true"), ("shedule", "@daily"), ("database", "x")], &[]);
    daemon.wait_for_line("labels are faulty: container faulty: label pgvigil.shedule: unknown key `shedule`");
    daemon.wait_for_line("alert=container/faulty/labels");
    let before = daemon.count("run ended backup=second");
    daemon.wait_for_lines("run ended backup=second", before + 1);
    let check = world.pgvigil(&["check", "--offline"]).expect(1);
    assert!(check.stdout.contains("label pgvigil.shedule") && check.stdout.contains("did you mean `schedule`?"), "{check:#?}");
    engine.remove("faulty");
    // What is gone is still told until somebody says that it is not expected.
    daemon.wait_for_line("container is gone; its backup is still expected container=\"faulty\"");
    engine.run("faulty", &[("enable", "false")], &[]);
    daemon.wait_for_line("over: labels of container faulty are faulty");

    // Made anew with another schedule.
    engine.remove("second");
    daemon.wait_for_line("container is gone; its backup is still expected container=\"second\"");
    engine.run("second", &[("enable", "true"), ("schedule", "*/3 * * * * *"), ("keep.last", "3")], &[]);
    daemon.wait_for_line("changed: second: schedule \"*/2 * * * * *\" -> \"*/3 * * * * *\"");
    let before = daemon.count("backup=second id=\"second/");
    daemon.wait_for_lines("backup=second id=\"second/", before + 1);

    // The Engine is killed, and with it its containers; it comes back, and so do they.
    engine.kill();
    daemon.wait_for_line("containers cannot be followed; tried again");
    engine.serve(&[]);
    for name in ["shop-db", "second"] {
        must(engine.docker(&["start", name]));
    }
    let before = daemon.count("backup=second id=\"second/");
    daemon.wait_for_lines("backup=second id=\"second/", before + 1);
    engine.run("third", &[("enable", "true"), ("schedule", "@yearly")], &[]);
    daemon.wait_for_line("changed: third: added");

    // Gone: its backup stays known, and is told; until the file says that it is forgotten.
    engine.remove("second");
    until("it is told", || told(&world).contains(&"backup/second/failed".to_owned()).then_some(()));
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), format!("{text}forget = [\"second\"]\n")).unwrap();
    daemon.wait_for_line("changed: second: taken out; its backups stay and are not pruned");
    until("nothing is told any more", || told(&world).is_empty().then_some(()));
    let status = world.pgvigil(&["--json", "status"]).json();
    assert_eq!(status["orphaned"], serde_json::json!(["second"]), "{status:#}");
    daemon.stop();
}
