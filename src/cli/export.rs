//! `export DATABASE --output FILE`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::args::ExportArgs;
use super::output;
use super::session::{Session, Uses, runtime};
use super::{Done, bar};
use crate::config::Plan;
use crate::config::file::Format;
use crate::config::plan::{self, DumpSpec, Which};
use crate::config::values::{Compression, Given, Name};
use crate::error::{Error, Kind, Result, plain_io};
use crate::host::{Tag, signals};
use crate::job::dump::{self, Way};
use crate::job::progress::Progress;
use crate::job::{make, sweep};
use crate::pack::codec::Codec;
use crate::pack::end::EndWatch;
use crate::pack::packer::Packed;
use crate::pack::seal::Seal;
use crate::postgres::Server;
use crate::postgres::dump::arguments;
use crate::postgres::programs;
use crate::store::FileWriter;
use crate::store::aside::{Aside, publish};

const READER_GONE: &str = "nobody reads the dump any more";

/// A person waits: they can stop it by hand.
const STALL_TIMEOUT: Duration = Duration::from_secs(3_600);

pub fn export(session: &Session, args: &ExportArgs) -> Done {
    let plan = session.load()?.map_err(|faults| super::session::faults_error(&faults))?;
    let name = choose_server(&plan, args.server.as_deref())?.name.clone();
    // The file is the caller's, not the daemon's: it is written with the caller's rights.
    let opened = session.open_as_caller(Uses::Server(name.as_str()))?;
    let server = &opened.plan.servers[&name];
    let to_stdout = args.output.as_os_str() == "-";
    refuse(args, server, to_stdout, session.json)?;
    let cancel = signals::cancelled_by_signals()?;
    let progress = Arc::new(Progress::default());
    let runtime = runtime()?;
    let packed = runtime.block_on(async {
        let bar = if to_stdout { None } else { bar::show(&progress, bar::OF_LAST_RUN) };
        let packed = dump_to(server, args, to_stdout, &progress, &cancel).await;
        drop(bar);
        packed
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    let packed = match packed {
        // `export ... --output - | head`: who has read enough is no failure.
        Err(error) if to_stdout && error.message == READER_GONE => return Ok(crate::error::exit::OK),
        packed => packed?,
    };
    if session.json {
        return output::json(&serde_json::json!({
            "output": args.output, "bytes": packed.bytes, "raw_bytes": packed.raw_bytes, "sha256": packed.sha256,
        }));
    }
    if to_stdout {
        return Ok(crate::error::exit::OK);
    }
    output::text(&format!("{}  {} out of {}\n", args.output.display(), output::size(packed.bytes), output::size(packed.raw_bytes)))
}

fn choose_server<'a>(plan: &'a Plan, name: Option<&str>) -> Result<&'a plan::Server> {
    let names = || plan.servers.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => plan.servers.get(name).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no server {name:?} in the file")).hint(format!("servers of the file: {}", names()))
        }),
        None if plan.servers.len() == 1 => Ok(&plan.servers[plan.servers.keys().next().map_or("", Name::as_str)]),
        None => Err(Error::new(Kind::Usage, "the file has several servers").hint(format!("add --server NAME, one of: {}", names()))),
    }
}

fn refuse(args: &ExportArgs, server: &plan::Server, to_stdout: bool, json: bool) -> Result<()> {
    if to_stdout && json {
        return Err(Error::new(Kind::Usage, "stdout cannot hold both the dump and a JSON document")
            .hint("write the dump to a file, or leave out --json"));
    }
    if args.format == Format::Directory && (to_stdout || server.place.is_by_exec()) {
        return Err(Error::new(Kind::Usage, "--format directory needs a folder and the programs here")
            .hint("set via = \"network\" on the server and name a folder, or use --format custom"));
    }
    if !to_stdout && !args.force && args.output.symlink_metadata().is_ok() {
        return Err(there(&args.output));
    }
    Ok(())
}

