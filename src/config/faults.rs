//! Every fault of a file in one go, each with its place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::changes::Written;
use super::overlay::Sources;
use super::plan::Sourced;

/// More would scroll off the screen, and a file that faulty is not a file of ours.
const FAULTS_MAX: usize = 100;

/// One thing that is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1; what is laid over the file counts on behind it.
    pub line: usize,
    /// What it stands in, if that is not the file: the name of a variable.
    pub source: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

/// All that is wrong in a file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub path: PathBuf,
    pub faults: Vec<Fault>,
}

impl Fault {
    /// Where it is, as it is told.
    pub fn place(&self, path: &Path) -> String {
        match &self.source {
            Some(source) => source.clone(),
            None => format!("{}:{}", path.display(), self.line),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {}", fault.place(&self.path), fault.message)?;
            if let Some(hint) = &fault.hint {
                write!(f, "\nHINT: {hint}")?;
            }
        }
        Ok(())
    }
}

/// A file under examination: its text, where each key stands, and what was found wrong so far.
pub struct Examined<'a> {
    sources: &'a Sources,
    table: Spanned<DeTable<'a>>,
    faults: Vec<Fault>,
    /// Where an entry did not fit its type.
    removed: Vec<Vec<String>>,
}

impl<'a> Examined<'a> {
    /// Reads the TOML; its syntax errors are the first faults.
    pub fn new(sources: &'a Sources) -> Self {
        let (table, errors) = DeTable::parse_recoverable(sources.file());
        let mut examined = Examined { sources, table, faults: Vec::new(), removed: Vec::new() };
        for error in errors {
            examined.record(error.span(), error.message().trim());
        }
        for (line, message, hint) in sources.lay(examined.table.get_mut()) {
            examined.push(line, message, Some(hint));
        }
        examined
    }

    /// Gives the file its types. serde stops at the first fault, so the entry at fault is noted,
    /// taken out, and the rest is tried again, until all of it fits.
    pub fn typed<T: DeserializeOwned + Default>(&mut self) -> T {
        let mut table = self.table.clone();
        let mut tried: Vec<(usize, String)> = Vec::new();
        for _ in 0..2 * FAULTS_MAX {
            let error = match T::deserialize(Deserializer::from(table.clone())) {
                Ok(value) => return value,
                Err(error) => error,
            };
            let span = error.span();
            let line = span.as_ref().map(|span| self.sources.line_of(span.start));
            if let (Some(span), Some(line)) = (&span, line)
                && tried.iter().all(|(before, _)| *before != line)
                && self.sources.retry_as_text(table.get_mut(), span)
            {
                tried.push((line, error.message().trim().to_owned()));
                continue;
            }
            // As a text it does not fit, either: what was wrong with it first says more.
            let first = tried.iter().find(|(before, _)| Some(*before) == line).map(|(_, message)| message.clone());
            self.record(span.clone(), first.as_deref().unwrap_or(error.message().trim()));
            let Some(path) = span.and_then(|span| remove(table.get_mut(), &span)) else {
                break;
            };
            self.removed.push(path);
        }
        T::default()
    }

    /// Notes that a section lacks something, unless an entry of it was faulty: it may be that one.
    pub fn lack(&mut self, section: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let within = |path: &Vec<String>| path.iter().zip(section).filter(|(a, b)| a == b).count() == section.len();
        if !self.removed.iter().any(within) {
            self.fault(section, message, hint);
        }
    }

    /// Notes a fault at a key; where the key is absent, at the nearest table that holds it.
    pub fn fault(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        self.push(self.line_at(path), message.into(), Some(hint.into()));
    }

