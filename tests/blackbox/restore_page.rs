//! RESTORE.md, followed to the letter by somebody who has the folder, bash and stock tools.

use std::process::{Command, Stdio};

use crate::common::{Database, Server, World, password, run, unique};
use crate::support::{Cluster, Psql, Role, programs};

/// What of a database is compared, a line each, behind the sort of thing that it is.
const FINGERPRINT: &str = r#"
set client_min_messages = error;
set search_path = '';
set timezone = 'UTC';
create function pg_temp.rows_of(t regclass) returns text language plpgsql as $$
declare found text;
begin
    execute format('select count(*) || '' rows '' || coalesce(md5(string_agg(md5(t::text), '''' order by md5(t::text))), ''-'') from only %s t', t) into found;
    return found;
end $$;
with
schemas as (select oid, nspname, nspowner, nspacl from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
relations as (select c.* from pg_class c join schemas n on n.oid = c.relnamespace),
lines(sort, line) as (
    select 'rows', format('%s %s', oid::regclass, pg_temp.rows_of(oid)) from relations where relkind in ('r', 'm') and relispopulated
    union all select 'sequences', format('%s.%s %s', schemaname, sequencename, last_value) from pg_sequences
    union all select 'large objects', format('%s %s %s', oid, md5(lo_get(oid)), pg_get_userbyid(lomowner)) from pg_largeobject_metadata
    union all select 'definitions', format('schema %s %s %s', nspname, pg_get_userbyid(nspowner), nspacl) from schemas
    union all select 'definitions', format('relation %s %s %s %s %s %s', oid::regclass, relkind, relpersistence, pg_get_userbyid(relowner), relacl, relrowsecurity) from relations where relkind <> 'i' and relkind <> 't'
    union all select 'definitions', format('column %s.%s %s %s %s%s %s', c.oid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, pg_get_expr(adbin, adrelid))
        from relations c join pg_attribute a on attrelid = c.oid and attnum > 0 and not attisdropped left join pg_attrdef on adrelid = attrelid and adnum = attnum where relkind <> 'i'
    union all select 'definitions', format('index %s', pg_get_indexdef(oid)) from relations where relkind in ('i', 'I')
    union all select 'definitions', format('view %s %s', oid::regclass, pg_get_viewdef(oid)) from relations where relkind in ('v', 'm')
    union all select 'definitions', format('constraint %s %s %s', conname, conrelid::regclass, pg_get_constraintdef(c.oid)) from pg_constraint c join schemas n on n.oid = connamespace
    union all select 'definitions', format('function %s %s', pg_get_functiondef(p.oid), pg_get_userbyid(proowner)) from pg_proc p join schemas n on n.oid = pronamespace where prokind in ('f', 'p')
    union all select 'definitions', format('trigger %s', pg_get_triggerdef(t.oid)) from pg_trigger t where not tgisinternal
    union all select 'definitions', format('policy %s %s', polrelid::regclass, polname) from pg_policy
    union all select 'definitions', format('type %s %s %s', t.oid::regtype, typtype, (select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum where enumtypid = t.oid))
        from pg_type t join schemas n on n.oid = typnamespace where typtype in ('e', 'd', 'r')
    union all select 'definitions', format('extension %s %s', extname, extversion) from pg_extension
    union all select 'comments', format('%s %s', pg_describe_object(classoid, objoid, objsubid), description) from pg_description where objoid >= 16384
    union all select 'database', format('%s %s %s %s', pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d)->>'datlocprovider') from pg_database d where datname = current_database()
    union all select 'properties', format('%s %s %s %s', pg_get_userbyid(datdba), datconnlimit, (select array_agg(a::text order by a::text) from unnest(datacl) a), shobj_description(oid, 'pg_database')) from pg_database where datname = current_database()
    union all select 'properties', format('%s %s', case setrole when 0 then '-' else pg_get_userbyid(setrole) end, c) from pg_db_role_setting, unnest(setconfig) c
        where setdatabase = (select oid from pg_database where datname = current_database())
)
select sort || ': ' || replace(line, E'\n', '\n') from lines order by sort || line collate "C"
"#;

pub fn fingerprint(server: Server, database: &str, leave_out: &[&str]) -> Vec<String> {
    lines(&server.sql(database, FINGERPRINT), leave_out)
}

fn lines(text: &str, leave_out: &[&str]) -> Vec<String> {
    text.lines().filter(|line| !leave_out.iter().any(|sort| line.starts_with(&format!("{sort}: ")))).map(str::to_owned).collect()
}

#[track_caller]
pub fn same(what: &str, source: &[String], restored: &[String]) {
    let lost: Vec<&String> = source.iter().filter(|line| !restored.contains(line)).collect();
    let found: Vec<&String> = restored.iter().filter(|line| !source.contains(line)).collect();
    assert!(lost.is_empty() && found.is_empty() && source.len() == restored.len(), "{what}: lost {lost:#?}, found {found:#?}");
    assert!(source.len() > 5, "{what}: compared nothing with nothing");
}

/// The `sh` blocks of a page, in order.
fn blocks(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(text), "```") => {
                found.push(std::mem::take(text));
                block = None;
            }
            (Some(text), line) => *text += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    assert!(block.is_none() && found.len() >= 4, "{page}");
    found
}

/// Copies the folder of a backup to where nothing else of the store is, and runs the page there.
/// A person stops at the first line that fails; so does this. `edit` is what a person changes.
#[track_caller]
pub fn follow(world: &World, id: &str, major: u32, edit: impl Fn(String) -> String) {
    let elsewhere = world.path("elsewhere");
    let _ = std::fs::remove_dir_all(&elsewhere);
    let copied = Command::new("cp").args(["-r", "--"]).arg(world.folder(id)).arg(&elsewhere).status().unwrap();
    assert!(copied.success());
    let page = std::fs::read_to_string(elsewhere.join("RESTORE.md")).unwrap();
    let script = format!("set -ex\n{}", blocks(&page).into_iter().map(edit).collect::<String>());
    let path = format!("{}:{}", programs(major).display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&elsewhere)
        .env("PATH", path)
        .env("PGPASSWORD", password())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    // A part of a database cannot go in without errors; which, the page tells beforehand.
    let told = ["already exists", "foreign key"].into_iter().filter(|error| page.contains(error)).collect::<Vec<_>>();
    let errors = said.lines().filter(|line| line.contains("ERROR:") || line.contains("error:"));
    let untold: Vec<&str> = errors.filter(|line| !told.iter().any(|told| line.contains(told))).collect();
    assert!(untold.is_empty(), "{untold:#?} in\n{said}");
}

pub fn as_it_stands(block: String) -> String {
    block
}

/// The database that the page makes; dropped at the end.
pub fn restored(database: &Database) -> Database {
    Database { server: database.server, name: format!("{}_restored", database.name) }
}

/// Gives a database what no dump of it holds.
pub fn with_properties(database: &Database, owner: &Role, other: &Role) {
    let name = format!("\"{}\"", database.name.replace('"', "\"\""));
    database.server.sql(
        "postgres",
        &format!(
            "alter database {name} owner to {};
            revoke all on database {name} from public; grant connect, temporary on database {name} to {} with grant option;
            alter database {name} set search_path = \"$user\", public, \"Mixed Case\";
            alter database {name} set work_mem = '5MB'; alter database {name} set my.setting = E'it''s \\\\ here';
            alter role {} in database {name} set statement_timeout = '5s'; alter database {name} connection limit 7;
            comment on database {name} is E'the \\'shop\\' \\\\ $(x)\nsecond line'",
            owner.name, other.name, other.name
        ),
    );
}

fn round_trip(server: Server, keys: &str) {
    let (owner, other) = (Role::create(server, "createdb"), Role::create(server, "nologin"));
    let database = Database::sample(server);
    with_properties(&database, &owner, &other);
    let target = restored(&database);
    let world = World::with(server, &format!("[backups.shop]\ndatabase = \"{}\"\nglobals = false\n{keys}", database.name));
    let id = world.backup("shop");
    let before = fingerprint(server, &database.name, &[]);
    follow(&world, &id, if server == Server::Pg18 { 18 } else { 15 }, as_it_stands);
    same(&format!("{server:?} {keys}"), &before, &fingerprint(server, &target.name, &[]));
    // Statistics are in no dump: the page makes them.
    assert_ne!(target.sql("select reltuples from pg_class where relname = 'orders'"), "-1");
}

#[test]
fn the_page_restores_a_plain_dump_packed_by_gzip() {
    round_trip(Server::Pg15, "");
}

#[test]
fn the_page_restores_a_plain_dump_packed_by_zstd() {
    round_trip(Server::Pg15, "compression = \"zstd:3\"\n");
}

#[test]
fn the_page_restores_a_plain_dump_that_is_not_packed() {
    round_trip(Server::Pg15, "compression = \"none\"\n");
}

#[test]
fn the_page_restores_a_plain_dump_in_a_container() {
    round_trip(Server::Exec, "");
}

#[test]
fn the_page_restores_a_plain_dump_of_another_major() {
    round_trip(Server::Pg18, "");
}

#[test]
fn the_page_restores_a_custom_archive() {
    round_trip(Server::Pg15, "format = \"custom\"\n");
}

#[test]
fn the_page_restores_a_custom_archive_in_a_container() {
    round_trip(Server::Exec, "format = \"custom\"\n");
}

#[test]
fn the_page_restores_a_custom_archive_of_another_major() {
    round_trip(Server::Pg18, "format = \"custom\"\ncompression = \"zstd\"\n");
}

#[test]
fn the_page_restores_a_directory_archive() {
    round_trip(Server::Pg15, "format = \"directory\"\n");
}

#[test]
fn the_page_restores_a_directory_archive_of_another_major() {
    round_trip(Server::Pg18, "format = \"directory\"\njobs = 4\n");
}

#[test]
fn the_page_restores_a_directory_archive_into_a_container() {
    round_trip(Server::Network, "format = \"directory\"\n");
}

#[test]
fn the_page_restores_several_databases() {
    for keys in ["", "format = \"custom\"\n"] {
        let databases = [Database::sample(Server::Pg15), Database::empty(Server::Pg15)];
        databases[1].sql("create table only_here as select generate_series(1, 9) i; create view v as select * from only_here");
        let [a, b] = databases.each_ref().map(|database| database.name.as_str());
        let targets = databases.each_ref().map(restored);
        let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabases = [\"{a}\", \"{b}\"]\nglobals = false\n{keys}"));
        let id = world.backup("x");
        follow(&world, &id, 15, as_it_stands);
        for (database, target) in databases.iter().zip(&targets) {
            same(&target.name, &fingerprint(Server::Pg15, &database.name, &[]), &fingerprint(Server::Pg15, &target.name, &[]));
        }
    }
}

#[test]
fn the_page_restores_definitions_without_rows() {
    let database = Database::sample(Server::Pg15);
    let target = restored(&database);
    let world =
        World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\nglobals = false\ncontents = \"schema\"\n", database.name));
    let id = world.backup("x");
    let page = world.pgvigil(&["cat", &id, "RESTORE.md"]).expect(0).stdout;
    assert!(page.contains("rows: it holds definitions only"), "{page}");
    follow(&world, &id, 15, as_it_stands);
    let rows = ["rows", "sequences", "large objects", "comments"];
    same("schema", &fingerprint(Server::Pg15, &database.name, &rows), &fingerprint(Server::Pg15, &target.name, &rows));
    let filled: Vec<String> = fingerprint(Server::Pg15, &target.name, &[])
        .into_iter()
        .filter(|line| line.starts_with("rows: ") && !line.contains(" 0 rows "))
        .collect();
    assert_eq!(filled, Vec::<String>::new());
}

#[test]
fn the_page_restores_rows_into_tables_that_are_there() {
    for (server, keys) in [(Server::Pg15, ""), (Server::Exec, "format = \"custom\"\n"), (Server::Pg15, "format = \"directory\"\n")] {
        let database = Database::sample(server);
        let target = restored(&database);
        let world = World::with(
            server,
            &format!(
                "[backups.rows]\ndatabase = \"{0}\"\nglobals = false\ncontents = \"data\"\n{keys}[backups.schema]\ndatabase = \"{0}\"\nglobals = false\ncontents = \"schema\"\n",
                database.name
            ),
        );
        let (schema, rows) = (world.backup("schema"), world.backup("rows"));
        let page = world.pgvigil(&["cat", &rows, "RESTORE.md"]).expect(0).stdout;
        assert!(page.contains("definitions: it holds rows only") && !page.contains("CREATE DATABASE"), "{page}");
        follow(&world, &schema, 15, as_it_stands);
        follow(&world, &rows, 15, as_it_stands);
        // pg_dump refreshes materialized views only where it makes them.
        assert!(page.contains("REFRESH MATERIALIZED VIEW"), "{page}");
        target.sql("refresh materialized view sales");
        same(
            &format!("{server:?} {keys}"),
            &fingerprint(server, &database.name, &["comments"]),
            &fingerprint(server, &target.name, &["comments"]),
        );
    }
}

/// Follows the page of a backup of some tables, and compares their rows.
fn part(keys: &str, tables: &[&str]) {
    let database = Database::sample(Server::Pg15);
    let target = restored(&database);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\nglobals = false\n{keys}", database.name));
    let id = world.backup("x");
    let page = world.pgvigil(&["cat", &id, "RESTORE.md"]).expect(0).stdout;
    assert!(page.contains("the whole database: "), "{page}");
    assert_eq!(page.contains("large objects"), !keys.starts_with("exclude"), "{page}");
    follow(&world, &id, 15, as_it_stands);
    for table in tables {
        let sql = format!("select count(*) || md5(string_agg(t::text, '' order by t::text)) from {table} t");
        assert_eq!(database.sql(&sql), target.sql(&sql), "{keys} {table}");
    }
}

#[test]
fn the_page_restores_some_tables_and_says_what_else_was_there() {
    part("tables = [\"tricky\", \"scratch\"]\n", &["public.scratch", "public.tricky"]);
}

#[test]
fn the_page_restores_a_table_of_a_schema_that_the_dump_does_not_make() {
    part("tables = ['\"Mixed Case\".\"Table\"', \"tricky\"]\nformat = \"custom\"\n", &["\"Mixed Case\".\"Table\"", "public.tricky"]);
}

#[test]
fn the_page_restores_a_schema() {
    part("schemas = ['\"Mixed Case\"']\n", &["\"Mixed Case\".\"Table\""]);
}

#[test]
fn the_page_restores_the_schema_that_every_database_has() {
    part("schemas = [\"public\"]\n", &["public.customers", "public.orders", "public.tricky"]);
}

#[test]
fn the_page_restores_all_but_some_tables() {
    part("exclude_tables = [\"events*\"]\n", &["\"Mixed Case\".\"Table\"", "public.customers", "public.orders", "public.tricky"]);
}

#[test]
fn the_page_restores_a_database_whose_settings_would_stop_it() {
    let database = Database::sample(Server::Pg15);
    let target = restored(&database);
    // Of the application: nothing that takes long, nothing that writes.
    database.server.sql(
        "postgres",
        &format!(
            "alter database {0} set statement_timeout = '1ms'; alter database {0} set default_transaction_read_only = on; alter database {0} set lock_timeout = '1ms'",
            database.name
        ),
    );
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\nglobals = false\n", database.name));
    world.pgvigil(&["check"]).expect(3);
    let id = world.backup("x");
    follow(&world, &id, 15, as_it_stands);
    let settings = |name: &str| {
        let sql = "select string_agg(c, ' ' order by c) from pg_db_role_setting s join pg_database d on d.oid = setdatabase, unnest(setconfig) c where datname = ";
        database.server.sql("postgres", &format!("{sql}'{name}'"))
    };
    assert_eq!(settings(&database.name), settings(&target.name));
}

#[test]
fn the_page_restores_into_a_new_server_with_its_roles() {
    let other = Role::create(Server::Pg15, "login password 'x'");
    let owner = Role::create(Server::Pg15, "createdb");
    let database = Database::sample(Server::Pg15);
    with_properties(&database, &owner, &other);
    database.sql(&format!("alter table orders owner to {}; grant select on customers to {} with grant option", owner.name, other.name));
    let world = World::with(Server::Pg15, &format!("[backups.shop]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("shop");
    let before = fingerprint(Server::Pg15, &database.name, &[]);
    database.sql(&format!("alter table orders owner to postgres; revoke all on customers from {}", other.name));
    let cluster = Cluster::start(15, "", &[]);
    // What the page tells to change; the roles that are there already answer with an error.
    follow(&world, &id, 15, |block| {
        let moved = block.replace(
            &format!("PGHOST=127.0.0.1 PGPORT={}", crate::common::var("PGVIGIL_TEST_PG15_PORT")),
            &format!("PGHOST={} PGPORT={}", cluster.host(), cluster.port),
        );
        if moved.contains("globals.sql") && !moved.contains("sha256sum") { moved.replace("-X -w", "-X -w -q 2>/dev/null") } else { moved }
    });
    let sql = |database: &str, sql: &str| {
        let output = run(cluster.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    same("another server", &before, &lines(&sql(&format!("{}_restored", database.name), FINGERPRINT), &[]));
    let password = |name: &str| format!("select rolpassword from pg_authid where rolname = '{name}'");
    let theirs = sql("postgres", &password(&other.name));
    assert_eq!(theirs.trim(), Server::Pg15.sql("postgres", &password(&other.name)));
}

#[test]
fn the_page_puts_the_restored_database_in_the_place_of_the_live_one() {
    for stem in ["plain", "line\nbreak `x` \\'\""] {
        let name = format!("{stem}{}", unique(""));
        let database = Database::create(Server::Pg15, &name, "template0");
        // Whichever of the two is left behind.
        let (restored, _old) = (restored(&database), Database { server: Server::Pg15, name: format!("{name}_old") });
        database.sql("create table t as select 'of the backup' as t");
        let list = toml::Value::String(name.clone());
        let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = {list}\nglobals = false\n"));
        let id = world.backup("x");
        database.sql("update t set t = 'of today'");
        let conninfo = |name: &str| format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut session = Psql::connect(Server::Pg15, &conninfo(&name));
        session.done("select 1");
        follow(&world, &id, 15, as_it_stands);
        let page = std::fs::read_to_string(world.folder(&id).join("RESTORE.md")).unwrap();
        let sql = page.split("```sql\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
        let swapped = run(Server::Pg15.tool("psql").args(["-X", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"]).arg({
            let file = world.path("swap.sql");
            std::fs::write(&file, sql).unwrap();
            file
        }));
        assert!(swapped.status.success(), "{sql}\n{}", String::from_utf8_lossy(&swapped.stderr));
        assert_eq!(database.sql("select t from t"), "of the backup");
        drop(restored);
    }
}

#[test]
fn the_page_says_that_its_preamble_is_newer_than_its_server() {
    let database = Database::empty(Server::Pg15);
    let keys = format!("bin_dir = \"{}\"\n[backups.x]\ndatabase = \"{}\"\n", programs(18).display(), database.name);
    let world = World::with(Server::Pg15, &keys);
    let ran = world.pgvigil(&["--json", "run", "x"]).expect(0).json();
    assert!(ran["warnings"][0].as_str().unwrap().contains("newer than the server"), "{ran:#}");
    let page = world.pgvigil(&["cat", "x/latest", "RESTORE.md"]).expect(0).stdout;
    assert!(page.contains("transaction_timeout"), "{page}");
}

#[test]
fn a_damaged_file_stops_the_page_at_its_first_block() {
    let database = Database::sample(Server::Pg15);
    let world = World::with(Server::Pg15, &format!("[backups.x]\ndatabase = \"{}\"\n", database.name));
    let id = world.backup("x");
    let page = std::fs::read_to_string(world.folder(&id).join("RESTORE.md")).unwrap();
    let first = &blocks(&page)[0];
    let dump = world.manifest(&id)["files"][0]["name"].as_str().unwrap().to_owned();
    let path = world.folder(&id).join(dump);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let output = run(Command::new("bash").args(["-c", first]).current_dir(world.folder(&id)));
    assert!(!output.status.success(), "{output:?}");
}

/// Names that a shell, a connection string, a file system or a glob would take for something else.
/// The last is as long as a name can be.
const HOSTILE: [&str; 12] = [
    "a b$(touch pwned)'\"\\`é;",
    "host=127.9.9.9 dbname=x",
    "line\nbreak",
    "tab\there",
    "100%_%s%2F",
    "back\\slash\\",
    "backup_x",
    ".hidden",
    "-rf",
    "a/../b",
    "'; drop table t; --",
    "!history **bold** `code` <b> ```",
];

#[test]
fn hostile_names_go_all_the_way_here() {
    hostile(Server::Pg15, 15, "", &HOSTILE);
}

#[test]
fn hostile_names_go_all_the_way_into_folders() {
    hostile(Server::Pg18, 18, "format = \"directory\"\n", &HOSTILE[..6]);
}

#[test]
fn hostile_names_go_all_the_way_through_a_container() {
    hostile(Server::Exec, 15, "format = \"custom\"\n", &HOSTILE[..3]);
}

#[test]
fn hostile_names_go_all_the_way_into_a_container() {
    hostile(Server::Network, 15, "format = \"directory\"\n", &[HOSTILE[0], HOSTILE[5], HOSTILE[8]]);
}

fn hostile(server: Server, major: u32, keys: &str, names: &[&str]) {
    // Unique on a server that other tests use too; what is hostile at the front stays there.
    let suffix = unique("");
    let long = format!("{}{suffix}", "é".repeat((63 - suffix.len()) / 2));
    let names: Vec<String> = names.iter().map(|name| format!("{name}{suffix}")).chain([long]).collect();
    let databases: Vec<Database> = names.iter().map(|name| Database::create(server, name, "template0")).collect();
    for (n, database) in databases.iter().enumerate() {
        database.sql(&format!("create table t as select generate_series(1, {}) i", n + 1));
    }
    let list = toml::Value::Array(names.iter().map(|name| toml::Value::String(name.clone())).collect());
    let world = World::with(server, &format!("[backups.x]\ndatabases = {list}\nglobals = false\n{keys}"));
    world.pgvigil(&["check"]).expect(3);
    let id = world.backup("x");
    let manifest = world.manifest(&id);
    assert_eq!(manifest["databases"], serde_json::json!(names));
    assert_eq!(world.pgvigil(&["--json", "list"]).expect(0).json()[0]["databases"], serde_json::json!(names));
    for args in [&["list"][..], &["show", &id], &["check"]] {
        let said = world.pgvigil(args).stdout;
        assert!(!said.contains("line\nbreak") || args[0] != "list", "{args:?}: a name breaks its line: {said}");
    }
    let mut todo = vec![world.folder(&id)];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-%".contains(c);
            assert!(name.chars().all(plain) && !name.starts_with("backup_") && !name.starts_with('.'), "{name}");
            if entry.path().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    if keys.is_empty() {
        for (n, file) in manifest["files"].as_array().unwrap().iter().filter(|file| file["role"] == "dump").enumerate() {
            let sql = world.pgvigil(&["cat", &id, "--", file["name"].as_str().unwrap()]).expect(0).stdout;
            assert!(sql.contains(&format!("\n{}\n\\.\n", n + 1)), "{}", names[n]);
        }
    }
    // The page makes them beside the live ones; where the name leaves no room, under a shorter one.
    let page = std::fs::read_to_string(world.folder(&id).join("RESTORE.md")).unwrap();
    assert_eq!(page.matches("It goes into a new database").count(), names.len(), "{page}");
    let targets: Vec<Database> = names
        .iter()
        .map(|name| {
            let mut end = name.len().min(63 - "_restored".len());
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            Database { server, name: format!("{}_restored", &name[..end]) }
        })
        .collect();
    follow(&world, &id, major, as_it_stands);
    for (n, target) in targets.iter().enumerate() {
        assert_eq!(target.sql("select count(*) from t"), (n + 1).to_string(), "{:?}", target.name);
    }
    assert!(!world.path("elsewhere/pwned").exists() && !world.path("pwned").exists());
}

#[test]
fn databases_of_hostile_names_export_too() {
    let name = format!("host=127.9.9.9 dbname=x '{}", unique(""));
    let database = Database::create(Server::Pg15, &name, "template0");
    database.sql("create table found_it (i int)");
    let world = World::with(Server::Pg15, "");
    let ran = world.pgvigil(&["export", &database.name, "--output", "-"]).expect(0);
    assert!(ran.stdout.contains("CREATE TABLE public.found_it"), "{ran:#?}");
}
