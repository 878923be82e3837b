//! What a person on call reads at three in the morning.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use html_escape::encode_text;

use super::event::{Event, Fact};
use super::policy::Known;
use super::problems::{Problem, age};
use crate::config::telling::On;
use crate::host::printable;

/// Why it is sent; also its `X-Pgvigil-State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    Reminder,
    Closed,
    Test,
    /// The state of everything, at its time.
    Digest,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Reminder => "reminder",
            State::Closed => "closed",
            State::Test => "test",
            State::Digest => "digest",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [State::Open, State::Reminder, State::Closed, State::Test, State::Digest].into_iter().find(|state| state.as_str() == text)
    }
}

/// One message, ready to be sent by any channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub key: String,
    pub state: State,
    pub subject: String,
    pub text: String,
    pub html: String,
    /// The same as data.
    pub event: Event,
}

/// Tells of a problem. `machine` is where it was seen.
pub fn of_problem(problem: &Problem, state: State, machine: &str, now: DateTime<Utc>) -> Letter {
    let word = if state == State::Reminder { "STILL" } else { "PROBLEM" };
    let lasts = age((now - problem.since).num_seconds());
    let since = format!("{} ({lasts})", problem.since.format("%Y-%m-%d %H:%M:%S UTC"));
    let facts = [("Since", since)].into_iter().chain(problem.facts.clone()).chain([("Seen on", machine.to_owned())]).collect();
    let page = Page { headline: problem.summary.clone(), details: &problem.details, facts, commands: &problem.commands };
    let event = Event { summary: printable(&problem.summary), since: Some(problem.since), at: now, ..seen_on(machine) };
    letter(&problem.key, state, &format!("{word}: {}", problem.summary), &page, event)
}

fn seen_on(machine: &str) -> Event {
    Event { machine: printable(machine), ..Event::default() }
}

/// Tells that a problem is over.
pub fn of_end(known: &Known, machine: &str, now: DateTime<Utc>) -> Letter {
    let lasted = age((now - known.since).num_seconds());
    let facts = vec![
        ("It was", known.summary.clone()),
        ("Since", known.since.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
        ("Lasted", lasted),
        ("Seen on", machine.to_owned()),
    ];
    let page = Page { headline: format!("over: {}", known.summary), details: "", facts, commands: &["pgvigil status".to_owned()] };
    let event = Event { summary: printable(&known.summary), since: Some(known.since), at: now, ..seen_on(machine) };
    letter(&known.key, State::Closed, &format!("OVER: {}", known.summary), &page, event)
}

/// Tries the channels.
pub fn of_test(machine: &str, now: DateTime<Utc>) -> Letter {
    let facts = vec![("Sent", now.format("%Y-%m-%d %H:%M:%S UTC").to_string()), ("From", machine.to_owned())];
    let headline = "this is a test: alerts of pgvigil reach you".to_owned();
    let page = Page { headline, details: "", facts, commands: &["pgvigil status".to_owned()] };
    let event = Event { summary: page.headline.clone(), at: now, ..seen_on(machine) };
    letter("alert/test", State::Test, "TEST: alerts reach you", &page, event)
}

/// Tells how everything stands.
pub fn of_digest(headline: &str, text: String, html: String, machine: &str, now: DateTime<Utc>) -> Letter {
    let state = State::Digest;
    let event = Event {
        event: state.as_str().to_owned(),
        state: state.as_str().to_owned(),
        title: headline.to_owned(),
        summary: headline.to_owned(),
        at: now,
        text: text.clone(),
        ..seen_on(machine)
    };
    Letter { key: "digest".to_owned(), state, subject: format!("[pgvigil] {headline}"), text, html, event: event.about("digest") }
}

struct Page<'a> {
    headline: String,
    details: &'a str,
    facts: Vec<(&'static str, String)>,
    commands: &'a [String],
}

fn letter(key: &str, state: State, subject: &str, page: &Page<'_>, event: Event) -> Letter {
    // A line end in a header would begin another one.
    let subject: String = printable(subject).chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    let (text, html) = (text(page), html(page));
    let event = Event {
        event: Event::on(state).map_or(state.as_str(), On::as_str).to_owned(),
        state: state.as_str().to_owned(),
        details: printable(page.details),
        facts: page.facts.iter().map(|(name, value)| Fact { name: (*name).to_owned(), value: printable(value) }).collect(),
        commands: page.commands.to_vec(),
        title: subject.clone(),
        text: text.clone(),
        ..event.about(key)
    };
    Letter { key: key.to_owned(), state, subject: format!("[pgvigil] {subject}"), text, html, event }
}

fn text(page: &Page<'_>) -> String {
    let mut text = format!("{}\n\n", printable(&page.headline));
    let width = page.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in &page.facts {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<width$} {}", printable(value));
    }
    if !page.details.is_empty() {
        let _ = writeln!(text, "\nThe last that was heard:\n");
        for line in page.details.lines() {
            let _ = writeln!(text, "  {}", line.trim());
        }
    }
    let _ = writeln!(text, "\nLook further:\n");
    for command in page.commands {
        let _ = writeln!(text, "  {command}");
    }
    text
}

fn html(page: &Page<'_>) -> String {
    let escaped = |text: &str| encode_text(&printable(text)).into_owned();
    let mut html = format!("<!DOCTYPE html><html><body style=\"font-family:sans-serif\"><p><b>{}</b></p><table>", escaped(&page.headline));
    for (name, value) in &page.facts {
        let _ = write!(html, "<tr><td style=\"padding-right:1em\">{name}</td><td>{}</td></tr>", escaped(value));
    }
    html.push_str("</table>");
    if !page.details.is_empty() {
        let _ = write!(html, "<p>The last that was heard:</p><pre>{}</pre>", escaped(page.details));
    }
    let _ = write!(html, "<p>Look further:</p><pre>{}</pre></body></html>", escaped(&page.commands.join("\n")));
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_change_nothing_but_the_text() {
        let problem = Problem {
            key: "backup/x/failed".into(),
            since: DateTime::default(),
            summary: "backup x failed: no \"a\r\nBcc: b@c\x1b[31m<b>\"".into(),
            details: "pg_dump: error: <script>".into(),
            facts: vec![("Server", "main".into())],
            commands: vec!["pgvigil history x".into()],
        };
        let letter = of_problem(&problem, State::Open, "db1", DateTime::default());
        assert!(!letter.subject.contains(['\r', '\n', '\x1b']), "{}", letter.subject);
        assert!(letter.html.contains("&lt;script&gt;") && !letter.html.contains("<script>"));
        assert!(letter.text.contains("pg_dump: error: <script>") && letter.text.contains("  pgvigil history x\n"));
        assert!(letter.text.contains("Since:   1970-01-01 00:00:00 UTC (0 s)"), "{}", letter.text);
    }
}
