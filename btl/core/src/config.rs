//! The one table of run-time parameters.
//!
//! It is the single source of the MCA parameters (`btl_ironband_NAME`), of the environment variables
//! (`IRONBAND_NAME`, upper case) and of what `ironband info` prints. Each entry has a type, a range, a unit, a default
//! and a sentence. A value that does not fit is refused with the value, the range and the parameter's name.

use crate::limits::{
    RING_BYTES_LONG, RING_BYTES_MAX, RING_BYTES_MIN, RING_BYTES_SHORT, RING_MESSAGE_FRACTION,
    ring_message_bytes_max, ring_region_bytes_about,
};
use crate::ports::PortList;

/// What kind of value a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number from `min` to `max`, both included. Lengths accept the suffixes `K`, `M` and `G` (1024-based).
    Number {
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
        /// Used when nothing is said.
        default: u64,
    },
    /// As `Number`, or `auto`, which is the default: each device has its own.
    NumberOrAuto {
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
    /// One of these words.
    Word {
        /// All accepted words.
        of: &'static [&'static str],
        /// Used when nothing is said.
        default: &'static str,
    },
    /// A text with a form of its own.
    Text {
        /// What is accepted, for a message.
        form: &'static str,
        /// Used when nothing is said.
        default: &'static str,
    },
}

/// One entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Without prefix: `eager_bytes`.
    pub name: &'static str,
    /// Type, range and default.
    pub kind: Kind,
    /// `bytes`, `seconds`, or empty for a plain count or a word.
    pub unit: &'static str,
    /// One sentence that a user understands.
    pub help: &'static str,
}

impl Parameter {
    /// The name as an environment variable.
    pub fn environment_name(&self) -> String {
        format!("IRONBAND_{}", self.name.to_ascii_uppercase())
    }

    /// The accepted values, for a message: `1024 to 65536 bytes` or `auto, cma, ring`.
    pub fn range(&self) -> String {
        match self.kind {
            Kind::Number { min, max, .. } => format!("{min} to {max} {}", self.unit).trim_end().to_owned(),
            Kind::NumberOrAuto { min, max } => {
                format!("{AUTO}, or {min} to {max} {}", self.unit).trim_end().to_owned()
            }
            Kind::Word { of, .. } => of.join(", "),
            Kind::Text { form, .. } => form.to_owned(),
        }
    }

    /// The default, as a user would write it.
    pub fn default_text(&self) -> String {
        match self.kind {
            Kind::Number { default, .. } => default.to_string(),
            Kind::NumberOrAuto { .. } => AUTO.to_owned(),
            Kind::Word { default, .. } | Kind::Text { default, .. } => default.to_owned(),
        }
    }
}

/// A value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No parameter has this name.
    #[error("there is no parameter {0:?}; the parameters are: {known}", known = names())]
    Unknown(String),
    /// The value does not fit.
    #[error("{name} = {value:?} is refused: it must be {range}")]
    Refused {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is accepted.
        range: String,
    },
    /// The text has not the form that it must have.
    #[error("{name} = {value:?} is refused: {reason}")]
    Malformed {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// Two values do not fit together.
    #[error("{name} = {value} is refused with {other} = {other_value}: {rule}")]
    Conflict {
        /// The parameter to change.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The one it conflicts with.
        other: &'static str,
        /// Its value.
        other_value: u64,
        /// What must hold.
        rule: &'static str,
    },
}

/// What a user chooses by a word.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:expr),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            const WORDS: &[&str] = &[$($word),+];

            /// As users write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// `None` for a word that is not known.
            fn of(text: &str) -> Option<Self> {
                [$(Self::$variant),+].into_iter().find(|it| it.as_str() == text)
            }
        }
    };
}

words! {
    /// How large transfers between processes of one node move.
    SingleCopy {
        /// Measure and choose, per peer and message size.
        #[default]
        Auto = AUTO,
        /// One copy, by the kernel (`process_vm_readv`), where it is permitted.
        Cma = "cma",
        /// Two copies, through the ring, both processors at once.
        Ring = "ring",
    }
}

