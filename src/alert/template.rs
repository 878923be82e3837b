//! The body of a webhook: a template and an event, and text that holds what the event says without
//! ever breaking out of it.

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Output, State};

use super::event::{Event, Fact, RunEvent};
use crate::error::{Error, Kind, Result};

/// For Slack and what speaks as it does (Mattermost, Rocket.Chat).
pub const SLACK: &str = r#"{"text": "{{ title | slack }}{% if details %}\n```{{ details | limit(2500) | slack }}```{% endif %}{% for fact in facts %}\n{{ fact.name }}: {{ fact.value | slack }}{% endfor %}"}"#;

/// A template that goes on for so long has no end.
const FUEL: u64 = 200_000;

/// Receivers refuse more than this anyway.
const BYTES_MAX: usize = 1024 * 1024;

/// Fills in a template. In a JSON body every text is escaped as the inside of a JSON string.
///
/// # Errors
/// The template is faulty.
pub fn render(template: &str, content_type: &str, event: &Event) -> Result<String> {
    let mut environment = Environment::new();
    let is_json = is_json(content_type);
    environment.set_fuel(Some(FUEL));
    // A misspelt name must not be silence at night.
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(move |_| if is_json { AutoEscape::Custom("json".into()) } else { AutoEscape::None });
    environment.set_formatter(formatted);
    environment.add_filter("slack", |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
    environment.add_filter("limit", |text: &str, most: usize| limit(text, most));
    let rendered = environment.render_named_str("body", template, Value::from(Serde(event))).map_err(|error| {
        let place = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
        let why = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
        Error::new(Kind::Config, format!("the body is no good template{place}: {}{why}", error.kind()))
            .hint("see docs/alerts.md for what can stand in it")
    })?;
    if rendered.len() > BYTES_MAX {
        return Err(Error::new(Kind::Config, "the body becomes larger than 1 MiB").hint("limit(N) shortens a text"));
    }
    Ok(rendered)
}

/// Tries a template with events that have everything, and nothing, in them.
///
/// # Errors
/// It is faulty, or what comes out is not what the content type says.
pub fn try_out(template: &str, content_type: &str) -> Result<()> {
    for event in samples() {
        let body = render(template, content_type, &event)?;
        if is_json(content_type)
            && let Err(error) = serde_json::from_str::<serde_json::Value>(&body)
        {
            return Err(Error::new(Kind::Config, format!("the body becomes no JSON: {error}"))
                .hint("texts stand between quotes: {\"text\": \"{{ title }}\"}; anything else: {{ facts | tojson }}"));
        }
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

fn formatted(out: &mut Output, state: &mut State, value: &Value) -> std::result::Result<(), minijinja::Error> {
    let failed = |_| minijinja::Error::from(minijinja::ErrorKind::WriteFailure);
    if value.is_none() {
        return Ok(());
    }
    if matches!(state.auto_escape(), AutoEscape::Custom(_))
        && !value.is_safe()
        && let Some(text) = value.as_str()
    {
        let quoted = serde_json::to_string(text).unwrap_or_default();
        return out.write_str(quoted.trim_start_matches('"').strip_suffix('"').unwrap_or_default()).map_err(failed);
    }
    write!(out, "{value}").map_err(failed)
}

/// The first characters of a text, and that there were more.
fn limit(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

/// What an event can be at its worst.
fn samples() -> [Event; 2] {
    let awkward = "\"quoted\" \\ and\nnew \u{1}\t{{ x }} </script> & \u{fc}\u{20ac}\u{1f4a5} ";
    let full = Event {
        event: "alert_open".to_owned(),
        state: "open".to_owned(),
        title: format!("PROBLEM: {awkward}"),
        summary: awkward.to_owned(),
        details: awkward.repeat(100),
        since: Some(chrono::DateTime::UNIX_EPOCH),
        machine: awkward.to_owned(),
        backup: Some(awkward.to_owned()),
        store: Some(awkward.to_owned()),
        facts: vec![Fact { name: awkward.to_owned(), value: awkward.to_owned() }],
        commands: vec![awkward.to_owned()],
        text: awkward.to_owned(),
        run: Some(RunEvent { error: Some(awkward.to_owned()), ..RunEvent::default() }),
        ..Event::default()
    };
    [full, Event { event: "test".to_owned(), ..Event::default() }]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JSON: &str = "application/json";

    fn event(title: &str) -> Event {
        Event { title: title.to_owned(), details: title.to_owned(), ..Event::default() }
    }

    proptest! {
        #[test]
        fn no_text_breaks_out(title in any::<String>()) {
            for template in [r#"{"a": "x{{ title }}y", "b": [{{ facts | tojson }}]}"#, r#"{"a": "x{{ title }}y"}"#] {
                let body = render(template, JSON, &event(&title)).unwrap();
                let value: serde_json::Value = serde_json::from_str(&body).unwrap();
                prop_assert_eq!(value["a"].as_str().unwrap(), format!("x{title}y"));
            }
            let body = render(SLACK, JSON, &event(&title)).unwrap();
            let value: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert!(!value["text"].as_str().unwrap().contains(['<', '>']));
        }
    }

    #[test]
    fn other_bodies_are_as_they_are() {
        assert_eq!(render("{{ title }}|{{ backup }}|", "text/plain", &event("a \"b\"\n<c>")).unwrap(), "a \"b\"\n<c>||");
        assert_eq!(render("{{ title | limit(5) }}", "text/plain", &event("12345")).unwrap(), "12345");
        assert_eq!(render("{{ title | limit(5) }}", "text/plain", &event("\u{fc}23456")).unwrap(), "\u{fc}2...");
        assert_eq!(render("{{ 5 if severity == 'urgent' else 3 }}", JSON, &event("")).unwrap(), "5");
        assert_eq!(
            render("{% if severity == 'urgent' %}{{ state | upper }}!{% endif %}", JSON, &Event { state: "open".into(), ..event("") })
                .unwrap(),
            "OPEN!"
        );
    }

    #[test]
    fn faults_of_a_template() {
        for (template, content_type, why) in [
            ("{\"text\": \"{{ titel }}\"}", JSON, "undefined"),
            ("{\"text\": \"{{ title }\"}", JSON, "line 1"),
            ("{\"text\": {{ title }}}", JSON, "no JSON"),
            ("{{ title | nosuch }}", "text/plain", "nosuch"),
            ("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "text/plain", "fuel"),
        ] {
            let error = try_out(template, content_type).unwrap_err();
            assert!(error.message.contains(why), "{template}: {error:?}");
        }
        try_out(SLACK, JSON).unwrap();
        try_out("anything {{ title", "text/plain").unwrap_err();
    }
}
