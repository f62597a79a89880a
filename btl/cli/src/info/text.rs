//! The answer for a person, at most 100 columns wide.

mod rdma;

use super::choice::Mechanism;
use super::document::{Atomics, DeviceState, Document, Opened};
use super::parameters::{ParameterInfo, Value};
use super::topology::{CacheGroup, Topology};
use crate::quantity::bytes_text;
use std::fmt::Write;

const COLUMNS: usize = 100;
/// Where values start, and where they go on.
const VALUE_COLUMN: usize = 26;

/// More than any memory: a device that takes so much has no bound of its own.
const UNBOUNDED_BYTES: u64 = 1 << 60;

/// Everything.
pub(crate) fn text(document: &Document) -> String {
    let mut page = Page::default();
    page.field("ironband", document.version);
    page.field("machine", &document.machine.line());
    page.title("Topology");
    match &document.topology {
        Ok(found) => topology(&mut page, found),
        Err(reason) => page.field("unknown", reason),
    }
    for fabric in &document.fabrics {
        if fabric.devices.is_empty() {
            page.title(&format!("Fabric {}: no device", fabric.name));
        }
        for found in &fabric.devices {
            page.title(&format!("Fabric {}, device {}", fabric.name, found.name));
            device(&mut page, &found.state, document.ranks);
        }
    }
    page.title("RDMA adapters and ports, behind the fabric verbs");
    rdma::rdma(&mut page, &document.rdma);
    page.title(&format!("What a job with {} ranks on this node would use", document.ranks));
    choice(&mut page, document);
    page.title(
        "Parameters: IRONBAND_NAME in the environment, or mpirun --mca btl_ironband_NAME VALUE, which wins",
    );
    for entry in &document.parameters {
        parameter(&mut page, entry);
    }
    page.0
}

fn topology(page: &mut Page, found: &Topology) {
    page.field("processors", &found.processors.to_string());
    page.field("cores", &found.cores.to_string());
    page.field("packages", &found.packages.to_string());
    page.field("NUMA nodes", &found.numa_nodes.to_string());
    for cache in &found.caches {
        page.field(&format!("level {} cache", cache.level), &cache_text(cache));
    }
}

fn cache_text(cache: &CacheGroup) -> String {
    let size = cache.size_bytes.map_or_else(|| "unknown size".to_owned(), bytes_text);
    match (cache.count, cache.cores) {
        (count, cores @ 0..=1) => {
            let threads = if cache.processors > 1 { " (shared by its hardware threads)" } else { "" };
            let owner = if cores == 1 { "own of each core" } else { "own of each processor" };
            format!("{count} of {size}, {owner}{threads}")
        }
        (1, cores) => format!("1 of {size}, shared by {cores} cores"),
        (count, cores) => format!("{count} of {size}, each shared by {cores} cores"),
    }
}

fn device(page: &mut Page, state: &DeviceState, ranks: usize) {
    match state {
        DeviceState::Unusable { reason } => page.field("unusable", reason),
        DeviceState::Broken { failure } => {
            page.field("cannot be opened", &failure.message);
            page.field("fix", &failure.fix);
        }
        DeviceState::Usable(opened) => {
            capabilities(page, opened);
            memory(page, opened, ranks);
        }
    }
}

fn capabilities(page: &mut Page, opened: &Opened) {
    page.field("offers", &opened.offers);
    page.field("eager limit", &format!("{} bytes, header included", opened.eager_bytes));
    page.field("inline", &format!("up to {} bytes, header included", opened.inline_bytes_max));
    page.field("longest copying send", &bytes_text(opened.send_copy_bytes_max));
    let rdma = match opened.rdma_bytes_max {
        UNBOUNDED_BYTES.. => "any length".to_owned(),
        bytes => bytes_text(bytes),
    };
    page.field("longest RDMA operation", &rdma);
    page.field("requests under way", &format!("{} for each peer", opened.outstanding_max));
    let atomics = match opened.atomics {
        Atomics::None => "none",
        Atomics::Device => "against operations of the same device only",
        Atomics::Global => "against everything, the target's processor included",
    };
    page.field("atomics", atomics);
    page.field("write with immediate", yes(opened.write_with_immediate));
    page.field("loopback", yes(opened.loopback));
    let one_sided =
        if opened.one_sided { "where a peer permits it" } else { "no: the target's process takes part" };
    page.field("one-sided", one_sided);
    page.field("checks remote keys", yes(opened.checks_remote_keys));
    page.field("long messages", &opened.single_copy);
}

