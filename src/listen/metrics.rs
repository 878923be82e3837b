//! /metrics: what is known, in figures. docs/metrics.md names each.

use std::sync::atomic::AtomicU64;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::board::Seen;
use crate::catalog::Rung;
use crate::status::float;
use crate::status::freshness::freshness;

type Figure = Gauge<f64, AtomicU64>;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures are gauges, so the text is the same in both forms.
pub fn content_type(accept: &str) -> &'static str {
    if accept.contains("application/openmetrics-text") { OPEN_METRICS } else { TEXT }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBackup {
    backup: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtRung {
    backup: String,
    rung: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStore {
    store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAlert {
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

const RUNGS: [Rung; 5] = [Rung::Bad, Rung::Written, Rung::Readable, Rung::Restored, Rung::Matched];

/// The figures of one moment. What is not known is absent: a zero would be a lie.
pub fn text(seen: &Seen, now: DateTime<Utc>) -> String {
    let mut registry = Registry::default();
    backups(&mut registry, seen, now);
    stores(&mut registry, seen);
    daemon(&mut registry, seen);
    let mut text = String::new();
    // Writing into a text does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn seconds(at: DateTime<Utc>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our age have room in it")]
    let millis = at.timestamp_millis() as f64;
    millis / 1000.0
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// A figure of each backup, where it is known.
fn of_each(registry: &mut Registry, name: &str, help: &str, seen: &Seen, figure: impl Fn(usize) -> Option<f64>) {
    let family = Family::<OfBackup, Figure>::default();
    for (n, record) in seen.gathered.records.iter().enumerate() {
        if let Some(value) = figure(n) {
            family.get_or_create(&OfBackup { backup: record.name.to_string() }).set(value);
        }
    }
    registry.register(format!("pgvigil_backup_{name}"), help, family);
}

fn backups(registry: &mut Registry, seen: &Seen, now: DateTime<Utc>) {
    let (records, status) = (&seen.gathered.records, &seen.gathered.status);
    let newest = |n: usize| records[n].kept.iter().find(|kept| kept.rung.is_good() && kept.taken_at <= now);
    let of_status = |n: usize| status.backups.iter().find(|backup| records[n].name.as_str() == backup.name);
    let mut add = |name: &str, help: &str, figure: &dyn Fn(usize) -> Option<f64>| of_each(registry, name, help, seen, figure);
    add("last_success_timestamp_seconds", "When the newest good backup was taken", &|n| Some(seconds(newest(n)?.taken_at)));
    add("age_seconds", "Age of the newest good backup", &|n| Some(seconds(now) - seconds(newest(n)?.taken_at)));
    add("stale_timestamp_seconds", "When the newest good backup will be too old, or the first one late", &|n| {
        records[n].stale_at.map(seconds)
    });
    add("fresh", "1 while /healthz is satisfied with it", &|n| {
        Some(flag(freshness(seen.plan.backups.get(&records[n].name)?, records[n].fresh, now).is_healthy()))
    });
    add("duration_seconds", "How long the dump of the newest good backup took", &|n| records[n].seconds);
    add("bytes", "Dumps and globals of the newest good backup as stored", &|n| Some(float(newest(n)?.bytes)));
    add("raw_bytes", "The same before they were packed", &|n| Some(float(newest(n)?.raw_bytes)));
    add("compression_ratio", "Raw bytes by stored bytes of the newest good backup", &|n| {
        let newest = newest(n).filter(|newest| newest.bytes > 0)?;
        Some(float(newest.raw_bytes) / float(newest.bytes))
    });
    add("rows", "Rows in the evidence of the newest good backup", &|n| records[n].rows.map(float));
    add("restore_seconds", "How long a restore took in the newest drill (RTO)", &|n| records[n].restore.map(|(seconds, _)| seconds));
    add("restore_timestamp_seconds", "When that was measured", &|n| records[n].restore.map(|(_, at)| seconds(at)));
    add("restore_budget_seconds", "What a restore may take", &|n| records[n].budget_seconds);
    add("proven_timestamp_seconds", "When a drill last restored a backup of it that is kept", &|n| records[n].proven_at.map(seconds));
    add("last_run_timestamp_seconds", "When the last run ended, well or not", &|n| records[n].last_run.map(|(at, _)| seconds(at)));
    add("last_run_success", "1 if the last run stored a backup", &|n| records[n].last_run.map(|(_, is_good)| flag(is_good)));
    add("running", "1 while a run is under way", &|n| Some(flag(of_status(n)?.running)));
    add("next_slot_timestamp_seconds", "The next slot of its schedule", &|n| of_status(n)?.next_at.map(seconds));
    add("kept", "Backups that are kept", &|n| Some(float(records[n].kept_count as u64)));
    add("kept_bytes", "Dumps and globals of all that are kept, as stored", &|n| Some(float(records[n].kept_bytes)));

    let log = |n: usize| records[n].log.as_ref();
    add("wal_last_timestamp_seconds", "When the last segment of its log came into the archive", &|n| log(n)?.last_segment_at.map(seconds));
    add("wal_may_lose_seconds", "Age of what a loss of the server would leave (RPO)", &|n| {
        let secs = log(n)?.may_lose_seconds(now)?;
        Some(float(secs.unsigned_abs()))
    });
    add("wal_behind_bytes", "Log that is on the server only", &|n| log(n)?.bytes_behind.map(float));
    add("wal_slot_held_bytes", "Log that a slot of ours holds back on the server", &|n| log(n)?.slot_holds_bytes.map(float));
    add("wal_gaps", "Places where its log is missing", &|n| Some(float(log(n)?.gaps as u64)));
    add("wal_restorable_from_timestamp_seconds", "Any moment from here on can be restored", &|n| log(n)?.restorable_from.map(seconds));
    add("wal_restorable_to_timestamp_seconds", "And to here", &|n| log(n)?.restorable_to.map(seconds));

    let family = Family::<AtRung, Figure>::default();
    for (n, record) in records.iter().enumerate() {
        let Some(newest) = newest(n).or(record.kept.first()) else { continue };
        for rung in RUNGS {
            let labels = AtRung { backup: record.name.to_string(), rung: rung.as_str() };
            family.get_or_create(&labels).set(flag(newest.rung == rung));
        }
    }
    registry.register("pgvigil_backup_rung", "1 at the rung of the newest good backup, or of the newest where none is good", family);
}

fn stores(registry: &mut Registry, seen: &Seen) {
    let mut add = |name: &str, help: &str, figures: Vec<(String, f64)>| {
        let family = Family::<OfStore, Figure>::default();
        for (store, value) in figures {
            family.get_or_create(&OfStore { store }).set(value);
        }
        registry.register(format!("pgvigil_store_{name}"), help, family);
    };
    let disks = &seen.gathered.disks;
    let of =
        |figure: &dyn Fn(&crate::host::disk::Usage) -> f64| disks.iter().map(|(store, usage)| (store.clone(), figure(usage))).collect();
    add("total_bytes", "Size of the file system that holds the store", of(&|usage| float(usage.total)));
    add("used_bytes", "Used bytes of it", of(&|usage| float(usage.used)));
    add("available_bytes", "Bytes that are left to us", of(&|usage| float(usage.available)));
    add(
        "used_ratio",
        "Used by used and available, as df shows it, from 0 to 1",
        of(&|usage| {
            let sum = float(usage.used) + float(usage.available);
            if sum > 0.0 { float(usage.used) / sum } else { 0.0 }
        }),
    );
    let limits = seen.plan.stores.values().map(|store| (store.name.to_string(), f64::from(store.alert_above_percent) / 100.0));
    add("alert_above_ratio", "Above it an alert is open, from 0 to 1", limits.collect());
    let full = seen.forecasts.iter().filter_map(|(store, forecast)| Some((store.clone(), seconds(forecast.full_at?))));
    add("full_timestamp_seconds", "When it will be full under the present retention; absent: not within three years", full.collect());
}

fn daemon(registry: &mut Registry, seen: &Seen) {
    let status = &seen.gathered.status;
    let mut add = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let figure = Figure::default();
            figure.set(value);
            registry.register(format!("pgvigil_{name}"), help, figure);
        }
    };
    add("healthy", "1 while status exits 0", Some(flag(status.healthy)));
    add("alerts_open", "Open alerts", Some(float(status.alerts.len() as u64)));
    add("outbox_messages", "Messages that are still to be sent", Some(float(status.outbox.pending as u64)));
    add("config_last_reload_successful", "0 while the file as it is now is faulty", Some(flag(status.config.error.is_none())));
    add("config_loaded_timestamp_seconds", "When the file in force was read", status.config.loaded_at.map(seconds));
    add("looked_timestamp_seconds", "When all of this was looked up", Some(seconds(seen.gathered.at)));
    let alerts = Family::<OfAlert, Figure>::default();
    for alert in &status.alerts {
        alerts.get_or_create(&OfAlert { key: alert.key.clone() }).set(seconds(alert.since));
    }
    registry.register("pgvigil_alert_since_timestamp_seconds", "Each open alert, and since when", alerts);
    let build = Family::<OfBuild, Figure>::default();
    build.get_or_create(&OfBuild { version: env!("CARGO_PKG_VERSION") }).set(1.0);
    registry.register("pgvigil_build_info", "The version that runs", build);
}
