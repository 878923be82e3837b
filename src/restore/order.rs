//! Which statements behind the rows may run at the same time: a pure schedule by the tables that
//! each of them locks.

use std::collections::{BTreeMap, BTreeSet};

use super::words::{Name, Word, begins, find, name_at, words};

/// How a statement holds a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Others that only share it may run as well: indexes are built side by side.
    Shared,
    Alone,
}

/// What is known of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// It touches these tables and nothing else that matters.
    Touches(Vec<(Name, Hold)>),
    /// It says something about what is there, and may wait for the others.
    Comment,
    /// Everything before comes before it, everything behind it behind it.
    Barrier,
}

/// Tables that belong together: what is done to one may reach the others.
#[derive(Debug, Default)]
pub struct Families {
    /// The parent of a table, and its children.
    parents: BTreeMap<Name, BTreeSet<Name>>,
    children: BTreeMap<Name, BTreeSet<Name>>,
}

impl Families {
    /// Learns from a statement that makes a table part of another.
    pub fn note(&mut self, statement: &[u8]) {
        let words = words(statement);
        if begins(&words, &["ALTER", "TABLE"]) {
            let parent = name_at(&words, after_only(&words, 2));
            let child = find(&words, 0, &["ATTACH", "PARTITION"]).and_then(|at| name_at(&words, at + 2));
            if let (Some((parent, _)), Some((child, _))) = (parent, child) {
                self.relate(parent, child);
            }
        } else if begins(&words, &["CREATE"]) {
            let Some((child, behind)) = find(&words, 0, &["TABLE"]).and_then(|at| name_at(&words, at + 1)) else {
                return;
            };
            if let Some((parent, _)) = find(&words, behind, &["PARTITION", "OF"]).and_then(|at| name_at(&words, at + 2)) {
                self.relate(parent, child);
            } else if let Some(at) = find(&words, behind, &["INHERITS", "("]) {
                let mut at = at + 2;
                while let Some((parent, end)) = name_at(&words, at) {
                    self.relate(parent, child.clone());
                    at = end + 1;
                }
            }
        }
    }

    fn relate(&mut self, parent: Name, child: Name) {
        self.children.entry(parent.clone()).or_default().insert(child.clone());
        self.parents.entry(child).or_default().insert(parent);
    }

    /// All that is related to a table, itself included.
    fn of(&self, table: &Name) -> BTreeSet<Name> {
        let (mut family, mut new) = (BTreeSet::new(), vec![table.clone()]);
        while let Some(member) = new.pop() {
            let related = [self.parents.get(&member), self.children.get(&member)];
            new.extend(related.into_iter().flatten().flatten().filter(|name| !family.contains(*name)).cloned());
            family.insert(member);
        }
        family
    }

    /// Says what a statement touches.
    pub fn classify(&self, statement: &[u8]) -> Class {
        if statement.starts_with(b"COMMENT ON ") {
            return Class::Comment;
        }
        let is_index = [b"CREATE INDEX ".as_slice(), b"CREATE UNIQUE INDEX "].iter().any(|start| statement.starts_with(start));
        if !is_index && !statement.starts_with(b"ALTER TABLE ") {
            return Class::Barrier;
        }
        let words = words(statement);
        if is_index {
            let table = find(&words, 0, &["ON"]).and_then(|at| name_at(&words, after_only(&words, at + 1)));
            return table.map_or(Class::Barrier, |(table, _)| Class::Touches(vec![(table, Hold::Shared)]));
        }
        self.constraint(&words)
    }

