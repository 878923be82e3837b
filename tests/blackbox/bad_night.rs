//! docs/restore.md, followed in a bad night: every command of it, on a database called shop.

use crate::common::{Database, Ran, Server, World};
use crate::support::{Psql, repository};

/// What the page tells to type, without the prompt of its example.
fn commands(page: &str) -> Vec<String> {
    let page = page.replace("```", "");
    let spans = page.split('`').skip(1).step_by(2);
    let lines = page.lines().map(|line| line.trim_start_matches("$ "));
    let mut all: Vec<String> = spans.chain(lines).filter(|text| text.starts_with("pgvigil ")).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

/// The statements of a block that begins with these words.
fn statements<'a>(page: &'a str, begins: &str) -> &'a str {
    let block = page.split("```sql\n").skip(1).find(|block| block.starts_with(begins)).unwrap();
    block.split("```").next().unwrap()
}

/// Somebody who types, and what was typed.
struct Night {
    world: World,
    typed: Vec<String>,
}

impl Night {
    /// In a script a question is answered by `--yes`.
    #[track_caller]
    fn types(&mut self, command: &str) -> Ran {
        self.typed.push(command.to_owned());
        let mut args: Vec<&str> = command.split(' ').skip(1).collect();
        if args.contains(&"--clean") && !args.contains(&"--dry-run") {
            args.push("--yes");
        }
        self.world.pgvigil(&args).expect(0)
    }
}

#[test]
fn every_command_of_the_page_does_what_it_says() {
    let page = std::fs::read_to_string(repository("docs/restore.md")).unwrap();
    let shop = Database::create(Server::Pg15, "shop", "sample");
    let look = Database { server: Server::Pg15, name: "shop_look".to_owned() };
    let other = Database { server: Server::Pg18, name: "shop".to_owned() };
    let world = World::with(
        Server::Pg15,
        &format!(
            "{}[backups.shop]\nserver = \"main\"\ndatabase = \"shop\"\n",
            Server::Pg18.section().replace("servers.main", "servers.other")
        ),
    );
    let mut night = Night { world, typed: Vec::new() };
    let postgres = |sql: &str| Server::Pg15.sql("postgres", sql);
    let orders = "select count(*), sum(total), max(ordered_at) from orders";
    let whole = shop.sql(orders);
    night.types("pgvigil run shop");
    assert!(night.types("pgvigil list shop").stdout.contains("shop/"));

    night.types("pgvigil restore shop/latest --to-database shop_look");
    assert_eq!(look.sql(orders), whole);

    // The whole database is wrong, and somebody is still in it.
    shop.sql("delete from customers");
    let mut session = Psql::connect(Server::Pg15, "shop");
    session.done("select 1");
    let plan = night.types("pgvigil restore shop/latest --clean --disconnect --keep-old --dry-run").stdout;
    let lines = |text: &str| text.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).count();
    assert_eq!(lines(&plan), 7, "{plan}");
    assert_eq!(shop.sql(orders), "0||");
    night.types("pgvigil restore shop/latest --clean --disconnect --keep-old");
    assert_eq!(shop.sql(orders), whole);
    let name = "select datname from pg_database where datname like 'shop\\_before\\_%'";
    let before = Database { server: Server::Pg15, name: postgres(name) };
    assert_eq!(before.sql(orders), "0||");
    // And taken back.
    let back = statements(&page, "SELECT pg_terminate_backend").replace("shop_before_20261122T150102Z", &before.name);
    back.split_inclusive(';').filter(|sql| !sql.trim().is_empty()).for_each(|sql| drop(postgres(sql)));
    assert_eq!(shop.sql(orders), "0||");
    night.types("pgvigil restore shop/latest --clean --in-place");
    assert_eq!(shop.sql(orders), whole);

    // Rows were deleted.
    shop.sql("delete from order_items where order_id < 100; delete from orders where id < 100");
    night.types("pgvigil restore shop/latest --table orders --into-schema rescued");
    assert_ne!(shop.sql(orders), whole);
    shop.sql(statements(&page, "INSERT INTO public.orders"));
    assert_eq!(shop.sql(orders), whole);
    assert_eq!(shop.sql("select count(*) from pg_namespace where nspname = 'rescued'"), "0");

    // One table was dropped.
    shop.sql("drop table orders cascade");
    night.types("pgvigil restore shop/latest --table orders");
    assert_eq!(shop.sql(orders), whole);

    // The database is gone, then state_dir, then the server.
    postgres("drop database shop");
    night.types("pgvigil restore shop/latest");
    assert_eq!(shop.sql(orders), whole);
    std::fs::remove_dir_all(night.world.path("state")).unwrap();
    assert!(night.types("pgvigil rebuild").stdout.contains('1'));
    night.types("pgvigil restore shop/latest --to-server other --globals");
    assert_eq!(other.sql(orders), whole);

    let named = commands(&page);
    assert!(named.len() > 8, "{named:#?}");
    for command in named {
        assert!(night.typed.iter().any(|typed| typed.starts_with(&command)), "{command} is not run");
    }
}
