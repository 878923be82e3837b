//! Tables as of a moment, put beside the live ones: the cluster of that moment is started in a place of the
//! spool, dumped like any other, and restored like any dump.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::catalog::{DatabaseEvidence, Id, Wanted};
use crate::config::Plan;
use crate::config::file::{Contents, EvidenceMode, Format};
use crate::config::plan::{Backup, DumpSpec, Store, StoreKind, Which};
use crate::config::values::{Compression, Name};
use crate::error::{Error, Kind, Result};
use crate::host::Tag;
use crate::job::make::Making;
use crate::job::physical::moment::{self, Moment};
use crate::job::physical::place::Place;
use crate::job::physical::restore::{self as cluster, Looked as LookedCluster};
use crate::job::progress::Progress;
use crate::job::{restore, stores};
use crate::physical::recovery::Reached;
use crate::postgres::Server;
use crate::postgres::quote::{identifier, identifier_on_one_line};
use crate::restore::asked::Asked as AskedTables;
use crate::restore::chosen::{choose, several};
use crate::restore::names::Named;
use crate::restore::plan::{Refusal, RestorePlan};

/// The store of the dump, which goes with its place.
const STORE: &str = "moment";

/// What somebody asks for.
pub struct Asked {
    /// Its `data` is chosen here.
    pub cluster: cluster::Asked,
    pub tables: AskedTables,
}

/// What was looked at, before anything is fetched.
pub struct Looked<'a> {
    pub cluster: LookedCluster<'a>,
    /// The database that they are of; `None`: it was made after the base backup.
    pub database: Option<String>,
    /// Where they go.
    pub server: String,
    pub refusals: Vec<Refusal>,
}

/// What was restored.
pub struct Restored {
    /// The moment that it is of.
    pub reached: Reached,
    pub plan: RestorePlan,
    pub report: restore::Report,
    pub seconds: f64,
}

/// Looks for a way to the moment, and at the server that the tables go to.
///
/// # Errors
/// There is no way, no such server or database, or one does not answer.
pub async fn look<'a>(plan: &'a Plan, wanted: &Wanted, asked: &Asked) -> Result<Looked<'a>> {
    let cluster = cluster::look(plan, wanted, &asked.cluster).await?;
    moment::programs(plan, &cluster)?;
    let named = asked.tables.databases.first().map(String::as_str);
    let database = moment::database(named, &cluster.manifest.databases, &cluster.manifest.id)?;
    let server = restore::server_name(plan, &cluster.manifest, asked.tables.to_server.as_deref())?;
    let refusals = match &database {
        Some(database) => restore::in_the_way(plan, &server, database, &asked.tables).await?,
        None => Vec::new(),
    };
    Ok(Looked { cluster, database, server, refusals })
}

