//! `pin ID` and `unpin ID`

use super::output;
use super::session::{Session, Uses, runtime};
use super::{Done, list};
use crate::catalog::{Pin, Wanted};
use crate::error::{Error, Kind};
use crate::host::clock;
use crate::job::{stores, verify};
use crate::state::State;

pub fn pin(session: &Session, id: &str, pinned: bool) -> Done {
    let wanted = Wanted::parse(id)?;
    let opened = session.open(Uses::None)?;
    let plan = &opened.plan;
    let state = State::open(&plan.state_dir)?;
    let catalog = list::catalog(plan, Some(&wanted.backup))?;
    let entry = catalog.find(&wanted)?;
    if catalog.asks_for_signatures() && plan.signing_key.is_none() {
        return Err(Error::new(Kind::Refused, "a pin that nobody signs counts for nothing, and there is no signing_key in the file")
            .hint("pin where backups are made, or give this machine a signing_key of its own that the others trust"));
    }
    runtime()?.block_on(async {
        for store in entry.copies.keys() {
            let opened = stores::open(&plan.stores[store.as_str()], state.owner())?;
            verify::add(plan, &*opened, &entry.id, "pin", clock::now(), &Pin { pinned }).await?;
        }
        crate::Result::Ok(())
    })?;
    if session.json {
        return output::json(&serde_json::json!({ "id": entry.id.to_string(), "pinned": pinned }));
    }
    let what = if pinned { "is pinned: retention will not delete it" } else { "is not pinned: retention decides" };
    output::text(&format!("{} {what}\n", entry.id))
}
