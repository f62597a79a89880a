//! A key-value store in the memory of all processes. Each exposes a part of a hash table; all of them look up, insert and change
//! entries there by one-sided calls: who owns the memory calls nothing for it.
//!
//!     ironband run -n 4 target/release/key_value_store --keys 10000 --operations 100000
//!
//! `mpirun -np 4 target/release/key_value_store` does the same, and one process alone has the whole table.
//!
//! A lookup is three gets, and an entry may change meanwhile. It therefore has a version, and is only believed if that was even and
//! the same before and after (a *sequence lock*). Who writes makes the version odd by compare-and-swap, so that two never write at the
//! same time, and even again when all is there:
//!
//! ```text
//!  0         8      16
//! +---------+-----+------------------------+
//! | version | key | value, `--value-bytes` |   version 0: free
//! +---------+-----+------------------------+
//! ```
//!
//! Entries are never taken out, so the key of one that is not free never changes, and a free one ends a search.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use ironband::{Context, RemoteMemory};
use ironband_examples::together::{barrier, share_keys};

/// Fills a store that is spread over all processes, reads and changes it from all of them, and checks what they see.
#[derive(Parser)]
struct Options {
    /// How many keys there are.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Operations of each process.
    #[arg(long, default_value_t = 20_000)]
    operations: u64,
    /// How many operations of a hundred change an entry; the others look one up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    writes: u64,
    /// Length of a value, in bytes, rounded up to whole words of 8.
    #[arg(long, default_value_t = 1008, value_parser = clap::value_parser!(u64).range(8..=1 << 30))]
    value_bytes: u64,
}

/// Version and key.
const HEAD_BYTES: usize = 16;

/// The tag of the counts at the end.
const COUNTS: u64 = 1;

fn main() -> Result<()> {
    let options = Options::parse();
    let context = Context::open()?;
    match serve(&context, &options) {
        Ok(()) => Ok(context.close()?),
        // The others wait for this process: end them, too.
        Err(error) => context.abort(1, &format!("key_value_store: {error:#}")),
    }
}

fn serve(context: &Context, options: &Options) -> Result<()> {
    // Half of the table stays free, so that searches are short.
    let slots = (options.keys * 2).div_ceil(u64::from(context.size())).max(1);
    let entry_bytes = HEAD_BYTES + options.value_bytes.next_multiple_of(8) as usize;
    let part = context.expose(vec![0_u64; slots as usize * entry_bytes / 8])?;
    let keys = share_keys(context, &part.key())?;
    let parts = keys.iter().zip(0..).map(|(key, rank)| context.endpoint(rank)?.memory(key));
    let mut store = Store { parts: parts.collect::<Result<_, _>>()?, slots, entry_bytes, retries: 0 };

    // All insert all keys, each beginning elsewhere: one of them makes the entry, the others find it.
    let rank = u64::from(context.rank());
    for at in 0..options.keys {
        let key = 1 + (at + rank * options.keys / u64::from(context.size())) % options.keys;
        store.set(key, &store.value_of(key, rank))?;
    }
    barrier(context)?;
    let start = Instant::now();
    work(&mut store, options, rank)?;
    barrier(context)?;
    let seconds = start.elapsed().as_secs_f64();

    let mut entries = 0;
    for slot in 0..slots as usize {
        let version = part.load(slot * entry_bytes)?;
        ensure!(version.is_multiple_of(2), "an entry has been left half written");
        entries += u64::from(version != 0);
    }
    report(context, options, [entries, store.retries], seconds)
}

/// Looks up and changes entries at random.
fn work(store: &mut Store, options: &Options, rank: u64) -> Result<()> {
    let mut random = rank;
    for _ in 0..options.operations {
        random = mix(random);
        let key = 1 + (random >> 8) % options.keys;
        if (random >> 40) % 100 < options.writes {
            store.set(key, &store.value_of(key, random))?;
        } else {
            let Some(value) = store.get(key)? else { bail!("key {key} is not there") };
            // All words follow from the first one: a value that is part old and part new is noticed here.
            let stamp = u64::from_le_bytes(value[..8].try_into()?);
            ensure!(value == store.value_of(key, stamp), "the value of key {key} is torn");
        }
    }
    ensure!(store.get(options.keys + 1)?.is_none(), "a key is there that nobody has inserted");
    Ok(())
}

