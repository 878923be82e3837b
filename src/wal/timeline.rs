//! How timelines fork: the `.history` files.

use super::Lsn;

/// The ancestors of a timeline, oldest first, each with the place where it was left.
/// <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES>
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(pub Vec<(u32, Lsn)>);

/// A part of the way along timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    pub timeline: u32,
    pub from: Lsn,
    /// Where it was left; `None`: it is the last.
    pub until: Option<Lsn>,
}

impl History {
    /// Reads a `.history` file of a timeline.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, timeline: u32) -> Result<Self, String> {
        let mut ancestors: Vec<(u32, Lsn)> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !(line.is_empty() || line.starts_with('#'))) {
            let mut words = line.split_whitespace();
            let parsed = words.next().and_then(|word| word.parse().ok()).zip(words.next().and_then(|word| word.parse().ok()));
            let (ancestor, left): (u32, Lsn) = parsed.ok_or_else(|| format!("its line {line:?} cannot be read"))?;
            if ancestor >= timeline || ancestors.last().is_some_and(|(before, at)| *before >= ancestor || *at > left) {
                return Err(format!("its line {line:?} is out of order"));
            }
            ancestors.push((ancestor, left));
        }
        Ok(History(ancestors))
    }

    /// The way to a timeline, oldest leg first.
    pub fn legs(&self, timeline: u32) -> Vec<Leg> {
        let mut from = Lsn(0);
        let mut legs = Vec::with_capacity(self.0.len() + 1);
        for (ancestor, left) in &self.0 {
            legs.push(Leg { timeline: *ancestor, from, until: Some(*left) });
            from = *left;
        }
        legs.push(Leg { timeline, from, until: None });
        legs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_postgresql() {
        let text = "1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-15 13:30:00+00\n";
        let history = History::parse(text, 3).unwrap();
        let legs = history.legs(3);
        assert_eq!(
            legs.iter().map(|leg| (leg.timeline, leg.from.0, leg.until.map(|lsn| lsn.0))).collect::<Vec<_>>(),
            [(1, 0, Some(0x300_0158)), (2, 0x300_0158, Some(0x500_0000)), (3, 0x500_0000, None)]
        );
        for bad in ["x\t0/1\t", "1", "3\t0/1\t", "2\t0/1\n1\t0/2", "1\t0/5\n2\t0/3"] {
            assert!(History::parse(bad, 3).is_err(), "{bad:?}");
        }
        assert_eq!(History::default().legs(1), [Leg { timeline: 1, from: Lsn(0), until: None }]);
    }
}
