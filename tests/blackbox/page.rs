//! The status page in a browser: light, dark and on a phone. `PGVIGIL_TEST_PICTURES=DIR` keeps the
//! pictures, to be looked at.

use chrono::{DateTime, Duration, Utc};
use pgvigil::state::Outcome;

use crate::browser::Browser;
use crate::common::World;
use crate::common::daemon::{Daemon, now, until};
use crate::common::scene::Past;
use crate::listen::address;

const SERVER: &str = "[servers.main]\nhost = \"127.0.0.1\"\nport = 1\n";

/// A world whose daemon listens, with these sections beside the server and the store.
fn world(sections: &str) -> World {
    let world = World::new();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ntimezone = \"Europe/Vienna\"\nstate_dir = \"{}\"\n{SERVER}{}",
        world.path("state").display(),
        sections.replace("STORE", world.store().to_str().unwrap())
    );
    std::fs::create_dir_all(world.store()).unwrap();
    std::fs::write(world.config(), text).unwrap();
    world
}

const STORE: &str = "[stores.local]\npath = \"STORE\"\nalert_above_percent = 99\n";

/// A schedule whose next slot is hours away, so that nothing runs in the middle of a picture.
fn schedule(now: DateTime<Utc>) -> String {
    let slot = now + Duration::hours(9);
    format!("schedule = \"{}\"\ntimezone = \"UTC\"\n", slot.format("%-M %-H * * *"))
}

fn backup(name: &str, keys: &str, now: DateTime<Utc>) -> String {
    format!("[backups.{name}]\ndatabase = \"{name}\"\n{}{keys}\n", schedule(now))
}

fn drilled(budget: &str) -> String {
    format!("drill = {{ schedule = \"0 4 * * 0\", budget = \"{budget}\" }}")
}

fn healthy() -> World {
    let now = now();
    let world = world(&format!(
        "{STORE}{}{}{}",
        backup("shop", &drilled("10m"), now),
        backup("crm", &drilled("2m"), now),
        backup("billing_archive", &format!("max_age = \"26h\"\n{}", drilled("1h")), now)
    ));
    let past = |name| Past { world: &world, name, now };
    past("shop").ran(30.4, 3, Outcome::Failed, Some("no"));
    past("shop").well(80, 1_130_000_000, 0.2, &[(0, 41.0), (3, 39.5), (10, 38.0)]);
    past("crm").well(45, 88_000_000, 0.3, &[(3, 8.4)]);
    past("billing_archive").well(85, 24_600_000_000, 0.25, &[(2, 2_210.0)]);
    world
}

fn faults() -> World {
    let now = now();
    let world = world(&format!(
        "[stores.local]\npath = \"STORE\"\nalert_above_percent = 1\n{}{}{}{}{}",
        backup("shop", &format!("max_age = \"26h\"\n{}", drilled("10m")), now),
        backup("crm", &drilled("5s"), now),
        backup("ledger", "", now),
        backup("fresh_one", &drilled("1h"), now),
        backup("a-very-long-name-of-a-backup-that-somebody-has-chosen-for-it-26", "", now)
    ));
    let past = |name| Past { world: &world, name, now };
    past("shop").well(60, 1_130_000_000, 2.3, &[(3, 41.0)]);
    past("shop").ran(1.3, 2, Outcome::Failed, Some("connection refused"));
    past("shop").ran(
        0.3,
        2,
        Outcome::Failed,
        Some("pg_dump failed with exit status 1\n  FATAL: password authentication failed for user \"backup\""),
    );
    past("crm").well(45, 88_000_000, 0.3, &[(1, 8.4)]);
    past("ledger").well(20, 310_000, 1.2, &[]);
    past("ledger").kept(0.2, 150_000, "bad", None);
    past("ledger").ran(0.2, 2, Outcome::Ok, None);
    past("a-very-long-name-of-a-backup-that-somebody-has-chosen-for-it-26").well(9, 5_000, 0.3, &[]);
    past("left_over").kept(40.0, 1_000, "readable", None);
    world
}

