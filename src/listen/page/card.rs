//! One backup.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{charts, shapes};
use crate::alert::drills::span;
use crate::alert::problems::age;
use crate::config::values::Count;
use crate::schedule::due::Job;
use crate::status::calendar::{Day, Mark, calendar};
use crate::status::verdict::Word;
use crate::status::words::{moment, roughly, size};
use crate::status::{Kept, Ran, Record, float};

/// Weeks of the calendar.
const WEEKS: u32 = 13;

/// Runs in the picture of their durations.
const RUNS: usize = 60;

/// Marks of one tier; more are only counted.
const MARKS: usize = 24;

pub fn card(record: &Record, word: Word, is_running: bool, is_folded: bool, now: DateTime<Utc>) -> Markup {
    let id = format!("backup-{}", record.name);
    let head = html! {
        (shapes::sign(word))
        h3 { (record.name) }
        @if is_folded && let Some(newest) = newest(record, now) { span class="soft" { (roughly(now - newest.taken_at)) " old" } }
        @if is_running { span class="word waiting" { "running" } }
        span class=(format!("word {}", shapes::ink(word))) { (word.as_str()) }
    };
    html! {
        @if is_folded {
            // Whoever follows a link to what is inside opens it.
            details class="card" { summary { (head) } div id=(id) { (body(record, now)) } }
        } @else {
            article id=(id) class=(if word == Word::Look { "card look" } else { "card" }) { header { (head) } (body(record, now)) }
        }
    }
}

fn body(record: &Record, now: DateTime<Utc>) -> Markup {
    html! {
        div class="bars" {
            (age_bar(record, now))
            (restore_bar(record, now))
        }
        div class="pictures" {
            (days(record, now))
            div { (sizes(record)) (durations(record, now)) }
        }
        (log(record, now))
        (tiers(record))
        (next(record, now))
    }
}

/// What can be restored of its log, and what a loss of the server would cost.
fn log(record: &Record, now: DateTime<Utc>) -> Markup {
    let Some(figures) = &record.log else { return html! {} };
    html! { p class="small" {
        span class="label" { "Log" } " "
        @match (figures.restorable_from, figures.restorable_to) {
            (Some(from), Some(to)) => { "any moment from " (moment(from, now, record.zone)) " to " (moment(to, now, record.zone)) "; " }
            _ => { "nothing can be restored to any moment; " }
        }
        @match figures.may_lose_seconds(now) {
            Some(0) => { "nothing would be lost with the server" }
            Some(secs) => { "the last " (age(secs)) " would be lost with the server" }
            None => { "nothing of it has come" }
        }
        @if figures.gaps > 0 { b { "; " (figures.gaps) " gaps" } }
    } }
}

fn newest(record: &Record, now: DateTime<Utc>) -> Option<&Kept> {
    record.kept.iter().find(|kept| kept.rung.is_good() && kept.taken_at <= now)
}

/// How old the newest good one is, against what it may be.
fn age_bar(record: &Record, now: DateTime<Utc>) -> Markup {
    let Some(newest) = newest(record, now) else {
        return html! { div class="bar" {
            p { span class="label" { "Newest good" } b { "none yet" } }
            (charts::bar(0.0, "there is no good backup"))
            p class="small soft" { @match record.stale_at {
                Some(at) if at >= now => { "late from " (moment(at, now, record.zone)) }
                Some(at) => { "late since " (moment(at, now, record.zone)) }
                None => { "none is scheduled" }
            } }
        } };
    };
    let old = (now - newest.taken_at).num_seconds();
    let share = record.stale_at.map(|end| float(old.unsigned_abs()) / float((end - newest.taken_at).num_seconds().max(1).unsigned_abs()));
    let is_over = share.is_some_and(|share| share > 1.0);
    html! { div class=(if is_over { "bar over" } else { "bar" }) {
        p { span class="label" { "Newest good" } b { (age(old)) " old" } }
        (charts::bar(share.unwrap_or(0.0), &match share {
            Some(share) => format!("{:.0} % of the age it may have", share * 100.0),
            None => "no age is set".to_owned(),
        }))
        p class="small soft" {
            span { (newest.rung) ", taken " (moment(newest.taken_at, now, record.zone)) }
            @match record.stale_at {
                Some(at) if is_over => span { "too old since " (moment(at, now, record.zone)) },
                Some(at) => span { "good until " (moment(at, now, record.zone)) },
                None => {}
            }
        }
    } }
}

