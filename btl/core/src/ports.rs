//! Names of ports, and lists of them that a user writes: which ports of this machine's adapters to use.
//!
//! `mlx5_0:1,mlx5_1` takes port 1 of one adapter and all ports of another; `^mlx5_1` takes all but those; an empty list takes all.
//! What does not exist is refused, in both forms: a name that means nothing is a mistake, and to go on would hide it.

use std::collections::BTreeSet;
use std::fmt;

/// One port of one adapter, as users write it: `mlx5_0:1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName {
    /// The adapter.
    pub adapter: String,
    /// Counted from 1.
    pub port: u8,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.adapter, self.port)
    }
}

/// One entry of a list: a port, or all ports of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    adapter: String,
    port: Option<u8>,
}

impl Pattern {
    fn fits(&self, name: &PortName) -> bool {
        self.adapter == name.adapter && self.port.is_none_or(|port| port == name.port)
    }
}

/// Which ports to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortList {
    text: String,
    excludes: bool,
    patterns: Vec<Pattern>,
}

/// A list that means nothing, in itself or on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortListError {
    /// Nothing between two commas.
    EmptyEntry,
    /// `^` elsewhere than in front.
    Caret {
        /// The entry that has it.
        entry: String,
    },
    /// Ports are counted from 1.
    PortZero {
        /// The entry.
        entry: String,
        /// Its adapter.
        adapter: String,
    },
    /// No number behind the colon, or one that no port has.
    PortNumber {
        /// The entry.
        entry: String,
        /// What stands there.
        port: String,
    },
    /// There is no such adapter.
    UnknownAdapter {
        /// The name.
        adapter: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// The adapter has fewer ports.
    PortBeyond {
        /// The adapter.
        adapter: String,
        /// The port that was asked for.
        port: u8,
        /// Those that exist.
        known: Vec<u8>,
    },
    /// One port is wanted and the adapter has several.
    Ambiguous {
        /// The adapter.
        adapter: String,
        /// Its ports.
        known: Vec<u8>,
    },
    /// Every port is excluded.
    NothingLeft {
        /// The list.
        list: String,
        /// The ports that exist.
        known: Vec<String>,
    },
}

impl PortListError {
    /// What is wrong, with the value.
    pub fn found(&self) -> String {
        match self {
            Self::EmptyEntry => "an entry is empty".to_owned(),
            Self::Caret { entry } => {
                format!("{entry:?} has a ^, which stands once, in front of the whole list")
            }
            Self::PortZero { entry, .. } => format!("{entry:?} names port 0, and ports are counted from 1"),
            Self::PortNumber { entry, port } => {
                format!("{entry:?} has {port:?} for a port, which must be a number from 1 to 254")
            }
            Self::UnknownAdapter { adapter, known } if known.is_empty() => {
                format!("there is no adapter {adapter:?}, and no other RDMA adapter on this machine")
            }
            Self::UnknownAdapter { adapter, known } => {
                format!("there is no adapter {adapter:?} on this machine; it has {}", known.join(", "))
            }
            Self::PortBeyond { adapter, port, known } => {
                format!("adapter {adapter} has no port {port}; it has {}", numbers(known))
            }
            Self::Ambiguous { adapter, known } => format!("adapter {adapter} has {}", numbers(known)),
            Self::NothingLeft { list, known } => {
                format!("{list:?} leaves no port; this machine has {}", known.join(", "))
            }
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        match self {
            Self::EmptyEntry => "write ADAPTER or ADAPTER:PORT, separated by single commas".to_owned(),
            Self::Caret { .. } => "write ^A,B to exclude A and B, or A,B to use only those".to_owned(),
            Self::PortZero { adapter, .. } => format!("write {adapter}:1, or {adapter} for all its ports"),
            Self::PortNumber { .. } => "write ADAPTER:1, or ADAPTER for all its ports".to_owned(),
            Self::UnknownAdapter { known, .. } => match known.first() {
                Some(first) => format!("write {first}, or leave ports unset to use all"),
                None => "load the adapter's driver, or leave ports unset".to_owned(),
            },
            Self::PortBeyond { adapter, known, .. } | Self::Ambiguous { adapter, known } => {
                format!("write {adapter}:{}", known.first().copied().unwrap_or(1))
            }
            Self::NothingLeft { .. } => "exclude fewer".to_owned(),
        }
    }
}

impl fmt::Display for PortListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found(), self.fix())
    }
}

