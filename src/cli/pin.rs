//! `pin ID` and `unpin ID`

use bytes::Bytes;

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
    let bytes = serde_json::to_vec(&Pin { pinned }).map_err(|error| Error::new(Kind::System, format!("cannot write a pin: {error}")))?;
    runtime()?.block_on(async {
        for store in entry.copies.keys() {
            let opened = stores::open(&plan.stores[store.as_str()], state.owner())?;
            verify::add(&*opened, &entry.id, "pin", clock::now(), Bytes::from(bytes.clone())).await?;
        }
        crate::Result::Ok(())
    })?;
    if session.json {
        return output::json(&serde_json::json!({ "id": entry.id.to_string(), "pinned": pinned }));
    }
    let what = if pinned { "is pinned: retention will not delete it" } else { "is not pinned: retention decides" };
    output::text(&format!("{} {what}\n", entry.id))
}