/// How long a restore took, against what it may.
fn restore_bar(record: &Record, now: DateTime<Utc>) -> Markup {
    let Some((seconds, at)) = record.restore else {
        return html! { div class="bar" {
            p { span class="label" { "Restore" } b class="soft" { "not measured" } }
            (charts::bar(0.0, "no drill has measured a restore"))
            p class="small soft" { @match record.coming.iter().find(|(job, _)| *job == Job::Drill) {
                Some((_, at)) => { "drill " (moment(*at, now, record.zone)) }
                None => { "no drill is scheduled" }
            } }
        } };
    };
    let share = record.budget_seconds.map(|budget| seconds / budget.max(0.001));
    let is_over = share.is_some_and(|share| share > 1.0);
    html! { div class=(if is_over { "bar over" } else { "bar" }) {
        p { span class="label" { "Restore" } b { (span(seconds)) } }
        (charts::bar(share.unwrap_or(0.0), &match share {
            Some(share) => format!("{:.0} % of its budget", share * 100.0),
            None => "no budget is set".to_owned(),
        }))
        p class="small soft" {
            span { "by the drill of " (moment(at, now, record.zone)) }
            @match record.budget_seconds {
                Some(budget) if is_over => span { "over its budget of " (span(budget)) },
                Some(budget) => span { "budget " (span(budget)) },
                None => span { "no budget" },
            }
        }
    } }
}

/// The calendar: a column a week, a row a weekday.
fn days(record: &Record, now: DateTime<Utc>) -> Markup {
    let days = calendar(&record.kept, &record.runs, WEEKS, record.zone, now);
    let count = |wanted: &dyn Fn(Mark) -> bool| days.iter().filter(|day| day.mark.is_some_and(wanted)).count();
    let kept = count(&|mark| matches!(mark, Mark::Kept(_)));
    let (gone, failed) = (count(&|mark| mark == Mark::Gone), count(&|mark| mark == Mark::Failed));
    let label = format!(
        "the last {WEEKS} weeks: {kept} days with a backup that is kept, {gone} with one that is no longer kept, {failed} on which all runs failed"
    );
    let place = |day: &Day| (22 + day.week * 14, 12 + day.weekday * 14);
    let months = days.iter().filter(|day| day.weekday == 0 && chrono::Datelike::day(&day.date) <= 7);
    html! { figure class="calendar" {
        figcaption { "Last " (WEEKS) " weeks" }
        svg viewBox="0 0 206 110" role="img" aria-label=(label) {
            @for month in months { text x=(place(month).0) y="8" { (month.date.format("%b")) } }
            @for (n, name) in [(0, "Mon"), (3, "Thu"), (6, "Sun")] { text x="0" y=(21 + n * 14) { (name) } }
            @for day in &days {
                @let (x, y) = place(day);
                @match day.mark {
                    Some(mark) => use href=(format!("#{}", shapes::name_of(mark))) class=(shapes::name_of(mark)) x=(x) y=(y) width="11" height="11" { title { (told(day)) } },
                    None => rect class="empty" x=(x) y=(y) width="11" height="11" rx="2.3" {},
                }
            }
        }
    } }
}

fn told(day: &Day) -> String {
    let mut text = format!("{}: ", day.date.format("%a %-d %b %Y"));
    text += &match day.mark {
        Some(Mark::Kept(rung)) if day.kept > 1 => format!("{} backups, the best {rung}", day.kept),
        Some(Mark::Kept(rung)) => rung.to_string(),
        Some(Mark::Gone) => "made, no longer kept".to_owned(),
        Some(Mark::Failed) | None => "no backup".to_owned(),
    };
    if !day.tiers.is_empty() {
        text += &format!(" ({})", day.tiers.join(", "));
    }
    if day.failed > 0 {
        text += &format!(", {} failed", day.failed);
    }
    text
}

/// Sizes of what is kept, over time.
fn sizes(record: &Record) -> Markup {
    let mut points: Vec<(DateTime<Utc>, f64)> =
        record.kept.iter().filter(|kept| kept.rung.is_good()).map(|kept| (kept.taken_at, float(kept.bytes))).collect();
    points.reverse();
    let (Some(first), Some(last)) = (points.first(), record.kept.iter().find(|kept| kept.rung.is_good())) else {
        return html! { figure class="chart" { figcaption { "Size" } p class="small soft" { "nothing is kept yet" } } };
    };
    let label = format!("size over time, {} of the newest", size(last.bytes));
    html! { figure class="chart" {
        figcaption class="figure" { "Size " b { (size(last.bytes)) } @if let Some(growth) = growth(&points) { " " (growth) } }
        (charts::line(&points, &label))
        p class="axis" { span { (first.0.with_timezone(&record.zone).format("%-d %b %Y")) } span { (record.kept_count) " kept, " (size(record.kept_bytes)) } }
    } }
}