impl std::error::Error for PortListError {}

fn numbers(ports: &[u8]) -> String {
    let list: Vec<String> = ports.iter().map(u8::to_string).collect();
    format!("port{} {}", if ports.len() == 1 { "" } else { "s" }, list.join(", "))
}

impl PortList {
    /// Reads a list.
    ///
    /// # Errors
    /// [`PortListError`] for what is no list.
    pub fn parse(text: &str) -> Result<Self, PortListError> {
        let text = text.trim();
        let (excludes, list) = match text.strip_prefix('^') {
            Some(list) => (true, list),
            None => (false, text),
        };
        let patterns = match list {
            "" if !excludes => Vec::new(),
            list => list.split(',').map(str::trim).map(pattern).collect::<Result<_, _>>()?,
        };
        Ok(Self { text: text.to_owned(), excludes, patterns })
    }

    /// The list as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The ports of this machine that the list takes, in the machine's order.
    ///
    /// # Errors
    /// [`PortListError`] when it names what does not exist, or leaves nothing.
    pub fn select(&self, machine: &[PortName]) -> Result<Vec<PortName>, PortListError> {
        for pattern in &self.patterns {
            exists(pattern, machine)?;
        }
        let takes = |name: &PortName| {
            self.patterns.is_empty() || self.patterns.iter().any(|it| it.fits(name)) != self.excludes
        };
        let taken: Vec<PortName> = machine.iter().filter(|name| takes(name)).cloned().collect();
        if taken.is_empty() && !self.patterns.is_empty() {
            let known = machine.iter().map(PortName::to_string).collect();
            return Err(PortListError::NothingLeft { list: self.text.clone(), known });
        }
        Ok(taken)
    }
}

/// The one port that a name means; the number may be left out where the adapter has one port.
///
/// # Errors
/// [`PortListError`] when there is no such port, or more than one.
pub fn find(name: &str, machine: &[PortName]) -> Result<PortName, PortListError> {
    let pattern = pattern(name.trim())?;
    exists(&pattern, machine)?;
    let mut fits = machine.iter().filter(|port| pattern.fits(port));
    match (fits.next(), fits.next()) {
        (Some(port), None) => Ok(port.clone()),
        _ => {
            let known = ports_of(&pattern.adapter, machine);
            Err(PortListError::Ambiguous { adapter: pattern.adapter, known })
        }
    }
}

fn pattern(entry: &str) -> Result<Pattern, PortListError> {
    if entry.contains('^') {
        return Err(PortListError::Caret { entry: entry.to_owned() });
    }
    let (adapter, port) = match entry.rsplit_once(':') {
        Some((adapter, port)) => (adapter.trim(), Some(port.trim())),
        None => (entry, None),
    };
    if adapter.is_empty() {
        return Err(PortListError::EmptyEntry);
    }
    let (adapter, entry) = (adapter.to_owned(), entry.to_owned());
    let port = match port.map(|port| (port, port.parse::<u8>())) {
        None => None,
        Some((_, Ok(0))) => return Err(PortListError::PortZero { entry, adapter }),
        Some((_, Ok(port @ 1..=254))) => Some(port),
        Some((port, _)) => return Err(PortListError::PortNumber { entry, port: port.to_owned() }),
    };
    Ok(Pattern { adapter, port })
}

fn ports_of(adapter: &str, machine: &[PortName]) -> Vec<u8> {
    machine.iter().filter(|name| name.adapter == adapter).map(|name| name.port).collect()
}

