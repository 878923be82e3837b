//! What is asked of the server that is restored to, and what it is told.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};
use crate::postgres::session::Session;
use crate::restore::target::{Existing, Surroundings, TableThere, Target, Visitor};

/// How many tables are asked for rows in one question.
const TABLES_IN_ONE: usize = 200;

/// A database that is not the one that gets another name: nobody may be connected to that.
pub fn beside<'a>(server: &'a Server, target: &str) -> &'a str {
    if server.maintenance_database() == target { "template1" } else { server.maintenance_database() }
}

/// Asks the server about itself and about the databases that would be restored to. `tables`: about
/// their tables too, `rows`: and whether those have rows.
///
/// # Errors
/// It does not answer.
pub async fn look(server: &Server, name: &str, targets: &[&str], tables: bool, rows: bool) -> Result<Target> {
    let facts: Surroundings = server.query(server.maintenance_database(), SURROUNDINGS).await?;
    let mut existing = BTreeMap::new();
    for target in targets {
        if let Some(database) = server.facts.databases.iter().find(|database| database.name == *target) {
            let mut found = Existing { allows_connections: database.allows_connections, ..Existing::default() };
            if database.allows_connections {
                found.objects = server.query(target, &objects()).await?;
                if tables {
                    found.tables = server.query(target, &relations(if rows { "'r', 'p'" } else { "'r', 'p', 'v', 'm', 'f'" })).await?;
                }
                if rows {
                    ask_for_rows(server, target, &mut found.tables).await?;
                }
            } else {
                found.objects = vec!["nobody knows what: it allows no connections".to_owned()];
            }
            found.sessions = sessions(server, target).await?;
            existing.insert((*target).to_owned(), found);
        }
    }
    Ok(Target {
        name: name.to_owned(),
        version: server.facts.version.clone(),
        major: server.facts.major(),
        is_superuser: server.facts.is_superuser,
        client_version: server.client_version.clone(),
        facts,
        existing,
    })
}

/// Sessions of others in a database.
///
/// # Errors
/// The server does not answer.
pub async fn sessions(server: &Server, database: &str) -> Result<Vec<Visitor>> {
    let sql = format!(
        "select coalesce(json_agg(json_build_object('user', usename, 'application', application_name, 'address', client_addr::text) order by backend_start), '[]')
        from pg_catalog.pg_stat_activity where datname = {} and pid <> pg_backend_pid() and application_name <> {}
        and backend_type in ('client backend', 'walsender')",
        literal(database),
        literal(server.tag().as_str())
    );
    server.query(beside(server, database), &sql).await
}

/// Whether a database has nothing in it of its own.
///
/// # Errors
/// The server does not answer.
pub async fn is_empty(server: &Server, database: &str) -> Result<bool> {
    let objects: Vec<String> = server.query(database, &objects()).await?;
    Ok(objects.is_empty())
}

async fn ask_for_rows(server: &Server, database: &str, tables: &mut [TableThere]) -> Result<()> {
    for some in tables.chunks_mut(TABLES_IN_ONE) {
        let one = |table: &TableThere| format!("exists(select from {}.{})", identifier(&table.schema), identifier(&table.name));
        let all: Vec<String> = some.iter().map(one).collect();
        let found: Vec<bool> = server.query(database, &format!("select to_json(array[{}])", all.join(", "))).await?;
        for (table, has_rows) in some.iter_mut().zip(found) {
            table.has_rows = has_rows;
        }
    }
    Ok(())
}

/// Carries statements out, one after the other, however long they take.
///
/// # Errors
/// One failed; those before it are done.
pub async fn tell<S: AsRef<str>>(server: &Server, database: &str, statements: impl IntoIterator<Item = S>) -> Result<()> {
    let mut session = Session::open(server, database).await?;
    for statement in statements {
        session.ask(statement.as_ref()).await?;
    }
    session.close().await
}

/// The comment on a database, where there is such a database.
///
/// # Errors
/// The server does not answer.
pub async fn comment(server: &Server, database: &str) -> Result<Option<Option<String>>> {
    let sql = format!(
        "select coalesce((select json_build_array(pg_catalog.shobj_description(oid, 'pg_database')) from pg_catalog.pg_database where datname = {}), '[]')",
        literal(database)
    );
    let found: Vec<Option<String>> = server.query(beside(server, database), &sql).await?;
    Ok(found.into_iter().next())
}