/// What the size has become since a month before the newest.
fn growth(points: &[(DateTime<Utc>, f64)]) -> Option<String> {
    let (at, last) = points.last()?;
    let (then, before) = points.iter().rev().find(|(earlier, _)| (*at - *earlier).num_days() >= 28)?;
    let percent = (last / before.max(1.0) - 1.0) * 100.0;
    Some(format!("{percent:+.0} % in {}", roughly(*at - *then)))
}

/// How long the runs took.
fn durations(record: &Record, now: DateTime<Utc>) -> Markup {
    let runs = &record.runs[record.runs.len().saturating_sub(RUNS)..];
    let Some(last) = runs.iter().rev().find(|run| run.is_good) else {
        return html! { figure class="chart" {
            figcaption { "Duration" }
            @if runs.is_empty() { p class="small soft" { "no run in " (WEEKS) " weeks" } }
            @else { (charts::runs(runs, "every run failed", &|run| told_run(run, record, now))) p class="axis" { span { (runs.len()) " runs, all failed" } } }
        } };
    };
    let failed = runs.iter().filter(|run| !run.is_good).count();
    let label = format!("durations of the last {} runs, {failed} failed", runs.len());
    html! { figure class="chart" {
        figcaption class="figure" { "Duration " b { (span(last.seconds)) } }
        (charts::runs(runs, &label, &|run| told_run(run, record, now)))
        p class="axis" {
            span { (runs.len()) @if runs.len() == 1 { " run" } @else { " runs" } }
            @if failed > 0 { span class="failed" { (failed) " failed" } }
        }
    } }
}

fn told_run(run: &Ran, record: &Record, now: DateTime<Utc>) -> String {
    let outcome = if run.is_good { span(run.seconds) } else { format!("failed after {}", span(run.seconds)) };
    format!("{}: {outcome}", moment(run.started_at, now, record.zone))
}

/// What fills each tier, newest first, and what is still free in it.
fn tiers(record: &Record) -> Markup {
    html! { ul class="tiers" aria-label="tiers" {
        @for tier in &record.tiers {
            @let filled: Vec<&Kept> = record.kept.iter().filter(|kept| kept.tiers.contains(&tier.name)).take(MARKS).collect();
            @let room = match tier.of { Count::Number(of) => usize::try_from(of).unwrap_or(MARKS).min(MARKS), Count::Forever => filled.len() };
            @let shown = filled.len().max(room);
            li {
                span { (tier.name) }
                svg viewBox=(format!("0 0 {} 12", (shown * 15).max(15) - 3)) aria-hidden="true" {
                    @for (n, kept) in filled.iter().enumerate() {
                        @let name = shapes::name_of(Mark::Kept(kept.rung));
                        use href=(format!("#{name}")) class=(name) x=(n * 15) width="12" height="12" {
                            title { (kept.taken_at.with_timezone(&record.zone).format("%-d %b %Y %H:%M")) ": " (kept.rung) @if kept.pinned { ", pinned" } }
                        }
                    }
                    @for n in filled.len()..shown { rect class="empty" x=(n * 15) width="12" height="12" rx="2.5" {} }
                }
                span class="count" { (tier.filled) @if let Count::Number(of) = tier.of { " of " (of) } }
            }
        }
    } }
}

fn next(record: &Record, now: DateTime<Utc>) -> Markup {
    let of = |wanted| record.coming.iter().filter(move |(job, _)| *job == wanted).map(|(_, at)| *at);
    let told = |at: DateTime<Utc>| html! { b { (moment(at, now, record.zone)) } " " span class="soft" { "in " (roughly(at - now)) } };
    html! { p class="next" {
        @match of(Job::Dump).next() {
            Some(at) => span { "Next backup " (told(at)) @if let Some(then) = of(Job::Dump).nth(1) { span class="soft" { ", then " (moment(then, now, record.zone)) } } },
            None => span class="soft" { "Not scheduled: by hand" },
        }
        @if let Some(at) = of(Job::Drill).next() { span { "Next drill " (told(at)) } }
    } }
}
