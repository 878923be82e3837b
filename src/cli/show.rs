//! `show ID`

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::output;
use super::session::{Session, Uses};
use super::{Done, list};
use crate::alert::drills::span;
use crate::catalog::{DatabaseEvidence, DrillFacts, Manifest, Proof, Rung, Wanted};
use crate::host::{clock, printable};
use crate::job::prune;

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    rung: Rung,
    pinned: bool,
    /// In words; null: it is not, and nobody asks for it.
    signed: Option<String>,
    stores: Vec<Copy<'a>>,
}

#[derive(Serialize)]
struct Copy<'a> {
    name: &'a str,
    rung: Rung,
    /// Why retention keeps this copy, or that it does not; empty where no section of the file speaks of it.
    reasons: Vec<String>,
    proofs: &'a [Proof],
}

pub fn show(session: &Session, id: &str) -> Done {
    let wanted = Wanted::parse(id)?;
    let opened = session.open(Uses::None)?;
    let catalog = list::catalog(&opened.plan, Some(&wanted.backup))?;
    let entry = catalog.find(&wanted)?;
    let reasons = prune::reasons(&opened.plan, &catalog, clock::now());
    let reasons_in = |store: &str| {
        let told = reasons.get(&entry.id).and_then(|stores| stores.get(store));
        told.into_iter().flatten().map(ToString::to_string).collect()
    };
    let copies =
        entry.copies.iter().filter_map(|(name, proofs)| Some(Copy { name, rung: entry.rung_in(name)?, reasons: reasons_in(name), proofs }));
    let copies = copies.collect();
    let shown = Shown { manifest: &entry.manifest, rung: entry.rung(), pinned: entry.pinned, signed: catalog.told(entry), stores: copies };
    if session.json { output::json(&shown) } else { output::text(&page(&shown)) }
}

fn page(shown: &Shown<'_>) -> String {
    let manifest = shown.manifest;
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12}{value}");
    };
    let time = |time: chrono::DateTime<chrono::Utc>| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    line("id", manifest.id.clone());
    line("rung", output::rung(shown.rung));
    line("taken", time(manifest.taken_at));
    line("run", format!("{} to {}", time(manifest.started_at), time(manifest.finished_at)));
    line(
        "server",
        format!(
            "{}, PostgreSQL {}, dumped by {}",
            manifest.server,
            printable(&manifest.server_version),
            printable(&manifest.client_version)
        ),
    );
    line("databases", printable(&manifest.databases.join(", ")));
    line("size", format!("{} out of {}", output::size(manifest.bytes()), output::size(manifest.raw_bytes())));
    if manifest.narrow {
        let parts = [("tables", &manifest.tables), ("not tables", &manifest.exclude_tables), ("schemas", &manifest.schemas)];
        let parts: Vec<String> =
            parts.iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| format!("{name} {}", list.join(", "))).collect();
        line("narrow", printable(&format!("contents {:?} {}", manifest.contents, parts.join("; ")).to_lowercase()));
    }
    line("pinned", if shown.pinned { "yes" } else { "no" }.to_owned());
    for copy in &shown.stores {
        let why = if copy.reasons.is_empty() { "no section of the file prunes it".to_owned() } else { copy.reasons.join(", ") };
        line("kept", format!("in {}: {why}", copy.name).replace("expired", "expired, the next prune deletes it"));
    }
    if !manifest.adopted_from.is_empty() {
        line("adopted", format!("from {}", printable(&manifest.adopted_from.join(", "))));
    }
    line("signed", shown.signed.clone().unwrap_or_else(|| "no".to_owned()));
    for recipient in manifest.recipients() {
        line("encrypted", format!("to {}", printable(recipient)));
    }
    if manifest.globals.is_some_and(|globals| globals.no_role_passwords) {
        line("globals", "without the passwords of the roles".to_owned());
    }
    text.push('\n');
    let mut files = output::table(&["FILE", "ROLE", "SIZE", "RAW", "SHA256"]);
    for file in &manifest.files {
        let role = serde_json::to_value(file.role).ok().and_then(|role| role.as_str().map(str::to_owned)).unwrap_or_default();
        files.add_row(vec![file.name.clone(), role, output::size(file.bytes), output::size(file.raw_bytes), file.sha256.clone()]);
    }
    let _ = writeln!(text, "{}\n", files.trim_fmt());
    for (database, evidence) in manifest.evidence.iter().flat_map(|evidence| &evidence.databases) {
        if evidence.is_recorded() {
            text.push_str(&of_evidence(database, evidence));
        }
    }
    let mut proofs = output::table(&["STORE", "PROVEN (UTC)", "RUNG", "BY", "SECONDS", "WHY"]);
    for copy in &shown.stores {
        if copy.proofs.is_empty() {
            proofs.add_row(vec![copy.name.to_owned(), "never".to_owned(), output::rung(copy.rung)]);
        }
        for proof in copy.proofs {
            proofs.add_row(vec![
                copy.name.to_owned(),
                proof.at.format("%Y-%m-%d %H:%M:%S").to_string(),
                output::rung(proof.rung),
                proof.by.clone(),
                proof.seconds.to_string(),
                printable(&[proof.errors.clone(), proof.notes.clone()].concat().join("; ")),
            ]);
        }
    }
    let _ = writeln!(text, "{}", proofs.trim_fmt());
    for (store, proof) in shown.stores.iter().flat_map(|copy| copy.proofs.iter().map(move |proof| (copy.name, proof))) {
        if let Some(drill) = &proof.drill {
            text.push_str(&of_drill(store, proof, drill));
        }
    }
    text
}

