//! Lines and bars.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use crate::status::Ran;
use crate::status::forecast::Forecast;

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 56.0;

/// How far along one moment lies between two, from 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn along(at: DateTime<Utc>, from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    let span = (to - from).num_seconds().max(1) as f64;
    ((at - from).num_seconds() as f64 / span).clamp(0.0, 1.0)
}

fn path(points: &[(f64, f64)]) -> String {
    points.iter().enumerate().fold(String::new(), |mut path, (n, (x, y))| {
        let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
        path
    })
}

/// A value over time as a line on its area, from zero. Points oldest first.
pub fn line(points: &[(DateTime<Utc>, f64)], label: &str) -> Markup {
    let most = points.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(1.0);
    let (from, to) = (points.first().map_or_else(epoch, |p| p.0), points.last().map_or_else(epoch, |p| p.0));
    let place = |(at, value): &(DateTime<Utc>, f64)| {
        let x = if points.len() == 1 { WIDTH } else { along(*at, from, to) * WIDTH };
        (x, HEIGHT - 3.0 - value / most * (HEIGHT - 8.0))
    };
    let mut placed: Vec<(f64, f64)> = points.iter().map(place).collect();
    if let [(_, y)] = placed[..] {
        placed.insert(0, (0.0, y));
    }
    let curve = path(&placed);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            line class="base" x1="0" y1=(HEIGHT - 1.0) x2=(WIDTH) y2=(HEIGHT - 1.0) {}
            path class="area" d=(format!("{curve}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z")) {}
            path class="curve" d=(curve) {}
        }
    }
}

fn epoch() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

/// A bar for each run, oldest first; a hollow one where it failed.
pub fn runs(runs: &[Ran], label: &str, told: &dyn Fn(&Ran) -> String) -> Markup {
    let most = runs.iter().filter(|run| run.is_good).map(|run| run.seconds).fold(0.0, f64::max).max(0.001);
    // A few runs are not drawn as walls.
    let step = WIDTH / crate::status::float(runs.len().max(24) as u64);
    let x = |n: usize| WIDTH - step * crate::status::float((runs.len() - n) as u64);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            line class="base" x1="0" y1=(HEIGHT - 1.0) x2=(WIDTH) y2=(HEIGHT - 1.0) {}
            @for (n, run) in runs.iter().enumerate() {
                @let (left, wide) = (x(n), step * 0.72);
                @if run.is_good {
                    @let high = (run.seconds / most * (HEIGHT - 6.0)).max(1.5);
                    rect class="run" x=(format!("{left:.1}")) y=(format!("{:.1}", HEIGHT - 1.0 - high)) width=(format!("{wide:.1}")) height=(format!("{high:.1}")) { title { (told(run)) } }
                } @else {
                    rect class="fail" x=(format!("{left:.1}")) y="3" width=(format!("{wide:.1}")) height=(HEIGHT - 4.0) { title { (told(run)) } }
                }
            }
        }
    }
}

/// How much of a limit is used up; past it the bar is full and says so by a class.
pub fn bar(share: f64, label: &str) -> Markup {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 };
    html! {
        svg viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect class="track" width="100" height="6" {}
            rect width=(format!("{:.1}", share * 100.0)) height="6" fill="currentColor" {}
        }
    }
}

/// A disk: what is used of it, and the threshold of its alert.
pub fn disk(used: f64, threshold: f64, label: &str) -> Markup {
    html! {
        svg viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect class="track" width="100" height="6" {}
            rect width=(format!("{:.1}", used.clamp(0.0, 1.0) * 100.0)) height="6" fill="currentColor" {}
            line class="limit" x1=(format!("{:.1}", threshold * 100.0)) x2=(format!("{:.1}", threshold * 100.0)) y1="0" y2="6" {}
        }
    }
}

/// A disk to come: used bytes over time below the brim, with the threshold of its alert.
pub fn forecast(forecast: &Forecast, end: f64, threshold: f64, label: &str) -> Markup {
    let top = forecast.curve.iter().map(|(_, used)| *used).fold(end, f64::max).max(1.0);
    let y = |bytes: f64| HEIGHT - 2.0 - bytes / top * (HEIGHT - 8.0);
    let (from, to) = (forecast.curve.first().map_or_else(epoch, |p| p.0), forecast.curve.last().map_or_else(epoch, |p| p.0));
    let curve = path(&forecast.curve.iter().map(|(at, used)| (along(*at, from, to) * WIDTH, y(*used))).collect::<Vec<_>>());
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            line class="base" x1="0" y1=(HEIGHT - 1.0) x2=(WIDTH) y2=(HEIGHT - 1.0) {}
            path class="area" d=(format!("{curve}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z")) {}
            line class="threshold" x1="0" x2=(WIDTH) y1=(format!("{:.1}", y(end * threshold))) y2=(format!("{:.1}", y(end * threshold))) {}
            line class="brim" x1="0" x2=(WIDTH) y1=(format!("{:.1}", y(end))) y2=(format!("{:.1}", y(end))) {}
            path class="curve" d=(curve) {}
        }
    }
}