words! {
    /// How the connections of RDMA adapters are made.
    Connect {
        /// By datagrams, and on iWARP, which has none, by the connection manager.
        #[default]
        Auto = AUTO,
        /// By datagrams between the processes (InfiniBand, RoCE).
        Datagram = "datagram",
        /// By the RDMA connection manager of the kernel (RoCE v2, iWARP).
        Manager = "manager",
    }
}

words! {
    /// Whether registrations are kept for the next message.
    RegistrationCaching {
        /// Where that is safe.
        #[default]
        Auto = AUTO,
        /// As `Auto`, for a user who wants to know when it is not safe.
        On = "on",
        /// Never.
        Off = "off",
    }
}

/// A family of devices that a user can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FabricName {
    /// Shared memory between processes of one node.
    Shm,
    /// RDMA adapters: InfiniBand, RoCE, iWARP.
    Verbs,
}

impl FabricName {
    /// As users write it, and as the fabric calls itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Verbs => "verbs",
        }
    }
}

/// What stands for "the best there is".
const AUTO: &str = "auto";
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The table. At most 12 entries: a parameter that nobody can choose well is a decision we did not make.
pub const PARAMETERS: [Parameter; 12] = [
    Parameter {
        name: "fabrics",
        kind: Kind::Text { form: "one or more of shm, verbs, separated by commas", default: "shm,verbs" },
        unit: "",
        help: "What carries messages: shm (memory shared inside a node), verbs (RDMA adapters). Where both reach a process, shm is used.",
    },
    Parameter {
        name: "exclusivity",
        kind: Kind::Number { min: 0, max: 1 << 20, default: 65_535 },
        unit: "",
        help: "Rank among Open MPI's transports: the highest that reaches a peer carries it alone (vader has 65536, tcp 100).",
    },
    Parameter {
        name: "eager_bytes",
        kind: Kind::NumberOrAuto { min: KIB, max: 256 * KIB },
        unit: "bytes",
        help: "Messages up to this length, header included, are sent at once; longer ones wait for the receiver. auto: 8256 inside a node, 16448 over RDMA adapters.",
    },
    Parameter {
        name: "ring_bytes",
        kind: Kind::NumberOrAuto { min: RING_BYTES_MIN as u64, max: RING_BYTES_MAX as u64 },
        unit: "bytes",
        help: "Shared memory from one process to one peer, made on first use; a power of two. auto: 2097152 while a process's rings together stay below a quarter of memory_bytes, else down to 262144. All are halved, down to 32768, until they fit memory_bytes.",
    },
    Parameter {
        name: "memory_bytes",
        kind: Kind::Number { min: MIB, max: 1 << 40, default: 32 * MIB },
        unit: "bytes",
        help: "Shared memory that one process may use for all its peers together; rings are made smaller to stay below it.",
    },
    Parameter {
        name: "single_copy",
        kind: Kind::Word { of: SingleCopy::WORDS, default: AUTO },
        unit: "",
        help: "How long messages move: auto measures and chooses, cma lets the kernel copy once, ring copies twice through shared memory.",
    },
    Parameter {
        name: "connect",
        kind: Kind::Word { of: Connect::WORDS, default: AUTO },
        unit: "",
        help: "How connections over RDMA adapters are made: datagram (InfiniBand, RoCE), manager (the kernel's RDMA connection manager: RoCE, iWARP), auto (manager on iWARP, else datagram).",
    },
    Parameter {
        name: "registration_cache",
        kind: Kind::Word { of: RegistrationCaching::WORDS, default: AUTO },
        unit: "",
        help: "Keep memory registered with RDMA adapters after a message, for the next one: auto where news of unmapped memory can be relied on, on also says so where it cannot, off never.",
    },
    Parameter {
        name: "registration_bytes",
        kind: Kind::NumberOrAuto { min: MIB, max: 1 << 46 },
        unit: "bytes",
        help: "Memory that one process keeps registered per RDMA device; auto: 80% of what the limit on locked memory leaves beside memory_bytes, and at most its share of half of this machine's memory.",
    },
    Parameter {
        name: "connect_seconds",
        kind: Kind::Number { min: 1, max: 3_600, default: 60 },
        unit: "seconds",
        help: "A peer that has not accepted a connection for so long is reported; it is not given up while it lives.",
    },
    Parameter {
        name: "ports",
        kind: Kind::Text { form: "all, or ADAPTER[:PORT],...; ^ in front takes all others", default: "all" },
        unit: "",
        help: "Ports of RDMA adapters to use, such as mlx5_0:1,mlx5_1, or not to use, such as ^mlx5_2.",
    },
    Parameter {
        name: "gid_index",
        kind: Kind::NumberOrAuto { min: 0, max: 255 },
        unit: "",
        help: "Which global identifier (GID) of its port an RDMA device uses; auto takes the one with the best score (ironband info).",
    },
];