/// So many tables are shown, the largest; `--json` has all.
const TABLES_SHOWN: usize = 20;

/// What was recorded under the snapshot of the dump.
fn of_evidence(database: &str, evidence: &DatabaseEvidence) -> String {
    let mut text = format!("evidence of {}\n", printable(database));
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {key:<14}{}", printable(&value));
        }
    };
    let digests = if evidence.digests.is_empty() { String::new() } else { format!(", with digests of {}", evidence.digests.len()) };
    line("rows", format!("{} in {} tables{digests}", evidence.rows_total(), evidence.rows.len()));
    let mut largest: Vec<(&String, &u64)> = evidence.rows.iter().collect();
    largest.sort_by(|(a, m), (b, n)| (n, a).cmp(&(m, b)));
    for (table, rows) in largest.iter().take(TABLES_SHOWN) {
        line("", format!("{rows:>12}  {table}"));
    }
    if largest.len() > TABLES_SHOWN {
        line("", format!("and {} smaller ones: pgvigil --json show", largest.len() - TABLES_SHOWN));
    }
    let pairs =
        |map: &BTreeMap<String, String>| map.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ");
    line("objects", evidence.objects.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", "));
    line("sequences", evidence.sequences.len().to_string());
    line("extensions", pairs(&evidence.extensions));
    line("large objects", evidence.large_objects.to_string());
    line("collations", pairs(&evidence.collations));
    for (name, result) in &evidence.checks {
        let answer = result.value.clone().or_else(|| result.error.as_ref().map(|error| format!("failed: {error}")));
        line("check", format!("{name}: {}", answer.unwrap_or_default()));
    }
    line("left out", evidence.left_out.join("; "));
    text.push('\n');
    text
}

/// What a drill measured, and what differed.
fn of_drill(store: &str, proof: &Proof, drill: &DrillFacts) -> String {
    let mut text =
        format!("\ndrill of {store} at {} on {}: {}", proof.at.format("%Y-%m-%d %H:%M:%S UTC"), printable(&drill.on), proof.rung);
    if let Some(seconds) = proof.restore_seconds() {
        // A rate for people: what is behind the point does not count.
        let rate = output::size(std::time::Duration::try_from_secs_f64(drill.bytes_per_second).unwrap_or_default().as_secs());
        let _ = write!(
            text,
            "\n  restored {} in {}, {rate}/s, {} in all",
            output::size(drill.raw_bytes),
            span(seconds),
            span(drill.total_seconds)
        );
    }
    let Some(compared) = &drill.compared else {
        text.push_str("\n  nothing was compared\n");
        return text;
    };
    let differ = match compared.mismatches.len() {
        0 => "all as recorded".to_owned(),
        1 => "one difference".to_owned(),
        several => format!("{several} differences"),
    };
    let _ = writeln!(text, "\n  compared {} tables, {} rows: {differ}", compared.tables, compared.rows);
    for mismatch in &compared.mismatches {
        let _ = writeln!(text, "    {}", printable(&mismatch.to_string()));
    }
    text
}
