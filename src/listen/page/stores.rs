//! The disks of the stores, and when they will be full.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::charts;
use crate::listen::board::Seen;
use crate::status::float;
use crate::status::forecast::{Forecast, HORIZON};
use crate::status::words::{roughly, size};

pub fn stores(seen: &Seen, now: DateTime<Utc>) -> Markup {
    html! {
        section aria-labelledby="stores" {
            h2 id="stores" class="part" { "Stores" }
            div class="cards" {
                @for store in seen.plan.stores.values() {
                    article class="card" {
                        header { h3 { (store.name) } }
                        @match seen.gathered.disks.iter().find(|(name, _)| name == store.name.as_str()) {
                            None => p class="soft" { "its disk does not tell" },
                            Some((name, usage)) => {
                                @let end = float(usage.used) + float(usage.available);
                                @let share = if end > 0.0 { float(usage.used) / end } else { 0.0 };
                                @let threshold = f64::from(store.alert_above_percent) / 100.0;
                                div class="bars" {
                                    div class=(if share > threshold { "bar over" } else { "bar" }) {
                                        p { span class="label" { "Used" } b { (usage.percent()) " %" } }
                                        (charts::disk(share, threshold, &format!("{} % is used, an alert opens above {} %", usage.percent(), store.alert_above_percent)))
                                        p class="small soft" {
                                            span { (size(usage.used)) " used, " (size(usage.available)) " left" }
                                            span { "alert above " (store.alert_above_percent) " %" }
                                        }
                                    }
                                    (to_come(seen.forecasts.iter().find(|(of, _)| of == name).map(|(_, forecast)| forecast), end, threshold, now))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn to_come(forecast: Option<&Forecast>, end: f64, threshold: f64, now: DateTime<Utc>) -> Markup {
    let Some(forecast) = forecast else {
        return html! { div class="chart" { p class="label" { "Forecast" } p class="small soft" { "none before the first backup of a schedule" } } };
    };
    let last = forecast.curve.last().map_or(0.0, |(_, used)| *used);
    let (told, label) = if let Some(at) = forecast.full_at {
        let day = at.format("%-d %b %Y");
        (html! { "full about " b { (day) } ", " span class="whole" { "in " (roughly(at - now)) } }, format!("the disk is full about {day}"))
    } else {
        let percent = last / end.max(1.0) * 100.0;
        let told = format!("not full within {} years: {percent:.0} % by then", HORIZON.num_days() / 365);
        (html! { (told) }, told)
    };
    html! { figure class="chart" {
        figcaption class="figure" { (told) }
        (charts::forecast(forecast, end, threshold, &label))
        p class="axis" {
            span { "today" }
            @if let Some((at, _)) = forecast.curve.last() { span { (at.format("%b %Y")) } }
        }
        p class="small soft" { "under the present retention, growing as it grew" }
    } }
}