fn names() -> String {
    PARAMETERS.map(|parameter| parameter.name).join(", ")
}

/// Looks a parameter up by its name without prefix.
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// The values in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Fabrics to open, each once. See the table, as for all fields.
    pub fabrics: Vec<FabricName>,
    /// Rank.
    pub exclusivity: u32,
    /// In bytes; none leaves it to each device.
    pub eager_bytes: Option<usize>,
    /// In bytes, a power of two; none leaves it to [`Config::ring_bytes_for`].
    pub ring_bytes: Option<usize>,
    /// In bytes.
    pub memory_bytes: usize,
    /// Mechanism for long messages.
    pub single_copy: SingleCopy,
    /// How connections of RDMA adapters are made.
    pub connect: Connect,
    /// Whether registrations are kept.
    pub registration_cache: RegistrationCaching,
    /// In bytes; none leaves it to each device.
    pub registration_bytes: Option<usize>,
    /// Seconds.
    pub connect_seconds: u64,
    /// Ports of RDMA adapters.
    pub ports: PortList,
    /// Place in the GID table; none is a free choice.
    pub gid_index: Option<u8>,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            fabrics: Vec::new(),
            exclusivity: 0,
            eager_bytes: None,
            ring_bytes: None,
            memory_bytes: 0,
            single_copy: SingleCopy::Auto,
            connect: Connect::Auto,
            registration_cache: RegistrationCaching::Auto,
            registration_bytes: None,
            connect_seconds: 0,
            ports: PortList::default(),
            gid_index: None,
        };
        for parameter in &PARAMETERS {
            config
                .set(parameter.name, &parameter.default_text())
                .expect("defaults are in range: a test checks it");
        }
        config
    }
}

