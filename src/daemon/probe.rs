//! What a daemon finds when it begins: every server, store and relay is tried once, beside the work,
//! so that the log says in the first minute what would else be learned at night.

use crate::alert::email::Mailer;
use crate::alert::http::Receiver;
use crate::alert::ping::Pinger;
use crate::alert::webhook::Poster;
use crate::config::Plan;
use crate::error::Error;
use crate::host::{Tag, program};
use crate::job::stores;
use crate::postgres::Server;

pub async fn probe(plan: &Plan) {
    for store in plan.stores.values() {
        match stores::try_out(store).await {
            Ok(how) => tracing::info!(store = %store.name, "{how}"),
            Err(error) => tracing::warn!(store = %store.name, %error, "store cannot be written"),
        }
    }
    for (name, server) in &plan.servers {
        match Server::connect(server, Tag::random()).await.and_then(|server| server.check_client().map(|()| server)) {
            Ok(found) => tracing::info!(server = %name, version = %found.facts.version, "server answers"),
            Err(error) => tracing::warn!(server = %name, %error, "server cannot be dumped"),
        }
    }
    if let Some(email) = &plan.email {
        let tried = match Mailer::new(email) {
            Ok(mailer) => mailer.try_out().await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(relay) => tracing::info!("mail relay {relay}"),
            Err(error) => tracing::warn!(%error, "mail relay cannot be used"),
        }
    }
    for webhook in plan.channels.webhooks.values() {
        of_receiver(&webhook.channel(), Poster::new(webhook).as_ref().map(Poster::receiver)).await;
    }
    for ping in plan.channels.pings.values() {
        of_receiver(&ping.key(), Pinger::new(ping).as_ref().map(Pinger::receiver)).await;
    }
    for hook in plan.channels.hooks.values() {
        if let Err(error) = program::is_executable(&hook.command) {
            tracing::warn!(channel = hook.channel(), %error, "hook cannot be run");
        }
    }
}

async fn of_receiver(channel: &str, receiver: Result<&Receiver, &Error>) {
    let tried = match receiver {
        Ok(receiver) => receiver.try_out().await,
        Err(error) => Err(error.clone()),
    };
    match tried {
        Ok(how) => tracing::info!(channel, "{how}"),
        Err(error) => tracing::warn!(channel, %error, "receiver cannot be reached"),
    }
}
