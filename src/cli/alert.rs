//! `alert test`, and what commands tell of by themselves.

use std::time::Duration;

use anstyle::AnsiColor;
use futures_util::future::join_all;
use serde::Serialize;

use super::Done;
use super::output;
use super::session::{Session, Uses, runtime};
use crate::alert::delivery::{self, Channel, Sender};
use crate::alert::http::Refused;
use crate::alert::letter;
use crate::alert::ping::{Pinger, Signal};
use crate::alert::routes::{Route, message_by, routes};
use crate::config::Plan;
use crate::config::channels::Ping;
use crate::error::{Error, Kind, Result, exit};
use crate::host::clock;
use crate::job::assess::{Assessment, machine};
use crate::state::State;

/// How long a command tries: without a daemon to send its alerts, and to send one test.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Tried {
    channel: String,
    to: String,
    ok: bool,
    message: String,
    hint: Option<String>,
}

impl Tried {
    fn new(channel: &str, to: &str, tried: Result<String>) -> Self {
        let (channel, to) = (channel.to_owned(), to.to_owned());
        match tried {
            Ok(message) => Tried { channel, to, ok: true, message, hint: None },
            Err(error) => Tried { channel, to, ok: false, message: error.message, hint: error.hint },
        }
    }
}

pub fn test(session: &Session) -> Done {
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    // Those that stand in for others, and those that are only told late, are tried as well.
    let routes = routes(plan);
    if routes.is_empty() && plan.channels.pings.is_empty() {
        return Err(Error::new(
            Kind::Config,
            "there is no channel: the file has no [email] section, no webhook, no ping and no hook on alerts",
        )
        .hint("add [email] with relay, from and to"));
    }
    let tried: Vec<Tried> = runtime()?.block_on(async {
        // Side by side, but for the recipients of one channel.
        let channels: Vec<&[Route]> = routes.chunk_by(|a, b| a.channel == b.channel).collect();
        let by_route = join_all(channels.iter().map(|channel| async {
            let mut tried = Vec::new();
            for (nth, route) in channel.iter().enumerate() {
                tried.push(try_route(plan, route, nth).await);
            }
            tried
        }));
        let by_ping = join_all(plan.channels.pings.values().map(try_ping));
        let (by_route, by_ping) = tokio::join!(by_route, by_ping);
        by_route.into_iter().flatten().chain(by_ping).collect()
    });
    if session.json {
        output::json(&tried)?;
    } else {
        let mut text = String::new();
        for one in &tried {
            let (color, mark) = if one.ok { (AnsiColor::Green, "ok") } else { (AnsiColor::Red, "FAILED") };
            let mark = output::styled(color.on_default(), &format!("{mark:<8}"));
            let to = if one.to.is_empty() { String::new() } else { format!(" {}", one.to) };
            text.push_str(&format!("{mark} {}{to}: {}\n", one.channel, one.message));
            if let Some(hint) = &one.hint {
                text.push_str(&format!("         HINT: {hint}\n"));
            }
        }
        output::text(&text)?;
    }
    Ok(if tried.iter().all(|one| one.ok) { exit::OK } else { exit::FAILED })
}

async fn try_route(plan: &Plan, route: &Route, nth: usize) -> Tried {
    let (letter, now) = (letter::of_test(&machine(), clock::now()), clock::now());
    let number = format!("pgvigil.test.{}.{nth}", now.timestamp_millis());
    let tried = async {
        let Some(channel) = Channel::of(plan, &route.channel) else { return Err(Error::new(Kind::Config, "there is no such channel")) };
        let channel = channel?;
        channel.send(&route.to, &letter, &number, now, PATIENCE).await.map_err(|refused| refused.error)?;
        Ok(match (&channel, &plan.email) {
            (Channel::Email(_), Some(email)) => format!("taken by {}", email.relay()),
            (Channel::Webhook(poster), _) => format!("taken by {}", poster.receiver().shown()),
            _ => "it has run".to_owned(),
        })
    };
    Tried::new(&route.channel, &route.to, tried.await)
}

/// A ping that is neither a start nor a success: it must not hide that no backup comes.
async fn try_ping(ping: &Ping) -> Tried {
    let tried = async {
        let pinger = Pinger::new(ping)?;
        let shown = pinger.receiver().shown();
        match pinger.once(Signal::Log, "this is a test of pgvigil, and says nothing about the backup\n", PATIENCE).await {
            Ok(()) => Ok(format!("taken by {shown}, as a line of its log")),
            Err(Refused { status: Some(404 | 405), .. }) => Ok(format!("{shown} answers, and takes no test")),
            Err(refused) => Err(refused.error),
        }
    };
    Tried::new(&ping.key(), "", tried.await)
}

/// Tells of what a command did to a backup. Where a daemon runs it sends what stands in the outbox.
pub async fn tell(plan: &Plan, backup: &str) {
    let told = async {
        let state = State::open(&plan.state_dir)?;
        let (history, alerts) = (state.history()?, state.alerts()?);
        let mut assessment = Assessment::default();
        if let Some(backup) = plan.backups.get(backup) {
            assessment.look_at_backup(plan, &history, &alerts, backup, clock::now()).await?;
        }
        assessment.look_at_pings(plan, &alerts)?;
        assessment.settle(plan, &alerts, clock::now())?;
        if State::has_daemon(&plan.state_dir) || routes(plan).is_empty() {
            return Ok(());
        }
        let delivered = delivery::deliver(plan, &alerts, Sender::Once(PATIENCE)).await?;
        match delivered.error {
            Some((channel, error)) => {
                let what = message_by(&channel);
                Err(error.context(format_args!("{what} stays in the outbox, and the next command or daemon sends it")))
            }
            None if delivered.left > 0 => Err(Error::new(Kind::System, "a message stays in the outbox: another command is at it")),
            None => Ok(()),
        }
    };
    let told: Result<()> = told.await;
    if let Err(error) = told {
        output::warn(&error.message, error.hint.as_deref());
    }
}
