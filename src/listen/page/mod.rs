//! The status page: one document, without a script and without anything from elsewhere.

mod card;
mod charts;
mod shapes;
mod stores;

use std::sync::LazyLock;

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::board::Seen;
use crate::schedule::due::Job;
use crate::status::verdict::{Word, headline, of_backup};
use crate::status::words::{moment, roughly};
use crate::status::{Record, Status};

const STYLE: &str = include_str!("style.css");

/// How often a browser asks again, in seconds.
const REFRESH: u32 = 60;

/// From so many backups on a list stands above the cards.
const GLANCE_FROM: usize = 4;

/// Of more backups than this those that are well are folded; a link to one opens it.
const FOLDED_FROM: usize = 12;

/// What a browser may do with the page: show it in its own style, and nothing else.
pub fn policy() -> HeaderValue {
    static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
        let style = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        policy.parse().ok()
    });
    POLICY.clone().unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// A record with the word for it.
type Worded<'a> = (&'a Record, Word);

pub fn page(seen: &Seen, now: DateTime<Utc>) -> Markup {
    let status = &seen.gathered.status;
    let mut records: Vec<Worded<'_>> =
        seen.gathered.records.iter().map(|record| (record, of_backup(&seen.plan, record, status, now))).collect();
    let words: Vec<(&str, Word)> = records.iter().map(|(record, word)| (record.name.as_str(), *word)).collect();
    let (is_well, line) = headline(&words, status);
    // Who needs a look comes first.
    records.sort_by_key(|(_, word)| *word != Word::Look);
    let word = if is_well { words.iter().map(|(_, word)| *word).max().unwrap_or(Word::Waiting) } else { Word::Look };
    let mark = if is_well { "\u{2713}" } else { "\u{26a0}" };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                meta http-equiv="refresh" content=(REFRESH);
                title { (mark) " " (line) " \u{b7} pgvigil" }
                link rel="icon" href=(icon(is_well));
                style { (PreEscaped(STYLE)) }
            }
            body {
                (shapes::symbols())
                header {
                    p class="brand" {
                        span { b { "pgvigil" } " on " (crate::job::assess::machine()) }
                        span { "as of " time datetime=(seen.gathered.at.to_rfc3339()) { (seen.gathered.at.format("%-d %b %Y, %H:%M:%S UTC")) } }
                    }
                    div class="verdict" {
                        (shapes::sign(word))
                        div {
                            h1 { (capital(&line)) }
                            p { (beneath(&records, now)) }
                        }
                    }
                }
                main {
                    (alerts(status, now))
                    @if records.len() >= GLANCE_FROM { (glance(&records, now)) }
                    @if records.is_empty() {
                        section { p class="nothing" { "Add a section to the file, as " code { "[backups.shop]" } ", and it shows here." } }
                    } @else {
                        section aria-labelledby="backups" {
                            h2 id="backups" class="part" { "Backups" }
                            (legend())
                            @let (whole, folded): (Vec<_>, Vec<_>) =
                                records.iter().partition(|(_, word)| records.len() <= FOLDED_FROM || *word == Word::Look);
                            @for (some, is_folded) in [(whole, false), (folded, true)] {
                                @if !some.is_empty() {
                                    div class=(if is_folded { "cards folded" } else { "cards" }) {
                                        @for (record, word) in some {
                                            @let is_running = status.backups.iter().any(|backup| backup.running && backup.name == record.name.as_str());
                                            (card::card(record, word, is_running, is_folded, now))
                                        }
                                    }
                                }
                            }
                        }
                    }
                    (stores::stores(seen, now))
                }
                (footer(status, now))
            }
        }
    }
}

fn capital(line: &str) -> String {
    let mut letters = line.chars();
    // A name stays as it is written in the file.
    match letters.next() {
        Some(first) if ["all ", "both ", "the ", "no "].iter().any(|word| line.starts_with(word)) => {
            first.to_uppercase().chain(letters).collect()
        }
        _ => line.to_owned(),
    }
}