/// Whether a database is there and lets nobody connect.
///
/// # Errors
/// The server does not answer.
pub async fn is_barred(server: &Server, database: &str) -> Result<bool> {
    let sql =
        format!("select to_json(exists(select from pg_catalog.pg_database where datname = {} and not datallowconn))", literal(database));
    server.query(beside(server, database), &sql).await
}

/// Whether anybody may copy a database.
///
/// # Errors
/// The server does not answer.
pub async fn is_template(server: &Server, database: &str) -> Result<bool> {
    let sql = format!("select to_json(exists(select from pg_catalog.pg_database where datname = {} and datistemplate))", literal(database));
    server.query(beside(server, database), &sql).await
}

/// Ends the sessions of a database; returns how many there were.
///
/// # Errors
/// The server does not answer, or says no.
pub async fn disconnect(server: &Server, database: &str) -> Result<usize> {
    let sql = format!(
        "select to_json(count(pg_catalog.pg_terminate_backend(pid))) from pg_catalog.pg_stat_activity where datname = {} and pid <> pg_backend_pid()",
        literal(database)
    );
    server.query(beside(server, database), &sql).await
}

const SURROUNDINGS: &str = "select json_build_object(
    'roles', (select coalesce(json_agg(rolname), '[]') from pg_catalog.pg_roles),
    'tablespaces', (select coalesce(json_agg(spcname), '[]') from pg_catalog.pg_tablespace),
    'extensions', (select coalesce(json_agg(name), '[]') from pg_catalog.pg_available_extensions),
    'databases', (select coalesce(json_agg(datname), '[]') from pg_catalog.pg_database))";

/// Objects of an extension belong to nobody else.
fn of_no_extension(class: &str, oid: &str) -> String {
    format!(
        "not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.{class}'::pg_catalog.regclass and d.objid = {oid} and d.deptype = 'e')"
    )
}

/// Some of what somebody has made in a database.
fn objects() -> String {
    let schema = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'";
    let own = [
        format!(
            "select 1, pg_catalog.format('%s %I.%I', case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end, n.nspname, c.relname)
            from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and {schema} and {}",
            of_no_extension("pg_class", "c.oid")
        ),
        format!("select 2, pg_catalog.format('schema %I', n.nspname) from pg_catalog.pg_namespace n where {schema} and n.nspname <> 'public' and {}", of_no_extension("pg_namespace", "n.oid")),
        format!(
            "select 3, pg_catalog.format('function %I.%I', n.nspname, p.proname) from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
            where {schema} and {} and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'i')",
            of_no_extension("pg_proc", "p.oid")
        ),
        format!(
            "select 4, pg_catalog.format('type %I.%I', n.nspname, t.typname) from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
            left join pg_catalog.pg_class c on c.oid = t.typrelid where (t.typtype in ('e', 'd', 'r') or c.relkind = 'c') and {schema} and {}",
            of_no_extension("pg_type", "t.oid")
        ),
        "select 5, pg_catalog.format('large object %s', l.oid) from pg_catalog.pg_largeobject_metadata l".to_owned(),
        format!("select 6, pg_catalog.format('event trigger %I', e.evtname) from pg_catalog.pg_event_trigger e where {}", of_no_extension("pg_event_trigger", "e.oid")),
        format!("select 7, pg_catalog.format('publication %I', p.pubname) from pg_catalog.pg_publication p where {}", of_no_extension("pg_publication", "p.oid")),
        format!("select 8, pg_catalog.format('foreign server %I', s.srvname) from pg_catalog.pg_foreign_server s where {}", of_no_extension("pg_foreign_server", "s.oid")),
    ];
    format!(
        "set search_path = ''; select coalesce(pg_catalog.json_agg(what), '[]') from (select what from ({}) as o(kind, what) order by kind, what limit 30) as found",
        own.join(" union all ")
    )
}

fn relations(kinds: &str) -> String {
    format!(
        "set search_path = ''; select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname) order by n.nspname, c.relname), '[]')
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ({kinds}) and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and {}",
        of_no_extension("pg_class", "c.oid")
    )
}
