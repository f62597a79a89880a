//! All processes of a communicator in one test, with a network of queues between them: what arrives when, who ends when, and which connections
//! break follows from a seed.

use proptest::prelude::*;

use super::*;

/// xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What arrives over a connection.
enum Event {
    Word(Vec<u8>),
    /// The last one: it has ended. By a farewell, or not.
    End {
        has_deserted: bool,
    },
}

struct Process {
    agreement: Agreement,
    lives: bool,
    /// By sender.
    inbound: Vec<VecDeque<Event>>,
    /// Whom it talks to: the connection has not ended at its end.
    talks_to: Vec<bool>,
}

struct World {
    random: Random,
    size: u32,
    processes: Vec<Process>,
}

impl World {
    fn new(seed: u64, size: u32) -> Self {
        let process = |rank: u32| Process {
            agreement: Agreement::new(rank, size, rank % 3),
            lives: true,
            inbound: (0..size).map(|_| VecDeque::new()).collect(),
            talks_to: vec![true; size as usize],
        };
        Self { random: Random(seed | 1), size, processes: (0..size).map(process).collect() }
    }

    fn some(&mut self) -> usize {
        self.random.below(self.size as usize)
    }

    /// One says what it has to say; it may end in the middle.
    fn speak(&mut self, at: usize, may_end: bool) -> bool {
        let Some((to, word)) = self.processes[at].agreement.next_word() else { return false };
        let bytes = word.encode(self.size);
        assert_eq!(Word::decode(&bytes, self.size), Some(word));
        let heard_by = if may_end { self.random.below(to.len() + 1) } else { to.len() };
        // In any order: it is the last that some hear.
        let start = self.random.below(to.len().max(1));
        for step in 0..heard_by {
            let to = to[(start + step) % to.len()] as usize;
            if self.processes[at].talks_to[to] {
                self.processes[to].inbound[at].push_back(Event::Word(bytes.clone()));
            }
        }
        if may_end {
            self.kill(at);
        }
        true
    }

    fn kill(&mut self, victim: usize) {
        self.processes[victim].lives = false;
        for at in 0..self.size as usize {
            if at != victim {
                self.end_of_connection(victim, at, false);
            }
        }
    }

    /// The connection ends at `to`'s end: some of what was on its way arrives, and then the news.
    fn end_of_connection(&mut self, from: usize, to: usize, has_deserted: bool) {
        if self.processes[to].talks_to[from] {
            let arrives = self.random.below(self.processes[to].inbound[from].len() + 1);
            self.processes[to].inbound[from].truncate(arrives);
            self.processes[to].inbound[from].push_back(Event::End { has_deserted });
            self.processes[to].talks_to[from] = false;
        }
    }

    /// Both live, and lose each other, at once or not; or one gives the other one up.
    fn break_up(&mut self, one: usize, other: usize) {
        if one == other || !self.processes[one].talks_to[other] || !self.processes[other].talks_to[one] {
            return;
        }
        match self.random.below(2) {
            0 => {
                self.end_of_connection(one, other, false);
                self.end_of_connection(other, one, false);
            }
            _ => {
                // A farewell comes behind all that was said.
                self.processes[other].inbound[one].push_back(Event::End { has_deserted: true });
                self.processes[other].talks_to[one] = false;
                self.end_of_connection(other, one, false);
            }
        }
    }

    fn hear(&mut self, at: usize, from: usize) -> bool {
        let process = &mut self.processes[at];
        if !process.lives {
            return false;
        }
        match process.inbound[from].pop_front() {
            None => return false,
            Some(Event::Word(bytes)) => {
                let word = Word::decode(&bytes, self.size).expect("it was encoded");
                process.agreement.hear(from as u32, word);
            }
            Some(Event::End { has_deserted }) => process.agreement.lose(from as u32, has_deserted),
        }
        true
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 30 * self.processes.len().pow(2) {
            let (at, from) = (self.some(), self.some());
            let moves = self.processes[at].lives && (self.speak(at, false) | self.hear(at, from));
            idle = if moves { 0 } else { idle + 1 };
        }
    }