/// What stands beneath the headline: how it was proven, and what comes next.
fn beneath(records: &[Worded<'_>], now: DateTime<Utc>) -> String {
    let mut parts = Vec::new();
    let of = |wanted| records.iter().filter(|(_, word)| *word == wanted).count();
    let (proven, sound) = (of(Word::Proven), of(Word::Sound));
    match (proven, sound) {
        (0, 0) => {}
        (_, 0) if of(Word::Look) == 0 => parts.push("restored by drills and fresh".to_owned()),
        (0, _) if of(Word::Look) == 0 => parts.push("fresh and read back; no drill has restored one of late".to_owned()),
        (_, 0) => parts.push(format!("{proven} proven by drills")),
        (0, _) => parts.push(format!("{sound} fresh and read back")),
        _ => parts.push(format!("{proven} proven by drills, {sound} read back only")),
    }
    let coming = records.iter().flat_map(|(record, _)| record.coming.iter().map(move |(job, at)| (*at, *job, *record)));
    if let Some((at, job, record)) = coming.min_by_key(|(at, ..)| *at) {
        let what = if job == Job::Drill { "drill of " } else { "" };
        parts.push(format!("next: {what}{} {}, in {}", record.name, moment(at, now, record.zone), roughly(at - now)));
    }
    parts.join(" \u{b7} ")
}

fn alerts(status: &Status, now: DateTime<Utc>) -> Markup {
    let mut notes: Vec<String> = status.warnings.clone();
    if !status.orphaned.is_empty() {
        notes.push(format!("orphaned (not in the file; kept, never pruned): {}", status.orphaned.join(", ")));
    }
    if let Some(error) = &status.config.error {
        notes.push(format!("the file is faulty; the daemon goes on with what it had:\n{error}"));
    }
    html! {
        @if !status.alerts.is_empty() || !notes.is_empty() {
            section aria-labelledby="alerts" {
                h2 id="alerts" class="part" {
                    @match status.alerts.len() { 0 => "Worth knowing", 1 => "1 open alert", count => { (count) " open alerts" } }
                }
                ul class="notes" {
                    @for alert in &status.alerts {
                        li {
                            (shapes::sign(Word::Look))
                            div {
                                p { (alert.summary) }
                                p class="small" { code { (alert.key) } " \u{b7} since " time datetime=(alert.since.to_rfc3339()) { (alert.since.format("%-d %b %H:%M UTC")) } ", " (roughly(now - alert.since)) }
                            }
                        }
                    }
                    @for note in &notes {
                        li class="warn" {
                            svg viewBox="0 0 24 24" aria-hidden="true" {
                                circle cx="12" cy="12" r="9.8" fill="none" stroke="currentColor" stroke-width="2" {}
                                path d="M12 7.2v5.6M12 16.6v.1" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" {}
                            }
                            p { (note) }
                        }
                    }
                }
            }
        }
    }
}

fn glance(records: &[Worded<'_>], now: DateTime<Utc>) -> Markup {
    html! {
        section aria-labelledby="glance" {
            h2 id="glance" class="part" { "At a glance" }
            ul class="glance" {
                @for (record, word) in records {
                    li { a href=(format!("#backup-{}", record.name)) {
                        (shapes::sign(*word))
                        span { (record.name) }
                        small {
                            @match record.kept.iter().find(|kept| kept.rung.is_good() && kept.taken_at <= now) {
                                Some(newest) => (roughly(now - newest.taken_at)),
                                None => "none",
                            }
                            span class="out" { " old, " (word.as_str()) }
                        }
                    } }
                }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        ul class="legend" aria-label="what the marks mean" {
            @for (mark, meaning) in shapes::LEGEND {
                @let name = shapes::name_of(mark);
                li { svg viewBox="0 0 12 12" aria-hidden="true" { use href=(format!("#{name}")) class=(name) width="12" height="12" {} } (meaning) }
            }
        }
    }
}

fn footer(status: &Status, now: DateTime<Utc>) -> Markup {
    html! {
        footer {
            p {
                span { (crate::GENERATOR) }
                @if let Some(at) = status.config.loaded_at { span { "file read " (roughly(now - at)) " ago" } }
                span { "refreshes every minute" }
                a href="/api/v1/status" { "JSON" }
                a href="/metrics" { "metrics" }
            }
        }
    }
}

/// The icon of the tab: round when all is well, a triangle when not.
fn icon(is_well: bool) -> String {
    let shape = if is_well {
        "%3Ccircle cx='8' cy='8' r='8' fill='%23177245'/%3E%3Cpath d='m4.5 8.3 2.3 2.3 4.6-5' fill='none' stroke='white' stroke-width='2'/%3E"
    } else {
        "%3Cpath d='M8 0l8 15H0z' fill='%23b3261e'/%3E%3Cpath d='M8 5v5m0 2v1.6' stroke='white' stroke-width='2'/%3E"
    };
    format!("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E{shape}%3C/svg%3E")
}