/// Carries it out. All that can go wrong with the restore itself is in its report; of the cluster nothing is
/// left, whatever comes of it.
///
/// # Errors
/// It is refused, the cluster does not come to the moment, or it has not what is asked for.
pub async fn restore(
    plan: &Plan,
    looked: &mut Looked<'_>,
    asked: &mut Asked,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Restored> {
    let began = std::time::Instant::now();
    refuse(&looked.refusals)?;
    let place = Place::take(plan).await?;
    let done = async {
        let dumped = tokio::select! {
            dumped = dump(plan, looked, asked, &place, progress) => dumped?,
            () = cancel.cancelled() => return Err(told_to_stop()),
        };
        load(looked, asked, dumped, progress, cancel).await
    };
    let done = Box::pin(done).await;
    progress.begin("removing the cluster of that moment");
    place.leave().await;
    done.map(|(reached, plan, report)| Restored { reached, plan, report, seconds: began.elapsed().as_secs_f64() })
}

fn told_to_stop() -> Error {
    Error::new(Kind::Cancelled, "told to stop")
}

/// All refusals as one error.
///
/// # Errors
/// There are some.
pub fn refuse(refusals: &[Refusal]) -> Result<()> {
    let Some(first) = refusals.first() else { return Ok(()) };
    let messages: Vec<&str> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    Err(Error::new(Kind::Refused, messages.join("\n")).hint(first.hint.clone()))
}

/// A dump of the chosen tables, in a store of its own.
struct Dumped {
    id: Id,
    /// With that store alone.
    plan: Plan,
    database: String,
    reached: Reached,
}

async fn dump(plan: &Plan, looked: &mut Looked<'_>, asked: &mut Asked, place: &Place, progress: &Progress) -> Result<Dumped> {
    let moment = moment::open(plan, &mut looked.cluster, &mut asked.cluster, place, progress).await?;
    let reached = moment.reached.clone();
    let dumped = dump_of(plan, looked, &asked.tables, place, &moment, progress).await;
    // It has said all that it has to.
    moment.close().await;
    let (id, plan, database) = dumped?;
    Ok(Dumped { id, plan, database, reached })
}

async fn dump_of(
    plan: &Plan,
    looked: &Looked<'_>,
    asked: &AskedTables,
    place: &Place,
    moment: &Moment,
    progress: &Progress,
) -> Result<(Id, Plan, String)> {
    let server = moment.server();
    let database = moment::database_there(looked.database.as_deref(), server)?;
    if !server.facts.databases.iter().any(|there| there.name == database && there.allows_connections) {
        let names = server.facts.databases.iter().filter(|there| there.is_usable()).map(|there| identifier_on_one_line(&there.name));
        return Err(Error::new(Kind::NotFound, format!("there was no database {database:?} at that moment"))
            .hint(format!("there was: {}", several(names))));
    }
    let (tables, schemas) = patterns(server, &database, asked).await?;
    let (plan, backup, store) = of_place(plan, looked.cluster.backup, place, &database, asked, tables, schemas)?;
    let store = stores::open(&store, place.owner())?;
    let (reached, tag) = (OnceLock::from(server.clone()), Tag::random());
    let making = Making {
        plan: &plan,
        backup: &backup,
        slot: None,
        incremental: false,
        store: &*store,
        server: &reached,
        progress,
        tag: &tag,
        note_slot: &|_| Ok(()),
    };
    let ready = making.make().await?.ok_or_else(|| Error::new(Kind::System, "the dump of that moment was not made"))?;
    Ok((ready.commit().await?.manifest.id(), plan, database))
}

/// The plan with a store in the place alone, and a backup that dumps the chosen tables into it.
fn of_place(
    plan: &Plan,
    backup: &Backup,
    place: &Place,
    database: &str,
    asked: &AskedTables,
    tables: Vec<String>,
    schemas: Vec<String>,
) -> Result<(Plan, Backup, Store)> {
    let name: Name = STORE.parse().map_err(|why: String| Error::new(Kind::System, why))?;
    let like = plan.stores.get(&backup.stores[0]).ok_or_else(|| Error::new(Kind::NotFound, "the backup has no store"))?;
    let store = Store { name: name.clone(), kind: StoreKind::Local(place.folder().join("store")), ..like.clone() };
    let backup = Backup {
        which: Which::Named(vec![database.to_owned()]),
        deadline: None,
        dump: DumpSpec {
            format: Format::Plain,
            jobs: 1,
            contents: Contents::All,
            tables,
            exclude_tables: Vec::new(),
            schemas,
            compression: Compression::Zstd(Some(1)),
        },
        physical: None,
        globals: asked.globals,
        evidence: EvidenceMode::Rows,
        checks: BTreeMap::new(),
        drill: None,
        stores: vec![name.clone()],
        encrypt_to: Vec::new(),
        identity: None,
        ..backup.clone()
    };
    // Nobody else reads it: it needs no signature.
    let plan = Plan { stores: BTreeMap::from([(name, store.clone())]), signing_key: None, trusted_signers: Vec::new(), ..plan.clone() };
    Ok((plan, backup, store))
}

/// What pg_dump is told of tables and schemas: exact names, partitions with their roots.
async fn patterns(server: &Server, database: &str, asked: &AskedTables) -> Result<(Vec<String>, Vec<String>)> {
    let there: There = server.query(database, THERE).await?;
    let evidence = DatabaseEvidence {
        rows: there.tables.into_iter().map(|table| (table, 0)).collect(),
        partitions: there.partitions,
        ..DatabaseEvidence::default()
    };
    let chosen = choose(asked, Some(&evidence)).map_err(|refusal| {
        Error::new(Kind::NotFound, format!("at that moment: {}", refusal.message.replace("the backup has", "there was"))).hint(refusal.hint)
    })?;
    // pg_dump passes over --schema where there is --table: then it dumps all, and the restore chooses.
    if !chosen.named.is_empty() && !chosen.schemas.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    Ok((chosen.named.iter().map(Named::quoted).collect(), chosen.schemas.iter().map(|schema| identifier(schema)).collect()))
}

#[derive(Deserialize)]
struct There {
    tables: Vec<String>,
    /// The parent of each partition.
    partitions: BTreeMap<String, String>,
}

/// The names of tables as evidence has them.
const THERE: &str = "set search_path = ''; select pg_catalog.json_build_object(
    'tables', (select coalesce(pg_catalog.json_agg(pg_catalog.format('%I.%I', n.nspname, c.relname)), '[]')
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'),
    'partitions', (select coalesce(pg_catalog.json_object_agg(pg_catalog.format('%I.%I', cn.nspname, c.relname), pg_catalog.format('%I.%I', pn.nspname, p.relname)), '{}')
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid join pg_catalog.pg_namespace cn on cn.oid = c.relnamespace
        join pg_catalog.pg_class p on p.oid = i.inhparent join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
        where c.relispartition and c.relkind in ('r', 'p')))";

/// From there on it is an ordinary restore, under the name of the base backup.
async fn load(
    looked: &Looked<'_>,
    asked: &Asked,
    dumped: Dumped,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<(Reached, RestorePlan, restore::Report)> {
    let wanted = Wanted { backup: dumped.id.backup.clone(), label: Some(dumped.id.label) };
    let tables = AskedTables { databases: vec![dumped.database.clone()], store: None, ..asked.tables.clone() };
    let mut to_load = tokio::select! {
        looked = restore::look(&dumped.plan, &wanted, &tables, None) => looked?,
        () = cancel.cancelled() => return Err(told_to_stop()),
    };
    to_load.plan.id = looked.cluster.way.base.to_string();
    to_load.plan.store = looked.cluster.store.to_string();
    if let Some(rung) = looked.cluster.rung {
        to_load.plan.rung = rung;
    }
    // It was written a moment ago, and its hashes are checked.
    to_load.plan.warnings.retain(|warning| !warning.starts_with("the backup was not read back yet"));
    let report = restore::restore(&dumped.plan, &to_load, &tables, progress, cancel).await?;
    Ok((dumped.reached, to_load.plan, report))
}