fn exists(pattern: &Pattern, machine: &[PortName]) -> Result<(), PortListError> {
    let known = ports_of(&pattern.adapter, machine);
    if known.is_empty() {
        let adapters: BTreeSet<&String> = machine.iter().map(|name| &name.adapter).collect();
        let known = adapters.into_iter().cloned().collect();
        return Err(PortListError::UnknownAdapter { adapter: pattern.adapter.clone(), known });
    }
    match pattern.port {
        Some(port) if !known.contains(&port) => {
            Err(PortListError::PortBeyond { adapter: pattern.adapter.clone(), port, known })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine() -> Vec<PortName> {
        let port = |adapter: &str, port| PortName { adapter: adapter.to_owned(), port };
        vec![port("mlx5_0", 1), port("mlx5_0", 2), port("rxe0", 1)]
    }

    fn selected(list: &str) -> String {
        let list = PortList::parse(list).expect("a list");
        let names: Vec<String> =
            list.select(&machine()).expect("exists").iter().map(PortName::to_string).collect();
        names.join(" ")
    }

    fn refused(list: &str) -> String {
        let parsed = PortList::parse(list).and_then(|list| list.select(&machine()));
        parsed.expect_err("refused").to_string()
    }

    #[test]
    fn lists_include_and_exclude() {
        assert_eq!(selected(""), "mlx5_0:1 mlx5_0:2 rxe0:1");
        assert_eq!(selected(" rxe0 , mlx5_0:2"), "mlx5_0:2 rxe0:1");
        assert_eq!(selected("^mlx5_0"), "rxe0:1");
        assert_eq!(selected("^mlx5_0:1,rxe0:1"), "mlx5_0:2");
        assert_eq!(PortList::parse("^ a:1 ").expect("a list").text(), "^ a:1");
    }

    #[test]
    fn what_does_not_exist_is_named_with_what_does() {
        assert_eq!(
            refused("rxe9"),
            "there is no adapter \"rxe9\" on this machine; it has mlx5_0, rxe0; write mlx5_0, or leave ports unset to use all"
        );
        assert_eq!(
            refused("rxe0:0"),
            "\"rxe0:0\" names port 0, and ports are counted from 1; write rxe0:1, or rxe0 for all its ports"
        );
        assert_eq!(refused("mlx5_0:7"), "adapter mlx5_0 has no port 7; it has ports 1, 2; write mlx5_0:1");
        assert_eq!(refused("^rxe0:2"), "adapter rxe0 has no port 2; it has port 1; write rxe0:1");
        assert!(
            refused("^rxe0,mlx5_0").contains("leaves no port; this machine has mlx5_0:1, mlx5_0:2, rxe0:1")
        );
        for (list, why) in [
            ("rxe0,,mlx5_0", "an entry is empty"),
            ("^", "an entry is empty"),
            (":1", "an entry is empty"),
            ("rxe0,^mlx5_0", "\"^mlx5_0\" has a ^"),
            ("rxe0:one", "\"one\" for a port, which must be a number from 1 to 254"),
            ("rxe0:255", "\"255\" for a port"),
            ("rxe0:-1", "\"-1\" for a port"),
            ("rxe0:", "\"\" for a port"),
        ] {
            assert!(refused(list).contains(why), "{list}: {}", refused(list));
        }
        let nowhere = PortList::parse("rxe0").expect("a list").select(&[]).expect_err("no adapter");
        assert!(nowhere.to_string().contains("no other RDMA adapter on this machine"), "{nowhere}");
        assert_eq!(PortList::default().select(&[]), Ok(vec![]), "asked for nothing");
    }

    #[test]
    fn one_port_is_found_by_its_name() {
        let found = |name| find(name, &machine()).map(|port| port.to_string());
        assert_eq!(found("rxe0").as_deref(), Ok("rxe0:1"));
        assert_eq!(found("mlx5_0:2").as_deref(), Ok("mlx5_0:2"));
        assert_eq!(
            found("mlx5_0").expect_err("two").to_string(),
            "adapter mlx5_0 has ports 1, 2; write mlx5_0:1"
        );
        assert!(found("").is_err());
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC*") {
            let _ = PortList::parse(&text).map(|list| list.select(&machine()));
        }

        #[test]
        fn including_and_excluding_share_the_machine(picked in proptest::collection::btree_set(0..3_usize, 1..3)) {
            let machine = machine();
            let list: Vec<String> = picked.iter().map(|at| machine[*at].to_string()).collect();
            let list = list.join(",");
            let take = |text: &str| PortList::parse(text).expect("a list").select(&machine).expect("exists");
            let (mut all, rest) = (take(&list), take(&format!("^{list}")));
            all.extend(rest);
            all.sort();
            prop_assert_eq!(all, machine);
        }
    }
}