    /// `ALTER TABLE [ONLY] table ADD CONSTRAINT name PRIMARY KEY | UNIQUE | EXCLUDE | CHECK | FOREIGN KEY ...`
    fn constraint(&self, words: &[Word<'_>]) -> Class {
        let start = after_only(words, 2);
        let only = start > 2;
        let Some((table, behind)) = name_at(words, start) else {
            return Class::Barrier;
        };
        if !begins(&words[behind..], &["ADD", "CONSTRAINT"]) {
            return Class::Barrier;
        }
        let kind = behind + 3;
        let alone = |tables: BTreeSet<Name>| Class::Touches(tables.into_iter().map(|table| (table, Hold::Alone)).collect());
        let tables = if only { BTreeSet::from([table.clone()]) } else { self.of(&table) };
        if begins(&words[kind.min(words.len())..], &["FOREIGN", "KEY"]) {
            let Some((other, _)) = find(words, kind, &["REFERENCES"]).and_then(|at| name_at(words, at + 1)) else {
                return Class::Barrier;
            };
            // Keys reach into the partitions on both sides.
            return alone(self.of(&table).into_iter().chain(self.of(&other)).collect());
        }
        let known = ["PRIMARY", "UNIQUE", "EXCLUDE", "CHECK"];
        if words.get(kind).is_some_and(|word| known.iter().any(|known| word.is(known))) { alone(tables) } else { Class::Barrier }
    }
}

fn after_only(words: &[Word<'_>], at: usize) -> usize {
    if words.get(at).is_some_and(|word| word.is("ONLY")) { at + 1 } else { at }
}

/// Statements that wait for their turn, by their numbers.
#[derive(Debug, Default)]
pub struct Schedule {
    waiting: Vec<(usize, Vec<(Name, Hold)>)>,
    running: Vec<(usize, Vec<(Name, Hold)>)>,
}

impl Schedule {
    /// Adds a statement behind all others.
    pub fn push(&mut self, number: usize, touches: Vec<(Name, Hold)>) {
        self.waiting.push((number, touches));
    }

    /// The first that may start now: nobody runs, or waits in front of it, who touches a table of
    /// its own. It counts as running.
    pub fn start(&mut self) -> Option<usize> {
        let mut held: BTreeMap<&Name, Hold> = BTreeMap::new();
        for (name, hold) in self.running.iter().flat_map(|(_, touches)| touches) {
            hold_more(&mut held, name, *hold);
        }
        let mut found = None;
        for (at, (_, touches)) in self.waiting.iter().enumerate() {
            let free = touches.iter().all(|(name, hold)| match held.get(name) {
                None => true,
                Some(Hold::Shared) => *hold == Hold::Shared,
                Some(Hold::Alone) => false,
            });
            if free {
                found = Some(at);
                break;
            }
            for (name, hold) in touches {
                hold_more(&mut held, name, *hold);
            }
        }
        let started = self.waiting.remove(found?);
        let number = started.0;
        self.running.push(started);
        Some(number)
    }

    /// A running one has ended.
    pub fn end(&mut self, number: usize) {
        self.running.retain(|(running, _)| *running != number);
    }
}

fn hold_more<'a>(held: &mut BTreeMap<&'a Name, Hold>, name: &'a Name, hold: Hold) {
    let known = held.entry(name).or_insert(hold);
    if hold == Hold::Alone {
        *known = Hold::Alone;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::words::parse_name;
    use super::*;

    fn touches(class: Class) -> Option<Vec<(String, Hold)>> {
        match class {
            Class::Touches(tables) => Some(tables.into_iter().map(|(name, hold)| (name.to_string(), hold)).collect()),
            Class::Comment | Class::Barrier => None,
        }
    }

    #[test]
    fn what_statements_touch() {
        let mut families = Families::default();
        for statement in [
            "ALTER TABLE ONLY p.a ATTACH PARTITION p.a1 FOR VALUES IN (1);",
            "ALTER TABLE ONLY p.a ATTACH PARTITION p.a2 DEFAULT;",
            "CREATE TABLE p.a11 PARTITION OF p.a1 DEFAULT;",
            "CREATE TABLE p.kid (\n    x integer\n)\nINHERITS (p.mum, p.dad);",
        ] {
            families.note(statement.as_bytes());
        }
        let (shared, alone) = (
            |t: &str| vec![(t.to_owned(), Hold::Shared)],
            |t: &[&str]| t.iter().map(|t| ((*t).to_owned(), Hold::Alone)).collect::<Vec<_>>(),
        );
        for (statement, expected) in [
            ("CREATE INDEX \"ON\" ON public.t USING btree (a);", shared("public.t")),
            ("CREATE UNIQUE INDEX i ON ONLY p.a USING btree (a);", shared("p.a")),
            ("ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);", alone(&["public.t"])),
            ("ALTER TABLE ONLY p.a ADD CONSTRAINT k UNIQUE (id);", alone(&["p.a"])),
            ("ALTER TABLE public.\"T\" ADD CONSTRAINT \"x y\" CHECK ((a > 0)) NOT VALID;", alone(&["public.T"])),
            (
                "ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(id) ON DELETE CASCADE;",
                alone(&["public.t", "public.u"]),
            ),
            (
                "ALTER TABLE p.a ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES p.mum(id);",
                alone(&["p.a", "p.a1", "p.a11", "p.a2", "p.dad", "p.kid", "p.mum"]),
            ),
            ("ALTER TABLE ONLY p.a1 ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES p.a(id);", alone(&["p.a", "p.a1", "p.a11", "p.a2"])),
        ] {
            assert_eq!(touches(families.classify(statement.as_bytes())), Some(expected), "{statement}");
        }
        for statement in [
            "ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;",
            "ALTER TABLE ONLY public.t REPLICA IDENTITY USING INDEX i;",
            "ALTER TABLE public.t CLUSTER ON i;",
            "ALTER INDEX p.a_pkey ATTACH PARTITION p.a1_pkey;",
            "CREATE TRIGGER x AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION f();",
            "REFRESH MATERIALIZED VIEW public.m;",
            "GRANT SELECT ON TABLE public.t TO r;",
            "CREATE STATISTICS public.s ON a, b FROM public.t;",
        ] {
            assert_eq!(families.classify(statement.as_bytes()), Class::Barrier, "{statement}");
        }
        assert_eq!(families.classify(b"COMMENT ON INDEX public.i IS 'x';"), Class::Comment);
    }

    proptest! {
        /// Whatever ends first: never two at a time on one table, unless both share it; on each
        /// table the order is kept; all are done.
        #[test]
        fn no_two_on_one_table_and_the_order_of_each_is_kept(
            statements in prop::collection::vec(prop::collection::vec((0u8..4, any::<bool>()), 1..3), 0..12),
            jobs in 1usize..4,
            ends in prop::collection::vec(any::<prop::sample::Index>(), 12),
        ) {
            let tables = |statement: &Vec<(u8, bool)>| -> Vec<(Name, Hold)> {
                statement.iter().map(|(table, shared)| {
                    (parse_name(&format!("t{table}")).unwrap(), if *shared { Hold::Shared } else { Hold::Alone })
                }).collect()
            };
            let all: Vec<_> = statements.iter().map(tables).collect();
            let conflict = |a: usize, b: usize| all[a].iter().any(|(x, p)| all[b].iter().any(|(y, q)| x == y && (*p == Hold::Alone || *q == Hold::Alone)));
            let mut schedule = Schedule::default();
            for (number, touches) in all.iter().enumerate() {
                schedule.push(number, touches.clone());
            }
            let (mut running, mut done): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
            let mut ends = ends.into_iter();
            while done.len() < all.len() {
                while running.len() < jobs {
                    let Some(next) = schedule.start() else { break };
                    for other in &running {
                        prop_assert!(!conflict(next, *other));
                    }
                    for earlier in 0..next {
                        prop_assert!(!conflict(next, earlier) || done.contains(&earlier));
                    }
                    running.push(next);
                }
                prop_assert!(!running.is_empty());
                let ended = running.remove(ends.next().unwrap().index(running.len()));
                schedule.end(ended);
                done.push(ended);
            }
        }
    }
}