impl Config {
    /// Sets one value from its text.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`] or [`ConfigError::Refused`]; the configuration is unchanged then.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let parameter = parameter(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
        let refused = || ConfigError::Refused {
            name: parameter.name,
            value: text.to_owned(),
            range: parameter.range(),
        };
        match parameter.kind {
            Kind::Number { min, max, .. } => {
                let value = parse_number(text).filter(|v| (min..=max).contains(v)).ok_or_else(refused)?;
                self.set_number(parameter.name, value)
            }
            Kind::NumberOrAuto { .. } if text.trim() == AUTO => {
                self.set_auto(parameter.name);
                Ok(())
            }
            Kind::NumberOrAuto { min, max } => {
                let value = parse_number(text).filter(|v| (min..=max).contains(v)).ok_or_else(refused)?;
                self.set_number(parameter.name, value)
            }
            Kind::Word { .. } => self.set_word(parameter.name, text).ok_or_else(refused),
            Kind::Text { .. } => self.set_text(parameter, text.trim()),
        }
    }

    fn set_auto(&mut self, name: &str) {
        match name {
            "eager_bytes" => self.eager_bytes = None,
            "ring_bytes" => self.ring_bytes = None,
            "gid_index" => self.gid_index = None,
            "registration_bytes" => self.registration_bytes = None,
            _ => unreachable!("every choice of a number or auto is listed here: a test sets each"),
        }
    }

    /// `None` for a word that is not known.
    fn set_word(&mut self, name: &str, text: &str) -> Option<()> {
        match name {
            "single_copy" => self.single_copy = SingleCopy::of(text)?,
            "connect" => self.connect = Connect::of(text)?,
            "registration_cache" => self.registration_cache = RegistrationCaching::of(text)?,
            _ => unreachable!("every word of the table is listed here: a test sets each"),
        }
        Some(())
    }

    fn set_text(&mut self, parameter: &'static Parameter, text: &str) -> Result<(), ConfigError> {
        let (name, value) = (parameter.name, text.to_owned());
        match name {
            "ports" => {
                let list = if text == parameter.default_text() { "" } else { text };
                self.ports = PortList::parse(list).map_err(|error| ConfigError::Malformed {
                    name,
                    value,
                    reason: error.to_string(),
                })?;
            }
            "fabrics" => {
                let refused = || ConfigError::Refused { name, value, range: parameter.range() };
                self.fabrics = parse_fabrics(text).ok_or_else(refused)?;
            }
            _ => unreachable!("every text of the table is listed here: a test sets each"),
        }
        Ok(())
    }

    /// `value` is inside the range of the table, which keeps the narrowing conversions exact.
    fn set_number(&mut self, name: &'static str, value: u64) -> Result<(), ConfigError> {
        let narrow = |v: u64| usize::try_from(v).unwrap_or(usize::MAX);
        match name {
            "exclusivity" => self.exclusivity = value as u32,
            "eager_bytes" => self.eager_bytes = Some(narrow(value)),
            "ring_bytes" if !value.is_power_of_two() => {
                return Err(ConfigError::Refused {
                    name,
                    value: value.to_string(),
                    range: format!("a power of two, {RING_BYTES_MIN} to {RING_BYTES_MAX} bytes"),
                });
            }
            "ring_bytes" => self.ring_bytes = Some(narrow(value)),
            "memory_bytes" => self.memory_bytes = narrow(value),
            "registration_bytes" => self.registration_bytes = Some(narrow(value)),
            "connect_seconds" => self.connect_seconds = value,
            "gid_index" => self.gid_index = Some(value as u8),
            _ => unreachable!("every number of the table is listed here: a test sets each"),
        }
        Ok(())
    }

    /// Checks the rules between values. A default gives way by itself: devices use what fits.
    ///
    /// # Errors
    /// [`ConfigError::Conflict`] naming both parameters.
    pub fn check(&self) -> Result<(), ConfigError> {
        match (self.eager_bytes, self.ring_bytes) {
            (Some(value), Some(ring)) if value > ring_message_bytes_max(ring) => Err(ConfigError::Conflict {
                name: "eager_bytes",
                value: value as u64,
                other: "ring_bytes",
                other_value: ring as u64,
                rule: "one message takes at most a quarter of the ring",
            }),
            _ => Ok(()),
        }
    }

    /// The defaults, overridden by `IRONBAND_*` from `lookup` (the environment, or a test's table), then checked.
    ///
    /// # Errors
    /// The first value that is refused.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for parameter in &PARAMETERS {
            if let Some(text) = lookup(&parameter.environment_name()) {
                config.set(parameter.name, &text)?;
            }
        }
        config.check()?;
        Ok(config)
    }

    /// The ring that each of `local_ranks` processes makes per peer, so that all of one process's rings together
    /// stay below `memory_bytes`; never below [`RING_BYTES_MIN`].
    ///
    /// Left to itself a ring is as long as a core's second cache ([`RING_BYTES_LONG`]), because by the time that a line of it is written again the
    /// reader's cache has let it go; writing what the reader still has takes three times as long. Many long rings
    /// would push everything else out of the caches instead, so then they are shorter.
    pub fn ring_bytes_for(&self, local_ranks: u32) -> usize {
        let peers = (local_ranks.max(2) - 1) as usize;
        let shortened = |ring: usize, shortest: usize, budget_bytes: usize| {
            let halves =
                std::iter::successors(Some(ring), |ring| Some(ring / 2).filter(|half| *half >= shortest));
            let fits = |ring: &usize| ring_region_bytes_about(*ring).saturating_mul(peers) <= budget_bytes;
            halves.clone().find(fits).unwrap_or(shortest)
        };
        let ring = self.ring_bytes.unwrap_or_else(|| {
            let eager_bytes = self.eager_bytes.unwrap_or(0).min(ring_message_bytes_max(RING_BYTES_LONG));
            let shortest = (eager_bytes * RING_MESSAGE_FRACTION).next_power_of_two().max(RING_BYTES_SHORT);
            shortened(RING_BYTES_LONG, shortest, self.memory_bytes / 4)
        });
        shortened(ring, RING_BYTES_MIN, self.memory_bytes)
    }
}

