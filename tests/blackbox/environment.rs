//! The environment as configuration, alone and over the file.

use std::process::{Command, Stdio};

use crate::common::daemon::{Daemon, until, write_config};
use crate::common::{Database, Ran, Server, World, password, ran, var};

fn variables(world: &World, database: &str) -> Vec<(String, String)> {
    let pairs = [
        ("PGVIGIL__STATE_DIR", world.path("state").display().to_string()),
        ("PGVIGIL_SERVERS__MAIN__HOST", "127.0.0.1".to_owned()),
        ("PGVIGIL_SERVERS__MAIN__PORT", var("PGVIGIL_TEST_PG15_PORT")),
        ("PGVIGIL_SERVERS__MAIN__PASSWORD__FILE", world.path("secret").display().to_string()),
        ("PGVIGIL_STORES__LOCAL__PATH", world.store().display().to_string()),
        ("PGVIGIL_BACKUPS__EUEM_DB__DATABASE", database.to_owned()),
        ("PGVIGIL_BACKUPS__EUEM_DB__SCHEDULE", "0 2 * * *".to_owned()),
        // As Kubernetes makes them for a service that is called pgvigil.
        ("PGVIGIL_SERVICE_HOST", "10.0.0.1".to_owned()),
        ("PGVIGIL_PORT", "tcp://10.0.0.1:9847".to_owned()),
        ("PGVIGIL_PORT_9847_TCP_ADDR", "10.0.0.1".to_owned()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The program without a file.
fn alone(world: &World, database: &str, args: &[&str]) -> Command {
    assert!(!std::path::Path::new(pgvigil::config::DEFAULT_PATH).exists(), "this machine has a file of its own");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgvigil"));
    command.args(args).envs(variables(world, database)).current_dir(world.path("")).stdin(Stdio::null());
    command
}

#[test]
fn the_environment_alone_is_a_configuration() {
    let database = Database::sample(Server::Pg15);
    let world = World::new();
    std::fs::write(world.path("secret"), format!("{}\n", password())).unwrap();
    let pgvigil = |args: &[&str]| ran(&mut alone(&world, &database.name, args));
    let check = pgvigil(&["check"]).expect(3).stdout;
    assert!(check.starts_with("ok       file: the environment alone: 1 server, 1 store, 1 backup\n"), "{check}");
    let id = pgvigil(&["--json", "run", "euem_db"]).expect(0).json()["id"].as_str().unwrap().to_owned();
    assert!(world.folder(&id).join("manifest.json").exists());
    assert_eq!(pgvigil(&["--json", "next", "--days", "2"]).expect(0).json()[0]["backup"], "euem_db");
    assert_eq!(pgvigil(&["--json", "list"]).expect(0).json()[0]["id"], *id);
    let daemon = Daemon::of(&mut alone(&world, &database.name, &["daemon"]));
    let status = pgvigil(&["--json", "status"]).json();
    assert_eq!((&status["daemon"]["running"], &status["backups"][0]["name"]), (&true.into(), &"euem_db".into()), "{status:#}");
    daemon.stop();
    // A fault names its variable.
    let faulty = |name: &str, value: &str| -> Ran { ran(alone(&world, &database.name, &["check"]).env(name, value)).expect(78) };
    let told = faulty("PGVIGIL_BACKUPS__EUEM_DB__SCHEDUL", "@daily");
    assert!(told.stdout.contains("PGVIGIL_BACKUPS__EUEM_DB__SCHEDUL: unknown key") && told.stdout.contains("did you mean"), "{told:#?}");
    let told = faulty("PGVIGIL_BACKUPS__EUEM_DB__RETRIES", "often");
    assert!(told.stdout.contains("PGVIGIL_BACKUPS__EUEM_DB__RETRIES: "), "{told:#?}");
    // A secret that looks like a number, and is wrong, is in no message.
    let told = ran(alone(&world, &database.name, &["check"])
        .env_remove("PGVIGIL_SERVERS__MAIN__PASSWORD__FILE")
        .env("PGVIGIL_SERVERS__MAIN__PASSWORD", "90210"));
    assert!(told.code == Some(1) && !told.stdout.contains("90210") && !told.stderr.contains("90210"), "{told:#?}");
}

#[test]
fn the_environment_wins_over_the_file_and_an_edit_of_that_is_seen() {
    let world = World::new();
    let file = |retries: u32| {
        write_config(&world, "", &format!("[backups.x]\ndatabase = \"x\"\nschedule = \"0 2 * * *\"\nretries = {retries}\n"));
    };
    file(1);
    let with = |args: &[&str]| {
        let mut command = world.command(args);
        command.env("PGVIGIL_BACKUPS__X__SCHEDULE", "0 5 * * *").env("PGVIGIL_BACKUPS__Y__DATABASE", "y");
        command.env("PGVIGIL_BACKUPS__Y__SCHEDULE", "@daily");
        command
    };
    let next = ran(&mut with(&["--json", "next", "--days", "1"])).expect(0).json();
    let mut named: Vec<&str> = next.as_array().unwrap().iter().map(|row| row["backup"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["x", "y"]);
    let of_x = next.as_array().unwrap().iter().find(|row| row["backup"] == "x").unwrap();
    assert!(of_x["local"].as_str().unwrap().contains("T05:00:00"), "{of_x}");
    let check = ran(&mut with(&["check", "--offline"])).expect(3).stdout;
    assert!(check.contains(&format!("{} and the environment: 1 server", world.config().display())), "{check}");
    let daemon = Daemon::of(&mut with(&["daemon"]));
    file(7);
    daemon.wait_for_line("changed: x: retries 1 -> 7");
    // That the file is gone is a fault, whatever the environment says.
    std::fs::remove_file(world.config()).unwrap();
    daemon.wait_for_line("the file is faulty");
    file(8);
    until("it is mended", || (daemon.count("retries 7 -> 8") == 1).then_some(()));
    daemon.stop();
}