/// Process 0 adds up what all have counted, and says what there is to say.
fn report(context: &Context, options: &Options, counts: [u64; 2], seconds: f64) -> Result<()> {
    let words = counts.map(u64::to_le_bytes).concat();
    context.endpoint(0)?.send(COUNTS, &words)?;
    if context.rank() > 0 {
        return Ok(());
    }
    let (mut entries, mut retries) = (0, 0);
    for rank in 0..context.size() {
        let mut words = [[0; 8]; 2];
        context.endpoint(rank)?.receive(COUNTS, words.as_flattened_mut())?;
        entries += u64::from_le_bytes(words[0]);
        retries += u64::from_le_bytes(words[1]);
    }
    ensure!(entries == options.keys, "{} keys are in {entries} entries", options.keys);
    let operations = options.operations * u64::from(context.size());
    println!(
        "key_value_store: {} processes, {} keys, {operations} operations, {:.0} per second, {retries} tried again: all as expected",
        context.size(),
        options.keys,
        operations as f64 / seconds
    );
    Ok(())
}

/// The table, as one process sees it.
struct Store<'c> {
    /// By rank.
    parts: Vec<RemoteMemory<'c>>,
    /// Entries of each part.
    slots: u64,
    /// Length of an entry.
    entry_bytes: usize,
    /// How often an entry was being changed.
    retries: u64,
}

impl Store<'_> {
    /// The memory and the offset of the entry where a search begins (`step` 0), and of those where it goes on.
    fn place(&self, key: u64, step: u64) -> (usize, u64) {
        let hash = mix(key);
        let slot = (hash % self.slots + step) % self.slots;
        ((hash >> 32) as usize % self.parts.len(), slot * self.entry_bytes as u64)
    }

    /// A value in which each word follows from the key and the first one.
    fn value_of(&self, key: u64, stamp: u64) -> Vec<u8> {
        let words = (self.entry_bytes - HEAD_BYTES) as u64 / 8;
        let word = |at| if at == 0 { stamp } else { mix(key ^ stamp.wrapping_mul(2 * at + 1)) };
        (0..words).flat_map(|at| word(at).to_le_bytes()).collect()
    }

    /// Another process is writing, or was quicker: let it.
    fn wait_a_moment(&mut self) {
        self.retries += 1;
        std::thread::yield_now();
    }

    /// What belongs to a key.
    fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>> {
        for step in 0..self.slots {
            let (part, at) = self.place(key, step);
            match self.read(part, at)? {
                None => return Ok(None),
                Some((key_there, value)) if key_there == key => return Ok(Some(value)),
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// An entry as it was at one moment: its key and value; nothing if it is free.
    fn read(&mut self, part: usize, at: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let mut rest = vec![0; self.entry_bytes - 8];
        loop {
            let before = word(&self.parts[part], at)?;
            if before == 0 {
                return Ok(None);
            }
            // Each get is over before the next one begins: that is what makes the comparison mean something.
            self.parts[part].get(at + 8, &mut rest)?;
            let after = word(&self.parts[part], at)?;
            if before == after && before.is_multiple_of(2) {
                let (key, value) = rest.split_at(8);
                return Ok(Some((u64::from_le_bytes(key.try_into()?), value.to_vec())));
            }
            self.wait_a_moment();
        }
    }

    /// Inserts an entry, or changes it.
    fn set(&mut self, key: u64, value: &[u8]) -> Result<()> {
        for step in 0..self.slots {
            let (part, at) = self.place(key, step);
            if self.write(part, at, key, value)? {
                return Ok(());
            }
        }
        bail!("no room for key {key}")
    }

    /// Writes to an entry; false if it belongs to another key.
    fn write(&mut self, part: usize, at: u64, key: u64, value: &[u8]) -> Result<bool> {
        let memory = self.parts[part];
        loop {
            let version = word(&memory, at)?;
            // An odd one may be about to become this very key.
            if version.is_multiple_of(2) {
                if version != 0 && word(&memory, at + 8)? != key {
                    return Ok(false);
                }
                if memory.compare_swap(at, version, version + 1)? == version {
                    let entry = [&key.to_le_bytes(), value].concat();
                    memory.put(at + 8, &entry)?;
                    memory.compare_swap(at, version + 1, version + 2)?;
                    return Ok(true);
                }
            }
            self.wait_a_moment();
        }
    }
}

/// The 8 bytes at an offset.
fn word(memory: &RemoteMemory, offset: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    memory.get(offset, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Numbers that look random (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