    fn living(&self) -> Vec<usize> {
        (0..self.size as usize).filter(|at| self.processes[*at].lives).collect()
    }
}

fn run(seed: u64, size: u32, deaths: usize, breaks: usize) -> World {
    let mut world = World::new(seed, size);
    let (mut deaths_left, mut breaks_left) = (deaths, breaks);
    for _ in 0..40 * size.pow(2) {
        let (at, other) = (world.some(), world.some());
        if !world.processes[at].lives {
            continue;
        }
        match world.random.below(60) {
            0 if deaths_left > 0 && world.living().len() > 1 => {
                deaths_left -= 1;
                if !world.speak(at, true) {
                    world.kill(at);
                }
            }
            1 if breaks_left > 0 => {
                breaks_left -= 1;
                world.break_up(at, other);
            }
            2..20 => {
                world.speak(at, false);
            }
            _ => {
                world.hear(at, other);
            }
        }
    }
    world.settle();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whoever ends whenever: all others have an answer, and the same one, and it has all of them.
    #[test]
    fn the_living_agree(seed: u64, size in 1_u32..9, deaths in 0_usize..8) {
        let world = run(seed, size, deaths, 0);
        let living = world.living();
        let end = world.processes[living[0]].agreement.end();
        let Some(End::Together { survivors, .. }) = end else { panic!("rank {} has {end:?}", living[0]) };
        for at in living {
            let process = &world.processes[at];
            prop_assert_eq!(process.agreement.end(), end, "rank {}", at);
            prop_assert!(survivors.contains(&(at as u32)), "rank {} lives, and {:?} go on", at, survivors);
            prop_assert_eq!(process.agreement.awaited().count(), 0);
        }
    }

    /// Connections break between those that live, too. All who can hear each other agree, and nobody waits for ever.
    #[test]
    fn who_can_talk_to_each_other_agrees(seed: u64, size in 1_u32..9, deaths in 0_usize..3, breaks in 0_usize..6) {
        let world = run(seed, size, deaths, breaks);
        let living = world.living();
        for at in &living {
            let process = &world.processes[*at];
            let end = process.agreement.end();
            prop_assert!(end.is_some(), "rank {} waits for {:?}", at, process.agreement.awaited);
            for other in &living {
                if !process.talks_to[*other] || !world.processes[*other].talks_to[*at] {
                    continue;
                }
                match (end, world.processes[*other].agreement.end()) {
                    (Some(End::Together { survivors, .. }), Some(End::Out)) => {
                        prop_assert!(!survivors.contains(&(*other as u32)), "{} is out, not for {}", other, at);
                    }
                    (Some(End::Together { survivors, .. }), theirs) if survivors.contains(&(*other as u32)) => {
                        prop_assert_eq!(end, theirs, "ranks {} and {}", at, other);
                    }
                    _ => {}
                }
            }
        }
        // One breach or death takes one process out, and no more.
        if breaks + deaths < 2 {
            let out = living.iter().filter(|at| world.processes[**at].agreement.end() == Some(&End::Out)).count();
            prop_assert!(out <= breaks, "{} are out", out);
        }
    }

    #[test]
    fn any_bytes_are_a_word_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60), size in 0_u32..70) {
        if let Some(word) = Word::decode(&bytes, size) {
            prop_assert_eq!(Word::decode(&word.encode(size), size), Some(word));
        }
    }
}

fn view(heard: &[u32], losses: &[(u32, u32)]) -> View {
    let loss = |(by, lost): &(u32, u32)| Loss { by: *by, lost: *lost, is_desertion: false };
    View { heard: heard.iter().copied().collect(), losses: losses.iter().map(loss).collect(), next_id: 0 }
}