/// `shm,verbs`: known names, each once, at least one.
fn parse_fabrics(text: &str) -> Option<Vec<FabricName>> {
    let mut fabrics = Vec::new();
    for word in text.split(',') {
        let mut known = [FabricName::Shm, FabricName::Verbs].into_iter();
        let fabric = known.find(|fabric| fabric.as_str() == word.trim())?;
        if fabrics.contains(&fabric) {
            return None;
        }
        fabrics.push(fabric);
    }
    Some(fabrics)
}

/// `4096`, `64K`, `1M`, `2G`; nothing else.
fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_short_and_complete() {
        assert!(PARAMETERS.len() <= 12);
        for parameter in &PARAMETERS {
            assert!(parameter.help.ends_with('.'), "{} has no sentence", parameter.name);
            let mut config = Config::default();
            config.set(parameter.name, &parameter.default_text()).expect("default");
            match parameter.kind {
                Kind::Number { min, max, .. } | Kind::NumberOrAuto { min, max } => {
                    config.set(parameter.name, &min.to_string()).expect("smallest");
                    config.set(parameter.name, &max.to_string()).expect("largest");
                }
                Kind::Word { of, .. } => {
                    for word in of {
                        config.set(parameter.name, word).expect("a word of the table");
                    }
                }
                Kind::Text { .. } => {}
            }
        }
        Config::default().check().expect("the defaults fit together");
    }

    #[test]
    fn a_bad_value_is_refused_with_name_value_and_range() {
        let mut config = Config::default();
        let before = config.clone();
        let message = config.set("eager_bytes", "12").expect_err("too small").to_string();
        assert_eq!(message, "eager_bytes = \"12\" is refused: it must be auto, or 1024 to 262144 bytes");
        let message = config.set("single_copy", "knem").expect_err("no such word").to_string();
        assert_eq!(message, "single_copy = \"knem\" is refused: it must be auto, cma, ring");
        assert!(
            config.set("ring_bytes", "100000").expect_err("not a power").to_string().contains("power of two")
        );
        assert!(config.set("rings", "1").expect_err("no such name").to_string().contains("ring_bytes"));
        let message = config.set("ports", "rxe0:0").expect_err("port 0").to_string();
        assert!(message.starts_with("ports = \"rxe0:0\" is refused: \"rxe0:0\" names port 0"), "{message}");
        let message = config.set("gid_index", "256").expect_err("too large").to_string();
        assert_eq!(message, "gid_index = \"256\" is refused: it must be auto, or 0 to 255");
        for text in ["", "K", "-1", "1.5", "0x10", "99999999999999999999", "18446744073709551615G"] {
            assert!(config.set("ring_bytes", text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(config, before);
    }

    #[test]
    fn fabrics_are_known_names_each_once() {
        let mut config = Config::default();
        assert_eq!(config.fabrics, [FabricName::Shm, FabricName::Verbs]);
        config.set("fabrics", "verbs, shm").expect("fits");
        assert_eq!(config.fabrics, [FabricName::Verbs, FabricName::Shm]);
        for text in ["", "shm,", "shm,shm", "tcp", "SHM", "shm verbs"] {
            let message = config.set("fabrics", text).expect_err("refused").to_string();
            assert_eq!(
                message,
                format!(
                    "fabrics = {text:?} is refused: it must be one or more of shm, verbs, separated by commas"
                )
            );
        }
    }

    #[test]
    fn the_eager_limit_is_the_devices_until_it_is_set() {
        let mut config = Config::default();
        assert_eq!(config.eager_bytes, None);
        config.set("eager_bytes", "8K").expect("fits");
        assert_eq!(config.eager_bytes, Some(8192));
        config.set("eager_bytes", "auto").expect("a free choice");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn suffixes_are_binary() {
        let mut config = Config::default();
        config.set("ring_bytes", "1M").expect("fits");
        assert_eq!(config.ring_bytes, Some(1 << 20));
    }

    #[test]
    fn the_environment_overrides_and_conflicts_are_named() {
        let config =
            Config::from_environment(|name| (name == "IRONBAND_CONNECT_SECONDS").then(|| "7".to_owned()))
                .expect("fits");
        assert_eq!(config.connect_seconds, 7);
        let small_ring = |name: &str| (name == "IRONBAND_RING_BYTES").then(|| "32K".to_owned());
        assert!(Config::from_environment(small_ring).is_ok(), "defaults give way");
        let conflict = Config::from_environment(|name| match name {
            "IRONBAND_EAGER_BYTES" => Some("16K".to_owned()),
            name => small_ring(name),
        })
        .expect_err("16 KiB does not fit in a quarter of 32 KiB");
        assert!(conflict.to_string().starts_with("eager_bytes = 16384 is refused with ring_bytes = 32768"));
    }

    #[test]
    fn texts_have_their_own_form() {
        let mut config = Config::default();
        assert_eq!((config.ports.text(), config.gid_index), ("", None));
        config.set("ports", " ^rxe0 ").expect("a list");
        config.set("gid_index", "3").expect("a number");
        assert_eq!((config.ports.text(), config.gid_index), ("^rxe0", Some(3)));
        config.set("ports", "all").expect("all");
        config.set("gid_index", "auto").expect("a free choice");
        assert_eq!(config, Config::default());
        for text in ["", "1K", "-1", "first"] {
            assert!(config.set("gid_index", text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn rings_shrink_to_stay_within_the_budget() {
        let config = Config::default();
        assert_eq!(config.ring_bytes_for(1), 2 << 20);
        assert_eq!(config.ring_bytes_for(4), 2 << 20);
        assert_eq!(config.ring_bytes_for(5), 1 << 20);
        assert_eq!(config.ring_bytes_for(13), 512 << 10);
        assert_eq!(config.ring_bytes_for(14), 256 << 10);
        assert_eq!(config.ring_bytes_for(97), 256 << 10);
        assert_eq!(config.ring_bytes_for(98), 128 << 10);
        assert_eq!(config.ring_bytes_for(100_000), RING_BYTES_MIN);
        let wide = Config { eager_bytes: Some(256 << 10), ..Config::default() };
        assert_eq!(wide.ring_bytes_for(24), 1 << 20, "a message takes a quarter of a ring");
        let unchecked = Config { eager_bytes: Some(usize::MAX), ..Config::default() };
        assert_eq!(unchecked.ring_bytes_for(8), 2 << 20);
        let told = Config { ring_bytes: Some(4 << 20), ..Config::default() };
        assert_eq!(told.ring_bytes_for(7), 4 << 20, "6 of 4 MiB and slots");
        assert_eq!(told.ring_bytes_for(8), 2 << 20);
    }
}
