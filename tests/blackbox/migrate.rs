//! docs/migrate.md, followed by somebody with a container, a cron script's dumps and a `.env` file.

use std::process::Command;

use crate::adopt::{a_year, dump, through};
use crate::common::{Database, Server, World, container, password, run};
use crate::support::repository;

/// The blocks of a kind in a page.
fn blocks<'a>(page: &'a str, kind: &str) -> Vec<&'a str> {
    page.split(&format!("\n```{kind}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_command_of_the_page_works() {
    let page = std::fs::read_to_string(repository("docs/migrate.md")).unwrap();
    let database = Database::create(Server::Exec, "shop", "sample");
    let _restored = Database { server: Server::Exec, name: "shop_new".to_owned() };
    let world = World::new();
    a_year(&world, &database, &through("gzip -9", &dump(&database, &[])), 40);
    std::fs::write(world.path(".env"), format!("POSTGRES_PASSWORD='{}'\n", password().replace('\'', "'\\''"))).unwrap();
    // The page's own names, where they are in this world.
    let here = |text: &str| {
        [
            ("shop-db", container()),
            ("/srv/postgres/backups", world.store().display().to_string()),
            ("/var/backups/postgres", world.path("old").display().to_string()),
            ("/opt/shop/.env", world.path(".env").display().to_string()),
        ]
        .iter()
        .fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
    };
    let file = blocks(&page, "toml")[0];
    std::fs::write(world.config(), format!("state_dir = \"{}\"\n{}", world.path("state").display(), here(file))).unwrap();

    let commands: Vec<&str> =
        blocks(&page, "console").into_iter().flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(commands.len() > 15, "{commands:#?}");
    // What the text names is run, too.
    for named in page.split('`').filter(|code| code.starts_with("pgvigil ")) {
        let known = commands.iter().any(|command| command.contains(named)) || ["pgvigil init", "pgvigil daemon"].contains(&named);
        assert!(known, "{named} is not run");
    }
    let script: String = commands.iter().map(|command| format!("{}\n", here(command))).collect();
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    std::fs::create_dir(world.path("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pgvigil"), world.path("bin/pgvigil")).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("set -exo pipefail\n{script}")]).current_dir(world.path("")).env("PATH", path);
    bash.env_remove("PGVIGIL_TEST_PASSWORD").env("PGVIGIL_CONFIG", world.config());
    let output = run(&mut bash);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stderr}", String::from_utf8_lossy(&output.stdout));
    assert!(!stderr.contains("ERROR:") && !stderr.contains("error:"), "{stderr}");
    let count = "select count(*) from orders";
    assert_eq!(Server::Exec.sql("shop_new", count), database.sql(count));
}
