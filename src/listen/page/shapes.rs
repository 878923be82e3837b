//! The shapes that stand beside every colour: a mark for each rung, a sign for each word.

use maud::{Markup, html};

use crate::catalog::Rung;
use crate::status::calendar::Mark;
use crate::status::verdict::Word;

/// What a mark is called, in the styles and in the legend.
pub fn name_of(mark: Mark) -> &'static str {
    match mark {
        Mark::Failed => "failed",
        Mark::Gone => "gone",
        Mark::Kept(rung) => rung.as_str(),
    }
}

/// All marks with their meaning, as the legend has them.
pub const LEGEND: [(Mark, &str); 7] = [
    (Mark::Kept(Rung::Matched), "matched: restored by a drill, and equal to its evidence"),
    (Mark::Kept(Rung::Restored), "restored by a drill"),
    (Mark::Kept(Rung::Readable), "readable: every byte was read back"),
    (Mark::Kept(Rung::Written), "written, not proven"),
    (Mark::Kept(Rung::Bad), "bad"),
    (Mark::Failed, "the run failed"),
    (Mark::Gone, "made, no longer kept"),
];

/// The marks, once on the page; each is used by its name.
pub fn symbols() -> Markup {
    html! {
        svg width="0" height="0" aria-hidden="true" class="out" {
            symbol id="matched" viewBox="0 0 12 12" {
                rect width="12" height="12" rx="2.5" fill="currentColor" {}
                path class="tick" d="M3 6.4 5.1 8.5 9 3.9" fill="none" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round" {}
            }
            symbol id="restored" viewBox="0 0 12 12" { rect width="12" height="12" rx="2.5" fill="currentColor" {} }
            symbol id="readable" viewBox="0 0 12 12" {
                rect x=".75" y=".75" width="10.5" height="10.5" rx="2" fill="none" stroke="currentColor" stroke-width="1.5" {}
                path d="M11 2.5V9a2 2 0 0 1-2 2H2.5Z" fill="currentColor" {}
            }
            symbol id="written" viewBox="0 0 12 12" {
                rect x=".75" y=".75" width="10.5" height="10.5" rx="2" fill="none" stroke="currentColor" stroke-width="1.5" {}
            }
            symbol id="bad" viewBox="0 0 12 12" {
                rect x=".75" y=".75" width="10.5" height="10.5" rx="2" fill="none" stroke="currentColor" stroke-width="1.5" {}
                path d="M3.5 3.5 8.5 8.5M8.5 3.5 3.5 8.5" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" {}
            }
            symbol id="failed" viewBox="0 0 12 12" {
                path d="M2.5 2.5 9.5 9.5M9.5 2.5 2.5 9.5" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" {}
            }
            symbol id="gone" viewBox="0 0 12 12" { circle cx="6" cy="6" r="2" fill="currentColor" {} }
        }
    }
}

/// The sign of a word: a full circle with a tick, a ring with one, a clock, a triangle.
pub fn sign(word: Word) -> Markup {
    html! {
        svg class=(ink(word)) viewBox="0 0 24 24" aria-hidden="true" {
            @match word {
                Word::Look => {
                    path d="M12 2.6 22.6 21a.9.9 0 0 1-.8 1.4H2.2a.9.9 0 0 1-.8-1.4Z" fill="currentColor" {}
                    path class="tick" d="M12 9.2v5.6M12 18.3v.1" fill="none" stroke-width="2.4" stroke-linecap="round" {}
                }
                Word::Waiting => {
                    circle cx="12" cy="12" r="9.8" fill="none" stroke="currentColor" stroke-width="2" {}
                    path d="M12 6.5V12l3.6 2.4" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" {}
                }
                Word::Sound => {
                    circle cx="12" cy="12" r="9.8" fill="none" stroke="currentColor" stroke-width="2" {}
                    path d="m7.4 12.4 3.1 3.1 6-6.6" fill="none" stroke="currentColor" stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round" {}
                }
                Word::Proven => {
                    circle cx="12" cy="12" r="11" fill="currentColor" {}
                    path class="tick" d="m7.2 12.4 3.2 3.2 6.4-7" fill="none" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round" {}
                }
            }
        }
    }
}

/// The class of a word's colour.
pub fn ink(word: Word) -> &'static str {
    match word {
        Word::Look => "look-ink",
        Word::Waiting => "waiting",
        Word::Sound => "sound",
        Word::Proven => "proven",
    }
}
