//! What people type and see.

mod adopt;
mod alert;
mod answer;
pub mod args;
mod bar;
mod bisect;
mod cat;
mod check;
mod check_keys;
mod check_physical;
mod daemon;
mod drill;
mod export;
mod init;
mod list;
mod next;
mod output;
mod pin;
mod prune;
mod rebuild;
mod restore;
mod restore_physical;
mod restore_tables;
mod run;
mod session;
mod show;
mod status;
mod verify;
mod wal;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::error::{Error, Kind, Result, exit};
use crate::host::memory;
use crate::job::run::Order;
use args::{AlertCommand, Args, Command};
use session::Session;

/// What a command ends in: its exit code, after its output.
type Done = Result<u8>;

/// The whole life of the program.
pub fn main() -> ExitCode {
    memory::keep_together();
    if !wal::is_fetch(std::env::args()) {
        return ExitCode::from(life(|error| error.kind.exit_code(), exit::USAGE));
    }
    // PostgreSQL takes most exit codes for the end of the archive, that of a panic too.
    let ended = std::panic::catch_unwind(|| life(|_| wal::NO_ANSWER, wal::NO_ANSWER));
    ExitCode::from(ended.unwrap_or(wal::NO_ANSWER))
}

/// Its exit code, with those of a failure and of wrong usage as they are given.
fn life(failed: impl Fn(&Error) -> u8, usage: u8) -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // --help and --version are asked for, and go to stdout.
            let _ = error.print();
            if !error.use_stderr() {
                return exit::OK;
            }
            // What could not be read as a whole may still have asked for JSON.
            if std::env::args().take_while(|arg| arg != "--").any(|arg| arg == "--json") {
                let text = error.to_string();
                let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
                output::json_failure(&Error::new(Kind::Usage, message).hint("pgvigil --help"));
            }
            return usage;
        }
    };
    let json = args.json;
    // Past `ulimit -f` a write fails with EFBIG, which is told; the signal would end us without a
    // word. A handler, unlike SIG_IGN, is not inherited by what we start.
    let _ = signal_hook::flag::register(nix::libc::SIGXFSZ, std::sync::Arc::default());
    // Dumps, state and their folders are for the eyes of their owner, whatever the shell's umask.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    match dispatch(args) {
        Ok(code) => code,
        Err(error) => {
            output::failure(json, &error);
            failed(&error)
        }
    }
}

fn dispatch(args: Args) -> Done {
    if args.json && matches!(args.command, Command::Cat { .. } | Command::Completions { .. }) {
        return Err(Error::new(Kind::Usage, "what this command writes is no JSON document").hint("leave out --json"));
    }
    if args.json && matches!(&args.command, Command::Status { watch, .. } | Command::List { watch, .. } if watch.watch) {
        return Err(Error::new(Kind::Usage, "--json is one document, and --watch has no end").hint("leave out one of them"));
    }
    let session = Session::new(&args);
    match args.command {
        Command::Check { offline } => check::check(&session, offline),
        Command::Run { backup, incremental } => run::run(&session, &backup, if incremental { Order::Changes } else { Order::ByHand }),
        Command::List { backup, watch } => list::list(&session, backup.as_deref(), watch.every()),
        Command::Show { id } => show::show(&session, &id),
        Command::Cat { id, file, identity } => cat::cat(&session, &id, file.as_deref(), identity.as_deref()),
        Command::History { backup } => list::history(&session, backup.as_deref()),
        Command::Export(args) => export::export(&session, &args),
        Command::Verify { id, drill: true, store, identity } => drill::drill(&session, &id, store.as_deref(), identity.as_deref()),
        Command::Verify { id, drill: false, store, identity } => verify::verify(&session, &id, store.as_deref(), identity.as_deref()),
        Command::Pin { id } => pin::pin(&session, &id, true),
        Command::Unpin { id } => pin::pin(&session, &id, false),
        Command::Init { container } => init::init(&session, container.as_deref()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "pgvigil", &mut script);
            output::text(&String::from_utf8_lossy(&script))
        }
        Command::Man { dir } => clap_mangen::generate_to(Args::command(), &dir)
            .map(|()| exit::OK)
            .map_err(|error| Error::system(format!("cannot write manual pages into {}", dir.display()), &error)),
        Command::Schema => output::text(&crate::config::file::json_schema()),
        Command::Daemon => daemon::daemon(&session),
        Command::Next { days } => next::next(&session, days),
        Command::Restore(args) => restore::restore(&session, &args),
        Command::Bisect(args) => bisect::bisect(&session, &args),
        Command::Prune { backup, dry_run, trust_clock } => prune::prune(&session, backup.as_deref(), dry_run, trust_clock),
        Command::Adopt { backup, files } => adopt::adopt(&session, &backup, &files),
        Command::Rebuild { store } => rebuild::rebuild(&session, store.as_deref()),
        Command::Status { alive: true, .. } => status::alive(&session),
        Command::Status { watch, .. } => status::status(&session, watch.every()),
        Command::Alert(AlertCommand::Test) => alert::test(&session),
        Command::Wal(command) => wal::wal(&session, &command),
    }
}