/// One ring for each direction of a pair, each in the memory of the process that sends.
fn memory(page: &mut Page, opened: &Opened, ranks: usize) {
    let peers = ranks.saturating_sub(1) as u64;
    let (Some(ring_bytes), Some(memory)) = (opened.ring_bytes, &opened.memory) else { return };
    page.field("ring", &format!("{} from one process to one peer", bytes_text(ring_bytes)));
    match memory {
        Err(failure) => {
            page.field("memory", &format!("not measured: {}", failure.message));
            page.field("fix", &failure.fix);
        }
        Ok(memory) => {
            let region = memory.ring_region_bytes;
            let pair = format!(
                "{} for both directions with slots and heads, made on first use",
                bytes_text(2 * region)
            );
            page.field("memory per pair", &pair);
            let most = memory.control_bytes + peers * region;
            let process = format!(
                "{} at the start, {} with a ring to each other rank",
                bytes_text(memory.control_bytes),
                bytes_text(most)
            );
            page.field("memory per process", &process);
        }
    }
}

fn choice(page: &mut Page, document: &Document) {
    local_choice(page, document);
    match &document.remote {
        Ok(remote) => {
            page.field("other nodes", &format!("{}/{}: {}", remote.fabric, remote.device, remote.why));
            page.field("its GID", &remote.gid);
        }
        Err(failure) => {
            page.field("other nodes", &format!("no device of ironband: {}", failure.message));
            page.field("fix", &failure.fix);
        }
    }
}

fn local_choice(page: &mut Page, document: &Document) {
    let Some(choice) = &document.choice else {
        page.field("device", "none: no device is usable, and Open MPI would use its own transports");
        return;
    };
    page.field("device", &format!("{}/{}: {}", choice.fabric, choice.device, choice.why));
    let mechanism = match choice.long_messages.mechanism {
        Mechanism::Measured => "cross-memory attach or the ring, as measured",
        Mechanism::Cma => "cross-memory attach",
        Mechanism::Ring => "through the ring",
    };
    page.field("long messages", &format!("{mechanism}: {}", choice.long_messages.why));
    let devices = document.fabrics.iter().filter(|fabric| fabric.name == choice.fabric);
    for device in devices.flat_map(|fabric| &fabric.devices).filter(|device| device.name == choice.device) {
        if let DeviceState::Usable(opened) = &device.state {
            page.field("in its own words", &opened.report);
        }
    }
}

fn parameter(page: &mut Page, entry: &ParameterInfo) {
    let source = if entry.from_environment {
        format!("from {}; default {}", entry.environment_name, entry.default)
    } else {
        "default".to_owned()
    };
    let has_unit = !entry.unit.is_empty() && matches!(entry.value, Value::Number(_));
    let unit = if has_unit { format!(" {}", entry.unit) } else { String::new() };
    page.field(entry.name, &format!("{}{unit} ({source})", entry.value));
    page.field("", entry.help);
    page.field("", &format!("Accepted: {}.", entry.range));
    page.field("", &format!("{}, {}", entry.environment_name, entry.mca_name));
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// Lines with a name on the left and a value on the right.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn title(&mut self, title: &str) {
        let _ = writeln!(self.0, "\n{title}");
    }

    fn field(&mut self, name: &str, value: &str) {
        let mut left = format!("  {name}");
        if left.len() >= VALUE_COLUMN {
            left.push(' ');
        }
        for line in wrapped(value, COLUMNS - VALUE_COLUMN) {
            let _ = writeln!(self.0, "{left:VALUE_COLUMN$}{line}");
            left.clear();
        }
    }
}

/// Breaks between words; a word that is longer than a line keeps a line to itself.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a last line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
