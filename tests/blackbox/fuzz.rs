//! The configuration file, changed in every way that a slip of the hand or of the disk would, and
//! more: the answer is a plan or faults with their lines, never a panic.
//!
//! `PROPTEST_CASES` says how many, `PGVIGIL_TEST_SEED` repeats a run.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::support::repository;

/// One change of a file; numbers are taken modulo its length.
#[derive(Debug, Clone)]
enum Change {
    DeleteBytes(usize, usize),
    DuplicateBytes(usize, usize),
    SwapBytes(usize, usize),
    SetByte(usize, u8),
    Insert(usize, String),
    DeleteLine(usize),
    DuplicateLine(usize, usize),
    SwapLines(usize, usize),
    /// A value of one line behind the key of another.
    SwapValues(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>;
    // What means something to TOML, to the parsers of single values, or to nobody.
    let words = prop::sample::select(vec![
        "\"",
        "\"\"\"",
        "'",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "=",
        "#",
        ",",
        ".",
        "\n",
        "\r\n",
        "\0",
        "\u{feff}",
        "é",
        "\u{202e}",
        "1e999",
        "-1",
        "99999999999999999999",
        "true",
        "nan",
        "0x",
        "1979-05-27T07:32:00Z",
        "{ env = \"X\" }",
        "{ file = \"\" }",
        "\\u0000",
        "servers.main",
        "* * * * *",
        "@",
        "9999999999w",
        "gzip:",
        "zstd:99",
        "/",
        "../",
        "[servers]",
        "[backups.x.keep]",
        "\"a\".\"b\"",
    ]);
    prop_oneof![
        (at(), 1..40usize).prop_map(|(at, n)| Change::DeleteBytes(at, n)),
        (at(), 1..40usize).prop_map(|(at, n)| Change::DuplicateBytes(at, n)),
        (at(), at()).prop_map(|(a, b)| Change::SwapBytes(a, b)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::SetByte(at, byte)),
        (at(), words).prop_map(|(at, word)| Change::Insert(at, word.to_owned())),
        (at(), ".{0,20}").prop_map(|(at, text)| Change::Insert(at, text)),
        at().prop_map(Change::DeleteLine),
        (at(), at()).prop_map(|(a, b)| Change::DuplicateLine(a, b)),
        (at(), at()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        (at(), at()).prop_map(|(a, b)| Change::SwapValues(a, b)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = bytes.len().max(1);
    let range = |at: usize, n: usize| (at % len).min(bytes.len())..(at % len + n).min(bytes.len());
    match change {
        Change::DeleteBytes(at, n) => drop(bytes.drain(range(*at, *n))),
        Change::DuplicateBytes(at, n) => {
            let copy = bytes[range(*at, *n)].to_vec();
            let at = (at % len).min(bytes.len());
            bytes.splice(at..at, copy);
        }
        Change::SwapBytes(a, b) if !bytes.is_empty() => bytes.swap(a % len, b % len),
        Change::SetByte(at, byte) if !bytes.is_empty() => bytes[at % len] = *byte,
        Change::SwapBytes(..) | Change::SetByte(..) => {}
        Change::Insert(at, text) => {
            let at = (at % len).min(bytes.len());
            bytes.splice(at..at, text.bytes());
        }
        Change::DeleteLine(_) | Change::DuplicateLine(..) | Change::SwapLines(..) | Change::SwapValues(..) => {
            let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let n = lines.len();
            match change {
                Change::DeleteLine(at) => drop(lines.remove(at % n)),
                Change::DuplicateLine(from, to) => {
                    let line = lines[from % n].clone();
                    lines.insert(to % n, line);
                }
                Change::SwapLines(a, b) => lines.swap(a % n, b % n),
                Change::SwapValues(a, b) => {
                    let at = |line: &[u8]| line.iter().position(|byte| *byte == b'=');
                    if let (Some(ours), Some(theirs)) = (at(&lines[a % n]), at(&lines[b % n])) {
                        let value = lines[b % n][theirs..].to_vec();
                        lines[a % n].splice(ours.., value);
                    }
                }
                _ => {}
            }
            *bytes = lines.join(&b'\n');
        }
    }
}

/// A plan, or faults that stand in the file and say something.
fn parses_or_says_why(bytes: &[u8]) -> Result<(), TestCaseError> {
    // What is not UTF-8 is refused before the parser.
    let text = String::from_utf8_lossy(bytes);
    if let Err(faults) = pgvigil::config::parse(&text, Path::new("x.toml")) {
        prop_assert!(!faults.faults.is_empty());
        let lines = text.matches('\n').count() + 1;
        for fault in &faults.faults {
            prop_assert!((1..=lines).contains(&fault.line), "{fault:?} of {lines} lines");
            prop_assert!(!fault.message.is_empty(), "{fault:?}");
        }
        prop_assert!(faults.to_string().contains("x.toml:"));
    }
    Ok(())
}

fn runner(cases: Config) -> TestRunner {
    let seed = crate::support::seed();
    println!("PGVIGIL_TEST_SEED={seed} repeats this");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // The seed above repeats a failure; a file beside the sources would only grow.
    let config = Config { failure_persistence: None, ..cases };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn examples() -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = std::fs::read_dir(repository("config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    found.sort();
    // And one with every key, also of what comes later.
    found.push(include_bytes!("everything.toml").to_vec());
    found
}

#[test]
fn no_change_of_an_example_makes_the_program_panic() {
    for example in examples() {
        parses_or_says_why(&example).unwrap();
    }
    let strategy = (prop::sample::select(examples()), vec(change(), 1..8));
    let cases = runner(Config::default()).run(&strategy, |(mut bytes, changes)| {
        for change in &changes {
            apply(&mut bytes, change);
        }
        parses_or_says_why(&bytes)
    });
    cases.unwrap();
}

#[test]
fn no_text_at_all_makes_the_program_panic() {
    let bytes = vec(any::<u8>(), 0..400);
    runner(Config::default()).run(&bytes, |bytes| parses_or_says_why(&bytes)).unwrap();
    // Of the letters that TOML is made of.
    let letters = vec(prop::sample::select(br#"[]{}=.,"'#\ -_abz019:@*/eExTZ"#.to_vec()), 0..400);
    runner(Config::default()).run(&letters, |bytes| parses_or_says_why(&bytes)).unwrap();
    let lines =
        vec("(\\[[a-z.\"]{0,12}\\]|[a-z_]{1,12} *= *(\"[^\"]{0,12}\"|[0-9]{1,22}|\\{[a-z =\"]{0,12}\\}|\\[[0-9\", ]{0,12}\\]))\n", 0..20);
    runner(Config::default()).run(&lines, |lines| parses_or_says_why(lines.concat().as_bytes())).unwrap();
}

#[test]
fn a_file_that_is_made_to_exhaust_does_not() {
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}1{}", "{ a = ".repeat(50_000), " }".repeat(50_000)),
        format!("{}x = 1", "a.".repeat(50_000)),
        format!("[{}]", "a.".repeat(50_000)),
        "\u{1}".repeat(100_000),
        (0..2_000).map(|n| format!("k{n} = 1\n")).collect(),
        (0..2_000).map(|n| format!("[servers.s{n}]\n")).collect(),
    ] {
        parses_or_says_why(text.as_bytes()).unwrap();
    }
}