#[test]
fn who_goes_on() {
    for (heard, losses, left) in [
        (&[0, 1, 2][..], &[][..], &[0, 1, 2][..]),
        // Who has not come does not go on.
        (&[0, 2], &[], &[0, 2]),
        // Whom others have lost, whether all have noticed or not; also the first of all.
        (&[0, 1, 2], &[(0, 1)], &[0, 2]),
        (&[0, 1, 2], &[(2, 0), (1, 0)], &[1, 2]),
        (&[0, 1], &[(1, 0)], &[1]),
        // Two that have lost each other: the lower rank stays.
        (&[0, 1, 2], &[(0, 2), (2, 0)], &[0, 1]),
        // One that has lost all others, and they it: it is the one whose connections have broken.
        (&[0, 1, 2, 3], &[(0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0)], &[1, 2, 3]),
        // What was said by those that do not go on does not count.
        (&[0, 1, 2, 3], &[(3, 0), (0, 3), (1, 3), (2, 3)], &[0, 1, 2]),
        (&[5], &[], &[5]),
    ] {
        assert_eq!(view(heard, losses).survivors(), left, "{heard:?} {losses:?}");
    }
    // Who was given up knows that the other one lives.
    let mut deserted = view(&[0, 1], &[]);
    deserted.losses.insert(Loss { by: 0, lost: 1, is_desertion: true });
    assert_eq!(deserted.survivors(), [1]);
}

/// What the others have lost counts, though this process has lost nobody: who does not go on is told, and the answer waits until all have parted.
#[test]
fn losses_of_others_are_believed() {
    let with = |losses: &[(u32, u32)]| View { next_id: 9, ..view(&[0, 1, 2], losses) };
    let mut agreement = Agreement::new(0, 3, 7);
    assert!(matches!(agreement.next_word(), Some((_, Word::View(1, _)))));
    agreement.hear(1, Word::View(1, View { next_id: 9, ..view(&[1], &[]) }));
    agreement.hear(2, Word::View(1, view(&[2], &[])));
    assert_eq!(agreement.next_word(), Some((vec![1, 2], Word::View(2, with(&[])))));
    agreement.hear(1, Word::View(2, with(&[(1, 2)])));
    agreement.hear(2, Word::View(2, with(&[])));
    assert_eq!(agreement.next_word(), Some((vec![1, 2], Word::View(3, with(&[(1, 2)])))));
    agreement.hear(1, Word::View(3, with(&[(1, 2)])));
    agreement.hear(2, Word::View(3, with(&[(1, 2)])));
    assert_eq!(agreement.next_word(), Some((vec![2], Word::Dropped)));
    assert_eq!(agreement.next_word(), Some((vec![1], Word::View(4, with(&[(0, 2), (1, 2)])))));
    // What it says now is of no matter.
    agreement.hear(2, Word::Answer(with(&[])));
    assert_eq!(agreement.end(), None);
    agreement.hear(1, Word::View(4, with(&[(0, 2), (1, 2)])));
    assert_eq!(agreement.end(), Some(&End::Together { survivors: vec![0, 1], id: 9 }));
    assert_eq!(agreement.next_word(), Some((vec![1], Word::Answer(with(&[(0, 2), (1, 2)])))));
    assert_eq!(agreement.next_word(), None);
}

/// One that lives and that all others have lost: it hears it from one of them, or from all.
#[test]
fn who_is_out_learns_it() {
    let mut dropped = Agreement::new(2, 3, 0);
    dropped.hear(1, Word::Dropped);
    assert_eq!(dropped.end(), Some(&End::Out));
    assert!(matches!(dropped.next_word(), Some((_, Word::View(1, _)))));
    assert_eq!(dropped.next_word(), Some((vec![0, 1], Word::Out)));
    let mut deserted = Agreement::new(2, 3, 0);
    deserted.lose(0, true);
    assert_eq!(deserted.end(), None);
    deserted.lose(1, true);
    assert_eq!(deserted.end(), Some(&End::Out));
    // They have ended, as far as it can know.
    let mut alone = Agreement::new(2, 3, 0);
    alone.lose(0, false);
    alone.lose(1, false);
    assert_eq!(alone.end(), Some(&End::Together { survivors: vec![2], id: 0 }));
}

/// Two rounds without a death, whatever the size: what it costs.
#[test]
fn two_rounds_without_a_death() {
    for size in 2..20 {
        let world = run(size.into(), size, 0, 0);
        for process in &world.processes {
            assert_eq!(process.agreement.round, 2);
        }
    }
}
