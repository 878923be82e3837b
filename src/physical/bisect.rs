//! A search for the moment at which something ceased to hold: which one to look at next.
//!
//! The moments are numbered: 0 is the beginning of the window, each next one has one transaction more.

/// A binary search that trusts nothing: its ends are looked at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The last number.
    end: usize,
    /// The latest at which it was seen to hold.
    holds: Option<usize>,
    /// The earliest behind that at which it was seen not to.
    fails: Option<usize>,
    never_held: bool,
    still_holds: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Look at this one.
    Probe(usize),
    /// It held at the one and not at the next.
    Found { holds: usize, fails: usize },
    /// It does not hold at the beginning.
    NeverHeld,
    /// It holds at the end.
    StillHolds,
}

impl Search {
    /// Over the moments from 0 to `end`.
    pub fn new(end: usize) -> Self {
        Search { end, holds: None, fails: None, never_held: false, still_holds: false }
    }

    /// How many probes it takes at most.
    pub fn probes_max(&self) -> usize {
        let halvings = usize::BITS - self.end.saturating_sub(1).leading_zeros();
        2 + halvings as usize
    }

    pub fn next(&self) -> Next {
        match (self.holds, self.fails) {
            _ if self.never_held => Next::NeverHeld,
            _ if self.still_holds => Next::StillHolds,
            (None, _) => Next::Probe(0),
            (Some(_), None) => Next::Probe(self.end),
            (Some(holds), Some(fails)) if fails - holds == 1 => Next::Found { holds, fails },
            (Some(holds), Some(fails)) => Next::Probe(holds + (fails - holds) / 2),
        }
    }

    /// Hears what a probe has seen.
    pub fn hear(&mut self, number: usize, held: bool) {
        match (self.holds, held) {
            (None, false) => self.never_held = true,
            (Some(_), true) if self.fails.is_none() => self.still_holds = true,
            (_, true) => self.holds = Some(number),
            (_, false) => self.fails = Some(number),
        }
        debug_assert!(self.holds.zip(self.fails).is_none_or(|(holds, fails)| holds < fails), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The end of a search over what is seen at each moment, and how many probes it took.
    fn searched(seen: &[bool]) -> (Next, usize) {
        let mut search = Search::new(seen.len() - 1);
        let mut probes = 0;
        loop {
            match search.next() {
                Next::Probe(number) => {
                    search.hear(number, seen[number]);
                    probes += 1;
                    assert!(probes <= search.probes_max(), "{seen:?}");
                }
                end => return (end, probes),
            }
        }
    }

    #[test]
    fn the_ends_are_looked_at_first() {
        assert_eq!(searched(&[false, true, false]), (Next::NeverHeld, 1));
        assert_eq!(searched(&[true, false, true]), (Next::StillHolds, 2));
        assert_eq!(searched(&[true, false]), (Next::Found { holds: 0, fails: 1 }, 2));
        let mut thousand = vec![true; 1_001];
        thousand[700..].fill(false);
        let (end, probes) = searched(&thousand);
        assert_eq!(end, Next::Found { holds: 699, fails: 700 });
        assert!(probes <= 12, "{probes}");
    }

    proptest! {
        #[test]
        fn what_broke_once_is_found(count in 2usize..5_000, share in 0.0f64..1.0) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "it is small")]
            let first_bad = 1 + ((count - 1) as f64 * share) as usize;
            let seen: Vec<bool> = (0..count).map(|number| number < first_bad).collect();
            prop_assert_eq!(searched(&seen).0, Next::Found { holds: first_bad - 1, fails: first_bad });
        }

        #[test]
        fn of_several_changes_one_is_found(mut seen in proptest::collection::vec(any::<bool>(), 2..500)) {
            let last = seen.len() - 1;
            (seen[0], seen[last]) = (true, false);
            match searched(&seen).0 {
                Next::Found { holds, fails } => prop_assert!(fails == holds + 1 && seen[holds] && !seen[fails]),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