fn there(path: &Path) -> Error {
    Error::new(Kind::System, format!("{} is there already", path.display())).hint("name another file, or add --force to replace it")
}

fn spec(args: &ExportArgs) -> DumpSpec {
    let by_name = match Codec::of_name(&args.output.to_string_lossy()) {
        _ if args.format != Format::Plain => Compression::default(),
        Codec::Gzip(_) => Compression::Gzip(None),
        Codec::Zstd(_) => Compression::Zstd(None),
        Codec::None => Compression::None,
    };
    DumpSpec {
        format: args.format,
        jobs: 2,
        contents: args.contents,
        tables: args.table.clone(),
        exclude_tables: Vec::new(),
        schemas: args.schema.clone(),
        compression: args.compression.unwrap_or(by_name),
    }
}

async fn dump_to(
    plan: &plan::Server,
    args: &ExportArgs,
    to_stdout: bool,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Packed> {
    progress.begin("connecting");
    let tag = Tag::random();
    let server = Server::connect(plan, tag.clone()).await?;
    server.check_client()?;
    let which = Which::One(Given::Literal(args.database.clone()));
    let found = make::choose(&which, &server.facts.databases, &plan.name)?;
    let database = found.first().map(|database| database.name.as_str()).unwrap_or_default();
    let written = tokio::select! {
        written = write(&server, args, database, to_stdout, progress) => written,
        () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
    };
    if written.is_err()
        && let Err(error) = sweep::end_tagged(&server, &tag).await
    {
        output::warn(&format!("a part of the dump may still run on the server: {error}"), None);
    }
    written
}

async fn write(server: &Server, args: &ExportArgs, database: &str, to_stdout: bool, progress: &Progress) -> Result<Packed> {
    let spec = spec(args);
    let client_major = programs::major(&server.client_version);
    let meter = progress.begin(format!("dumping {}", crate::host::printable(database)));
    if spec.format == Format::Directory {
        let aside = Aside::folder(&args.output)?;
        let call = server.call("pg_dump", arguments(&spec, database, client_major, Some(aside.path()), None)?);
        dump::into_folder(server, call, aside.path(), STALL_TIMEOUT, &meter).await?;
        let files = dump::hash_folder(aside.path()).await?;
        let bytes = files.iter().map(|(_, packed)| packed.bytes).sum();
        publish(aside, &args.output, args.force)?;
        return Ok(Packed { raw_bytes: bytes, bytes, sha256: String::new() });
    }
    let plain = spec.format == Format::Plain;
    let way = Way {
        watch: if plain { EndWatch::plain(false) } else { EndWatch::custom() },
        codec: if plain { Codec::from(spec.compression) } else { Codec::None },
        seal: Seal::Open,
        stall_timeout: STALL_TIMEOUT,
        meter,
    };
    let call = server.call("pg_dump", arguments(&spec, database, client_major, None, None)?);
    if to_stdout {
        return Ok(dump::stream(server, call, way, Box::new(Stdout)).await?.0);
    }
    let (aside, writer) = Aside::file(&args.output)?;
    let (packed, _) = dump::stream(server, call, way, writer).await?;
    publish(aside, &args.output, args.force)?;
    Ok(packed)
}

/// Standard output as the place of a dump.
struct Stdout;

#[async_trait]
impl FileWriter for Stdout {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let written = tokio::task::spawn_blocking(move || std::io::Write::write_all(&mut std::io::stdout().lock(), &bytes)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::new(Kind::Cancelled, READER_GONE)),
            Ok(Err(error)) => Err(Error::new(Kind::System, format!("cannot write to stdout: {}", plain_io(&error)))),
            Err(error) => Err(Error::new(Kind::System, format!("cannot write to stdout: {error}"))),
        }
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        std::io::Write::flush(&mut std::io::stdout())
            .map_err(|error| Error::new(Kind::System, format!("cannot write to stdout: {}", plain_io(&error))))
    }
}