fn many() -> World {
    let now = now();
    let names: Vec<String> = (1..=30).map(|n| format!("tenant_{n:02}")).collect();
    let sections: String = names.iter().map(|name| backup(name, &drilled("15m"), now)).collect();
    let world = world(&format!("{STORE}{sections}"));
    for (n, name) in (1_u32..).zip(&names) {
        let past = Past { world: &world, name, now };
        let size = 40_000_000 * u64::from(n) * u64::from(n);
        past.well(20 + n, size, 0.1 + f64::from(n) / 60.0, if n % 5 == 0 { &[] } else { &[(1, 30.0)] });
        if n == 17 {
            past.ran(0.05, 9, Outcome::Failed, Some("the disk is full"));
        }
    }
    world
}

/// No text is cut off at the side, nothing comes from elsewhere, and every colour can be read.
fn look_at(browser: &mut Browser, url: &str, name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (form, width, scheme) in [("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 360, "light"), ("phone-dark", 360, "dark")] {
        browser.open(url, width, scheme);
        let wide = browser.ask("document.documentElement.scrollWidth").as_u64().unwrap();
        if wide > u64::from(width) {
            let what = browser.ask(
                "[...document.querySelectorAll('main *, header *, footer *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.out')).slice(0, 5).map(e => e.outerHTML.slice(0, 120)).join('\\n')",
            );
            wrong.push(format!("{name} {form}: {wide} pixels wide on {width}: {what}"));
        }
        let ground = browser.ask("getComputedStyle(document.body).backgroundColor");
        let is_dark = ground != "rgb(246, 245, 241)";
        if is_dark != (scheme == "dark") {
            wrong.push(format!("{name} {form}: the ground is {ground}"));
        }
        let pale = browser.ask(CONTRAST);
        for pale in pale.as_array().unwrap() {
            wrong.push(format!("{name} {form}: hard to read: {pale}"));
        }
        if let Some(dir) = std::env::var_os("PGVIGIL_TEST_PICTURES") {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(std::path::Path::new(&dir).join(format!("{name}-{form}.png")), browser.picture()).unwrap();
        }
    }
    wrong.append(&mut browser.complaints.drain(..).map(|complaint| format!("{name}: {complaint}")).collect());
    wrong
}

/// Texts whose contrast with their ground is below 4.5, as WCAG asks for.
const CONTRAST: &str = r"(() => {
    const rgb = text => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
    const found = new Map();
    for (const e of document.querySelectorAll('h1, h2, h3, p, span, b, small, li, figcaption, code, a, time')) {
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) found.set(getComputedStyle(e).color + ' on ' + ground(e), ratio.toFixed(2) + ' ' + e.textContent.slice(0, 40));
    }
    return [...found].map(([colors, what]) => colors + ': ' + what);
})()";

#[test]
fn the_page_can_be_read_everywhere() {
    let mut browser = Browser::start();
    let mut wrong = Vec::new();
    for (name, world, headline) in [
        ("empty", world(STORE), "No backup is configured"),
        ("healthy", healthy(), "All 3 backups are proven"),
        ("faults", faults(), "3 of 5 backups need a look"),
        ("many", many(), "tenant_17 needs a look, the other 29 are well"),
    ] {
        let daemon = Daemon::start(&world);
        wrong.extend(look_at(&mut browser, &format!("http://{}/", address(&daemon)), name));
        assert_eq!(browser.ask("document.querySelector('h1').textContent"), headline);
        assert_eq!(browser.ask("document.querySelectorAll('script, link[rel=stylesheet], img, iframe').length"), 0);
        // Whoever cannot see it is told by words.
        let mute = browser.ask("[...document.querySelectorAll('svg')].filter(s => !s.getAttribute('aria-label') && s.getAttribute('aria-hidden') !== 'true').length");
        assert_eq!(mute, 0);
        if name == "many" {
            // A link opens what is folded, without a script.
            let folded = "document.querySelectorAll('details:not([open])').length";
            assert_eq!(browser.ask(folded), 29);
            browser.open("about:blank", 1280, "light");
            browser.open(&format!("http://{}/#backup-tenant_05", address(&daemon)), 1280, "light");
            until("the link has opened it", || (browser.ask(folded) == 28).then_some(()));
        }
        drop(daemon);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