    /// The line of a key, or of the nearest table that holds it.
    pub fn line_at(&self, path: &[&str]) -> usize {
        let mut table = self.table.get_ref();
        let mut span = 0..0;
        for key in path {
            let Some((found, value)) = table.get_key_value(*key) else {
                break;
            };
            // A table that stands in several places has the span of its header, else of its key.
            span = found.span();
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        self.sources.line_of(span.start)
    }

    /// Where a key stands, in words.
    pub fn place_of(&self, path: &[&str]) -> String {
        let line = self.line_at(path);
        self.sources.source_of(line).map_or_else(|| format!("line {line}"), str::to_owned)
    }

    /// Every key with its value as it is written, but for secrets.
    pub fn written(&self, givens: &[Sourced]) -> Written {
        Written::of(self.table.get_ref(), givens)
    }

    /// Nothing if all is well, else every fault in the order of the lines.
    pub fn finish(mut self, path: &Path) -> Result<(), Faults> {
        if self.faults.is_empty() {
            return Ok(());
        }
        self.faults.sort_by_key(|fault| fault.line);
        Err(Faults { path: path.to_owned(), faults: self.faults })
    }

    fn record(&mut self, span: Option<Range<usize>>, message: &str) {
        let line = self.sources.line_of(span.map_or(0, |span| span.start));
        let (message, hint) = reword(message);
        self.push(line, message, hint);
    }

    fn push(&mut self, line: usize, message: String, hint: Option<String>) {
        let fault = Fault { line, source: self.sources.source_of(line).map(str::to_owned), message, hint };
        if self.faults.len() < FAULTS_MAX && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

/// serde's words for an unknown key list all known ones; the nearest of them says more.
fn reword(message: &str) -> (String, Option<String>) {
    let message = message.replace('\n', "; ");
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else {
        return (message, None);
    };
    let known: Vec<&str> = names.collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, unknown), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
    let hint = match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    if message.starts_with("unknown field") {
        (format!("unknown key `{unknown}`"), Some(hint))
    } else if message.starts_with("unknown variant") {
        let right = known.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        (format!("bad value {unknown:?}: expected one of {right}"), None)
    } else if message.starts_with("missing field") {
        (format!("missing key `{unknown}`"), Some(format!("add `{unknown} = ...` here")))
    } else {
        (message, None)
    }
}

/// Takes the innermost entry that holds the span out of a table, and says where it stood.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    for (key, value) in table.iter_mut() {
        let DeValue::Table(inner) = value.get_mut() else {
            continue;
        };
        if let Some(mut path) = remove(inner, span) {
            path.insert(0, key.get_ref().to_string());
            return Some(path);
        }
    }
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let key = table.iter().find(|(key, value)| holds(key.span()) || holds(value.span())).map(|(key, _)| key.clone())?;
    table.remove(&key)?;
    Some(vec![key.into_inner().into_owned()])
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn faults(text: &str) -> Vec<(usize, String, Option<String>)> {
        match parse(text, Path::new("x.toml")) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.faults.into_iter().map(|f| (f.line, f.message, f.hint)).collect(),
        }
    }

    const GOOD: &str = "[servers.main]\ncontainer = \"pg\"\n[stores.local]\npath = \"/b\"\n[backups.x]\ndatabase = \"x\"\n";

    #[test]
    fn every_fault_of_a_file_in_one_go() {
        let text = "\
timezone = \"Europe/Viena\"
max_concurrent_runs = 0
[servers.main]
container = \"pg\"
host = \"db\"
passwrd = \"x\"
[servers.B]
host = \"b\"
[stores.local]
path = \"backups\"
[backups.x]
server = \"mian\"
database = 5
schedule = \"0 25 * * *\"
format = \"plan\"
compression = \"lz4\"
deadline = \"6x\"
keep = { dayly = 7, weekly = \"never\" }
";
        let found = faults(text);
        let lines: Vec<usize> = found.iter().map(|(line, _, _)| *line).collect();
        assert_eq!(lines, [1, 2, 5, 6, 7, 10, 12, 13, 14, 15, 16, 17, 18, 18], "{found:#?}");
        for (line, message, hint) in &found {
            assert!(hint.is_some() || message.contains("expected"), "{line}: {message} says not what is right");
        }
    }

    #[test]
    fn a_faulty_entry_is_told_once() {
        let text = GOOD.replace("database = \"x\"", "database = 5");
        let found = faults(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains("expected a string, { env"), "{found:?}");
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest() {
        let text = format!("{GOOD}schedul = \"@daily\"\n");
        assert_eq!(faults(&text), [(7, "unknown key `schedul`".to_owned(), Some("did you mean `schedule`?".to_owned()))]);
    }

    #[test]
    fn syntax_errors_have_their_line() {
        let found = faults("[servers.main]\ncontainer = \n");
        assert_eq!(found[0].0, 2, "{found:?}");
    }

    #[test]
    fn a_missing_key_of_a_table_is_told_at_the_table() {
        let text = format!("{GOOD}[email]\nfrom = \"a@b\"\nto = [\"a@b\"]\n");
        let found = faults(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0, found[0].1.as_str()), (7, "missing key `relay`"));
    }
}
