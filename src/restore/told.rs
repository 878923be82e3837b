//! The steps of a restore in words.

use super::asked::Asked;
use super::chosen::{several, written};
use super::plan::{DatabasePlan, Way};
use crate::config::file::Contents;
use crate::postgres::quote::identifier_on_one_line;

/// What will be done for one database, in order.
pub fn steps(plan: &DatabasePlan, asked: &Asked) -> Vec<String> {
    let target = identifier_on_one_line(&plan.target);
    let quoted = |name: &Option<String>| name.as_deref().map(identifier_on_one_line).unwrap_or_default();
    let (temporary, aside) = (quoted(&plan.temporary), quoted(&plan.aside));
    let mut steps = vec!["check the hashes of the files".to_owned()];
    if plan.way == Way::InPlace {
        steps.push(
            format!("end the sessions of {target} and drop it")
                .replace("end the sessions of", if asked.disconnect { "end the sessions of" } else { "make sure that nobody uses" }),
        );
    }
    if plan.way == Way::IntoExisting {
        steps.push(format!("load {} into {target}, all of it or nothing", what(plan, asked)));
        steps.push("analyze the tables".to_owned());
        return steps;
    }
    steps.push(format!("create the database {temporary}"));
    steps.push(format!("load {} into it, and analyze it", what(plan, asked)));
    steps.push(if plan.properties.is_some() {
        "give it owner, privileges, settings and comment of the source".to_owned()
    } else {
        "leave its owner and settings as they are: nobody noted those of the source".to_owned()
    });
    match plan.way {
        Way::Replace | Way::IntoEmpty => {
            if asked.disconnect {
                steps.push(format!("let nobody connect to {target} any more, and end its sessions"));
            }
            steps.push(format!("rename {target} to {aside} and {temporary} to {target}, in one transaction"));
            steps.push(if plan.keep_old { format!("keep {aside}") } else { format!("drop {aside}") });
        }
        _ => steps.push(format!("rename it to {target}")),
    }
    steps
}

fn what(plan: &DatabasePlan, asked: &Asked) -> String {
    let part = match asked.contents() {
        Contents::All => "",
        Contents::Schema => "the definitions of ",
        Contents::Data => "the rows of ",
    };
    let into = asked.into_schema.as_deref().map(|schema| format!(" as tables of schema {}", identifier_on_one_line(schema)));
    let mut named = Vec::new();
    if !plan.chosen.named.is_empty() {
        named.push(several(plan.chosen.named.iter().map(written)));
    }
    if !plan.chosen.schemas.is_empty() {
        named.push(format!("schema {}", several(plan.chosen.schemas.iter().map(|name| identifier_on_one_line(name)))));
    }
    let whole = if named.is_empty() { format!("the dump of {}", identifier_on_one_line(&plan.source)) } else { named.join(" and ") };
    format!("{part}{whole}{}", into.unwrap_or_default())
}
